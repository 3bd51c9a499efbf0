// Package alert tells people and programs what happened: passes that find which keys have
// reached a share of a limit or come near their end, an outbox that is written in the
// transaction of what it tells of, and webhooks that it is sent to.
package alert

import (
	"context"
	"fmt"
	"time"

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
)

// Types are all of them.
var Types = []string{LimitReached, Expiring, Expired, Created, Updated, Deleted, Rotated, Unpriced}

// test is the type of the event that tries a webhook out.
const test = "webhook.test"

// slack is how much older than the pass before a row may be that it has not seen: a
// transaction that was still open then.
const slack = time.Minute

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
// twice, and nothing is lost by a crash. It does nothing while no webhook asks for it or another
// replica looks. now nil is the database's clock.
func (p *Passes) Look(ctx context.Context, now *time.Time) (written int64, err error) {
	wanted, err := p.db.AlertsWanted(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking what webhooks ask for: %w", err)
	}
	if !wanted.Limits && !wanted.Expiry && !wanted.Unpriced {
		return 0, nil
	}
	err = p.db.InTx(ctx, func(q *db.Queries) error {
		written = 0
		begun, err := q.AlertBegin(ctx, now)
		if err != nil || len(begun) == 0 {
			return err
		}
		state, count := begun[0], func(n int64, err error) error {
			written += n
			return err
		}
		since := state.LookedAt.Add(-slack)
		if state.Stale { // nobody has asked for a while: whatever is true now is told
			since = state.Now.Add(-24 * time.Hour)
		}
		if wanted.Limits {
			if err := count(q.AlertLimits(ctx, db.AlertLimitsParams{Timezone: p.timezone, Now: now, Everything: state.Stale, Chunk: state.Chunk, Since: since})); err != nil {
				return err
			}
		}
		if wanted.Unpriced {
			if err := count(q.AlertUnpriced(ctx, db.AlertUnpricedParams{Timezone: p.timezone, Now: now, Chunk: state.Chunk, Since: since})); err != nil {
				return err
			}
		}
		if wanted.Expiry {
			if err := count(q.AlertExpiring(ctx, now)); err != nil {
				return err
			}
		}
		return q.AlertEnd(ctx, db.AlertEndParams{Chunk: state.OpenChunk, LookedAt: state.Now})
	})
	if err != nil {
		return 0, fmt.Errorf("looking for what webhooks are told of: %w", err)
	}
	return written, nil
}
