package report

import (
	"context"
	"fmt"

	"github.com/keyledger/keyledger/db"
)

// advanceTries bounds how often in one pass the day is tried to be moved on.
const advanceTries = 20

// Close adds up the days that are over, and what was recorded for them since, for the
// reports that read many of them. It may run on
// any number of replicas, at any time, under any load: reports are exact before, during
// and after.
func (r *Reports) Close(ctx context.Context) (days int32, err error) {
	var advanced bool
	for try := 1; ; try++ {
		advanced, err = r.DB.ClosingAdvance(ctx, r.Timezone)
		if err == nil || try == advanceTries || !db.Stuck(err) {
			break
		}
	}
	if err != nil {
		return 0, fmt.Errorf("setting days apart: %w", err)
	}
	if days, err = r.DB.DaysClose(ctx); err != nil {
		return 0, fmt.Errorf("closing days: %w", err)
	}
	if advanced {
		if err := r.DB.DaysSummarize(ctx); err != nil && !db.Stuck(err) { // autovacuum is at it
			return days, fmt.Errorf("summarizing the index of days: %w", err)
		}
	}
	return days, nil
}
