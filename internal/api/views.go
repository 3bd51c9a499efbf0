package api

import (
	"github.com/google/uuid"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/internal/verify"
)

// The wire types that overlay.yaml puts in the place of generated ones: answers
// that share parts share them by embedding.

type keySettings struct {
	ID                      uuid.UUID  `json:"id"`
	Name                    string     `json:"name"`
	Description             string     `json:"description"`
	KeyHint                 string     `json:"keyHint"`
	Status                  string     `json:"status"`
	TokenLimit              int64      `json:"tokenLimit"`
	RateLimitWindow         int32      `json:"rateLimitWindow"`
	RateLimitRequests       int64      `json:"rateLimitRequests"`
	ConcurrencyLimit        int32      `json:"concurrencyLimit"`
	DailyCostLimit          wire.USD   `json:"dailyCostLimit"`
	WeeklyCostLimit         wire.USD   `json:"weeklyCostLimit"`
	MonthlyCostLimit        wire.USD   `json:"monthlyCostLimit"`
	TotalCostLimit          wire.USD   `json:"totalCostLimit"`
	Permissions             []string   `json:"permissions"`
	EnableModelRestriction  bool       `json:"enableModelRestriction"`
	RestrictedModels        []string   `json:"restrictedModels"`
	AllowedModels           []string   `json:"allowedModels"`
	EnableClientRestriction bool       `json:"enableClientRestriction"`
	AllowedClients          []string   `json:"allowedClients"`
	ClaudeAccountID         *string    `json:"claudeAccountId"`
	ClaudeConsoleAccountID  *string    `json:"claudeConsoleAccountId"`
	GeminiAccountID         *string    `json:"geminiAccountId"`
	OpenaiAccountID         *string    `json:"openaiAccountId"`
	BedrockAccountID        *string    `json:"bedrockAccountId"`
	EstimatePerRequest      *wire.USD  `json:"estimatePerRequest"`
	Enforcement             string     `json:"enforcement"`
	Tags                    []string   `json:"tags"`
	AlertAt                 []int32    `json:"alertAt"`
	AlertExpiryDays         []int32    `json:"alertExpiryDays"`
	ExpiresAt               *wire.Time `json:"expiresAt"`
	IsActive                bool       `json:"isActive"`
	CreatedBy               string     `json:"createdBy"`
	CreatedAt               wire.Time  `json:"createdAt"`
	UpdatedAt               wire.Time  `json:"updatedAt"`
	DeletedAt               *wire.Time `json:"deletedAt"`
	Version                 int64      `json:"version"`
}

// holderKey is what a key's holder sees of it: what it may use, and how much of that is
// used. Nothing of what its owner notes beside it.
type holderKey struct {
	Name                    string     `json:"name"`
	KeyHint                 string     `json:"keyHint"`
	Status                  string     `json:"status"`
	ExpiresAt               *wire.Time `json:"expiresAt"`
	TokenLimit              int64      `json:"tokenLimit"`
	RateLimitWindow         int32      `json:"rateLimitWindow"`
	RateLimitRequests       int64      `json:"rateLimitRequests"`
	ConcurrencyLimit        int32      `json:"concurrencyLimit"`
	DailyCostLimit          wire.USD   `json:"dailyCostLimit"`
	WeeklyCostLimit         wire.USD   `json:"weeklyCostLimit"`
	MonthlyCostLimit        wire.USD   `json:"monthlyCostLimit"`
	TotalCostLimit          wire.USD   `json:"totalCostLimit"`
	Permissions             []string   `json:"permissions"`
	EnableModelRestriction  bool       `json:"enableModelRestriction"`
	RestrictedModels        []string   `json:"restrictedModels"`
	AllowedModels           []string   `json:"allowedModels"`
	EnableClientRestriction bool       `json:"enableClientRestriction"`
	AllowedClients          []string   `json:"allowedClients"`

	keyUse
}

func holderKeyOf(k keyDetails) holderKey {
	return holderKey{
		Name: k.Name, KeyHint: k.KeyHint, Status: k.Status, ExpiresAt: k.ExpiresAt,
		TokenLimit: k.TokenLimit, RateLimitWindow: k.RateLimitWindow, RateLimitRequests: k.RateLimitRequests, ConcurrencyLimit: k.ConcurrencyLimit,
		DailyCostLimit: k.DailyCostLimit, WeeklyCostLimit: k.WeeklyCostLimit, MonthlyCostLimit: k.MonthlyCostLimit, TotalCostLimit: k.TotalCostLimit,
		Permissions: k.Permissions, EnableModelRestriction: k.EnableModelRestriction, RestrictedModels: k.RestrictedModels, AllowedModels: k.AllowedModels,
		EnableClientRestriction: k.EnableClientRestriction, AllowedClients: k.AllowedClients, keyUse: k.keyUse,
	}
}

