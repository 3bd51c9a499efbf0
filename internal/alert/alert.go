// Package alert tells people and programs what happened: passes that find which keys have
// reached a share of a limit or come near their end, an outbox that is written in the
// transaction of what it tells of, and webhooks that it is sent to.
package alert

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
)

// The types of events that webhooks may ask for.
const (
	LimitReached = "key.limit_reached" // a share of a limit is used: once a key, share and period
	Expiring     = "key.expiring"      // some days are left: once a key, number of days and end
	Expired      = "key.expired"       // the expiry pass has disabled it
	Created      = "key.created"
	Updated      = "key.updated"
	Deleted      = "key.deleted"
	Rotated      = "key.rotated"
	Unpriced     = "model.unpriced" // used without a price: once a model and day
	Used         = "usage.recorded" // rows of the ledger, each once: for programs
)

// Types are all of them.
var Types = []string{LimitReached, Expiring, Expired, Created, Updated, Deleted, Rotated, Unpriced, Used}

// test is the type of the event that tries a webhook out.
const test = "webhook.test"

// slack is how much older than the pass before an admission or a change may be that it has not
// seen: of a transaction that was still open then.
const slack = time.Minute

// rowsAnEvent is how many ledger rows one event tells of: about 8 kB of JSON, or as CloudEvents
// some 30.
const rowsAnEvent = 20

// keysAtOnce bounds the keys of one transaction: locks are held for as long as it takes.
const keysAtOnce = 2000

// expiryPause is how long ends are not looked at again: whatever is told of them counts in days.
const expiryPause = time.Minute

// Passes find what is told of. They are safe for concurrent use, and on any number of
// replicas at once.
type Passes struct {
	db       *db.DB
	timezone string
}

// NewPasses makes Passes that part days by an IANA time zone.
func NewPasses(d *db.DB, timezone string) *Passes { return &Passes{d, timezone} }

// Look writes an event for everything that has become true since it looked last, and returns
// how many it wrote. What it finds and that it was told are one transaction: nothing is told
// twice, and what a crash undoes is found again. It does nothing while no webhook asks for it or
// another replica looks. now nil is the database's clock.
func (p *Passes) Look(ctx context.Context, now *time.Time) (written int64, err error) {
	wanted, err := p.db.AlertsWanted(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking what webhooks ask for: %w", err)
	}
	for _, pass := range []struct {
		wanted bool
		kind   string
		pause  time.Duration
		look   func(context.Context, *db.Queries, db.AlertBeginRow, *time.Time) (int64, error)
	}{{wanted.Limits, "limits", 0, p.limits}, {wanted.Unpriced, "unpriced", 0, p.unpriced}, {wanted.Expiry, "expiry", expiryPause, p.expiry}, {wanted.Usage, kindUsage, 0, p.usage}} {
		if !pass.wanted {
			if pass.kind == kindUsage {
				err = errors.Join(err, p.db.AlertRest(ctx, kindUsage))
			}
			continue
		}
		// Each by itself: one that fails stops no other.
		n, failed := p.pass(ctx, pass.kind, pass.pause, now, pass.look)
		written, err = written+n, errors.Join(err, failed)
	}
	return written, err
}

// pass looks once, unless it has done so within the pause, and notes how far it has come.
func (p *Passes) pass(ctx context.Context, kind string, pause time.Duration, now *time.Time, look func(context.Context, *db.Queries, db.AlertBeginRow, *time.Time) (int64, error)) (written int64, err error) {
	err = p.db.InTx(ctx, func(q *db.Queries) error {
		written = 0
		begun, err := q.AlertBegin(ctx, db.AlertBeginParams{Kind: kind, Now: now})
		if err != nil || len(begun) == 0 || now == nil && begun[0].Now.Sub(begun[0].LookedAt) < pause {
			return err
		}
		if written, err = look(ctx, q, begun[0], now); err != nil {
			return err
		}
		return q.AlertEnd(ctx, db.AlertEndParams{Kind: kind, Chunk: begun[0].OpenChunk, OpenedAt: begun[0].OpenSince, LookedAt: begun[0].Now})
	})
	if err != nil {
		return 0, fmt.Errorf("looking for what webhooks are told of (%s): %w", kind, err)
	}
	return written, nil
}

// limits looks at the keys that were touched since; or at all of them, where nobody has asked for
// a while. What it writes it commits by and by, so that no transaction of it is long: the one that
// it is in keeps other replicas from the pass, and moves its mark when all is written.
func (p *Passes) limits(ctx context.Context, q *db.Queries, since db.AlertBeginRow, now *time.Time) (written int64, err error) {
	next := func(after uuid.UUID) ([]uuid.UUID, error) {
		return q.AlertKeys(ctx, db.AlertKeysParams{AfterID: after, RowLimit: keysAtOnce})
	}
	if !since.Stale {
		touched, err := q.AlertTouched(ctx, db.AlertTouchedParams{Chunk: since.Chunk, OpenedAt: since.OpenedAt, Since: since.LookedAt.Add(-slack)})
		if err != nil {
			return 0, err
		}
		parts := slices.Collect(slices.Chunk(touched, keysAtOnce))
		next = func(uuid.UUID) (part []uuid.UUID, _ error) {
			if len(parts) > 0 {
				part, parts = parts[0], parts[1:]
			}
			return part, nil
		}
	}
	for after := uuid.Nil; ; {
		ids, err := next(after)
		if err != nil || len(ids) == 0 {
			return written, err
		}
		after = ids[len(ids)-1]
		n, err := p.db.AlertLimits(ctx, db.AlertLimitsParams{Timezone: p.timezone, Now: now, KeyIDs: ids})
		if written += n; err != nil {
			return written, err
		}
	}
}

func (p *Passes) unpriced(ctx context.Context, q *db.Queries, since db.AlertBeginRow, now *time.Time) (int64, error) {
	opened := since.OpenedAt
	if since.Stale { // what is long past is told by prices unpriced
		opened = since.Now.Add(-24 * time.Hour)
	}
	return q.AlertUnpriced(ctx, db.AlertUnpricedParams{Now: now, Chunk: since.Chunk, OpenedAt: opened})
}

// kindUsage is the pass that tells of usage, which forgets how far it has come while nobody asks:
// usage of that time is told by reports.
const kindUsage = "usage"

// usage tells of the chunks that were sealed since, each row once: the mark moves to the open
// chunk in the same transaction.
func (p *Passes) usage(ctx context.Context, q *db.Queries, since db.AlertBeginRow, _ *time.Time) (written int64, err error) {
	if since.Chunk == 0 {
		return 0, nil
	}
	for chunk := since.Chunk; chunk < since.OpenChunk; chunk++ {
		n, err := q.AlertUsage(ctx, db.AlertUsageParams{Chunk: chunk, OpenedAt: since.OpenedAt, PerEvent: rowsAnEvent})
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

func (p *Passes) expiry(ctx context.Context, q *db.Queries, _ db.AlertBeginRow, now *time.Time) (int64, error) {
	return q.AlertExpiring(ctx, now)
}
