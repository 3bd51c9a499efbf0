package api

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// balance is what programs that show one read.
// Source: https://github.com/farion1231/cc-switch
type balance struct {
	IsValid   bool      `json:"isValid"`
	IsActive  bool      `json:"is_active"`
	PlanName  string    `json:"planName"`
	Total     *wire.USD `json:"total"`
	Used      wire.USD  `json:"used"`
	Remaining *wire.USD `json:"remaining"`
	Balance   *wire.USD `json:"balance"`
	Unit      string    `json:"unit"`
	Extra     string    `json:"extra"`
}

// GetBalance answers GET /v1/usage.
func (s *Server) GetBalance(ctx context.Context, _ GetBalanceRequestObject) (GetBalanceResponseObject, error) {
	self, err := s.GetSelf(ctx, GetSelfRequestObject{})
	if err != nil {
		return nil, err
	}
	k := self.(GetSelf200JSONResponse).Key //nolint:forcetypeassert // GetSelf has no other
	b := balance{IsValid: true, IsActive: true, PlanName: "unlimited", Used: k.TotalCost, Unit: "USD"}
	for _, limit := range []struct {
		name       string
		most, used wire.USD
		again      string
	}{
		{"daily", k.DailyCostLimit, k.DailyCost, "Begins anew each day, in %s"}, {"weekly", k.WeeklyCostLimit, k.WeeklyCost, "Begins anew each Monday, in %s"},
		{"monthly", k.MonthlyCostLimit, k.MonthlyCost, "Begins anew on the first of the month, in %s"}, {"total", k.TotalCostLimit, k.TotalCost, ""},
	} {
		if !limit.most.IsPositive() {
			continue
		}
		left := decimal.Max(decimal.Zero, limit.most.Sub(limit.used.Decimal).Sub(k.ReservedCost.Decimal))
		if b.Remaining != nil && left.GreaterThanOrEqual(b.Remaining.Decimal) {
			continue
		}
		remaining := usd(left)
		b.PlanName, b.Total, b.Used, b.Remaining, b.Balance, b.Extra = limit.name, &limit.most, limit.used, &remaining, &remaining, ""
		if limit.again != "" {
			b.Extra = fmt.Sprintf(limit.again, s.Stats.Timezone())
		}
	}
	return GetBalance200JSONResponse(b), nil
}

const (
	maxLeaked  = 100
	maxFoundAt = 500
)

// RevokeLeaked answers POST /v1/keys/revoke-leaked.
func (s *Server) RevokeLeaked(ctx context.Context, r RevokeLeakedRequestObject) (RevokeLeakedResponseObject, error) {
	var wrong []field.Error
	if n := len(r.Body.APIKeys); n < 1 || n > maxLeaked {
		wrong = append(wrong, field.Error{Field: "apiKeys", Message: fmt.Sprintf("must be a list of 1 to %d secrets", maxLeaked)})
	}
	foundAt := ""
	if r.Body.FoundAt != nil {
		if foundAt = *r.Body.FoundAt; utf8.RuneCountInString(foundAt) > maxFoundAt {
			wrong = append(wrong, field.Error{Field: "foundAt", Message: fmt.Sprintf("must have at most %d characters", maxFoundAt)})
		}
		if strings.ContainsRune(foundAt, 0) {
			wrong = append(wrong, field.Error{Field: "foundAt", Message: "must not contain U+0000"})
		}
	}
	if wrong != nil {
		return nil, fault.Fields(wrong...)
	}
	who := db.Actor{Name: "leak report", RequestID: callOf(ctx).requestID}
	answer := LeakAnswer{}
	for _, secret := range r.Body.APIKeys {
		status, err := s.revokeLeaked(ctx, who, secret, foundAt)
		if err != nil {
			return nil, err
		}
		answer.Results = append(answer.Results, struct {
			Status LeakAnswerResultsStatus `json:"status"`
		}{status})
	}
	return RevokeLeaked200JSONResponse(answer), nil
}

// revokeLeaked disables the key of one secret.
func (s *Server) revokeLeaked(ctx context.Context, who db.Actor, secret, foundAt string) (LeakAnswerResultsStatus, error) {
	left := s.attempts.of(callOf(ctx).ip())
	if s.attempts.most > 0 && left.Tokens() < 1 {
		return "", fault.New(fault.TooMany, "Too many secrets that no key has came from this address. Try again later.")
	}
	found, _, err := s.findKey(ctx, secret)
	if err != nil {
		return "", err
	}
	if found == nil {
		left.Allow()
		return Unknown, nil
	}
	disabled, err := s.Keys.Leaked(ctx, who, found.ID, foundAt)
	switch {
	case fault.CodeOf(err) == fault.NotFound: // deleted since
		return Unknown, nil
	case err != nil:
		return "", err
	case disabled:
		return TurnedOff, nil
	}
	left.Allow()
	return AlreadyOff, nil
}
