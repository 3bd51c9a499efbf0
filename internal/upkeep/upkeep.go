// Package upkeep is the background work that keeps the database tidy: keys past
// their end are disabled, the ledger gets and loses partitions, and what nobody
// needs any more is removed. Every pass may run on any number of replicas at
// once.
package upkeep

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/keyledger/keyledger/db"
)

// batch bounds the rows of one transaction, so that no pass holds many locks.
const batch = 500

// Options make Passes. All must be set, but Expired.
type Options struct {
	DB            *db.DB
	Slow          *db.DB // a pool whose connections may be held for long
	Log           *slog.Logger
	RetentionDays int32         // ledger rows older than this go
	ArchiveDays   int32         // months older than this move to the archive; 0: none does
	DedupHorizon  time.Duration // remembered request ids older than this go
	Expired       func()        // told of each key disabled; may be nil
}

// Passes are the background passes. They are safe for concurrent use.
type Passes struct{ o Options }

// New makes Passes.
func New(o Options) *Passes { return &Passes{o: o} }

// Keys disables every key past its end, with an audit row and a log line each,
// and returns how many it disabled. A key is taken by one replica only. Each
// batch is a transaction; what was done before an error stays done. now nil is
// the database's clock.
func (p *Passes) Keys(ctx context.Context, who db.Actor, now *time.Time) (disabled int, err error) {
	for {
		var rows []db.KeyExpireDueRow
		err := p.o.DB.Audited(ctx, who, "expire", func(q *db.Queries) (err error) {
			rows, err = q.KeyExpireDue(ctx, db.KeyExpireDueParams{Now: now, RowLimit: batch})
			return err
		})
		if err != nil {
			return disabled, fmt.Errorf("disabling expired keys: %w", err)
		}
		for _, row := range rows {
			p.o.Log.InfoContext(ctx, "key expired and is now disabled", "keyId", row.ID, "name", row.Name, "expiresAt", row.ExpiresAt)
			if p.o.Expired != nil {
				p.o.Expired()
			}
		}
		disabled += len(rows)
		if len(rows) < batch {
			return disabled, nil
		}
	}
}

// Admissions closes admissions whose lease and reservation are both over, so that
// a key's open ones stay few. Nothing is decided by it: what is over does not
// count, closed or not.
func (p *Passes) Admissions(ctx context.Context) error {
	_, err := untilDone(ctx, func() (int64, error) { return p.o.DB.AdmissionSweep(ctx, nil) })
	if err != nil {
		return fmt.Errorf("closing admissions: %w", err)
	}
	return nil
}

// Tidy makes the ledger's next partitions, drops those past retention, and
// removes old admissions, counts of refusals past retention, ended secrets, old events of
// webhooks, Idempotency-Keys and request ids past the deduplication horizon, in small batches.
func (p *Passes) Tidy(ctx context.Context) error {
	// Where a long report reads the ledger, the next pass makes and drops them.
	made, err := p.o.DB.LedgerPartitionsMake(ctx)
	if err != nil && !db.Stuck(err) {
		return fmt.Errorf("making ledger partitions: %w", err)
	}
	dropped, err := p.o.DB.LedgerPartitionsDrop(ctx, p.o.RetentionDays)
	if err != nil && !db.Stuck(err) {
		return fmt.Errorf("dropping ledger partitions: %w", err)
	}
	removed := map[string]int64{}
	for name, prune := range map[string]func() (int64, error){
		"admissions": func() (int64, error) {
			return p.o.DB.AdmissionPrune(ctx, db.AdmissionPruneParams{HorizonSeconds: int32(p.o.DedupHorizon.Seconds())})
		},
		"refusals": func() (int64, error) {
			return p.o.DB.RefusalsPrune(ctx, db.RefusalsPruneParams{Days: p.o.RetentionDays})
		},
		"webhookEvents":   func() (int64, error) { return p.o.DB.WebhookPrune(ctx, nil) },
		"alerts":          func() (int64, error) { return p.o.DB.AlertPrune(ctx, nil) },
		"secrets":         func() (int64, error) { return p.o.DB.SecretPrune(ctx, nil) },
		"idempotencyKeys": func() (int64, error) { return p.o.DB.IdempotencyPrune(ctx, nil) },
		"requestIds": func() (int64, error) {
			return p.o.DB.DedupPrune(ctx, db.DedupPruneParams{HorizonSeconds: int32(p.o.DedupHorizon.Seconds()), RetentionDays: p.o.RetentionDays + 2})
		},
	} {
		if removed[name], err = untilDone(ctx, prune); err != nil {
			return fmt.Errorf("removing old %s: %w", name, err)
		}
	}
	var sum int64
	for _, n := range removed {
		sum += n
	}
	if made+dropped > 0 || sum > 0 {
		p.o.Log.InfoContext(ctx, "tidied up", "partitionsMade", made, "partitionsDropped", dropped, "removed", removed)
	}
	return nil
}

