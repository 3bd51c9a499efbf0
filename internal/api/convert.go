package api

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/keys"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/internal/verify"
)

// Rows become wire types here and nowhere else.

func usd(d decimal.Decimal) wire.USD { return wire.USD{Decimal: d} }

func usdOrNil(d *decimal.Decimal) *wire.USD {
	if d == nil {
		return nil
	}
	return &wire.USD{Decimal: *d}
}

func settings(k db.APIKey, hint string, now time.Time) keySettings {
	return keySettings{
		ID: k.ID, Name: k.Name, Description: k.Description, KeyHint: hint,
		Status:     key.Status(k.DeletedAt, k.ExpiresAt, k.IsActive, now),
		TokenLimit: k.TokenLimit, RateLimitWindow: k.RateLimitWindow, RateLimitRequests: k.RateLimitRequests, ConcurrencyLimit: k.ConcurrencyLimit,
		DailyCostLimit: usd(k.DailyCostLimit), WeeklyCostLimit: usd(k.WeeklyCostLimit), MonthlyCostLimit: usd(k.MonthlyCostLimit), TotalCostLimit: usd(k.TotalCostLimit),
		Permissions:            k.Permissions,
		EnableModelRestriction: k.EnableModelRestriction, RestrictedModels: k.RestrictedModels, AllowedModels: k.AllowedModels,
		EnableClientRestriction: k.EnableClientRestriction, AllowedClients: k.AllowedClients,
		ClaudeAccountID: k.ClaudeAccountID, ClaudeConsoleAccountID: k.ClaudeConsoleAccountID, GeminiAccountID: k.GeminiAccountID,
		OpenaiAccountID: k.OpenaiAccountID, BedrockAccountID: k.BedrockAccountID,
		EstimatePerRequest: usdOrNil(k.EstimatePerRequest), Enforcement: k.Enforcement, Tags: k.Tags,
		AlertAt: k.AlertAt, AlertExpiryDays: k.AlertExpiryDays,
		ExpiresAt: wire.AtOrNil(k.ExpiresAt), IsActive: k.IsActive, CreatedBy: k.CreatedBy,
		CreatedAt: wire.At(k.CreatedAt), UpdatedAt: wire.At(k.UpdatedAt), DeletedAt: wire.AtOrNil(k.DeletedAt), Version: k.Version,
	}
}

// ShowKey writes a key as answers show it, to be remembered beside the key.
func ShowKey(k db.APIKey, hint string, at time.Time) verify.Shown {
	text, err := json.Marshal(settings(k, hint, at))
	if err != nil {
		panic(err) // no member can fail
	}
	// Neither can stand inside a string, where quotes are escaped.
	return verify.NewShown(text, bytes.Index(text, []byte(`,"tokenLimit":`)), bytes.Index(text, []byte(`,"expiresAt":`)))
}

// numbers are what a key has used in its periods and holds at this moment.
type numbers struct {
	periods usage.Periods
	held    db.AdmissionsHeldRow
}

func details(row db.KeyShowRow, now numbers) keyDetails {
	w := key.WindowAt(row.KeyCounter.WindowStart, row.APIKey.RateLimitWindow, row.KeyCounter.WindowRequests, row.KeyCounter.WindowTokens, row.AsOf)
	total := usage.OfKey(row.KeyCounter)
	return keyDetails{
		keySettings: settings(row.APIKey, row.Hint, row.AsOf),
		Usage:       usageOf(total, now.periods, row.APIKey.CreatedAt, row.AsOf, usage.Block.All),
		keyUse: keyUse{
			DailyCost: usd(now.periods.Daily.Cost), WeeklyCost: usd(now.periods.Weekly.Cost), MonthlyCost: usd(now.periods.Monthly.Cost), TotalCost: usd(total.Cost), LastUsedAt: wire.AtOrNil(row.KeyCounter.LastUsedAt),
			CurrentConcurrency: now.held.Leases, ReservedTokens: now.held.Tokens, ReservedCost: usd(now.held.Cost),
			CurrentWindowRequests: w.Requests, CurrentWindowTokens: w.Tokens,
			WindowStartTime: wire.AtOrNil(w.Start), WindowEndTime: wire.AtOrNil(w.End), WindowRemainingSeconds: w.RemainingSeconds,
		},
	}
}

