// Package cache is memory of what the database holds that cannot lie: a value is
// used only while changes of it would be heard of, and only if it was read after
// the last change that was heard.
//
// Every change moves a sequence number on. A value remembers the number from before
// it was read; Drop notes the number that a thing was last changed at. Whatever
// happens in between, in whatever order: a value whose number is older than its
// thing's is not used, so a load that began before a drop is of no use after it.
// Callers that come after a drop never wait for a load from before it.
package cache

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
)

// Changes tells whether changes of the database are heard, and what its clock says.
type Changes struct {
	Live  func() bool
	Clock func() (now time.Time, live bool)
}

// Deaf hears of no change: nothing is remembered, and the database is asked each time.
var Deaf = Changes{
	Live:  func() bool { return false },
	Clock: func() (time.Time, bool) { return time.Time{}, false },
}

// loadTimeout bounds a load. It is nobody's own: whoever waits for it may go.
const loadTimeout = 10 * time.Second

// slots is how many numbers are kept: things whose ids fall into the same slot are
// dropped together. With 100 000 things remembered a drop costs some six of them.
const slots = 1 << 14

// Cache remembers values by key. It is safe for concurrent use. Make it with New.
type Cache[K comparable, V any] struct {
	live   func() bool
	memory *otter.Cache[K, entry[V]]
	loads  singleflight.Group

	seq     atomic.Uint64 // moves with every change
	floor   atomic.Uint64 // what is older is of no use
	dropped [slots]atomic.Uint64

	hits, misses atomic.Uint64
}

type entry[V any] struct {
	value V
	of    uuid.UUID // the thing it tells of; zero: any
	seq   uint64    // before it was read
}

// New makes a cache of at most so many values, which is used only while live says
// that changes are heard.
func New[K comparable, V any](most int, live func() bool) *Cache[K, V] {
	return &Cache[K, V]{live: live, memory: otter.Must(&otter.Options[K, entry[V]]{MaximumSize: most})}
}

// Get is the value of a key: from memory, else from load, which also names the
// thing that the value tells of. The zero id stands for a value that any change may
// touch, such as "there is none". While changes are heard, several callers share a
// load; its error is told to all of them and not remembered. Errors: load's, and ctx's when it ends first.
func (c *Cache[K, V]) Get(ctx context.Context, k K, load func(context.Context) (V, uuid.UUID, error)) (V, error) {
	live := c.live()
	if e, ok := c.memory.GetIfPresent(k); ok && live && c.fresh(e) {
		c.hits.Add(1)
		return e.value, nil
	}
	c.misses.Add(1)
	if !live { // a load that is under way may have missed a change that nobody heard of
		value, _, err := load(ctx)
		return value, err
	}
	seq := c.seq.Load()
	shared := c.loads.DoChan(fmt.Sprintf("%d %v", seq, k), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		value, of, err := load(ctx)
		if err != nil {
			return nil, err
		}
		if e := (entry[V]{value, of, seq}); c.live() && c.fresh(e) {
			c.memory.Set(k, e)
		}
		return value, nil
	})
	select {
	case r := <-shared:
		value, _ := r.Val.(V) // V's zero value where the load failed
		return value, r.Err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

// Peek is the value of a key if it is remembered and may be used.
func (c *Cache[K, V]) Peek(k K) (value V, ok bool) {
	e, ok := c.memory.GetIfPresent(k)
	if !ok || !c.live() || !c.fresh(e) {
		return value, false
	}
	c.hits.Add(1)
	return e.value, true
}

func (c *Cache[K, V]) fresh(e entry[V]) bool {
	if e.of == uuid.Nil {
		return e.seq == c.seq.Load()
	}
	return e.seq >= c.floor.Load() && e.seq >= c.dropped[slot(e.of)].Load()
}

// slot spreads ids evenly, whatever their first bytes: those of a version 7 are a time.
func slot(id uuid.UUID) uint64 {
	return (binary.BigEndian.Uint64(id[8:]) * 0x9E3779B97F4A7C15) >> (64 - 14)
}

// Drop forgets what is remembered of a thing: it has changed.
func (c *Cache[K, V]) Drop(of uuid.UUID) {
	raise(&c.dropped[slot(of)], c.seq.Add(1))
}

// DropAll forgets everything.
func (c *Cache[K, V]) DropAll() {
	raise(&c.floor, c.seq.Add(1))
	c.memory.InvalidateAll()
}

// raise sets a number that another goroutine may be raising too.
func raise(n *atomic.Uint64, to uint64) {
	for {
		if was := n.Load(); was >= to || n.CompareAndSwap(was, to) {
			return
		}
	}
}

// Stat tells how many values are held, and how often one was found and was not.
func (c *Cache[K, V]) Stat() (held int, hits, misses uint64) {
	return c.memory.EstimatedSize(), c.hits.Load(), c.misses.Load()
}
