package relay

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/client"
	"github.com/keyledger/keyledger/client/wire"
)

// Remote is the Ledger of a service elsewhere, asked over HTTP with an access token of the
// role relay.
func Remote(url, token string) (Ledger, error) {
	c, err := client.New(url, token)
	if err != nil {
		return nil, fmt.Errorf("the client of %s: %w", url, err)
	}
	return remote{c}, nil
}

type remote struct{ client *client.ClientWithResponses }

// Admit implements Ledger.
func (r remote) Admit(ctx context.Context, q Request) (Decision, error) {
	key, err := json.Marshal(q.APIKey)
	if err != nil {
		return Decision{}, fmt.Errorf("encoding the key: %w", err)
	}
	body := client.AdmissionRequest{Service: &q.Service, Model: &q.Model, UserAgent: &q.UserAgent, DryRun: &q.DryRun}
	if err := json.Unmarshal(key, &body.APIKey); err != nil {
		return Decision{}, fmt.Errorf("encoding the key: %w", err)
	}
	if seconds := int32(q.Lease.Seconds()); seconds > 0 {
		body.LeaseSeconds = &seconds
	}
	if e := q.Estimate; !q.DryRun {
		all := e.CacheWrite + e.CacheWrite1h
		body.Estimate = &client.Estimate{InputTokens: &e.Input, CacheCreateTokens: &all, Ephemeral1HTokens: &e.CacheWrite1h, OutputTokens: e.Output}
	}
	answer, err := r.client.AdmitWithResponse(ctx, body)
	if err != nil {
		return Decision{}, fmt.Errorf("asking keyledger: %w", err)
	}
	a := answer.JSON200
	d := Decision{Allowed: a.Allowed, Code: string(a.Code), Message: a.Message}
	if a.RetryAfterSeconds != nil {
		d.RetryAfter = time.Duration(*a.RetryAfterSeconds) * time.Second
	}
	if a.AdmissionID != nil {
		d.AdmissionID = *a.AdmissionID
	}
	if a.EstimateUsd != nil {
		d.Estimate = a.EstimateUsd.Decimal
	}
	for _, l := range a.Limits {
		d.Limits = append(d.Limits, Limit{string(l.Name), l.Limit.Decimal, l.Used.Decimal, l.Reserved.Decimal})
	}
	if k := a.Key; k != nil {
		d.KeyID = k.ID
		bound := map[string][]*string{
			serviceClaude: {k.ClaudeAccountID, k.ClaudeConsoleAccountID}, serviceOpenAI: {k.OpenaiAccountID}, serviceGemini: {k.GeminiAccountID},
		}
		for _, id := range bound[q.Service] {
			if id != nil {
				d.Accounts = append(d.Accounts, *id)
			}
		}
	}
	return d, nil
}

// Renew implements Ledger.
func (r remote) Renew(ctx context.Context, admission uuid.UUID, lease time.Duration) error {
	seconds := int32(lease.Seconds())
	_, err := r.client.RenewAdmissionWithResponse(ctx, admission, client.RenewAdmissionJSONRequestBody{LeaseSeconds: &seconds})
	if err != nil {
		return fmt.Errorf("renewing a lease: %w", err)
	}
	return nil
}

// Release implements Ledger.
func (r remote) Release(ctx context.Context, admission uuid.UUID) error {
	if _, err := r.client.ReleaseAdmissionWithResponse(ctx, admission); err != nil {
		return fmt.Errorf("releasing an admission: %w", err)
	}
	return nil
}

// Record implements Ledger.
func (r remote) Record(ctx context.Context, u Usage) (duplicate bool, err error) {
	var usage map[string]any
	if err := json.Unmarshal(u.Usage, &usage); err != nil {
		return false, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	id, at := cmp.Or(u.RequestID, u.AdmissionID.String()), wire.At(u.OccurredAt)
	event := client.UsageRequest{AdmissionID: &u.AdmissionID, RequestID: &id, Model: &u.Model, Usage: &usage, Estimated: &u.Estimated, OccurredAt: &at}
	if u.AccountID != "" {
		event.AccountID = &u.AccountID
	}
	answer, err := r.client.RecordUsageWithResponse(ctx, event)
	var problem *client.Error
	switch {
	case errors.As(err, &problem) && (problem.Status == http.StatusUnprocessableEntity || problem.Status == http.StatusBadRequest):
		return false, fmt.Errorf("%w: %w", ErrRefused, err)
	case err != nil:
		return false, fmt.Errorf("recording usage: %w", err)
	}
	for _, result := range answer.JSON200.Results {
		duplicate = duplicate || result.Status == "duplicate"
	}
	return duplicate, nil
}