func issued(i keys.Issued, now numbers) issuedKey {
	return issuedKey{keyDetails: details(i.Row, now), APIKey: i.Secret, Replayed: i.Replayed}
}

// block takes the measure of tokens that the caller shows as "tokens": all of
// them for a key, input and output for an account.
func block(b usage.Block, tokens func(usage.Block) int64) Block {
	return Block{
		Requests: b.Requests, Tokens: tokens(b), InputTokens: b.Input, OutputTokens: b.Output,
		CacheCreateTokens: b.CacheCreate, CacheReadTokens: b.CacheRead,
		Ephemeral5MTokens: b.Ephemeral5m(), Ephemeral1HTokens: b.Ephemeral1h, AllTokens: b.All(), CostUsd: usd(b.Cost),
	}
}

func usageOf(total usage.Block, p usage.Periods, since, asOf time.Time, tokens func(usage.Block) int64) Usage {
	m := usage.Mean(total, since, asOf)
	return Usage{
		Total: block(total, tokens), Daily: block(p.Daily, tokens), Monthly: block(p.Monthly, tokens),
		Averages: Averages{Rpm: usd(m.RPM), Tpm: usd(m.TPM), DailyRequests: usd(m.DailyRequests), DailyTokens: usd(m.DailyTokens)},
	}
}

func statsOf(total usage.Block, p usage.Periods, models []usage.ModelBlock, since, asOf time.Time, tokens func(usage.Block) int64) stats {
	s := stats{
		Usage: usageOf(total, p, since, asOf, tokens),
		Cost:  Costs{Daily: usd(p.Daily.Cost), Weekly: usd(p.Weekly.Cost), Monthly: usd(p.Monthly.Cost), Total: usd(total.Cost)},
		AsOf:  wire.At(asOf), Models: make([]modelBlock, len(models)),
	}
	for i, m := range models {
		s.Models[i] = modelBlock{Model: m.Model, Block: block(m.Block, tokens)}
	}
	return s
}

func event(e db.LedgerRow, keyID uuid.UUID) Event {
	return Event{
		ID: e.EventID, ReceivedAt: wire.At(e.ReceivedAt), Kind: EventKind(e.Kind), KeyID: keyID, AccountID: e.AccountID,
		Model: e.Model, ModelReceived: e.ModelReceived, RequestID: e.RequestID, OccurredAt: wire.At(e.OccurredAt), Requests: e.Requests,
		InputTokens: e.InputTokens, OutputTokens: e.OutputTokens, CacheCreateTokens: e.CacheCreateTokens, CacheReadTokens: e.CacheReadTokens,
		Ephemeral5MTokens: e.CacheCreateTokens - e.Ephemeral1hTokens, Ephemeral1HTokens: e.Ephemeral1hTokens, CostUsd: usd(e.Cost), Priced: e.Priced, Estimated: e.Estimated,
		Via: e.Via, Adjusts: e.Adjusts, Reason: e.Reason,
	}
}

func usageResult(r usage.Result) UsageResult {
	out := UsageResult{EventID: r.EventID, RequestID: r.RequestID, Status: Recorded, KeyID: r.KeyID, Model: r.Model, CostUsd: usd(r.Cost), Priced: r.Priced}
	if r.Duplicate {
		out.Status = Duplicate
	}
	if r.Conflict {
		out.Conflict = &r.Conflict
	}
	return out
}

func priceOf(p price.Price) priceView {
	view := priceView{Model: p.Model, Provider: p.Provider, Source: p.Source, EffectiveFrom: wire.At(p.EffectiveFrom), Rates: rates(p.Base)}
	if p.MaxOutput > 0 {
		view.MaxOutputTokens = &p.MaxOutput
	}
	if long := rates(p.Long); long != (Rates{}) {
		view.Above200k = &long
	}
	return view
}

func rates(r price.Rates) Rates {
	return Rates{
		InputPerMillion: usdOrNil(r.Input), OutputPerMillion: usdOrNil(r.Output), CacheReadPerMillion: usdOrNil(r.CacheRead),
		CacheWritePerMillion: usdOrNil(r.CacheWrite), CacheWrite1HPerMillion: usdOrNil(r.CacheWrite1h),
	}
}
