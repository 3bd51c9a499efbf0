package usage

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/price"
)

// Opening is what a key or an account used of a model on a day before it came here.
type Opening struct {
	KeyID     uuid.UUID // a key, or another holder of sums
	AccountID string    // empty: none
	Model     string    // as the other system names it
	Day       time.Time // midnight in UTC
	Requests  int64
	Counts    Counts
	Cost      decimal.Decimal // USD
	Priced    bool            // false: nobody knew a price
}

// Open writes openings into the ledger and into every rollup, in a transaction of the
// caller's. They carry noon of their day in the service's time zone, open no window and
// are nobody's last use. Faults: NotFound for a holder that has no sums.
func (r *Recorder) Open(ctx context.Context, q *db.Queries, openings []Opening) error {
	if len(openings) == 0 {
		return nil
	}
	zone, err := time.LoadLocation(r.Timezone)
	if err != nil {
		return fmt.Errorf("the service's time zone: %w", err)
	}
	entries := make([]entry, len(openings))
	for i, o := range openings {
		e := Event{ID: newID(), KeyID: o.KeyID, AccountID: o.AccountID, Model: price.Normalize(o.Model), ModelReceived: o.Model,
			OccurredAt: time.Date(o.Day.Year(), o.Day.Month(), o.Day.Day(), 12, 0, 0, 0, zone), Counts: o.Counts}
		entries[i] = entry{Event: e, of: 1, kind: kindOpening, dedup: e.dedupKey(), requests: o.Requests, occurredAt: e.OccurredAt, cost: o.Cost, priced: o.Priced, fingerprint: e.fingerprint()}
	}
	rows, err := q.LedgerAppend(ctx, arrays(entries, r.Timezone))
	if err != nil {
		return fmt.Errorf("recording openings: %w", err)
	}
	for i, row := range rows {
		if !row.Recorded {
			return fault.New(fault.NotFound, fmt.Sprintf("There are no sums that usage of %s could be added to.", openings[i].KeyID))
		}
	}
	return nil
}
