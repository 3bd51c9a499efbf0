package usage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
)

// Void takes a usage event back by an adjustment row with the opposite counts
// and cost at the same time, so that every sum is as if it had not been; times of
// last use stay. The ledger row itself stays. Voiding twice is harmless: the first adjustment is
// the answer. Faults: NotFound, and Conflict for a row that is no usage.
func (r *Recorder) Void(ctx context.Context, who db.Actor, eventID uuid.UUID, reason string) (Result, error) {
	for try := 1; ; try++ {
		result, err := r.void(ctx, who, eventID, reason)
		if !errors.Is(err, errAdjusted) || try == adjustTries {
			return result, err
		}
	}
}

// errAdjusted says that an event was adjusted since it was read.
var errAdjusted = fault.New(fault.Unavailable, "The event is just being adjusted by somebody else. Try again.")

// adjustTries bounds how often that is met with another reading.
const adjustTries = 5

func (r *Recorder) void(ctx context.Context, who db.Actor, eventID uuid.UUID, reason string) (Result, error) {
	row, err := db.Steady(ctx, r.o.Patient, func(q *db.Queries) (db.EventFindRow, error) { return q.EventFind(ctx, eventID) })
	if db.Missing(err) {
		return Result{}, fault.New(fault.NotFound, "No such event in the retained ledger.")
	}
	if err != nil {
		return Result{}, fmt.Errorf("reading the event: %w", err)
	}
	if kind := row.LedgerRow.Kind; kind != kindUsage {
		return Result{}, fault.New(fault.Conflict, "Only usage can be taken back, and this row is an "+kind+".")
	}
	back := opposite(row, reason)
	after, err := json.Marshal(map[string]any{"adjustment": back.ID, "costUsd": back.cost, "reason": reason})
	if err != nil {
		return Result{}, fmt.Errorf("encoding the audit row: %w", err)
	}
	alone := make([]outcome, 1)
	err = r.adjust(ctx, []entry{back}, alone, func(q *db.Queries) error {
		others, err := q.AdjustedBesides(ctx, db.AdjustedBesidesParams{
			LedgerIDs: []uuid.UUID{row.LedgerRow.LedgerID}, Since: row.LedgerRow.ReceivedAt,
			EventIDs: []uuid.UUID{eventID}, Known: append(row.Adjustments, back.ID),
		})
		if err != nil {
			return err
		}
		if len(others) > 0 {
			return errAdjusted
		}
		if err := q.AuditBegin(ctx, who.As("void")); err != nil {
			return err
		}
		return q.AuditAppend(ctx, db.AuditAppendParams{TargetType: "event", TargetID: eventID.String(), After: after})
	})
	if err = errors.Join(err, alone[0].err); err != nil {
		return Result{}, err
	}
	return alone[0].results[0], nil
}

// opposite is the adjustment that takes all of an event back, with what it costs now.
func opposite(found db.EventFindRow, reason string) entry {
	row := found.LedgerRow
	e := Event{
		ID: newID(), KeyID: found.KeyID, Model: row.Model, ModelReceived: row.ModelReceived, OccurredAt: row.OccurredAt,
		Estimated: row.Estimated, Counts: Counts{
			Input: row.InputTokens, Output: row.OutputTokens, CacheCreate: row.CacheCreateTokens, CacheRead: row.CacheReadTokens,
			Ephemeral1h: row.Ephemeral1hTokens,
		}.negated(),
	}
	if row.AccountID != nil {
		e.AccountID = *row.AccountID
	}
	return entry{
		Event: e, of: 1, kind: kindAdjustment, ledgerID: row.LedgerID, tagSet: row.TagSet,
		dedup: "v:" + row.EventID.String(), requests: -row.Requests, cost: found.CostNow.Neg(), priced: found.PricedNow, fingerprint: e.fingerprint(),
		adjusts: row.EventID, reason: reason,
	}
}
