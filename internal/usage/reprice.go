package usage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/price"
)

// Repricing is usage to be priced again with the catalogue as it is now.
type Repricing struct {
	From, To time.Time // days, both included, as midnights in UTC
	Model    string    // normalised; empty: all
	DryRun   bool      // tell, and change nothing
}

// Change is what pricing again changes, or would change, of a key and model.
type Change struct {
	KeyID   uuid.UUID // the ledger's id of a purged key
	KeyName string    // empty: the key was purged
	Model   string
	Events  int64 // that cost something else, or have a price now
	Before  decimal.Decimal
	After   decimal.Decimal // USD of these events
}

// Repriced is what came of it.
type Repriced struct {
	Events  int64 // that were looked at
	Changes []Change
}

// repriceBatch is how many events are adjusted in one transaction.
const repriceBatch = 250

// repricedReason is the reason that adjustments give.
const repricedReason = "priced again"

// Reprice prices usage of the retained ledger again, each event by the price that is now
// known to have been in force when it happened, and appends adjustments for those that
// cost something else: rows are never edited, and rollups follow in the same transactions.
// An event that had no price is taken back and given again at its price, so that it
// counts as priced. What has no price now stays as it is. Done again, nothing changes;
// broken off, the rest is done by the next one. Changes are by what they amount to,
// largest first. It reads from a pool of the caller's, for as long as it takes. Each
// transaction has its audit row.
func (r *Recorder) Reprice(ctx context.Context, from *db.DB, who db.Actor, what Repricing) (Repriced, error) {
	catalogue, _, err := r.o.Prices.Current(ctx)
	if err != nil {
		return Repriced{}, err
	}
	since, err := r.o.Patient.Now(ctx)
	if err != nil {
		return Repriced{}, err
	}
	run := repricing{Recorder: r, who: who, since: since.Add(-time.Minute), what: what, changes: map[[2]string]*Change{}}
	err = from.Snapshot(ctx, func(snapshot *db.Reader) error {
		return db.Stream(ctx, snapshot, func(q *db.Queries) error {
			_, err := q.EventsOfDays(ctx, db.EventsOfDaysParams{FromDay: what.From, ToDay: what.To, Timezone: r.o.Timezone, Model: what.Model})
			return err
		}, func(row db.EventsOfDaysRow) error {
			run.events++
			return run.take(ctx, catalogue, row)
		})
	})
	if err == nil {
		err = run.flush(ctx)
	}
	if err != nil {
		return Repriced{}, fmt.Errorf("pricing again: %w", err)
	}
	done := Repriced{Events: run.events}
	done.Changes, err = run.result(ctx)
	return done, err
}

// audit writes down who had a batch priced again, in its transaction.
func (r *repricing) audit(ctx context.Context, q *db.Queries, batch []repricedEvent) error {
	before, after := decimal.Zero, decimal.Zero
	for _, e := range batch {
		before, after = before.Add(e.CostNow), after.Add(e.cost)
	}
	raw, err := json.Marshal(map[string]any{"from": r.what.From.Format(time.DateOnly), "to": r.what.To.Format(time.DateOnly), "model": r.what.Model,
		"events": len(batch), "costBefore": before, "costAfter": after})
	if err != nil {
		return fmt.Errorf("encoding the audit row: %w", err)
	}
	if err := q.AuditBegin(ctx, r.who.As("reprice")); err != nil {
		return err
	}
	return q.AuditAppend(ctx, db.AuditAppendParams{TargetType: "ledger", TargetID: "usage", After: raw})
}

// repricing is one run.
type repricing struct {
	*Recorder

	who     db.Actor
	what    Repricing
	since   time.Time // by the database's clock: before the first event was read
	events  int64
	changes map[[2]string]*Change // by the ledger's id of the key, and model
	batch   []repricedEvent
}

type repricedEvent struct {
	db.EventsOfDaysRow

	cost decimal.Decimal // by the catalogue now
}

// take puts an event that costs something else into the batch.
func (r *repricing) take(ctx context.Context, catalogue *price.Catalogue, row db.EventsOfDaysRow) error {
	p, ok := catalogue.Lookup(row.ModelReceived, row.OccurredAt)
	if !ok {
		return nil
	}
	e := repricedEvent{row, p.Cost(countsOf(row).Tokens())}
	if row.PricedNow && e.cost.Equal(row.CostNow) {
		return nil
	}
	r.batch = append(r.batch, e)
	if len(r.batch) < repriceBatch {
		return nil
	}
	return r.flush(ctx)
}

