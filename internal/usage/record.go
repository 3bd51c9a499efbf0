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
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/price"
)

// Options make a Recorder. All must be set, but that Limits have defaults and members of
// Observe may be nil.
type Options struct {
	Fast     *db.DB // a pool whose statements give up soon on a row that somebody holds
	Patient  *db.DB // a pool whose statements may wait for a row
	Prices   *price.Store
	Timezone string // IANA zone whose midnights part days
	Observe  Observer
	Limits   coalesce.Limits
	Writers  *coalesce.Writers // shared with admissions, so that no two batches share a key
}

// Observer is told what became of events, after their commit. Any member may
// be nil.
type Observer struct {
	Recorded func(model string, priced bool)
	Repeated func(conflict bool)
	Dearer   func() // a settlement cost more than was reserved for it
}

// Recorder writes events to the ledger. It is safe for concurrent use.
type Recorder struct {
	o       Options
	group   *coalesce.Lanes[[]Event, outcome, uuid.UUID]
	lookups *coalesce.Group[[]uuid.UUID, map[uuid.UUID]uuid.UUID]
}

// New makes a Recorder. It has goroutines only while there is work.
func New(o Options) *Recorder {
	r := &Recorder{o: o}
	r.lookups = coalesce.New(coalesce.Options[[]uuid.UUID, map[uuid.UUID]uuid.UUID]{
		Limits: coalesce.Limits{Writers: o.Limits.Writers, MaxBatch: o.Limits.MaxBatch, MaxQueue: o.Limits.MaxQueue},
		Flush: func(ctx context.Context, lists [][]uuid.UUID) ([]map[uuid.UUID]uuid.UUID, error) {
			return admissionKeys(ctx, o.Fast, lists)
		},
		Weight: func(ids []uuid.UUID) int { return len(ids) },
	})
	r.group = coalesce.NewLanes(coalesce.LanesOptions[[]Event, outcome, uuid.UUID]{
		Options: coalesce.Options[[]Event, outcome]{
			Limits: o.Limits,
			Flush: func(ctx context.Context, units [][]Event) ([]outcome, error) {
				return r.recordAll(ctx, units, nil)
			},
			Weight: func(events []Event) int { return len(events) },
			Single: db.OfOneRow,
		},
		Writers:  o.Writers,
		Patience: db.Patience,
		Needs: func(events []Event) (keys []uuid.UUID) {
			for _, e := range events {
				keys = append(keys, e.KeyID)
			}
			return keys
		},
		Stuck: db.Stuck,
		Held:  o.Fast.CountersHeld,
	})
	return r
}

// Timezone is the IANA zone whose midnights part days.
func (r *Recorder) Timezone() string { return r.o.Timezone }

// State tells how many events wait for their turn, and how long the oldest that is
// not done has been here.
func (r *Recorder) State() (waiting int, oldest time.Duration) { return r.group.State() }

// Close records what waits and refuses what comes later.
func (r *Recorder) Close(ctx context.Context) error {
	return errors.Join(r.lookups.Close(ctx), r.group.Close(ctx))
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

// Record prices events and writes all of them, with the counters of their keys, or none:
// they are one unit, in one transaction with units that come at the same time. It returns
// after the commit. An event whose request id the key has seen within the deduplication
// horizon changes nothing and gets the first one's answer. An unknown key or a time too
// far ahead is an Invalid fault that names each such event. The events are not changed.
func (r *Recorder) Record(ctx context.Context, events []Event) ([]Result, error) {
	unit := slices.Clone(events)
	for i := range unit {
		if unit[i].ID == uuid.Nil { // before the first try, so that no later one can double it
			unit[i].ID = newID()
		}
	}
	// The key is what decides on the writer, so it is found before the group sees them.
	if err := r.findKeys(ctx, unit); err != nil {
		return nil, err
	}
	if beforeCommit != nil {
		return beforeCommit(ctx, r, unit), nil
	}
	o, err := r.group.Do(ctx, unit)
	return o.results, errors.Join(err, o.err)
}

// RecordAt is Record as of an instant in the place of the database's clock, in a transaction
// of its own: for tests of days that have passed.
func (r *Recorder) RecordAt(ctx context.Context, events []Event, now time.Time) ([]Result, error) {
	unit := slices.Clone(events)
	for i := range unit {
		unit[i].ID = newID()
	}
	if err := r.findKeys(ctx, unit); err != nil {
		return nil, err
	}
	outcomes, err := r.recordAll(ctx, [][]Event{unit}, &now)
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
// the others with it. asOf nil is now, by the database's clock.
func (r *Recorder) recordAll(ctx context.Context, units [][]Event, asOf *time.Time) ([]outcome, error) {
	catalogue, now, err := r.o.Prices.Current(ctx)
	if err != nil {
		return nil, err
	}
	if asOf != nil {
		now = *asOf
	}
	outcomes := make([]outcome, len(units))
	var entries []entry
	for u, events := range units {
		var wrong []field.Error
		priced := make([]entry, len(events))
		for i, e := range events {
			priced[i] = newEntry(e)
			priced[i].unit, priced[i].index, priced[i].of = u, i, len(events)
			if e.OccurredAt.After(now.Add(MaxAhead)) {
				wrong = append(wrong, field.Error{Field: at(i, len(events), "occurredAt"), Message: "must be at most 5 minutes ahead"})
			}
			occurred := e.OccurredAt
			if occurred.IsZero() || occurred.After(now) {
				occurred = now
			}
			if p, ok := catalogue.Lookup(e.ModelReceived, occurred); ok {
				priced[i].cost, priced[i].priced = p.Cost(e.Counts.Tokens()), true
			}
			if e.Cost != nil {
				priced[i].cost, priced[i].priced = *e.Cost, true
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
	if err := r.append(ctx, entries, outcomes, asOf); err != nil {
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
		if e.AdmissionID != uuid.Nil && !e.OwnKey {
			ids = append(ids, e.AdmissionID)
		}
	}
	if ids == nil {
		return nil
	}
	keys, err := r.lookups.Do(ctx, ids)
	if err != nil {
		return err
	}
	var wrong []field.Error
	for i, e := range events {
		switch key, known := keys[e.AdmissionID]; {
		case e.AdmissionID == uuid.Nil, e.OwnKey:
		case !known:
			wrong = append(wrong, field.Error{Field: at(i, len(events), "admissionId"), Message: "is not the id of an admission that is remembered"})
		case e.KeyID != uuid.Nil && e.KeyID != key:
			wrong = append(wrong, field.Error{Field: at(i, len(events), "keyId"), Message: "is not the key of this admission"})
		default:
			events[i].KeyID = key
		}
	}
	return fault.OrNil(wrong)
}

// admissionKeys reads the keys of several lists of admissions at once. The lists share
// one answer.
func admissionKeys(ctx context.Context, from *db.DB, lists [][]uuid.UUID) ([]map[uuid.UUID]uuid.UUID, error) {
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

func (r *Recorder) tell(result Result) {
	switch {
	case result.Duplicate && r.o.Observe.Repeated != nil:
		r.o.Observe.Repeated(result.Conflict)
	case !result.Duplicate && r.o.Observe.Recorded != nil:
		r.o.Observe.Recorded(result.Model, result.Priced)
	}
}
