package coalesce_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/internal/coalesce"
)

var errStuck = errors.New("stuck")

// rows are things that items need, each locked by somebody else until a time.
type rows struct {
	mu    sync.Mutex
	until map[int]time.Time
	kept  map[int]int // times, by item
}

// needing makes an item's needs: two rows.
func needing(item int) []int { return []int{item % 5, item % 7} }

func (r *rows) held(_ context.Context, needs []int) (held []int, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, need := range needs {
		if time.Now().Before(r.until[need]) {
			held = append(held, need)
		}
	}
	return held, nil
}

// flush waits for each row in turn, but for none longer than patience, and keeps all
// or nothing.
func (r *rows) flush(patience time.Duration) func(context.Context, []int) ([]int, error) {
	return func(_ context.Context, batch []int) ([]int, error) {
		time.Sleep(time.Millisecond)
		for _, item := range batch {
			for _, need := range needing(item) {
				r.mu.Lock()
				wait := time.Until(r.until[need])
				r.mu.Unlock()
				if time.Sleep(min(wait, patience)); wait > patience {
					return nil, errStuck
				}
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		results := make([]int, len(batch))
		for i, item := range batch {
			r.kept[item]++
			results[i] = -item
		}
		return results, nil
	}
}

// Guarantee: whatever is held and for however long, an item that is told of success
// has its own result and was kept once; one that fails was not kept, and fails only
// if a need of its own was held; what needs nothing that is held waits for no more
// than two short patiences, for the batch before its own and for its own.
func TestLanesProperty(t *testing.T) {
	const short, long = 250 * time.Millisecond, 5 * time.Second
	rapid.Check(t, func(rt *rapid.T) {
		holds := rapid.MapOfN(rapid.IntRange(0, 6), rapid.IntRange(1, 12_000), 0, 3).Draw(rt, "held for ms")
		after := rapid.SliceOfN(rapid.IntRange(0, 3000), 1, 60).Draw(rt, "comes after ms")
		var wrong []string
		synctest.Test(t, func(*testing.T) {
			r := &rows{until: map[int]time.Time{}, kept: map[int]int{}}
			for row, ms := range holds {
				r.until[row] = time.Now().Add(time.Duration(ms) * time.Millisecond)
			}
			l := coalesce.NewLanes(coalesce.LanesOptions[int, int, int]{
				Options: coalesce.Options[int, int]{Flush: r.flush(short), Limits: coalesce.Limits{Timeout: time.Minute}},
				Writers: coalesce.NewWriters(2), Patience: long, Needs: needing, Held: r.held,
				Stuck: func(err error) bool { return errors.Is(err, errStuck) },
			})
			var callers sync.WaitGroup
			var mu sync.Mutex
			for item, ms := range after {
				callers.Go(func() {
					time.Sleep(time.Duration(ms) * time.Millisecond)
					start := time.Now()
					result, err := l.Do(context.Background(), item)
					mu.Lock()
					defer mu.Unlock()
					concerned := slices.ContainsFunc(needing(item), func(need int) bool { return holds[need] > 0 })
					r.mu.Lock()
					kept := r.kept[item]
					r.mu.Unlock()
					switch {
					case err == nil && (result != -item || kept != 1):
						wrong = append(wrong, "a success that is none")
					case err != nil && (!errors.Is(err, errStuck) || kept != 0 || !concerned):
						wrong = append(wrong, "a failure without need: "+err.Error())
					case !concerned && time.Since(start) > 4*short:
						wrong = append(wrong, "waited for others: "+time.Since(start).String())
					}
				})
			}
			callers.Wait()
			if err := l.Close(context.Background()); err != nil {
				wrong = append(wrong, err.Error())
			}
		})
		for _, w := range wrong {
			rt.Error(w)
		}
	})
}
