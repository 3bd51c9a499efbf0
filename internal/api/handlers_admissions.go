package api

import (
	"context"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/internal/verify"
)

// Admit answers POST /v1/admissions.
func (s *Server) Admit(ctx context.Context, r AdmitRequestObject) (AdmitResponseObject, error) {
	request, err := s.readAdmission(ctx, *r.Body)
	if err != nil {
		return nil, err
	}
	found, code, err := s.admissionKey(ctx, *r.Body)
	if err != nil {
		return nil, err
	}
	if found == nil {
		answer := decided{Decision: admit.Decision{Code: admit.Code(code), Message: code.Message()}}
		if !request.DryRun {
			s.Decider.Unknown(string(code))
		}
		if flag(r.Body.Explain) {
			answer.checks = []admit.Check{{Check: string(code), Detail: code.Message()}}
		}
		return answer, nil
	}
	request.KeyID = found.ID
	decision, err := s.Decider.Decide(ctx, request, nil)
	if err != nil {
		return nil, err
	}
	answer := decided{Decision: decision}
	if decision.Allowed {
		answer.key = found
	}
	if !flag(r.Body.Explain) {
		return answer, nil
	}
	row, err := s.Keys.Show(ctx, found.ID)
	if err != nil {
		return nil, err
	}
	answer.checks = admit.Explain(row.APIKey, request, decision)
	return answer, nil
}

// leaseRange says what is wrong with the length of a lease, in seconds.
func leaseRange(seconds int64) (message string) {
	return field.Range(seconds, admit.MinLease, admit.MaxLease)
}

func flag(b *bool) bool { return b != nil && *b }

// readAdmission checks a request and names every wrong field.
func (s *Server) readAdmission(ctx context.Context, b AdmissionRequest) (admit.Request, error) {
	var wrong []field.Error
	text := func(name string, value *string, low, high int) string {
		if value == nil {
			return ""
		}
		trimmed, message := field.Trim(*value, low, high)
		wrong = appendWrong(wrong, name, message)
		return trimmed
	}
	request := admit.Request{
		RequestID: text("requestId", b.RequestID, 1, admit.MaxText), Service: text("service", b.Service, 0, admit.MaxText),
		Model: text("model", b.Model, 0, admit.MaxText), UserAgent: text("userAgent", b.UserAgent, 0, admit.MaxUserAgent),
		LeaseSeconds: int32(s.LeaseTTL.Seconds()), DryRun: flag(b.DryRun),
	}
	if b.LeaseSeconds != nil {
		request.LeaseSeconds = *b.LeaseSeconds
		wrong = appendWrong(wrong, "leaseSeconds", leaseRange(int64(request.LeaseSeconds)))
	}
	if e := b.Estimate; e != nil {
		if e.Tokens != nil {
			request.Tokens = *e.Tokens
			wrong = appendWrong(wrong, "estimate.tokens", field.Range(request.Tokens, 0, usage.MaxCount))
		}
		if e.CostUsd != nil {
			amount, message := field.Money(jsontext.Value(e.CostUsd.String()))
			request.CostUSD = &amount
			wrong = appendWrong(wrong, "estimate.costUsd", message)
		}
		request.Use, wrong = readUse(*e, wrong)
	}
	switch byID := b.KeyID != nil; {
	case byID && b.APIKey != nil:
		wrong = append(wrong, field.Error{Field: "keyId", Message: "must not stand beside apiKey"})
	case byID && (!request.DryRun || callOf(ctx).identity.Role != access.Admin):
		wrong = append(wrong, field.Error{Field: "keyId", Message: "may stand in place of apiKey only in a dry run of an admin"})
	}
	if wrong != nil {
		return request, fault.Fields(wrong...)
	}
	return request, nil
}

