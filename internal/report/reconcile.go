// Package report adds up what is stored, for the people who read the bill.
package report

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/standby"
)

// Reports reads. It is safe for concurrent use.
type Reports struct {
	db       *db.DB
	copied   *db.DB // on the standby
	standby  *standby.Standby
	timezone string
	busy     sync.Mutex

	fewKeys  int64 // how many keys a report by key reads at once
	tagDays  int   // of how many days a page by tag reads rows at first
	mostSets int32 // how many sets of a tag a statement is given
}

// New makes reports of a database that parts its days in an IANA time zone. Each takes a
// connection of the pool for as long as it is sent.
func New(d *db.DB, timezone string) *Reports { return NewWithStandby(d, nil, nil, timezone) }

// NewWithStandby is New that reads usage from another pool, one on a standby of the database, as
// long as that may be read from.
func NewWithStandby(primary, copied *db.DB, s *standby.Standby, timezone string) *Reports {
	return &Reports{db: primary, copied: copied, standby: s, timezone: timezone, fewKeys: fewKeys, tagDays: tagDays, mostSets: mostSets}
}

// source is where a report is read from, and how far that is behind.
func (r *Reports) source() (from *db.DB, behind time.Duration) {
	return r.standby.Pick(r.db, r.copied)
}

// PoolStat tells how many connections reports have: open, in use and allowed.
func (r *Reports) PoolStat() (open, inUse, most int32) { return r.db.PoolStat() }

// Timezone is the IANA zone whose midnights part days.
func (r *Reports) Timezone() string { return r.timezone }

// MostDifferences is how many differences Reconcile tells of.
const MostDifferences = 1000

// Reconciliation is what holding rollups against the ledger found.
type Reconciliation struct {
	From, To    time.Time         // the days that were held against the ledger, both included; To before From: none
	LedgerRows  int64             // of these days
	Differences []db.ReconcileRow // rows of rollups and counters that are not the sum they should be; at most MostDifferences
}

// Reconcile proves that rollups are the sum of the ledger, for those of the days asked
// for whose events must all still be there, that the coarser rollups are the sums of the
// finer ones, and that the counters of keys are the sums of rollups and tail; or it tells
// what differs. Days are midnights in UTC.
// One at a time: it reads a great deal, and others need connections too; a second one
// is Unavailable.
func (r *Reports) Reconcile(ctx context.Context, from, to time.Time) (Reconciliation, error) {
	if !r.busy.TryLock() {
		return Reconciliation{}, fault.New(fault.Unavailable, "Another reconciliation is under way here. Try again.")
	}
	defer r.busy.Unlock()
	days, err := r.db.ReconcileRange(ctx, db.ReconcileRangeParams{FromDay: from, ToDay: to, Timezone: r.timezone})
	if err != nil {
		return Reconciliation{}, fmt.Errorf("finding the days to reconcile: %w", err)
	}
	found := Reconciliation{From: days.FromDay, To: days.ToDay, LedgerRows: days.LedgerRows}
	found.Differences, err = db.Steady(ctx, r.db, func(q *db.Queries) ([]db.ReconcileRow, error) {
		return q.Reconcile(ctx, db.ReconcileParams{FromDay: days.FromDay, ToDay: days.ToDay, Timezone: r.timezone, RowLimit: MostDifferences})
	})
	if err != nil {
		return Reconciliation{}, fmt.Errorf("reconciling: %w", err)
	}
	again, err := r.db.ReconcileRange(ctx, db.ReconcileRangeParams{FromDay: from, ToDay: to, Timezone: r.timezone})
	if err != nil {
		return Reconciliation{}, fmt.Errorf("finding the days to reconcile: %w", err)
	}
	if again.FromDay.After(days.FromDay) {
		return Reconciliation{}, fault.New(fault.Unavailable, "Retention dropped the first of these days while they were read. Try again.")
	}
	return found, nil
}
