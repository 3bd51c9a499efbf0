package coalesce_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/internal/coalesce"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// item is what the tests flush: its result is its number, doubled.
type item struct {
	number, weight int
	poisoned       bool
}

var errPoisoned = errors.New("poisoned")

// store is a database in miniature: a batch is kept whole or not at all.
type store struct {
	mu     sync.Mutex
	kept   map[int]int // times, by number
	batch  []int       // weights of the batches that came
	at     int         // flushes under way
	most   int
	takes  time.Duration
	broken error
}

func (s *store) flush(_ context.Context, batch []item) ([]int, error) {
	s.mu.Lock()
	s.at++
	s.most = max(s.most, s.at)
	s.mu.Unlock()
	time.Sleep(s.takes)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at--
	if s.broken != nil {
		return nil, s.broken
	}
	weight := 0
	results := make([]int, len(batch))
	for i, one := range batch {
		if one.poisoned {
			return nil, errPoisoned
		}
		weight += one.weight
		results[i] = 2 * one.number
	}
	if len(batch) > 1 {
		s.batch = append(s.batch, weight)
	}
	for _, one := range batch {
		s.kept[one.number]++
	}
	return results, nil
}

// Guarantee: under any arrival of items of any weight, with callers that give up,
// poisoned items and a close in the middle, every caller that is told of success
// has its own result and its item kept exactly once; a poisoned item fails alone;
// nothing that was refused is kept; no more is kept twice, batched, flushed at once
// or let wait than the options allow; and an item kept for a caller that had gone
// is reported as abandoned.
func TestProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sc := drawScenario(rt)
		var wrong []string
		synctest.Test(t, func(*testing.T) { wrong = sc.run() })
		for _, w := range wrong {
			rt.Error(w)
		}
	})
}

type arrival struct {
	item

	after, patience time.Duration // patience 0: waits for ever
}

type scenario struct {
	arrivals                    []arrival
	writers, maxBatch, maxQueue int
	takes, closeAfter           time.Duration
}

func drawScenario(rt *rapid.T) scenario {
	ms := func(name string, most int) time.Duration {
		return time.Duration(rapid.IntRange(0, most).Draw(rt, name)) * time.Millisecond
	}
	sc := scenario{writers: rapid.IntRange(1, 3).Draw(rt, "writers"), maxBatch: rapid.IntRange(1, 8).Draw(rt, "maxBatch"),
		maxQueue: rapid.IntRange(1, 20).Draw(rt, "maxQueue"), takes: ms("takes", 20), closeAfter: ms("closeAfter", 200)}
	for i := range rapid.IntRange(1, 60).Draw(rt, "items") {
		sc.arrivals = append(sc.arrivals, arrival{item{i, rapid.IntRange(1, 4).Draw(rt, "weight"), rapid.IntRange(0, 9).Draw(rt, "poison") == 0},
			ms("after", 150), ms("patience", 40)})
	}
	return sc
}

func (sc scenario) run() (wrong []string) {
	var mu sync.Mutex
	fail := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		wrong = append(wrong, fmt.Sprintf(format, args...))
	}
	s := &store{kept: map[int]int{}, takes: sc.takes}
	abandoned := map[int]bool{}
	g := coalesce.New(coalesce.Options[item, int]{
		Limits: coalesce.Limits{Writers: sc.writers, MaxBatch: sc.maxBatch, MaxQueue: sc.maxQueue},
		Flush:  s.flush,
		Weight: func(i item) int { return i.weight },
		Single: func(err error) bool { return errors.Is(err, errPoisoned) },
		Abandoned: func(items []item, results []int) {
			mu.Lock()
			defer mu.Unlock()
			for i, one := range items {
				abandoned[one.number] = results[i] == 2*one.number
			}
		},
	})
	outcomes := make([]error, len(sc.arrivals))
	var callers sync.WaitGroup
	for i, a := range sc.arrivals {
		callers.Go(func() {
			time.Sleep(a.after)
			ctx := context.Background()
			if a.patience > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, a.patience)
				defer cancel()
			}
			result, err := g.Do(ctx, a.item)
			if outcomes[i] = err; err == nil && result != 2*a.number {
				fail("item %d got the result %d", a.number, result)
			}
			if w, _ := g.State(); w >= sc.maxQueue+4 {
				fail("%d wait, more than %d", w, sc.maxQueue)
			}
		})
	}
	time.Sleep(sc.closeAfter)
	if err := g.Close(context.Background()); err != nil {
		fail("close: %v", err)
	}
	mu.Lock()
	late := len(abandoned)
	mu.Unlock()
	if w, oldest := g.State(); w != 0 || oldest != 0 {
		fail("%d wait after the close", w)
	}
	callers.Wait()
	if len(abandoned) != late {
		fail("something was flushed after the close")
	}
	for i, a := range sc.arrivals {
		kept := s.kept[a.number]
		gone := errors.Is(outcomes[i], context.DeadlineExceeded)
		switch err := outcomes[i]; {
		case a.poisoned && kept > 0:
			fail("item %d is poisoned and was kept", a.number)
		case err == nil && kept != 1:
			fail("item %d succeeded and was kept %d times", a.number, kept)
		case errors.Is(err, coalesce.ErrFull) || errors.Is(err, coalesce.ErrClosed):
			if kept != 0 {
				fail("item %d was refused and kept", a.number)
			}
		case err != nil && !gone && (!a.poisoned || !errors.Is(err, errPoisoned)):
			fail("item %d failed with %v", a.number, err)
		}
		if kept > 1 || abandoned[a.number] != (gone && kept == 1) {
			fail("item %d: kept %d times, gone %v, abandoned %v", a.number, kept, gone, abandoned[a.number])
		}
	}
	if s.most > sc.writers {
		fail("%d flushes at once, more than %d", s.most, sc.writers)
	}
	for _, weight := range s.batch {
		if weight > sc.maxBatch {
			fail("a batch weighed %d, more than %d", weight, sc.maxBatch)
		}
	}
	return wrong
}

