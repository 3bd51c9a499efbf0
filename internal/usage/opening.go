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
	KeyID     uuid.UUID // zero: of no key
	LedgerID  uuid.UUID // of usage of no key: the holder that the ledger has for it
	AccountID string    // empty: none
	Model     string    // as the other system names it
	Day       time.Time // midnight in UTC
	Requests  int64
	Counts    Counts
	Cost      decimal.Decimal // USD
	Priced    bool            // false: nobody knew a price
}

// MaxOpenings is how many openings are to be written in one transaction: the roll-up waits
// for it.
const MaxOpenings = 250

// Open writes openings into the ledger, in a transaction of the caller's. They carry noon of their day in the service's time zone, open no window and
// are nobody's last use. Faults: NotFound for an unknown key.
func (r *Recorder) Open(ctx context.Context, q *db.Queries, openings []Opening) error {
	if len(openings) == 0 {
		return nil
	}
	zone, err := time.LoadLocation(r.o.Timezone)
	if err != nil {
		return fmt.Errorf("the service's time zone: %w", err)
	}
	entries := make([]entry, len(openings))
	for i, o := range openings {
		e := Event{ID: newID(), KeyID: o.KeyID, AccountID: o.AccountID, Model: price.Normalize(o.Model), ModelReceived: o.Model,
			OccurredAt: time.Date(o.Day.Year(), o.Day.Month(), o.Day.Day(), 12, 0, 0, 0, zone), Counts: o.Counts}
		entries[i] = entry{Event: e, of: 1, kind: kindOpening, ledgerID: o.LedgerID, dedup: e.dedupKey(), requests: o.Requests,
			cost: o.Cost, priced: o.Priced, fingerprint: e.fingerprint()}
	}
	rows, err := appendWithin(ctx, q, arrays(entries, r.o.Timezone))
	if err != nil {
		return fmt.Errorf("recording openings: %w", err)
	}
	for i, row := range rows {
		if row.State != stateRecorded {
			return fault.New(fault.NotFound, fmt.Sprintf("There is no key %s that usage could be added to.", openings[i].KeyID))
		}
	}
	return nil
}
