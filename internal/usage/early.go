//go:build keyledger_ack_early

package usage

import (
	"context"
	"time"
)

// beforeCommit breaks the one promise that all others rest on: it answers first and
// records later. It is built only by the test that the bench finds that out.
var beforeCommit = func(ctx context.Context, r *Recorder, unit []Event) []Result {
	results := make([]Result, len(unit))
	for i, e := range unit {
		results[i] = Result{EventID: e.ID, RequestID: e.RequestID, KeyID: e.KeyID, Model: e.Model}
	}
	go func() {
		time.Sleep(50 * time.Millisecond) // as a queue between the answer and the database would
		_, _ = r.group.Do(context.WithoutCancel(ctx), unit)
	}()
	return results
}
