//go:build !keyledger_ack_early

package usage

import "context"

// beforeCommit is nil: nothing is answered before it is committed. See early.go.
var beforeCommit func(ctx context.Context, r *Recorder, unit []Event) []Result
