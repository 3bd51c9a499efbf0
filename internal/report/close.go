package report

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/keyledger/keyledger/db"
)

// advanceTries bounds how often in one pass the day is tried to be moved on: usage waits
// behind each try, for 50 ms at most.
const advanceTries = 3

// Close adds up the days that are over, and what was recorded for them since, for the
// reports that read many of them. It may run on any number of replicas, at any time, under
// any load: reports are exact before, during and after.
func (r *Reports) Close(ctx context.Context) (days int32, err error) {
	advanced, failed := r.advance(ctx)
	for {
		closed, err := r.DB.DaysClose(ctx)
		if err != nil {
			return days, errors.Join(failed, fmt.Errorf("closing days: %w", err))
		}
		if days += closed; closed == 0 {
			break
		}
	}
	if advanced {
		if err := r.DB.DaysSummarize(ctx); err != nil && !db.Stuck(err) { // autovacuum is at it
			return days, fmt.Errorf("summarizing the index of days: %w", err)
		}
	}
	return days, failed
}

// advance sets the days apart that are over. Where somebody has been recording for longer
// than usage may wait, the next pass does.
func (r *Reports) advance(ctx context.Context) (bool, error) {
	due, err := r.DB.ClosingDue(ctx, r.Timezone)
	for try := 1; due && err == nil; try++ {
		var advanced bool
		if advanced, err = r.DB.ClosingAdvance(ctx, r.Timezone); err == nil {
			return advanced, nil
		}
		if db.Stuck(err) {
			if err = nil; try == advanceTries {
				return false, nil
			}
		}
		time.Sleep(rand.N(time.Second)) //nolint:gosec // jitter, not a secret
	}
	if err != nil {
		err = fmt.Errorf("setting days apart: %w", err)
	}
	return false, err
}
