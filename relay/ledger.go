package relay

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

// Ledger is what the relay asks of keyledger. There are two: Remote asks a service over
// HTTP; the service itself, when the relay runs in its process, needs no hop.
type Ledger interface {
	// Admit asks whether a request may go on. A refusal is an answer, not an error.
	Admit(ctx context.Context, r Request) (Decision, error)
	// Renew makes the lease of an admission end so much later than now.
	Renew(ctx context.Context, admission uuid.UUID, lease time.Duration) error
	// Release ends an admission of which nothing was used.
	Release(ctx context.Context, admission uuid.UUID) error
	// Record settles an admission, and returns when that is durable. ErrRefused: it will
	// be refused whenever it is tried.
	Record(ctx context.Context, u Usage) (duplicate bool, err error)
}

// ErrRefused is wrapped by errors of Record that no later try can mend.
var ErrRefused = errors.New("the ledger refuses this usage")

// Request asks whether a request may go on.
type Request struct {
	APIKey    string
	Service   string // claude, openai or gemini
	Model     string
	UserAgent string
	Lease     time.Duration // 0: no slot of concurrency is taken
	DryRun    bool          // decide, and consume nothing
	Estimate  Estimate
}

// Estimate is what a request may use at the most, in tokens.
type Estimate struct {
	Input        int64  `json:"input,omitempty"`        // that are not written to a cache
	CacheWrite   int64  `json:"cacheWrite,omitempty"`   // for 5 minutes
	CacheWrite1h int64  `json:"cacheWrite1h,omitempty"` // for an hour
	Output       *int64 `json:"output,omitempty"`       // nil: the most that the model can give
}

// Decision is keyledger's answer.
type Decision struct {
	Allowed     bool
	Code        string // as keyledger's contract names it
	Message     string
	RetryAfter  time.Duration // 0: waiting does not help, or nobody can tell
	AdmissionID uuid.UUID
	KeyID       uuid.UUID
	Accounts    []string // that the key is bound to at this service, the first first; nil: any
	Limits      []Limit
	Estimate    decimal.Decimal // USD weighed against cost limits
}

// Limit is one limit of the key.
type Limit struct {
	Name                  string
	Limit, Used, Reserved decimal.Decimal
}

// reservedOnly tells whether a refusal by a cost limit comes from open reservations alone:
// what was used leaves room for the request, so it may pass in a moment.
func (d Decision) reservedOnly() bool {
	for _, l := range d.Limits {
		if strings.HasSuffix(l.Name, "Cost") && (l.Used.GreaterThanOrEqual(l.Limit) || l.Used.Add(d.Estimate).GreaterThan(l.Limit)) {
			return false
		}
	}
	return true
}

// Usage is what a request used.
type Usage struct {
	AdmissionID uuid.UUID       `json:"admissionId"`
	KeyID       uuid.UUID       `json:"keyId"`
	RequestID   string          `json:"requestId,omitempty"` // the provider's; empty: none was told
	AccountID   string          `json:"accountId,omitempty"` // that served it
	Model       string          `json:"model"`
	Usage       json.RawMessage `json:"usage"` // the provider's own object
	Estimated   bool            `json:"estimated,omitempty"`
	OccurredAt  time.Time       `json:"occurredAt"`

	// Fallback is recorded, as an estimate, where the ledger refuses Usage.
	Fallback json.RawMessage `json:"fallback,omitempty"`
}