// keyJSON is keySettings as it is written.
type keyJSON struct{ verify.Shown }

// MarshalJSON writes it as it is.
func (k keyJSON) MarshalJSON() ([]byte, error) { return k.Append(nil), nil }

type keyDetails struct {
	keySettings

	Usage Usage `json:"usage"`
	keyUse
}

// keyUse is what a key has used of its limits.
type keyUse struct {
	DailyCost              wire.USD   `json:"dailyCost"`
	WeeklyCost             wire.USD   `json:"weeklyCost"`
	MonthlyCost            wire.USD   `json:"monthlyCost"`
	TotalCost              wire.USD   `json:"totalCost"`
	LastUsedAt             *wire.Time `json:"lastUsedAt"`
	CurrentConcurrency     int64      `json:"currentConcurrency"`
	ReservedTokens         int64      `json:"reservedTokens"`
	ReservedCost           wire.USD   `json:"reservedCost"`
	CurrentWindowRequests  int64      `json:"currentWindowRequests"`
	CurrentWindowTokens    int64      `json:"currentWindowTokens"`
	WindowStartTime        *wire.Time `json:"windowStartTime"`
	WindowEndTime          *wire.Time `json:"windowEndTime"`
	WindowRemainingSeconds *int64     `json:"windowRemainingSeconds"`
}

type issuedKey struct {
	keyDetails

	APIKey   string `json:"apiKey,omitempty"`
	Replayed bool   `json:"replayed"`
}

type modelBlock struct {
	Model string `json:"model"`
	Block
}

type stats struct {
	Usage

	Cost   Costs        `json:"cost"`
	Models []modelBlock `json:"models"`
	AsOf   wire.Time    `json:"asOf"`
}

type reportRow struct {
	Period    string     `json:"period"`
	KeyID     *uuid.UUID `json:"keyId,omitempty"`
	KeyName   *string    `json:"keyName,omitempty"`
	Model     *string    `json:"model,omitempty"`
	AccountID *string    `json:"accountId,omitempty"`
	Tag       *string    `json:"tag,omitempty"`
	ReportSums
}

type reportTotals struct {
	ReportSums

	RowsOverlap bool `json:"rowsOverlap"`
}

type accountUsage struct {
	AccountID   string    `json:"accountId"`
	FirstUsedAt wire.Time `json:"firstUsedAt"`
	LastUsedAt  wire.Time `json:"lastUsedAt"`
	Usage
}

type priceView struct {
	Model         string    `json:"model"`
	Provider      string    `json:"provider"`
	Source        string    `json:"source"`
	EffectiveFrom wire.Time `json:"effectiveFrom"`
	Rates

	Above200k       *Rates `json:"above200k,omitempty"`
	MaxOutputTokens *int64 `json:"maxOutputTokens,omitempty"`
}

type auditRow struct {
	AuditEntry

	TargetType string `json:"targetType"`
	TargetID   string `json:"targetId"`
}

type tokenView struct {
	ID        uuid.UUID  `json:"id"`
	Name      string     `json:"name"`
	Role      string     `json:"role"`
	Hint      string     `json:"hint"`
	Status    string     `json:"status"`
	CreatedAt wire.Time  `json:"createdAt"`
	ExpiresAt *wire.Time `json:"expiresAt"`
	RevokedAt *wire.Time `json:"revokedAt"`
}

type issuedToken struct {
	tokenView

	Token string `json:"token"`
}

type webhookView struct {
	ID          uuid.UUID  `json:"id"`
	URL         string     `json:"url"`
	Format      string     `json:"format"`
	Events      []string   `json:"events"`
	IsActive    bool       `json:"isActive"`
	DisabledFor string     `json:"disabledFor"`
	CreatedBy   string     `json:"createdBy"`
	CreatedAt   wire.Time  `json:"createdAt"`
	UpdatedAt   wire.Time  `json:"updatedAt"`
	Pending     int64      `json:"pending"`
	Dead        int64      `json:"dead"`
	DeliveredAt *wire.Time `json:"deliveredAt"`
}

// issuedWebhook is a webhook with its secret, where that was made by the request.
type issuedWebhook struct {
	webhookView

	Secret string `json:"secret,omitempty"`
}
