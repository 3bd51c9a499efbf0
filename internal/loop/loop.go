// Package loop runs a function again and again.
package loop

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// Every runs fn at once and then every interval, give or take a tenth, so that
// replicas started together drift apart. Each run has timeout to finish; a run
// that fails or panics is logged under name and the next one comes all the same.
// It returns when ctx ends.
func Every(ctx context.Context, log *slog.Logger, name string, interval, timeout time.Duration, fn func(context.Context) error) {
	for {
		if err := once(ctx, timeout, fn); err != nil && ctx.Err() == nil {
			log.ErrorContext(ctx, "background pass failed", "pass", name, "error", err)
		}
		wait := time.NewTimer(interval + time.Duration((rand.Float64()-0.5)*0.2*float64(interval))) //nolint:gosec // jitter, not a secret
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
	}
}

func once(ctx context.Context, timeout time.Duration, fn func(context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return fn(ctx)
}
