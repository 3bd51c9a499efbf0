// Package inprocess is what a relay asks of the service when both run in one process: the
// same decisions and the same ledger, without a hop.
package inprocess

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/internal/verify"
	"github.com/keyledger/keyledger/relay"
)

// Ledger is a relay.Ledger.
type Ledger struct {
	verifier *verify.Verifier
	decider  *admit.Decider
	recorder *usage.Recorder
}

// New makes a Ledger of the service's own parts.
func New(v *verify.Verifier, d *admit.Decider, r *usage.Recorder) *Ledger {
	return &Ledger{v, d, r}
}

// providers are the services that a key may be bound to an account of, by the names that
// its bindings have, the first first.
var providers = map[string][]string{
	"claude": {"Claude", "Claude-Console"}, "openai": {"Openai"}, "gemini": {"Gemini"},
}

// Admit implements relay.Ledger.
func (l *Ledger) Admit(ctx context.Context, q relay.Request) (relay.Decision, error) {
	result, err := l.verifier.Verify(ctx, q.APIKey, nil)
	if err != nil {
		return relay.Decision{}, err
	}
	if result.Key == nil {
		if !q.DryRun {
			l.decider.Unknown(string(result.Code))
		}
		return relay.Decision{Code: string(result.Code), Message: result.Code.Message()}, nil
	}
	request := admit.Request{
		KeyID: result.Key.ID, Service: q.Service, Model: field.Clip(q.Model, admit.MaxText), UserAgent: field.Clip(q.UserAgent, admit.MaxUserAgent),
		LeaseSeconds: int32(q.Lease.Seconds()), DryRun: q.DryRun,
	}
	if e := q.Estimate; !q.DryRun {
		request.Use = &admit.Use{Tokens: price.Tokens{Input: e.Input, CacheWrite: e.CacheWrite, CacheWrite1h: e.CacheWrite1h}, Unbounded: e.Output == nil}
		if e.Output != nil {
			request.Use.Output = *e.Output
		}
	}
	made, err := l.decider.Decide(ctx, request, nil)
	if err != nil {
		return relay.Decision{}, err
	}
	d := relay.Decision{Allowed: made.Allowed, Code: string(made.Code), Message: made.Message, AdmissionID: made.AdmissionID, KeyID: result.Key.ID, Estimate: made.Cost}
	if made.RetryAfterSeconds != nil {
		d.RetryAfter = time.Duration(*made.RetryAfterSeconds) * time.Second
	}
	for _, limit := range made.Limits {
		d.Limits = append(d.Limits, relay.Limit{Name: limit.Name, Limit: limit.Limit, Used: limit.Used, Reserved: limit.Reserved})
	}
	for _, provider := range providers[q.Service] {
		for _, b := range result.Key.Bindings {
			if b.Provider == provider {
				d.Accounts = append(d.Accounts, b.AccountID)
			}
		}
	}
	return d, nil
}

// Renew implements relay.Ledger.
func (l *Ledger) Renew(ctx context.Context, admission uuid.UUID, lease time.Duration) error {
	_, err := l.decider.Renew(ctx, admission, int32(lease.Seconds()), nil)
	return err
}

// Release implements relay.Ledger.
func (l *Ledger) Release(ctx context.Context, admission uuid.UUID) error {
	return l.decider.Release(ctx, admission)
}

// Record implements relay.Ledger.
func (l *Ledger) Record(ctx context.Context, u relay.Usage) (duplicate bool, err error) {
	id := cmp.Or(u.RequestID, u.AdmissionID.String())
	report := usage.Report{RequestID: &id, AdmissionID: &u.AdmissionID, Model: &u.Model, Usage: jsontext.Value(u.Usage), Estimated: u.Estimated, OccurredAt: &u.OccurredAt}
	if u.AccountID != "" {
		report.AccountID = &u.AccountID
	}
	event, wrong := usage.Check(report, "")
	if wrong != nil {
		return false, fmt.Errorf("%w: %w", relay.ErrRefused, fault.Fields(wrong...))
	}
	event.KeyID, event.OwnKey = u.KeyID, true // as the admission was made
	results, err := l.recorder.Record(ctx, []usage.Event{event})
	if fault.CodeOf(err) == fault.Invalid {
		return false, fmt.Errorf("%w: %w", relay.ErrRefused, err)
	}
	for _, r := range results {
		duplicate = duplicate || r.Duplicate
	}
	return duplicate, err
}
