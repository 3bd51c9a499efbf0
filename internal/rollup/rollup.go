// Package rollup adds the ledger up: ledger rows become rows of the rollups that reports
// read, each exactly once, in the background.
//
// Each ledger row carries the number of the chunk that was open when it was written, and
// its writer keeps the chunk open until it has committed. The roll-up seals a chunk by
// opening the next one, and then adds it in parts, ranges of ledger ids, each in a
// transaction with the mark that says how far it has come. A crash at any point undoes or
// repeats a whole step. What lies behind the mark is the tail, which readers add; so a
// roll-up that is late, or stopped, makes nothing wrong.
package rollup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// Rollup is the roll-up of one replica. Any number of replicas may run it: one at a time
// has its turn. It is safe for concurrent use.
type Rollup struct {
	db       *db.DB
	timezone string
	partRows int64
}

// New makes the roll-up of a ledger that parts its days in an IANA time zone. Its steps take
// one connection of the pool, each for as long as a part takes.
func New(d *db.DB, timezone string) *Rollup {
	return &Rollup{db: d, timezone: timezone, partRows: partRows}
}

const (
	// partRows is about how many ledger rows a transaction adds.
	partRows = 500_000
	// maxParts bounds the parts of a chunk, each of which reads the whole chunk.
	maxParts = 16
	// sealTries bounds how often a pass tries to seal a chunk: usage waits behind each try,
	// for 50 ms at most.
	sealTries = 3
)

// The bounds of a part that holds all days.
var (
	firstDay = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	lastDay  = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
)

// Roll adds all that was recorded before it was called, and returns how many ledger rows it
// added. It seals one chunk: what is recorded meanwhile is left to the next call. What
// another replica is adding, it leaves to that one.
func (r *Rollup) Roll(ctx context.Context) (rows int64, err error) {
	for sealed := false; ; {
		n, sealing, more, err := r.step(ctx, !sealed)
		sealed = sealed || sealing
		if rows += n; err != nil || !more {
			return rows, err
		}
	}
}

// Step does one of the things that Roll does: it seals the open chunk, or adds a part of the
// sealed one, and returns how many ledger rows it added.
func (r *Rollup) Step(ctx context.Context) (rows int64, err error) {
	rows, _, _, err = r.step(ctx, true)
	return rows, err
}

// step is a step that may seal a chunk. more: there may be another one to be done.
func (r *Rollup) step(ctx context.Context, maySeal bool) (rows int64, sealed, more bool, err error) {
	state, err := r.db.RollupState(ctx)
	if err != nil {
		return 0, false, false, fmt.Errorf("asking how far the roll-up has come: %w", err)
	}
	if state.MarkChunk < state.OpenChunk {
		rows, more, err = r.add(ctx)
		return rows, false, more, err
	}
	if maySeal {
		sealed, err = r.seal(ctx, state)
	}
	return 0, sealed, sealed, err
}

// seal opens the next chunk, if the open one has any rows. Where somebody has been writing
// for longer than usage may wait, the next pass does.
func (r *Rollup) seal(ctx context.Context, state db.RollupStateRow) (bool, error) {
	used, err := r.db.ChunkUsed(ctx, db.ChunkUsedParams{Chunk: state.OpenChunk, Since: state.OpenedAt})
	if err != nil || !used {
		return false, err
	}
	for try := 1; ; try++ {
		err := r.db.Pipeline(ctx, func(q *db.Queries) error {
			_ = q.ChunkWait(ctx) // queued: its outcome is that of the last one
			_ = q.ChunkLock(ctx)
			_, err := q.ChunkSeal(ctx, state.OpenChunk)
			return err
		})
		switch {
		case err == nil:
			return true, nil
		case !db.Stuck(err):
			return false, fmt.Errorf("sealing a chunk: %w", err)
		case try == sealTries:
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(rand.N(time.Second)): //nolint:gosec // jitter, not a secret
		}
	}
}

// add adds the next part of the sealed chunk.
func (r *Rollup) add(ctx context.Context) (rows int64, more bool, err error) {
	err = r.db.InTx(ctx, func(q *db.Queries) error {
		rows, more = 0, false
		turn, err := q.RollupTurn(ctx)
		if err != nil || !turn {
			return err
		}
		if err := q.RollupSettle(ctx); err != nil {
			return err
		}
		// A statement of its own, so that it sees what the last one to have a turn did.
		state, err := q.RollupState(ctx)
		if err != nil || state.MarkChunk == state.OpenChunk {
			return err
		}
		more = true
		part, n, err := r.next(ctx, q, state)
		if err != nil {
			return err
		}
		rows = n
		if err := addPart(ctx, q, part); err != nil {
			return err
		}
		mark := db.RollupMarkParams{MarkChunk: part.UntilChunk, MarkLedgerID: part.UntilLedgerID, TailSince: state.TailSince}
		if part.UntilLedgerID == uuid.Max { // the next chunk is what readers of the tail begin with
			mark.MarkChunk, mark.MarkLedgerID = part.UntilChunk+1, uuid.Nil
		}
		if mark.MarkChunk == state.OpenChunk {
			mark.TailSince = state.OpenedAt
		}
		// Nothing of this is seen before it is committed: readers wait for that alone.
		if err := q.RollupAlone(ctx); err != nil {
			return err
		}
		return q.RollupMark(ctx, mark)
	})
	if err != nil {
		return 0, false, fmt.Errorf("adding to the rollups: %w", err)
	}
	return rows, more, nil
}

