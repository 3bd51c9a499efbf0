package usage

import (
	"context"
	"time"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
)

// Gather makes Record take units that come at the same time in groups, one
// transaction each: call it once, before the first Record. A batch's weight is its
// events.
func (r *Recorder) Gather(limits coalesce.Limits) {
	r.group = coalesce.New(coalesce.Options[[]Event, outcome]{
		Limits: limits,
		Flush:  r.recordAll,
		Weight: func(events []Event) int { return len(events) },
		Single: func(err error) bool {
			code := db.Fault(err).Code
			return code == fault.Invalid || code == fault.Conflict
		},
	})
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
	return r.group.Close(ctx)
}
