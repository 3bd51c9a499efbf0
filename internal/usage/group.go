package usage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
)

// Gather makes Record take units that come at the same time in groups, one
// transaction each, on fast, a pool whose statements do not wait long for a row: call
// it once, before the first Record. A batch's weight is its events. Units of a key or
// an account that somebody else holds are tried again, and none waits with them.
func (r *Recorder) Gather(fast *db.DB, limits coalesce.Limits) {
	quick := *r
	quick.DB = fast
	r.lookups = coalesce.New(coalesce.Options[[]uuid.UUID, map[uuid.UUID]uuid.UUID]{
		Limits: coalesce.Limits{Writers: limits.Writers, MaxBatch: limits.MaxBatch, MaxQueue: limits.MaxQueue},
		Flush: func(ctx context.Context, lists [][]uuid.UUID) ([]map[uuid.UUID]uuid.UUID, error) {
			return readAdmissionKeys(ctx, fast, lists)
		},
		Weight: func(ids []uuid.UUID) int { return len(ids) },
	})
	r.group = coalesce.NewLanes(coalesce.LanesOptions[[]Event, outcome, need]{
		Options: coalesce.Options[[]Event, outcome]{
			Limits: limits,
			Flush:  quick.recordAll,
			Weight: func(events []Event) int { return len(events) },
			Single: func(err error) bool {
				code := db.Fault(err).Code
				return code == fault.Invalid || code == fault.Conflict
			},
		},
		Patience: db.Patience,
		Needs:    needs,
		Stuck:    db.Stuck,
		Held:     quick.held,
	})
}

// need is a row of sums that a unit adds to: a key's or an account's.
type need struct {
	key     uuid.UUID
	account string
}

func needs(events []Event) (all []need) {
	for _, e := range events {
		all = append(all, need{key: e.KeyID})
		if e.AccountID != "" {
			all = append(all, need{account: e.AccountID})
		}
	}
	return all
}

// held are those needs whose rows another transaction has locked.
func (r *Recorder) held(ctx context.Context, all []need) ([]need, error) {
	var p db.SumsHeldParams
	for _, n := range all {
		if n.account != "" {
			p.AccountIDs = append(p.AccountIDs, n.account)
		} else {
			p.KeyIDs = append(p.KeyIDs, n.key)
		}
	}
	rows, err := r.DB.SumsHeld(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("asking which sums are held: %w", err)
	}
	held := make([]need, len(rows))
	for i, row := range rows {
		held[i] = need{row.KeyID, row.AccountID}
	}
	return held, nil
}

// State tells how many events wait for their turn, and how long the oldest that is
// not done has been here.
func (r *Recorder) State() (waiting int, oldest time.Duration) {
	if r.group == nil {
		return 0, 0
	}
	return r.group.State()
}

// Close records what waits and refuses what comes later.
func (r *Recorder) Close(ctx context.Context) error {
	if r.group == nil {
		return nil
	}
	return errors.Join(r.lookups.Close(ctx), r.group.Close(ctx))
}
