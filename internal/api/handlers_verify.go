package api

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	openapi_types "github.com/oapi-codegen/runtime/types"

	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/verify"
)

// VerifyKey answers POST /v1/keys/verify.
func (s *Server) VerifyKey(ctx context.Context, r VerifyKeyRequestObject) (VerifyKeyResponseObject, error) {
	withUsage := false
	if r.Body.Include != nil {
		for _, what := range *r.Body.Include {
			if what != VerifyRequestIncludeUsage {
				return nil, fault.Fields(field.Error{Field: "include", Message: "may only hold usage"})
			}
			withUsage = true
		}
	}
	result, err := s.Verifier.Verify(ctx, secretText(r.Body.APIKey), nil)
	if err != nil {
		return nil, err
	}
	s.Metrics.Verified.WithLabelValues(string(result.Code)).Inc()
	if result.Code == verify.Valid && !withUsage {
		return validKey(result.Key.Shown), nil
	}
	answer := VerifyKey200JSONResponse{Valid: result.Code == verify.Valid, Code: VerifyAnswerCode(result.Code), Message: result.Code.Message()}
	if !answer.Valid {
		return answer, nil
	}
	row, err := s.Keys.Show(ctx, result.Key.ID)
	if err != nil {
		return nil, err
	}
	full, err := s.keyAnswer(ctx, row)
	if err != nil {
		return nil, err
	}
	shown := keyJSON{result.Key.Shown}
	answer.Key, answer.Usage, answer.DailyCost = &shown, &full.Body.Usage, &full.Body.DailyCost
	return answer, nil
}

// secretText is the text of a presented key. What is no string is no key.
func secretText(presented jsontext.Value) string {
	if len(presented) == 0 || presented.Kind() != jsontext.KindString {
		return ""
	}
	text, err := jsontext.AppendUnquote(make([]byte, 0, len(presented)), presented)
	if err != nil {
		return ""
	}
	return string(text)
}

// selfDays is for how many days a holder sees what was used on each.
const selfDays = 30

// GetSelf answers GET /v1/self, for the holder of a key.
func (s *Server) GetSelf(ctx context.Context, _ GetSelfRequestObject) (GetSelfResponseObject, error) {
	result, err := s.Verifier.Verify(ctx, callOf(ctx).apiKey, nil)
	if err != nil {
		return nil, err
	}
	if result.Code != verify.Valid {
		return nil, fault.New(fault.Unauthenticated, result.Code.Message()+".")
	}
	return s.holders.Do(ctx, result.Key.ID)
}

// selfGroup answers the holders of keys one batch after another, with one connection: who
// asks again and again, with as many connections as he likes, takes no more of the
// database than that, and all who ask for the same key at the same time are answered at
// once.
func (s *Server) selfGroup() *coalesce.Group[uuid.UUID, GetSelf200JSONResponse] {
	return coalesce.New(coalesce.Options[uuid.UUID, GetSelf200JSONResponse]{
		Limits: coalesce.Limits{Writers: 1},
		Flush: func(ctx context.Context, ids []uuid.UUID) ([]GetSelf200JSONResponse, error) {
			known := map[uuid.UUID]GetSelf200JSONResponse{}
			answers := make([]GetSelf200JSONResponse, len(ids))
			for i, id := range ids {
				if _, ok := known[id]; !ok {
					answer, err := s.self(ctx, id)
					if err != nil {
						return nil, err
					}
					known[id] = answer
				}
				answers[i] = known[id]
			}
			return answers, nil
		},
		Single: func(err error) bool { return fault.CodeOf(err) == fault.NotFound }, // purged since
	})
}

func (s *Server) self(ctx context.Context, id uuid.UUID) (none GetSelf200JSONResponse, err error) {
	row, err := s.Keys.Show(ctx, id)
	if err != nil {
		return none, err
	}
	shown, err := s.keyAnswer(ctx, row)
	if err != nil {
		return none, err
	}
	full, err := s.keyStats(ctx, row, nil)
	if err != nil {
		return none, err
	}
	rows, err := s.Stats.KeyDays(ctx, id, selfDays)
	if err != nil {
		return none, err
	}
	days := make([]DayUse, len(rows))
	for i, d := range rows {
		days[i] = DayUse{Day: openapi_types.Date{Time: d.Day}, Requests: d.Requests, Tokens: d.Tokens, CostUsd: usd(d.Cost)}
	}
	return GetSelf200JSONResponse{Key: holderKeyOf(shown.Body), Usage: full, Days: days, Timezone: s.Stats.Timezone()}, nil
}