// Archive moves the months of the ledger that are old to the archive, each whole, and returns how
// many it moved. What another replica is moving it leaves to that one; what it cannot finish, for
// want of a lock or of time, the next pass goes on with.
func (p *Passes) Archive(ctx context.Context) (months int, err error) {
	for p.o.ArchiveDays > 0 {
		moved, err := p.archive(ctx)
		if db.Stuck(err) {
			p.o.Log.InfoContext(ctx, "a month of the ledger waits for the archive: somebody holds a lock on it")
			return months, nil
		}
		if err != nil {
			return months, fmt.Errorf("archiving a month of the ledger: %w", err)
		}
		if !moved {
			break
		}
		months++
	}
	return months, nil
}

// archive moves the next month, if one is due.
func (p *Passes) archive(ctx context.Context) (moved bool, err error) {
	days, err := p.o.Slow.ArchiveDue(ctx, db.ArchiveDueParams{Days: p.o.ArchiveDays, RetentionDays: p.o.RetentionDays})
	if err != nil || len(days) == 0 {
		return false, err
	}
	if err := p.o.Slow.ArchiveBegin(ctx, days[0]); err != nil {
		return false, err
	}
	for _, day := range days {
		if turn, err := p.inTurn(ctx, func(q *db.Queries) error {
			_, err := q.ArchiveDay(ctx, day)
			return err
		}); err != nil || !turn {
			return false, err
		}
	}
	if err := p.outlive(ctx); err != nil {
		return false, err
	}
	rows := int64(0)
	turn, err := p.inTurn(ctx, func(q *db.Queries) (err error) {
		rows, err = q.ArchiveMonth(ctx, days[0])
		return err
	})
	if err != nil || !turn || rows < 0 { // another pass has done it
		return false, err
	}
	p.o.Log.InfoContext(ctx, "a month of the ledger moved to the archive", "month", days[0].Format("2006-01"), "rows", rows)
	return true, nil
}

// inTurn runs fn in a transaction that archives, unless another one does.
func (p *Passes) inTurn(ctx context.Context, fn func(*db.Queries) error) (turn bool, err error) {
	err = p.o.Slow.InTx(ctx, func(q *db.Queries) (err error) {
		if turn, err = q.ArchiveTurn(ctx); err != nil || !turn {
			return err
		}
		return fn(q)
	})
	return turn, err
}

// outlive waits until every transaction that is under way now has ended.
func (p *Passes) outlive(ctx context.Context) error {
	const breath = 100 * time.Millisecond
	before, err := p.o.Slow.TransactionsUnderWay(ctx)
	for err == nil && len(before) > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(breath):
		}
		var now []string
		now, err = p.o.Slow.TransactionsUnderWay(ctx)
		before = slices.DeleteFunc(before, func(name string) bool { return !slices.Contains(now, name) })
	}
	return err
}

// untilDone repeats a batch until it finds nothing, with a breath in between.
func untilDone(ctx context.Context, prune func() (int64, error)) (total int64, err error) {
	const breath = 20 * time.Millisecond
	for {
		n, err := prune()
		total += n
		if err != nil || n == 0 {
			return total, err
		}
		select {
		case <-ctx.Done():
			return total, ctx.Err()
		case <-time.After(breath):
		}
	}
}
