package cache_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/internal/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func id(n int) (u uuid.UUID) {
	binary.BigEndian.PutUint64(u[8:], uint64(n)+1)
	return u
}

// value is what the tests remember: the version that a thing had when it was read;
// 0: there is no such thing.
type value struct{ version int }

// world is a database in miniature: versions, and what has been heard of them.
type world struct {
	mu        sync.Mutex
	committed map[int]int // version, by thing
	heard     map[int]int
	live      atomic.Bool
	cache     *cache.Cache[int, value]
	loads     int
	wrong     []string
}

func newWorld() *world {
	w := &world{committed: map[int]int{}, heard: map[int]int{}}
	w.live.Store(true)
	w.cache = cache.New[int, value](100, w.live.Load)
	return w
}

// get reads a thing; the load sees the database at its middle.
func (w *world) get(ctx context.Context, thing int, takes time.Duration) (value, error) {
	return w.cache.Get(ctx, thing, func(context.Context) (value, uuid.UUID, error) {
		time.Sleep(takes / 2)
		w.mu.Lock()
		v := value{w.committed[thing]}
		w.loads++
		w.mu.Unlock()
		time.Sleep(takes - takes/2)
		if v.version == 0 {
			return v, uuid.Nil, nil
		}
		return v, id(thing), nil
	})
}

// change commits a new version, which is heard of later.
func (w *world) change(thing int, heardAfter time.Duration) {
	w.mu.Lock()
	w.committed[thing]++
	version := w.committed[thing]
	w.mu.Unlock()
	time.Sleep(heardAfter)
	if !w.live.Load() {
		return // never heard
	}
	w.cache.Drop(id(thing))
	w.mu.Lock()
	w.heard[thing] = max(w.heard[thing], version)
	w.mu.Unlock()
}

// check reads a thing and notes an answer older than what had been heard, or,
// while nothing is heard, older than what had been committed, when it was asked for.
func (w *world) check(thing int, takes time.Duration) {
	w.mu.Lock()
	least := w.heard[thing]
	if !w.live.Load() {
		least = w.committed[thing]
	}
	w.mu.Unlock()
	got, err := w.get(context.Background(), thing, takes)
	if err != nil || got.version < least {
		w.mu.Lock()
		w.wrong = append(w.wrong, fmt.Sprintf("thing %d: version %d, %v; %d was known", thing, got.version, err, least))
		w.mu.Unlock()
	}
}

// Guarantee: however loads, changes, the news of them and stretches without news
// interleave, no caller gets a value older than the last change that had been heard
// of when it asked (while nothing is heard: than the last change), be it that the
// thing was not there before.
func TestProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ms := func(name string, most int) time.Duration {
			return time.Duration(rapid.IntRange(0, most).Draw(rt, name)) * time.Millisecond
		}
		type step struct {
			kind, thing int
			at, takes   time.Duration
		}
		steps := make([]step, rapid.IntRange(1, 120).Draw(rt, "steps"))
		for i := range steps {
			steps[i] = step{rapid.IntRange(0, 9).Draw(rt, "kind"), rapid.IntRange(0, 2).Draw(rt, "thing"), ms("at", 100), ms("takes", 10)}
		}
		deafAt, deafFor := ms("deafAt", 100), ms("deafFor", 30)
		var wrong []string
		synctest.Test(t, func(*testing.T) {
			w := newWorld()
			var all sync.WaitGroup
			for _, s := range steps {
				all.Go(func() {
					time.Sleep(s.at)
					if s.kind < 3 {
						w.change(s.thing, s.takes)
					} else {
						w.check(s.thing, s.takes)
					}
				})
			}
			all.Go(func() {
				time.Sleep(deafAt)
				w.live.Store(false)
				time.Sleep(deafFor)
				w.cache.DropAll() // before it is trusted again
				w.mu.Lock()
				for thing, version := range w.committed {
					w.heard[thing] = version
				}
				w.live.Store(true)
				w.mu.Unlock()
			})
			all.Wait()
			wrong = w.wrong
		})
		for _, text := range wrong {
			rt.Error(text)
		}
	})
}

// Guarantee: callers at the same time share one load, those after it ask nobody,
// and a failed load is told and not remembered.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.change(1, 0)
		for range 2 {
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() { w.check(1, time.Millisecond) })
			}
			all.Wait()
		}
		if held, hits, misses := w.cache.Stat(); w.loads != 1 || held != 1 || hits != 50 || misses != 50 {
			t.Errorf("%d loads, %d held, %d hits, %d misses", w.loads, held, hits, misses)
		}
		broken := errors.New("broken")
		for range 2 {
			if _, err := w.cache.Get(t.Context(), 7, func(context.Context) (value, uuid.UUID, error) { w.loads++; return value{}, id(7), broken }); !errors.Is(err, broken) {
				t.Error(err)
			}
		}
		if w.loads != 3 {
			t.Errorf("%d loads, want a new one after a failure", w.loads)
		}
	})
}

// Guarantee: a caller that gives up leaves the load to those who share it.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.change(1, 0)
		hasty, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := w.get(hasty, 1, time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the hasty one got %v", err)
			}
		})
		time.Sleep(time.Microsecond)
		all.Go(func() { w.check(1, time.Second) })
		all.Wait()
		if w.loads != 1 {
			t.Errorf("%d loads, want one", w.loads)
		}
	})
}

// Guarantee: a drop costs what it is about and hardly anything else.
func TestDropIsNarrow(t *testing.T) {
	w := newWorld()
	for thing := range 100 {
		w.committed[thing] = 1
		w.check(thing, 0)
	}
	w.cache.Drop(id(5))
	w.loads = 0
	for thing := range 100 {
		w.check(thing, 0)
	}
	if w.loads > 3 {
		t.Errorf("%d things were read again after a change of one", w.loads)
	}
}
