package admit

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/coalesce"
)

// releaseTimeout bounds the release of admissions that nobody waits for any more.
const releaseTimeout = 5 * time.Second

// New makes a Decider. It has goroutines only while there is work. An admission whose caller
// has gone before it was decided is released at once, unless it has a request id: then the
// caller comes back for it.
func New(o Options) *Decider {
	d := &Decider{o: o}
	d.group = coalesce.NewLanes(lanes(o, coalesce.Options[Request, decided]{
		Flush: func(ctx context.Context, batch []Request) ([]decided, error) {
			return d.decideAll(ctx, o.Fast, batch, nil)
		},
		Abandoned: d.abandon,
	}, func(r Request) uuid.UUID { return r.KeyID }))
	d.leases = coalesce.NewLanes(lanes(o, coalesce.Options[change, db.LeasesChangeRow]{
		Flush: func(ctx context.Context, batch []change) ([]db.LeasesChangeRow, error) {
			return d.changeLeases(ctx, o.Fast, batch, nil)
		},
	}, func(c change) uuid.UUID { return c.key }))
	return d
}

// lanes are the options of lanes whose items each need the counters of one key.
func lanes[T, R any](o Options, group coalesce.Options[T, R], key func(T) uuid.UUID) coalesce.LanesOptions[T, R, uuid.UUID] {
	group.Limits = o.Limits
	group.Single = db.OfOneRow
	return coalesce.LanesOptions[T, R, uuid.UUID]{
		Options:  group,
		Writers:  o.Writers,
		Patience: db.Patience,
		Needs:    func(item T) []uuid.UUID { return []uuid.UUID{key(item)} },
		Stuck:    db.Stuck,
		Held:     o.Fast.CountersHeld,
	}
}

// abandon releases admissions that nobody waits for.
func (d *Decider) abandon(requests []Request, decisions []decided) {
	var ends []change
	for i, r := range requests {
		if r.RequestID == "" && decisions[i].AdmissionID != uuid.Nil {
			ends = append(ends, change{admission: decisions[i].AdmissionID, key: r.KeyID})
		}
	}
	if ends == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	// Not through the lanes: this is called in the turn of its keys' writer.
	if _, err := d.changeLeases(ctx, d.o.Fast, ends, nil); err != nil {
		d.o.Log.WarnContext(ctx, "admissions whose callers had gone were not released: their leases run out by themselves", "admissions", len(ends), "error", err)
	}
}

// State tells how many requests wait for their turn, and how long the oldest that is
// not done has been here.
func (d *Decider) State() (waiting int, oldest time.Duration) {
	waiting, oldest = d.group.State()
	changes, since := d.leases.State()
	return waiting + changes, max(oldest, since)
}

// Close decides what waits and refuses what comes later.
func (d *Decider) Close(ctx context.Context) error {
	return errors.Join(d.group.Close(ctx), d.leases.Close(ctx))
}
