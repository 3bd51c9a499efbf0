// Package coalesce is group commit: many callers hand in one item each, a few
// writers flush what has gathered as one batch, and every caller returns when the
// batch that holds its own item is done.
//
// It clocks itself: while a writer flushes, the next batch gathers, so batches
// grow with the load and a lone item waits for nobody. There is no tick.
package coalesce

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// ErrFull refuses an item because too many wait already: try again later.
var ErrFull = errors.New("too many requests are waiting")

// ErrClosed refuses an item because the group is stopping.
var ErrClosed = errors.New("the service is stopping")

// Limits bound a Group; what is zero has a default.
type Limits struct {
	// Name is that of batches in traces. Default: batch.
	Name string
	// Timeout bounds one call of Flush. Default: 10 s.
	Timeout time.Duration
	// Writers is how many batches may be flushed at once. Default: 2.
	Writers int
	// MaxBatch is the most weight of a batch; an item heavier than that goes alone.
	// Default: 500.
	MaxBatch int
	// MaxQueue is the most weight that may wait. An item is let in while less waits.
	// Default: 10 batches.
	MaxQueue int
	// Flushed is told of each call of Flush: weight, time taken, outcome. May be nil.
	Flushed func(weight int, took time.Duration, err error)
}

// defaultBatch is the default of MaxBatch.
const defaultBatch = 500

// Options make a Group. Flush must be set.
type Options[T, R any] struct {
	Limits

	// Flush does the work of a batch and returns one result an item, in order. Its
	// context is none of the callers': one that goes away stops nobody else. It is
	// called by up to Writers goroutines at once.
	Flush func(ctx context.Context, batch []T) ([]R, error)
	// Weight is what an item counts for in a batch and in the queue. Default: 1.
	Weight func(T) int
	// Single tells whether a batch that failed so may have failed for one item's
	// sake: then each is tried alone, and only the one at fault pays. An error that
	// would meet each of them (the database is away) is not such. Default: never.
	Single func(error) bool
	// Abandoned is told of results whose callers had gone by then. May be nil.
	Abandoned func(items []T, results []R)
	// Turn is held while a batch is taken and flushed, so that groups that share it flush
	// one at a time. Nil: none.
	Turn sync.Locker
}

// Group gathers items. It is safe for concurrent use.
type Group[T, R any] struct {
	o Options[T, R]

	mu      sync.Mutex
	pending []*call[T, R]
	waiting int                       // weight of pending, but for callers that have gone
	gone    int                       // calls in pending whose callers have gone
	writers int                       // at work
	flushes map[*call[T, R]]time.Time // under way: since when the oldest item waits, by the batch's first
	closed  bool
	idle    chan struct{} // closed when closed and no writer is at work
}

type call[T, R any] struct {
	item   T
	at     time.Time
	weight int
	taken  bool              // a writer has it
	gone   bool              // its caller has gone
	from   trace.SpanContext // of its caller
	done   chan struct{}
	result R
	err    error
}

// New makes a group. Its goroutines live only while there is work.
func New[T, R any](o Options[T, R]) *Group[T, R] {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Writers <= 0 {
		o.Writers = 2
	}
	if o.Name == "" {
		o.Name = "batch"
	}
	if o.Weight == nil {
		o.Weight = func(T) int { return 1 }
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = defaultBatch
	}
	if o.MaxQueue <= 0 {
		o.MaxQueue = 10 * o.MaxBatch
	}
	if o.Single == nil {
		o.Single = func(error) bool { return false }
	}
	return &Group[T, R]{o: o, idle: make(chan struct{}), flushes: map[*call[T, R]]time.Time{}}
}

// Do hands in an item and returns its result when its batch is done: for a Flush
// that commits, after the commit. Errors: ErrFull and ErrClosed before anything is
// done; ctx's when it ends first, in which case the item may or may not have been
// flushed; else Flush's.
func (g *Group[T, R]) Do(ctx context.Context, item T) (R, error) {
	c := &call[T, R]{item: item, at: time.Now(), weight: g.o.Weight(item), from: trace.SpanContextFromContext(ctx), done: make(chan struct{})}
	if err := g.enqueue(ctx, c); err != nil {
		return c.result, err
	}
	select {
	case <-c.done:
		return c.result, c.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-c.done: // in the same moment
		return c.result, c.err
	default:
	}
	if c.gone = true; !c.taken {
		g.waiting -= c.weight
		g.forget()
	}
	return c.result, ctx.Err()
}

// forget notes that a waiting call's caller has gone. Once those are most of what
// is kept they are let go, so that a writer that is stuck costs no memory however
// often callers come and give up.
func (g *Group[T, R]) forget() {
	if g.gone++; g.gone > len(g.pending)/2 {
		g.pending = slices.DeleteFunc(g.pending, func(c *call[T, R]) bool { return c.gone })
		g.gone = 0
	}
}

