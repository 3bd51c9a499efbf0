package api

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"
	openapi_types "github.com/oapi-codegen/runtime/types"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// reconcileDays is how many days Reconcile looks back when it is not told.
const reconcileDays = 7

// Reconcile answers GET /v1/reports/reconcile.
func (s *Server) Reconcile(ctx context.Context, r ReconcileRequestObject) (ReconcileResponseObject, error) {
	from, to, err := s.days(ctx, r.Params.From, r.Params.To, reconcileDays)
	if err != nil {
		return nil, err
	}
	if from.After(to) {
		return nil, fault.Fields(field.Error{Field: "from", Message: "must not be after to"})
	}
	found, err := s.Reports.Reconcile(ctx, from, to)
	if err != nil {
		return nil, err
	}
	answer := Reconcile200JSONResponse{Agrees: len(found.Differences) == 0, From: openapi_types.Date{Time: found.From}, To: openapi_types.Date{Time: found.To},
		LedgerRows: found.LedgerRows, Differences: make([]Difference, len(found.Differences))}
	for i, row := range found.Differences {
		answer.Differences[i] = difference(row)
	}
	return answer, nil
}

// RebuildRollups answers POST /v1/reports/rebuild.
func (s *Server) RebuildRollups(ctx context.Context, r RebuildRollupsRequestObject) (RebuildRollupsResponseObject, error) {
	if err := s.Rollup.Rebuild(ctx, actor(ctx), r.Body.From.Time, r.Body.To.Time); err != nil {
		return nil, err
	}
	return RebuildRollups200JSONResponse(*r.Body), nil
}

// days are the days asked for: up to today, and from so many days before the last.
func (s *Server) days(ctx context.Context, askedFrom, askedTo *openapi_types.Date, before int) (from, to time.Time, err error) {
	if askedTo != nil {
		to = askedTo.Time
	} else {
		now, err := s.DB.Now(ctx)
		if err != nil {
			return from, to, err
		}
		zone, err := time.LoadLocation(s.Reports.Timezone())
		if err != nil {
			return from, to, err
		}
		to = dayOf(now.In(zone))
	}
	if askedFrom != nil {
		return askedFrom.Time, to, nil
	}
	return to.AddDate(0, 0, -before), to, nil
}

// dayOf is an instant's day in its zone, as a midnight in UTC.
func dayOf(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
}

func difference(row db.ReconcileRow) Difference {
	d := Difference{Rollup: DifferenceRollup(row.Rollup), AccountID: row.AccountID, Day: row.Day, Model: row.Model, Columns: strings.Split(row.Columns, ", "),
		Summed: Sum{Requests: row.SummedRequests, Tokens: row.SummedTokens, CostUsd: usd(row.SummedCost)},
		Stored: Sum{Requests: row.StoredRequests, Tokens: row.StoredTokens, CostUsd: usd(row.StoredCost)}}
	if row.Tag != "" {
		d.Tag = &row.Tag
	}
	if row.KeyID != uuid.Nil {
		d.KeyID = &row.KeyID
	}
	return d
}