// next is the part that comes after the mark, and how many ledger rows it has.
func (r *Rollup) next(ctx context.Context, q *db.Queries, state db.RollupStateRow) (part db.RollKeysParams, rows int64, err error) {
	part = db.RollKeysParams{
		Since: state.TailSince, AfterChunk: state.MarkChunk, AfterLedgerID: state.MarkLedgerID,
		UntilChunk: state.MarkChunk, UntilLedgerID: uuid.Max, FromDay: firstDay, ToDay: lastDay,
	}
	rows, err = q.PartCount(ctx, db.PartCountParams(part))
	if err == nil && rows > r.partRows {
		part.UntilLedgerID = split(state.MarkLedgerID, min(maxParts, int(rows/r.partRows)+1))
		rows, err = q.PartCount(ctx, db.PartCountParams(part))
	}
	return part, rows, err
}

// split is the end of the first of n equal ranges of the ids after start. Ids are random,
// so the ranges hold about as many keys each.
func split(start uuid.UUID, n int) (end uuid.UUID) {
	first, last := new(big.Int).SetBytes(start[:]), new(big.Int).SetBytes(uuid.Max[:])
	length := new(big.Int).Sub(last, first)
	first.Add(first, length.Div(length, big.NewInt(int64(n))))
	first.FillBytes(end[:])
	return end
}

// addPart adds a part of the ledger to every rollup.
func addPart(ctx context.Context, q *db.Queries, part db.RollKeysParams) error {
	return errors.Join(
		q.RollKeys(ctx, part),
		q.RollCosts(ctx, db.RollCostsParams(part)),
		q.RollShared(ctx, db.RollSharedParams(part)),
	)
}

// forget empties the rollups of some days.
func forget(ctx context.Context, q *db.Queries, days db.ForgetKeysParams) error {
	return errors.Join(
		q.ForgetKeys(ctx, days),
		q.ForgetAccounts(ctx, db.ForgetAccountsParams(days)),
		q.ForgetModels(ctx, db.ForgetModelsParams(days)),
		q.ForgetTags(ctx, db.ForgetTagsParams(days)),
		q.ForgetCosts(ctx, db.ForgetCostsParams(days)),
	)
}

// Rebuild derives the rollups of some days anew from the ledger, for when Reconcile says
// that they differ. Days are midnights in UTC, both included. An audit row tells of it.
// Faults: Invalid for days whose every event need not be in the ledger any more;
// Unavailable while the roll-up is at work.
func (r *Rollup) Rebuild(ctx context.Context, who db.Actor, from, to time.Time) error {
	whole, err := r.db.LedgerWhole(ctx, r.timezone)
	if err != nil {
		return fmt.Errorf("asking how far back the ledger reaches: %w", err)
	}
	if from.Before(whole) {
		return fault.Fields(field.Error{Field: "from", Message: "must not be before " + whole.Format(time.DateOnly) + ", the first day that the ledger still holds whole"})
	}
	if to.Before(from) {
		return fault.Fields(field.Error{Field: "from", Message: "must not be after to"})
	}
	after, err := json.Marshal(map[string]string{"from": from.Format(time.DateOnly), "to": to.Format(time.DateOnly)})
	if err != nil {
		return fmt.Errorf("encoding the audit row: %w", err)
	}
	return r.db.Audited(ctx, who, "rebuild", func(q *db.Queries) error {
		turn, err := q.RollupTurn(ctx)
		if err != nil {
			return fmt.Errorf("waiting for the roll-up: %w", err)
		}
		if !turn {
			return fault.New(fault.Unavailable, "The roll-up is at work. Try again.")
		}
		if err := q.RollupSettle(ctx); err != nil {
			return fmt.Errorf("ending a step of the roll-up: %w", err)
		}
		state, err := q.RollupState(ctx)
		if err != nil {
			return fmt.Errorf("asking how far the roll-up has come: %w", err)
		}
		if err := forget(ctx, q, db.ForgetKeysParams{FromDay: from, ToDay: to}); err != nil {
			return fmt.Errorf("emptying rollups: %w", err)
		}
		const dayBefore = -1 // wherever the zone's midnight lies
		part := db.RollKeysParams{
			Since: from.AddDate(0, 0, dayBefore), AfterChunk: -1, AfterLedgerID: uuid.Nil,
			UntilChunk: state.MarkChunk, UntilLedgerID: state.MarkLedgerID, FromDay: from, ToDay: to,
		}
		// The part is in the totals of accounts already. What this adds to them a second time goes when
		// they are derived from the days.
		if err := errors.Join(addPart(ctx, q, part), q.AccountTotalsDerive(ctx)); err != nil {
			return fmt.Errorf("deriving rollups: %w", err)
		}
		if err := q.RollupAlone(ctx); err != nil {
			return fmt.Errorf("waiting for readers of the rollups: %w", err)
		}
		// It stays where it is, and tells that this is a step too (keyledger scale-out).
		mark := db.RollupMarkParams{MarkChunk: state.MarkChunk, MarkLedgerID: state.MarkLedgerID, TailSince: state.TailSince}
		if err := q.RollupMark(ctx, mark); err != nil {
			return fmt.Errorf("setting the mark: %w", err)
		}
		return q.AuditAppend(ctx, db.AuditAppendParams{TargetType: "rollups", TargetID: "days", After: after})
	})
}
