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
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/price"
)

// Recorder writes events to the ledger. It is safe for concurrent use.
type Recorder struct {
	DB       *db.DB // a pool whose statements may wait for a row
	Prices   *price.Store
	Timezone string // IANA zone whose midnights part days
	Observe  Observer

	group   *coalesce.Lanes[[]Event, outcome, need]               // nil: each unit alone
	lookups *coalesce.Group[[]uuid.UUID, map[uuid.UUID]uuid.UUID] // nil: each alone
}

// Observer is told what became of events, after their commit. Any member may
// be nil.
type Observer struct {
	Recorded func(model string, priced bool)
	Repeated func(conflict bool)
	Dearer   func() // a settlement cost more than was reserved for it
}

// Result is what became of an event.
type Result struct {
	EventID   uuid.UUID
	RequestID string
	KeyID     uuid.UUID
	Model     string
	Cost      decimal.Decimal // USD
	Priced    bool
	Duplicate bool // an earlier event answered for it; nothing was recorded
	Conflict  bool // that earlier event had other content
}

// Record prices events and writes all of them, with every rollup they move, or
// none: they are one unit; after Gather, in one transaction with units that come
// at the same time. It returns after the commit. An event whose request id the key
// has seen within the deduplication horizon changes nothing and gets the first
// one's answer. An unknown key or a time too far ahead is an Invalid fault that
// names each such event.
func (r *Recorder) Record(ctx context.Context, events []Event) ([]Result, error) {
	unit := slices.Clone(events)
	for i := range unit {
		if unit[i].ID == uuid.Nil { // before the first try, so that no later one can double it
			unit[i].ID = newID()
		}
	}
	// The key is what units that wait for a held row are told apart by, so it is found
	// before the group sees them.
	if err := r.findKeys(ctx, unit); err != nil {
		return nil, err
	}
	if beforeCommit != nil {
		return beforeCommit(ctx, r, unit), nil
	}
	if r.group != nil {
		o, err := r.group.Do(ctx, unit)
		return o.results, errors.Join(err, o.err)
	}
	outcomes, err := r.recordAll(ctx, [][]Event{unit})
	if err != nil {
		return nil, err
	}
	return outcomes[0].results, outcomes[0].err
}

// outcome is what became of a unit: its results, or why it was refused.
type outcome struct {
	results []Result
	err     error
}

// recordAll records units in one transaction. A unit that is refused takes none of
// the others with it.
func (r *Recorder) recordAll(ctx context.Context, units [][]Event) ([]outcome, error) {
	catalogue, now, err := r.Prices.Current(ctx)
	if err != nil {
		return nil, err
	}
	outcomes := make([]outcome, len(units))
	var entries []entry
	for u, events := range units {
		var wrong []fault.Field
		priced := make([]entry, len(events))
		for i, e := range events {
			priced[i] = newEntry(e)
			priced[i].unit, priced[i].index, priced[i].of = u, i, len(events)
			if priced[i].occurredAt.IsZero() {
				priced[i].occurredAt = now
			}
			if e.OccurredAt.After(now.Add(MaxAhead)) {
				wrong = append(wrong, fault.Field{Field: at(i, len(events), "occurredAt"), Message: "must be at most 5 minutes ahead"})
			}
			if p, ok := catalogue.Lookup(e.ModelReceived, priced[i].occurredAt); ok {
				priced[i].cost, priced[i].priced = p.Cost(e.Counts.Tokens()), true
			}
		}
		if wrong != nil {
			outcomes[u].err = fault.Fields(wrong...)
			continue
		}
		entries = append(entries, priced...)
	}
	if len(entries) == 0 {
		return outcomes, nil
	}
	if err := r.append(ctx, entries, outcomes, nil); err != nil {
		return outcomes, err
	}
	for _, o := range outcomes {
		if o.err == nil {
			for _, result := range o.results {
				r.tell(result)
			}
		}
	}
	return outcomes, nil
}

// findKeys gives events that name an admission its key. Which key an admission belongs
// to never changes, so reading it first is safe. An Invalid fault names the events whose
// admission is unknown or another key's.
func (r *Recorder) findKeys(ctx context.Context, events []Event) error {
	var ids []uuid.UUID
	for _, e := range events {
		if e.AdmissionID != uuid.Nil {
			ids = append(ids, e.AdmissionID)
		}
	}
	if ids == nil {
		return nil
	}
	keys, err := r.admissionKeys(ctx, ids)
	if err != nil {
		return err
	}
	var wrong []fault.Field
	for i, e := range events {
		switch key, known := keys[e.AdmissionID]; {
		case e.AdmissionID == uuid.Nil:
		case !known:
			wrong = append(wrong, fault.Field{Field: at(i, len(events), "admissionId"), Message: "is not the id of an admission that is remembered"})
		case e.KeyID != uuid.Nil && e.KeyID != key:
			wrong = append(wrong, fault.Field{Field: at(i, len(events), "keyId"), Message: "is not the key of this admission"})
		default:
			events[i].KeyID = key
		}
	}
	return fault.OrNil(wrong)
}