// readUse reads the counts of tokens of an estimate; nil: it has none.
func readUse(e Estimate, wrong []field.Error) (*admit.Use, []field.Error) {
	if e.InputTokens == nil && e.CacheCreateTokens == nil && e.Ephemeral1HTokens == nil && e.OutputTokens == nil {
		return nil, wrong
	}
	count := func(name string, n *int64) int64 {
		if n == nil {
			return 0
		}
		wrong = appendWrong(wrong, "estimate."+name, field.Range(*n, 0, usage.MaxCount))
		return *n
	}
	all, hour := count("cacheCreateTokens", e.CacheCreateTokens), count("ephemeral1hTokens", e.Ephemeral1HTokens)
	if hour > all {
		wrong = appendWrong(wrong, "estimate.ephemeral1hTokens", "must not be more than cacheCreateTokens, of which it is a part")
	}
	return &admit.Use{
		Tokens:    price.Tokens{Input: count("inputTokens", e.InputTokens), CacheWrite: all - hour, CacheWrite1h: hour, Output: count("outputTokens", e.OutputTokens)},
		Unbounded: e.OutputTokens == nil,
	}, wrong
}

// admissionKey finds the key that a request is about; nil with the reason when
// there is none. Its state is judged by the decision itself.
func (s *Server) admissionKey(ctx context.Context, b AdmissionRequest) (*verify.Key, verify.Code, error) {
	if b.KeyID != nil {
		row, err := s.Keys.Show(ctx, *b.KeyID)
		if fault.CodeOf(err) == fault.NotFound {
			return nil, verify.NotFound, nil
		}
		return &verify.Key{ID: row.APIKey.ID, Shown: ShowKey(row.APIKey, row.Hint, row.AsOf)}, "", err
	}
	var presented jsontext.Value
	if b.APIKey != nil {
		presented = *b.APIKey
	}
	return s.findKey(ctx, secretText(presented))
}

func (s *Server) findKey(ctx context.Context, text string) (*verify.Key, verify.Code, error) {
	result, err := s.Verifier.Verify(ctx, text, nil)
	return result.Key, result.Code, err
}

// ReleaseAdmission answers DELETE /v1/admissions/{id}.
func (s *Server) ReleaseAdmission(ctx context.Context, r ReleaseAdmissionRequestObject) (ReleaseAdmissionResponseObject, error) {
	return ReleaseAdmission204Response{}, s.Decider.Release(ctx, r.ID)
}

// RenewAdmission answers POST /v1/admissions/{id}/renew.
func (s *Server) RenewAdmission(ctx context.Context, r RenewAdmissionRequestObject) (RenewAdmissionResponseObject, error) {
	seconds := int32(s.LeaseTTL.Seconds())
	if r.Body != nil && r.Body.LeaseSeconds != nil {
		seconds = *r.Body.LeaseSeconds
	}
	if message := leaseRange(int64(seconds)); message != "" {
		return nil, fault.Fields(field.Error{Field: "leaseSeconds", Message: message})
	}
	end, err := s.Decider.Renew(ctx, r.ID, seconds, nil)
	if err != nil {
		return nil, err
	}
	return RenewAdmission200JSONResponse{AdmissionID: r.ID, LeaseExpiresAt: wire.At(end)}, nil
}

// ListKeyAdmissions answers GET /v1/keys/{id}/admissions.
func (s *Server) ListKeyAdmissions(ctx context.Context, r ListKeyAdmissionsRequestObject) (ListKeyAdmissionsResponseObject, error) {
	if _, err := s.Keys.Show(ctx, r.ID); err != nil {
		return nil, err
	}
	rows, err := s.DB.AdmissionsLive(ctx, db.AdmissionsLiveParams{KeyIDs: []uuid.UUID{r.ID}, RowLimit: maxLimit})
	if err != nil {
		return nil, fmt.Errorf("reading admissions: %w", err)
	}
	answer := ListKeyAdmissions200JSONResponse{Data: make([]LiveAdmission, len(rows))}
	for i, a := range rows {
		answer.Data[i] = LiveAdmission{ID: a.ID, RequestID: a.RequestID, Service: a.Service, Model: a.Model, AdmittedAt: wire.At(a.AdmittedAt),
			LeaseExpiresAt: wire.AtOrNil(a.LeaseExpiresAt), ReservedUntil: wire.At(a.ReservedUntil), ReservedTokens: a.ReservedTokens, ReservedCost: usd(a.ReservedCost)}
	}
	return answer, nil
}
