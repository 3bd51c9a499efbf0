// Package upkeep is the background work that keeps the database tidy: keys past
// their end are disabled, the ledger gets and loses partitions, and what nobody
// needs any more is removed. Every pass may run on any number of replicas at
// once.
package upkeep

import (
	"context"
	"fmt"
	"log/slog"
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
	ArchiveDays   int32         // those older than this move to the archive; 0: none does
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

// Archive moves the days of the ledger that are old to the archive, each whole and in a
// transaction of its own, and returns how many it moved. Those that another replica moves it
// leaves to that one; where a long report reads the ledger, the next pass goes on.
func (p *Passes) Archive(ctx context.Context) (days int, err error) {
	for p.o.ArchiveDays > 0 {
		due, err := p.o.Slow.ArchiveDue(ctx, p.o.ArchiveDays)
		if err != nil {
			return days, fmt.Errorf("looking for days to archive: %w", err)
		}
		if len(due) == 0 {
			break
		}
		day, turn, moved := due[0], false, int64(0)
		if _, err = p.o.Slow.ArchivePartitionMake(ctx, day); err == nil {
			err = p.o.Slow.InTx(ctx, func(q *db.Queries) (err error) {
				if turn, err = q.ArchiveTurn(ctx); err == nil && turn {
					moved, err = q.ArchiveDay(ctx, day)
				}
				return err
			})
		}
		switch {
		case db.Stuck(err):
			p.o.Log.InfoContext(ctx, "the ledger is read for long, and a day waits for the archive", "day", day.Format(time.DateOnly))
			return days, nil
		case err != nil:
			return days, fmt.Errorf("archiving %s: %w", day.Format(time.DateOnly), err)
		case !turn:
			return days, nil
		}
		days++
		p.o.Log.InfoContext(ctx, "a day of the ledger moved to the archive", "day", day.Format(time.DateOnly), "rows", moved)
	}
	return days, nil
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