// admissionKeys are the keys of admissions; after Gather, read together with those that
// are asked for at the same time.
func (r *Recorder) admissionKeys(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]uuid.UUID, error) {
	if r.lookups != nil {
		return r.lookups.Do(ctx, ids)
	}
	all, err := readAdmissionKeys(ctx, r.DB, [][]uuid.UUID{ids})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// readAdmissionKeys reads the keys of several lists of admissions at once. The lists
// share one answer.
func readAdmissionKeys(ctx context.Context, from *db.DB, lists [][]uuid.UUID) ([]map[uuid.UUID]uuid.UUID, error) {
	rows, err := from.AdmissionKeys(ctx, slices.Concat(lists...))
	if err != nil {
		return nil, fmt.Errorf("reading admissions: %w", err)
	}
	keys := make(map[uuid.UUID]uuid.UUID, len(rows))
	for _, row := range rows {
		keys[row.ID] = row.KeyID
	}
	return slices.Repeat([]map[uuid.UUID]uuid.UUID{keys}, len(lists)), nil
}

// at names a field of event i; a single event's fields have no index.
func at(i, n int, field string) string {
	if n == 1 {
		return field
	}
	return fmt.Sprintf("events[%d].%s", i, field)
}

// entry is one row to be appended to the ledger.
type entry struct {
	Event

	unit        int // of those recorded together
	index, of   int // its place in the unit, and the unit's size
	kind        string
	dedup       string
	requests    int64
	occurredAt  time.Time
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

func newEntry(e Event) entry {
	return entry{Event: e, of: 1, kind: kindUsage, dedup: e.dedupKey(), requests: 1, occurredAt: e.OccurredAt, fingerprint: e.fingerprint()}
}

// newID makes an id that sorts by time.
func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// append writes entries, those of a unit one after another, through the one
// statement that moves rollups, reads the first answers of those that were
// duplicates, and puts the results into their units' outcomes. What also does, if
// it is not nil, is done in the same transaction, when anything was recorded.
func (r *Recorder) append(ctx context.Context, entries []entry, outcomes []outcome, also func(*db.Queries) error) error {
	var rows []db.LedgerAppendRow
	var first firsts
	err := r.DB.InTx(ctx, func(q *db.Queries) (err error) {
		if rows, err = q.LedgerAppend(ctx, arrays(entries, r.Timezone)); err != nil {
			return err
		}
		if first, err = r.settleRepeats(ctx, q, entries, rows); err != nil {
			return err
		}
		if also == nil || !slices.ContainsFunc(rows, func(row db.LedgerAppendRow) bool { return row.Recorded }) {
			return nil
		}
		return also(q)
	})
	if err != nil {
		return fmt.Errorf("recording usage: %w", err)
	}
	results := make([]Result, len(entries))
	for i, e := range entries {
		if rows[i].Dearer && r.Observe.Dearer != nil {
			r.Observe.Dearer()
		}
		results[i] = Result{EventID: e.ID, RequestID: e.RequestID, KeyID: e.KeyID, Model: e.Model, Cost: e.cost, Priced: e.priced,
			Duplicate: !rows[i].Recorded}
	}
	refuse(entries, rows, outcomes)
	for i, e := range entries {
		o := &outcomes[e.unit]
		if o.err != nil {
			continue
		}
		if results[i].Duplicate {
			results[i], o.err = r.answerRepeat(ctx, e, rows[i].AdmissionID, first, results[i], len(entries) > 1)
		}
		if o.err == nil {
			o.results = append(o.results, results[i])
		}
	}
	return nil
}

// refuse gives units with an event of an unknown key their fault.
func refuse(entries []entry, rows []db.LedgerAppendRow, outcomes []outcome) {
	wrong := map[int][]fault.Field{}
	for i, e := range entries {
		if rows[i].Refused {
			wrong[e.unit] = append(wrong[e.unit], fault.Field{Field: at(e.index, e.of, "keyId"), Message: "is not the id of a key"})
		}
	}
	for unit, fields := range wrong {
		outcomes[unit].err = fault.Fields(fields...)
	}
}

func (r *Recorder) tell(result Result) {
	switch {
	case result.Duplicate && r.Observe.Repeated != nil:
		r.Observe.Repeated(result.Conflict)
	case !result.Duplicate && r.Observe.Recorded != nil:
		r.Observe.Recorded(result.Model, result.Priced)
	}
}

// arrays turns entries into the parallel arrays that the statement takes.
func arrays(entries []entry, timezone string) db.LedgerAppendParams {
	p := db.LedgerAppendParams{Timezone: timezone}
	for _, e := range entries {
		p.EventIDs = append(p.EventIDs, e.ID)
		p.Kinds = append(p.Kinds, e.kind)
		p.KeyIDs = append(p.KeyIDs, e.KeyID)
		p.DedupKeys = append(p.DedupKeys, e.dedup)
		p.AccountIDs = append(p.AccountIDs, e.AccountID)
		p.Models = append(p.Models, e.Model)
		p.ModelsReceived = append(p.ModelsReceived, e.ModelReceived)
		p.RequestIDs = append(p.RequestIDs, e.RequestID)
		p.OccurredAts = append(p.OccurredAts, e.occurredAt)
		p.Requests = append(p.Requests, e.requests)
		p.InputTokens = append(p.InputTokens, e.Counts.Input)
		p.OutputTokens = append(p.OutputTokens, e.Counts.Output)
		p.CacheCreateTokens = append(p.CacheCreateTokens, e.Counts.CacheCreate)
		p.CacheReadTokens = append(p.CacheReadTokens, e.Counts.CacheRead)
		p.Ephemeral5mTokens = append(p.Ephemeral5mTokens, e.Counts.Ephemeral5m)
		p.Ephemeral1hTokens = append(p.Ephemeral1hTokens, e.Counts.Ephemeral1h)
		p.Costs = append(p.Costs, e.cost.String())
		p.Priced = append(p.Priced, e.priced)
		p.Fingerprints = append(p.Fingerprints, e.fingerprint)
		p.Adjusts = append(p.Adjusts, e.adjusts)
		p.Reasons = append(p.Reasons, e.reason)
		p.AdmissionIDs = append(p.AdmissionIDs, e.AdmissionID)
		p.Units = append(p.Units, int64(e.unit))
	}
	return p
}
