package usage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// entry is one row to be appended to the ledger.
type entry struct {
	Event

	unit        int // of those recorded together
	index, of   int // its place in the unit, and the unit's size
	kind        string
	ledgerID    uuid.UUID // zero: that of the key
	tagSet      uuid.UUID // of an adjustment: that of the event it adjusts
	dedup       string
	requests    int64
	cost        decimal.Decimal
	priced      bool
	fingerprint int64
	adjusts     uuid.UUID // zero: none
	reason      string
}

// The kinds of ledger rows.
const (
	kindUsage      = "usage"
	kindAdjustment = "adjustment"
	kindOpening    = "opening"
)

// The states in which LedgerAppend leaves events.
const (
	stateUnknown   = "unknown"
	stateRecorded  = "recorded"
	stateDuplicate = "duplicate"
)

func newEntry(e Event) entry {
	return entry{Event: e, of: 1, kind: kindUsage, dedup: e.dedupKey(), requests: 1, fingerprint: e.fingerprint()}
}

// newID makes an id that sorts by time.
func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// append writes entries, those of a unit one after another, in one transaction and one
// round trip, and puts the results into their units' outcomes.
func (r *Recorder) append(ctx context.Context, entries []entry, outcomes []outcome, asOf *time.Time) error {
	var rows []db.LedgerAppendRow
	params := arrays(entries, r.o.Timezone)
	params.Now = asOf
	err := r.o.Fast.Pipeline(ctx, func(q *db.Queries) (err error) {
		if err = q.LedgerLock(ctx, params.KeyIDs); err == nil {
			rows, err = q.LedgerAppend(ctx, params)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("recording usage: %w", err)
	}
	return r.answer(ctx, entries, rows, outcomes)
}

// adjust is append for entries whose key may be gone, and which may wait for a row. What
// also does, it does in the same transaction, when anything was recorded.
func (r *Recorder) adjust(ctx context.Context, entries []entry, outcomes []outcome, also func(*db.Queries) error) error {
	var rows []db.LedgerAppendRow
	params := arrays(entries, r.o.Timezone)
	err := r.o.Patient.InTx(ctx, func(q *db.Queries) (err error) {
		if err := q.HoldersLock(ctx, params.LedgerIDs); err != nil {
			return err
		}
		if rows, err = appendWithin(ctx, q, params); err != nil {
			return err
		}
		if !slices.ContainsFunc(rows, func(row db.LedgerAppendRow) bool { return row.State == stateRecorded }) {
			return nil
		}
		return also(q)
	})
	if err != nil {
		return fmt.Errorf("adjusting usage: %w", err)
	}
	return r.answer(ctx, entries, rows, outcomes)
}

// appendWithin writes to the ledger in a transaction of the caller's.
func appendWithin(ctx context.Context, q *db.Queries, params db.LedgerAppendParams) ([]db.LedgerAppendRow, error) {
	if err := q.LedgerLock(ctx, params.KeyIDs); err != nil {
		return nil, err
	}
	return q.LedgerAppend(ctx, params)
}

// answer turns rows into results, in their units' outcomes.
func (r *Recorder) answer(ctx context.Context, entries []entry, rows []db.LedgerAppendRow, outcomes []outcome) error {
	wrong := map[int][]field.Error{}
	for i, e := range entries {
		if rows[i].State == stateUnknown {
			wrong[e.unit] = append(wrong[e.unit], field.Error{Field: at(e.index, e.of, "keyId"), Message: "is not the id of a key"})
		}
	}
	for i, e := range entries {
		o, row := &outcomes[e.unit], rows[i]
		if row.Dearer && r.o.Observe.Dearer != nil {
			r.o.Observe.Dearer()
		}
		if wrong[e.unit] != nil {
			o.err = fault.Fields(wrong[e.unit]...)
			continue
		}
		result := Result{EventID: e.ID, RequestID: e.RequestID, KeyID: e.KeyID, Model: e.Model, Cost: e.cost, Priced: e.priced}
		switch row.State {
		case stateRecorded:
		case stateDuplicate:
			cost, err := decimal.NewFromString(row.FirstCost)
			if err != nil {
				return fmt.Errorf("reading a cost: %w", err)
			}
			result.EventID, result.Model, result.Cost, result.Priced = row.FirstID, row.FirstModel, cost, row.FirstPriced
			result.Duplicate, result.Conflict = true, row.Conflict
		default: // it repeats an event of this batch that was itself not recorded
			e.unit = 0
			alone := make([]outcome, 1)
			if err := r.append(ctx, []entry{e}, alone, nil); err != nil || alone[0].err != nil {
				return errors.Join(err, alone[0].err)
			}
			result = alone[0].results[0]
		}
		o.results = append(o.results, result)
	}
	return nil
}

// received is the time of an event that has none: later than any clock, and so replaced
// by the database's.
var received = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// arrays turns entries into the parallel arrays that the statement takes.
func arrays(entries []entry, timezone string) db.LedgerAppendParams {
	p := db.LedgerAppendParams{Timezone: timezone}
	for _, e := range entries {
		at := e.OccurredAt
		if at.IsZero() {
			at = received
		}
		p.EventIDs = append(p.EventIDs, e.ID)
		p.Kinds = append(p.Kinds, e.kind)
		p.KeyIDs = append(p.KeyIDs, e.KeyID)
		p.LedgerIDs = append(p.LedgerIDs, e.ledgerID)
		p.TagSets = append(p.TagSets, e.tagSet)
		p.DedupKeys = append(p.DedupKeys, e.dedup)
		p.AccountIDs = append(p.AccountIDs, e.AccountID)
		p.Models = append(p.Models, e.Model)
		p.ModelsReceived = append(p.ModelsReceived, e.ModelReceived)
		p.RequestIDs = append(p.RequestIDs, e.RequestID)
		p.OccurredAts = append(p.OccurredAts, at)
		p.Requests = append(p.Requests, e.requests)
		p.InputTokens = append(p.InputTokens, e.Counts.Input)
		p.OutputTokens = append(p.OutputTokens, e.Counts.Output)
		p.CacheCreateTokens = append(p.CacheCreateTokens, e.Counts.CacheCreate)
		p.CacheReadTokens = append(p.CacheReadTokens, e.Counts.CacheRead)
		p.Ephemeral1hTokens = append(p.Ephemeral1hTokens, e.Counts.Ephemeral1h)
		p.Costs = append(p.Costs, e.cost.String())
		p.Priced = append(p.Priced, e.priced)
		p.Estimated = append(p.Estimated, e.Estimated)
		p.Vias = append(p.Vias, string(e.Via))
		p.Fingerprints = append(p.Fingerprints, e.fingerprint)
		p.Adjusts = append(p.Adjusts, e.adjusts)
		p.Reasons = append(p.Reasons, e.reason)
		p.AdmissionIDs = append(p.AdmissionIDs, e.AdmissionID)
		p.Units = append(p.Units, int64(e.unit))
	}
	return p
}
