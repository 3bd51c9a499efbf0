package admit

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
)

// releaseTimeout bounds the release of admissions that nobody waits for any more.
const releaseTimeout = 5 * time.Second

// New makes a Decider. It has goroutines only while there is work. An admission whose caller
// has gone before it was decided is released at once, unless it has a request id: then the
// caller comes back for it.
func New(o Options) *Decider {
	d := &Decider{o: o, waits: make(chan struct{}, maxWaits)}
	d.group = coalesce.NewLanes(coalesce.LanesOptions[Request, decided, uuid.UUID]{
		Options: coalesce.Options[Request, decided]{
			Limits: o.Limits,
			Flush: func(ctx context.Context, batch []Request) ([]decided, error) {
				return d.decideAll(ctx, o.Fast, batch, nil)
			},
			Single: func(err error) bool {
				code := db.Fault(err).Code
				return code == fault.Invalid || code == fault.Conflict
			},
			Abandoned: d.abandon,
		},
		Writers:  o.Writers,
		Patience: db.Patience,
		Needs:    func(r Request) []uuid.UUID { return []uuid.UUID{r.KeyID} },
		Stuck:    db.Stuck,
		Held:     o.Fast.CountersHeld,
	})
	return d
}

// abandon releases admissions that nobody waits for.
func (d *Decider) abandon(requests []Request, decisions []decided) {
	var ids []uuid.UUID
	for i, r := range requests {
		if r.RequestID == "" && decisions[i].AdmissionID != uuid.Nil {
			ids = append(ids, decisions[i].AdmissionID)
		}
	}
	if ids == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	if _, err := d.release(ctx, ids); err != nil {
		d.o.Log.WarnContext(ctx, "admissions whose callers had gone were not released: their leases run out by themselves", "admissions", len(ids), "error", err)
	}
}

// State tells how many requests wait for their turn, and how long the oldest that is
// not done has been here.
func (d *Decider) State() (waiting int, oldest time.Duration) { return d.group.State() }

// Close decides what waits and refuses what comes later.
func (d *Decider) Close(ctx context.Context) error { return d.group.Close(ctx) }