func (g *Group[T, R]) enqueue(ctx context.Context, c *call[T, R]) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return ErrClosed
	case g.waiting >= g.o.MaxQueue:
		return ErrFull
	case ctx.Err() != nil:
		return ctx.Err()
	}
	g.pending = append(g.pending, c)
	g.waiting += c.weight
	if g.writers < g.o.Writers {
		g.writers++
		go g.write()
	}
	return nil
}

// State tells the weight of the items that no writer has taken yet, and how long the
// oldest item, waiting or being flushed, has been here.
func (g *Group[T, R]) State() (waiting int, oldest time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for _, since := range g.flushes {
		oldest = max(oldest, now.Sub(since))
	}
	if len(g.pending) > 0 {
		oldest = max(oldest, now.Sub(g.pending[0].at))
	}
	return g.waiting, oldest
}

// Close refuses new items, flushes those that wait, and returns when no writer is
// at work, or with ctx's error when that ends first. Closing twice is harmless.
func (g *Group[T, R]) Close(ctx context.Context) error {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		if g.writers == 0 {
			close(g.idle)
		}
	}
	g.mu.Unlock()
	select {
	case <-g.idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write flushes batches until nothing waits.
func (g *Group[T, R]) write() {
	for g.writeBatch() {
	}
}

// writeBatch flushes the next batch; false: nothing waits.
func (g *Group[T, R]) writeBatch() bool {
	if g.o.Turn != nil {
		g.o.Turn.Lock()
		defer g.o.Turn.Unlock()
	}
	batch := g.take()
	if batch == nil {
		return false
	}
	g.flush(batch)
	g.mu.Lock()
	delete(g.flushes, batch[0])
	g.mu.Unlock()
	return true
}

// take is the next batch; nil ends the writer.
func (g *Group[T, R]) take() (batch []*call[T, R]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	weight, n := 0, 0
	for _, c := range g.pending {
		if c.gone {
			g.gone--
		} else {
			if weight += c.weight; batch != nil && weight > g.o.MaxBatch {
				break
			}
			c.taken = true
			g.waiting -= c.weight
			batch = append(batch, c)
		}
		n++
	}
	if g.pending = g.pending[n:]; len(g.pending) == 0 {
		g.pending = nil // lets the array go
	}
	if batch != nil {
		g.flushes[batch[0]] = batch[0].at
	} else {
		if g.writers--; g.closed && g.writers == 0 {
			close(g.idle)
		}
	}
	return batch
}

// flush works a batch off and wakes its callers.
func (g *Group[T, R]) flush(batch []*call[T, R]) {
	results, err := g.try(batch)
	if err != nil && len(batch) > 1 && g.o.Single(err) {
		for i := range batch {
			g.flush(batch[i : i+1])
		}
		return
	}
	g.mu.Lock()
	var items []T
	var unclaimed []R
	for i, c := range batch {
		if c.err = err; err == nil {
			c.result = results[i]
		}
		if c.gone && err == nil {
			items, unclaimed = append(items, c.item), append(unclaimed, c.result)
		}
		close(c.done)
	}
	g.mu.Unlock()
	if items != nil && g.o.Abandoned != nil {
		g.o.Abandoned(items, unclaimed)
	}
}

func (g *Group[T, R]) try(batch []*call[T, R]) (results []R, err error) {
	weight, items := 0, make([]T, len(batch))
	for i, c := range batch {
		items[i] = c.item
		weight += c.weight
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), g.o.Timeout)
	defer cancel()
	ctx, span := g.traced(ctx, batch, weight)
	defer func() {
		span.End()
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a flush: %v\n%s", p, debug.Stack())
		}
		if err == nil && len(results) != len(batch) {
			err = fmt.Errorf("a flush of %d items returned %d results", len(batch), len(results))
		}
		if g.o.Flushed != nil {
			g.o.Flushed(weight, time.Since(start), err)
		}
	}()
	return g.o.Flush(ctx, items)
}

var tracer = otel.Tracer("keyledger/coalesce")

// traced is a batch's own span, with a link to each caller that has one. Where none has, there is
// no span.
func (g *Group[T, R]) traced(ctx context.Context, batch []*call[T, R], weight int) (context.Context, trace.Span) {
	var links []trace.Link
	for _, c := range batch {
		if c.from.IsSampled() {
			links = append(links, trace.Link{SpanContext: c.from})
		}
	}
	if links == nil {
		return ctx, trace.SpanFromContext(ctx) // that of none
	}
	return tracer.Start(ctx, g.o.Name, trace.WithLinks(links...), //nolint:spancheck // whoever calls ends it
		trace.WithAttributes(attribute.Int("keyledger.batch.size", weight)))
}