func countsOf(row db.EventsOfDaysRow) Counts {
	return Counts{Input: row.InputTokens, Output: row.OutputTokens, CacheCreate: row.CacheCreateTokens, CacheRead: row.CacheReadTokens,
		Ephemeral1h: row.Ephemeral1hTokens}
}

// flush adjusts the events of the batch, in one transaction. Those that somebody else
// has adjusted since they were read are left to the next run.
func (r *repricing) flush(ctx context.Context) error {
	batch := r.batch
	r.batch = nil
	for len(batch) > 0 && !r.what.DryRun {
		var lost []uuid.UUID
		entries := adjustments(batch)
		outcomes := make([]outcome, len(entries))
		err := r.adjust(ctx, entries, outcomes, func(q *db.Queries) (err error) {
			p := db.AdjustedBesidesParams{Since: r.since}
			for _, e := range entries {
				p.LedgerIDs, p.EventIDs, p.Known = append(p.LedgerIDs, e.ledgerID), append(p.EventIDs, e.adjusts), append(p.Known, e.ID)
			}
			for _, e := range batch {
				p.Known = append(p.Known, e.Adjustments...)
			}
			lost, err = q.AdjustedBesides(ctx, p)
			if err == nil && len(lost) > 0 {
				return errAdjusted
			}
			if err != nil {
				return err
			}
			return r.audit(ctx, q, batch)
		})
		if len(lost) == 0 {
			if err != nil {
				return err
			}
			break
		}
		batch = slices.DeleteFunc(batch, func(e repricedEvent) bool { return slices.Contains(lost, e.EventID) })
	}
	for _, e := range batch {
		k := [2]string{e.LedgerID.String(), e.Model}
		if r.changes[k] == nil {
			r.changes[k] = &Change{KeyID: e.LedgerID, Model: e.Model}
		}
		c := r.changes[k]
		c.Events++
		c.Before, c.After = c.Before.Add(e.CostNow), c.After.Add(e.cost)
	}
	return nil
}

// adjustments are what is to be appended for events.
func adjustments(batch []repricedEvent) (entries []entry) {
	for _, e := range batch {
		one := entry{
			Event: Event{ID: newID(), KeyID: e.KeyID, AccountID: e.AccountID, Model: e.Model, ModelReceived: e.ModelReceived,
				OccurredAt: e.OccurredAt, Estimated: e.Estimated},
			of: 1, kind: kindAdjustment, ledgerID: e.LedgerID, tagSet: e.TagSet, cost: e.cost.Sub(e.CostNow), priced: true, adjusts: e.EventID, reason: repricedReason,
		}
		if !e.PricedNow {
			back := one
			back.ID, back.Counts, back.requests, back.cost, back.priced = newID(), countsOf(e.EventsOfDaysRow).negated(), -1, e.CostNow.Neg(), false
			one.Counts, one.requests, one.cost = countsOf(e.EventsOfDaysRow), 1, e.cost
			entries = append(entries, back)
		}
		entries = append(entries, one)
	}
	for i := range entries {
		entries[i].unit = i
		entries[i].dedup, entries[i].fingerprint = entries[i].dedupKey(), entries[i].Event.fingerprint()
	}
	return entries
}

// result are the changes with the ids and names of their keys.
func (r *repricing) result(ctx context.Context) ([]Change, error) {
	var ids []uuid.UUID
	for _, c := range r.changes {
		ids = append(ids, c.KeyID)
	}
	rows, err := r.o.Patient.KeyNames(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("reading the names of keys: %w", err)
	}
	keys := make(map[uuid.UUID]db.KeyNamesRow, len(rows))
	for _, row := range rows {
		keys[row.LedgerID] = row
	}
	var all []Change
	for _, c := range r.changes {
		if key, known := keys[c.KeyID]; known {
			c.KeyID, c.KeyName = key.ID, key.Name
		}
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b Change) int {
		if order := b.After.Sub(b.Before).Abs().Cmp(a.After.Sub(a.Before).Abs()); order != 0 {
			return order
		}
		return strings.Compare(a.KeyID.String()+a.Model, b.KeyID.String()+b.Model)
	})
	return all, nil
}
