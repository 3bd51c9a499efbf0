package admit

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
)

// releaseTimeout bounds the release of admissions that nobody waits for any more.
const releaseTimeout = 5 * time.Second

// Gather makes Decide take requests that come at the same time in groups, one
// transaction each, on fast, a pool whose statements do not wait long for a row: call
// it once, before the first Decide. Requests of a key that somebody else holds are tried
// again, and none waits with them. An admission whose caller has gone before
// it was decided is released at once, unless it has a request id: then the caller comes
// back for it.
func (d *Decider) Gather(ctx context.Context, fast *db.DB, limits coalesce.Limits, log *slog.Logger) {
	quick := &Decider{DB: fast, Prices: d.Prices, Clients: d.Clients, Timezone: d.Timezone, DefaultEstimate: d.DefaultEstimate,
		ReservationTTL: d.ReservationTTL, RefuseUnpriced: d.RefuseUnpriced, Refusals: d.Refusals}
	d.quick, d.waits = fast, make(chan struct{}, maxWaits)
	d.group = coalesce.NewLanes(coalesce.LanesOptions[Request, decided, uuid.UUID]{
		Options: coalesce.Options[Request, decided]{
			Limits: limits,
			Flush: func(ctx context.Context, batch []Request) ([]decided, error) {
				return quick.decideAll(ctx, batch, nil)
			},
			Single: func(err error) bool {
				code := db.Fault(err).Code
				return code == fault.Invalid || code == fault.Conflict
			},
			Abandoned: func(requests []Request, decisions []decided) { d.abandon(ctx, log, requests, decisions) },
		},
		Patience: db.Patience,
		Needs:    func(r Request) []uuid.UUID { return []uuid.UUID{r.KeyID} },
		Stuck:    db.Stuck,
		Held: func(ctx context.Context, keys []uuid.UUID) ([]uuid.UUID, error) {
			held, err := fast.CountersHeld(ctx, keys)
			if err != nil {
				return nil, fmt.Errorf("asking which counters are held: %w", err)
			}
			return held, nil
		},
	})
}

// abandon releases admissions that nobody waits for.
func (d *Decider) abandon(ctx context.Context, log *slog.Logger, requests []Request, decisions []decided) {
	var ids []uuid.UUID
	for i, r := range requests {
		if r.RequestID == "" && decisions[i].AdmissionID != uuid.Nil {
			ids = append(ids, decisions[i].AdmissionID)
		}
	}
	if ids == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if _, err := d.release(ctx, ids); err != nil {
		log.WarnContext(ctx, "admissions whose callers had gone were not released: their leases run out by themselves", "admissions", len(ids), "error", err)
	}
}

// State tells how many requests wait for their turn, and how long the oldest that is
// not done has been here.
func (d *Decider) State() (waiting int, oldest time.Duration) {
	if d.group == nil {
		return 0, 0
	}
	return d.group.State()
}

// Close decides what waits and refuses what comes later.
func (d *Decider) Close(ctx context.Context) error {
	if d.group == nil {
		return nil
	}
	return d.group.Close(ctx)
}
