package coalesce

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

// LanesOptions make Lanes. All of them must be set, as Flush, which gives up soon when
// what it needs is held.
type LanesOptions[T, R any, N comparable] struct {
	Options[T, R]

	// Writers are shared with other Lanes: what they do with one need goes one after another.
	Writers *Writers
	// Patience is how long an item whose needs stay held is tried again.
	Patience time.Duration
	// Needs are the things that an item cannot do without, each held by one at a time.
	Needs func(T) []N
	// Stuck tells whether a batch failed because it waited for its needs too long.
	Stuck func(error) bool
	// Held are those of these needs that somebody else holds at this moment.
	Held func(ctx context.Context, needs []N) ([]N, error)
}

// Writers are the writers of one process. Each need belongs to one of them, by a hash, so
// that batches that are flushed at the same time share none.
type Writers struct {
	seed  maphash.Seed
	turns []sync.Mutex
}

// NewWriters makes so many writers.
func NewWriters(n int) *Writers {
	return &Writers{seed: maphash.MakeSeed(), turns: make([]sync.Mutex, max(1, n))}
}

// writerOf is the writer of a need.
func writerOf[N comparable](w *Writers, need N) int {
	return int(maphash.Comparable(w.seed, need) % uint64(len(w.turns))) //nolint:gosec // a few
}

// Lanes are a group whose batches do not wait for one item's sake: what an item
// needs may be held by somebody else for long (a row that psql has locked). A batch
// that is stuck goes on without the items whose needs are held. Those are tried again in a
// slow lane with one writer, for as long as their patience lasts, and so are later items
// with the same needs, until one of them gets through. No batch of either lane waits
// longer than Flush does, so whatever it has locked by then, others get at soon.
//
// Each writer has a lane. An item whose needs belong to several writers goes through a
// lane of its own, as does what is slow: there, batches may wait for each other.
// It is safe for concurrent use.
type Lanes[T, R any, N comparable] struct {
	o    LanesOptions[T, R, N]
	fast []*Group[T, passed[R, N]] // one a writer
	wide *Group[T, passed[R, N]]
	slow *Group[T, passed[R, N]]

	mu    sync.Mutex
	held  map[N]*hold
	tried map[*time.Time]struct{} // since when each item that was stuck is tried
}

// hold is a need that is held: how many items in the slow lane wait for it.
type hold struct{ items int }

// passed is what became of an item in a batch that went on: its result, or why it
// was left behind and which of its needs were held.
type passed[R any, N comparable] struct {
	result R
	stuck  error
	held   []N
}

// NewLanes makes lanes.
func NewLanes[T, R any, N comparable](o LanesOptions[T, R, N]) *Lanes[T, R, N] {
	l := &Lanes[T, R, N]{o: o, held: map[N]*hold{}, tried: map[*time.Time]struct{}{}}
	options := Options[T, passed[R, N]]{Limits: o.Limits, Flush: l.sift, Weight: o.Weight, Single: o.Single}
	if o.Abandoned != nil {
		options.Abandoned = l.abandoned
	}
	l.wide = New(options)
	options.Writers = 1
	l.slow = New(options)
	for i := range o.Writers.turns {
		options.Turn = &o.Writers.turns[i]
		l.fast = append(l.fast, New(options))
	}
	return l
}

// Do is Group.Do. An item whose needs stay held for all of its patience gets the error
// that it was stuck with last.
func (l *Lanes[T, R, N]) Do(ctx context.Context, item T) (R, error) {
	held := l.known(item)
	start := time.Now()
	defer l.note(&start, false)
	for {
		var p passed[R, N]
		var err error
		if held == nil {
			p, err = l.lane(item).Do(ctx, item)
		} else {
			p, err = l.wait(ctx, item, held)
		}
		switch {
		case err != nil || p.stuck == nil:
			return p.result, err
		case time.Since(start) >= l.o.Patience:
			return p.result, p.stuck
		}
		held = p.held
		l.note(&start, true)
	}
}

// lane is the lane of an item that is not stuck.
func (l *Lanes[T, R, N]) lane(item T) *Group[T, passed[R, N]] {
	writer := -1
	for _, need := range l.o.Needs(item) {
		switch w := writerOf(l.o.Writers, need); writer {
		case w:
		case -1:
			writer = w
		default:
			return l.wide
		}
	}
	return l.fast[max(0, writer)]
}

