package loop_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/internal/loop"
)

// Guarantee: a pass runs at once and then about every interval, survives errors
// and panics, is cut off at its timeout, and ends with its context.
func TestEvery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		ctx, cancel := context.WithCancel(context.Background())
		start := time.Now()
		var runs []time.Duration
		done := make(chan struct{})
		go func() {
			defer close(done)
			loop.Every(ctx, log, "test", time.Minute, time.Second, func(ctx context.Context) error {
				runs = append(runs, time.Since(start))
				switch len(runs) {
				case 1:
					return errors.New("first fails")
				case 2:
					panic("second panics")
				case 3:
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			})
		}()
		time.Sleep(5*time.Minute + 30*time.Second)
		cancel()
		<-done
		if len(runs) < 5 || len(runs) > 7 || runs[0] != 0 {
			t.Errorf("ran at %v", runs)
		}
		for _, text := range []string{"first fails", "second panics", "deadline exceeded"} {
			if !strings.Contains(out.String(), text) {
				t.Errorf("the log does not tell of %q", text)
			}
		}
	})
}