// Guarantee: a lone item waits for nobody, and those that arrive while a batch is
// flushed share the next one.
func TestSelfClocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{kept: map[int]int{}, takes: 10 * time.Millisecond}
		g := coalesce.New(coalesce.Options[item, int]{Limits: coalesce.Limits{Writers: 1}, Flush: s.flush})
		start := time.Now()
		if _, err := g.Do(t.Context(), item{1, 1, false}); err != nil || time.Since(start) != s.takes {
			t.Errorf("a lone item took %s, %v", time.Since(start), err)
		}
		var callers sync.WaitGroup
		for i := range 100 {
			callers.Go(func() {
				if _, err := g.Do(t.Context(), item{2 + i, 1, false}); err != nil {
					t.Error(err)
				}
			})
		}
		start = time.Now()
		callers.Wait()
		if took := time.Since(start); took > 2*s.takes {
			t.Errorf("100 at once took %s, want at most two flushes of %s", took, s.takes)
		}
	})
}

// Guarantee: callers that give up on a stuck writer are forgotten, room is made for
// others, and what is past the bound is refused at once.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		g := coalesce.New(coalesce.Options[int, int]{Limits: coalesce.Limits{MaxQueue: 10, Writers: 1}, Flush: func(_ context.Context, batch []int) ([]int, error) {
			<-release
			return batch, nil
		}})
		give := func(n int) (full int) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var callers sync.WaitGroup
			var mu sync.Mutex
			for i := range n {
				callers.Go(func() {
					if _, err := g.Do(ctx, i); errors.Is(err, coalesce.ErrFull) {
						mu.Lock()
						defer mu.Unlock()
						full++
					}
				})
			}
			callers.Wait()
			return full
		}
		give(1) // the writer has it, and is stuck
		for range 1000 {
			if full := give(12); full != 2 {
				t.Fatalf("%d of 12 were refused, want the 2 past the bound of 10", full)
			}
		}
		if w, oldest := g.State(); w != 0 || oldest != 1001*time.Second {
			t.Errorf("%d still wait, the oldest for %s", w, oldest)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("closing a stuck group: %v", err)
		}
		close(release)
		if err := g.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := g.Do(t.Context(), 1); !errors.Is(err, coalesce.ErrClosed) {
			t.Errorf("after the close: %v", err)
		}
	})
}

// Guarantee: a failure that would meet every item is told to all and not tried
// again item by item; a flush that panics or miscounts is a failure, and the next
// batch is not harmed by it; a flush is given a time.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("the database is away")
		var flushes int
		flush := func(ctx context.Context, batch []int) ([]int, error) {
			flushes++
			switch batch[0] {
			case 1:
				return nil, broken
			case 2:
				panic("at the disco")
			case 3:
				return nil, nil
			case 4:
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return batch, nil
		}
		g := coalesce.New(coalesce.Options[int, int]{Limits: coalesce.Limits{Timeout: time.Minute}, Flush: flush, Single: func(err error) bool { return !errors.Is(err, broken) }})
		for n, want := range map[int]string{1: "the database is away", 2: "panic in a flush: at the disco", 3: "returned 0 results", 4: "deadline exceeded"} {
			_, err := g.Do(t.Context(), n)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("item %d: %v, want %q", n, err, want)
			}
		}
		if r, err := g.Do(t.Context(), 5); r != 5 || err != nil {
			t.Errorf("after the failures: %d, %v", r, err)
		}
		if flushes != 5 {
			t.Errorf("%d flushes, want 5", flushes)
		}
	})
}