// note notes that an item was stuck, or that it is not tried any more.
func (l *Lanes[T, R, N]) note(start *time.Time, stuck bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if stuck {
		l.tried[start] = struct{}{}
	} else {
		delete(l.tried, start)
	}
}

// wait tries an item in the slow lane, where later ones with the same needs follow it.
func (l *Lanes[T, R, N]) wait(ctx context.Context, item T, needs []N) (passed[R, N], error) {
	l.mu.Lock()
	holds := make([]*hold, len(needs))
	for i, need := range needs {
		if l.held[need] == nil {
			l.held[need] = &hold{}
		}
		holds[i] = l.held[need]
		holds[i].items++
	}
	l.mu.Unlock()
	p, err := l.slow.Do(ctx, item)
	through := err == nil && p.stuck == nil
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, need := range needs {
		holds[i].items--
		if (through || holds[i].items == 0) && l.held[need] == holds[i] {
			delete(l.held, need)
		}
	}
	return p, err
}

// known are those of an item's needs that items in the slow lane wait for.
func (l *Lanes[T, R, N]) known(item T) []N {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) == 0 {
		return nil
	}
	return l.among(item, func(need N) bool { return l.held[need] != nil })
}

// among are an item's needs of which something is true; nil: none.
func (l *Lanes[T, R, N]) among(item T, is func(N) bool) (some []N) {
	for _, need := range l.o.Needs(item) {
		if is(need) {
			some = append(some, need)
		}
	}
	return some
}

// State is Group.State, of all lanes; what was stuck has been here since it first came.
func (l *Lanes[T, R, N]) State() (waiting int, oldest time.Duration) {
	for _, lane := range l.lanes() {
		items, since := lane.State()
		waiting, oldest = waiting+items, max(oldest, since)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for start := range l.tried {
		oldest = max(oldest, time.Since(*start))
	}
	return waiting, oldest
}

// Close is Group.Close, of all lanes; what is left behind by then is refused.
func (l *Lanes[T, R, N]) Close(ctx context.Context) error {
	for _, lane := range l.lanes() {
		if err := lane.Close(ctx); err != nil {
			return err
		}
	}
	return nil
}

// lanes are all lanes, the slow one last: what is left behind by the others goes there.
func (l *Lanes[T, R, N]) lanes() []*Group[T, passed[R, N]] {
	return slices.Concat(l.fast, []*Group[T, passed[R, N]]{l.wide, l.slow})
}

// sift flushes a batch and leaves behind what is stuck.
func (l *Lanes[T, R, N]) sift(ctx context.Context, batch []T) ([]passed[R, N], error) {
	all := make([]passed[R, N], len(batch))
	results, err := l.o.Flush(ctx, batch)
	if err != nil && l.o.Stuck(err) {
		if results, err = l.without(ctx, batch, err, all); err != nil && l.o.Stuck(err) {
			for i := range all {
				all[i].stuck = err
			}
			return all, nil
		}
	}
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].stuck == nil {
			all[i].result, results = results[0], results[1:]
		}
	}
	return all, nil
}

// glance is the time between two looks at what is held: what others lock for the moment
// of a commit is not.
const glance = 25 * time.Millisecond

// without flushes a batch that was stuck without the items whose needs are held, and
// notes those as left behind. None of them may be by now: then it is tried again.
func (l *Lanes[T, R, N]) without(ctx context.Context, batch []T, stuck error, all []passed[R, N]) ([]R, error) {
	var needs []N
	for _, item := range batch {
		needs = append(needs, l.o.Needs(item)...)
	}
	held, err := l.o.Held(ctx, needs)
	if err == nil && len(held) > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(glance):
		}
		held, err = l.o.Held(ctx, held)
	}
	if err != nil {
		return nil, err
	}
	var free []T
	for i, item := range batch {
		if some := l.among(item, func(need N) bool { return slices.Contains(held, need) }); some != nil {
			all[i].stuck, all[i].held = stuck, some
		} else {
			free = append(free, item)
		}
	}
	if free == nil {
		return nil, nil
	}
	return l.o.Flush(ctx, free)
}

// abandoned tells of results that nobody claimed; what was left behind has none.
func (l *Lanes[T, R, N]) abandoned(items []T, all []passed[R, N]) {
	var done []T
	var results []R
	for i, p := range all {
		if p.stuck == nil {
			done, results = append(done, items[i]), append(results, p.result)
		}
	}
	if done != nil {
		l.o.Abandoned(done, results)
	}
}
