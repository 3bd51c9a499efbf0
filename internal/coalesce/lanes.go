package coalesce

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// LanesOptions make Lanes. All of them must be set, as Flush.
type LanesOptions[T, R any, N comparable] struct {
	Options[T, R]

	// Patient is Flush for items whose needs are held: it waits for them longer.
	Patient func(ctx context.Context, batch []T) ([]R, error)
	// Needs are the things that an item cannot do without, each held by one at a time.
	Needs func(T) []N
	// Stuck tells whether a batch failed because it waited for its needs too long.
	Stuck func(error) bool
	// Held are those of these needs that somebody else holds at this moment.
	Held func(ctx context.Context, needs []N) ([]N, error)
}

// Lanes are a group whose batches do not wait for one item's sake: what an item
// needs may be held by somebody else for long (a row that psql has locked). A batch
// that is stuck goes on without the items whose needs are held. Those go to a patient
// lane with one writer, and so do later items with the same needs for as long as any
// of them waits there. It is safe for concurrent use.
type Lanes[T, R any, N comparable] struct {
	o       LanesOptions[T, R, N]
	fast    *Group[T, passed[R, N]]
	patient *Group[T, passed[R, N]]

	mu   sync.Mutex
	held map[N]int // items in the patient lane, by what was held of their needs
}

// passed is what became of an item in a batch that went on: its result, or why it
// was left behind and which of its needs were held.
type passed[R any, N comparable] struct {
	result R
	stuck  error
	held   []N
}

// NewLanes makes lanes. The patient one lets no more wait than one batch holds, so
// that what is held for long takes no room from the rest.
func NewLanes[T, R any, N comparable](o LanesOptions[T, R, N]) *Lanes[T, R, N] {
	l := &Lanes[T, R, N]{o: o, held: map[N]int{}}
	options := Options[T, passed[R, N]]{Limits: o.Limits, Flush: l.sift(o.Flush), Weight: o.Weight, Single: o.Single}
	if o.Abandoned != nil {
		options.Abandoned = l.abandoned
	}
	l.fast = New(options)
	options.Writers, options.MaxQueue, options.Flush = 1, cmp.Or(options.MaxBatch, defaultBatch), l.sift(o.Patient)
	l.patient = New(options)
	return l
}

// Do is Group.Do. An item whose needs stay held longer than Patient waits gets
// Patient's error.
func (l *Lanes[T, R, N]) Do(ctx context.Context, item T) (R, error) {
	held := l.known(item)
	if held == nil {
		p, err := l.fast.Do(ctx, item)
		if err != nil || p.stuck == nil {
			return p.result, err
		}
		held = p.held
	}
	l.count(held, 1)
	defer l.count(held, -1)
	p, err := l.patient.Do(ctx, item)
	if err == nil {
		err = p.stuck
	}
	return p.result, err
}

// known are those of an item's needs that items in the patient lane wait for.
func (l *Lanes[T, R, N]) known(item T) []N {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) == 0 {
		return nil
	}
	return l.among(item, func(need N) bool { return l.held[need] > 0 })
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

func (l *Lanes[T, R, N]) count(needs []N, by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, need := range needs {
		if l.held[need] += by; l.held[need] == 0 {
			delete(l.held, need)
		}
	}
}

// State is Group.State, of both lanes.
func (l *Lanes[T, R, N]) State() (waiting int, oldest time.Duration) {
	fast, first := l.fast.State()
	patient, second := l.patient.State()
	return fast + patient, max(first, second)
}

// Close is Group.Close, of both lanes; what is left behind by then is refused.
func (l *Lanes[T, R, N]) Close(ctx context.Context) error {
	if err := l.fast.Close(ctx); err != nil {
		return err
	}
	return l.patient.Close(ctx)
}

// sift makes a flush that leaves behind what is stuck.
func (l *Lanes[T, R, N]) sift(flush func(context.Context, []T) ([]R, error)) func(context.Context, []T) ([]passed[R, N], error) {
	return func(ctx context.Context, batch []T) ([]passed[R, N], error) {
		all := make([]passed[R, N], len(batch))
		results, err := flush(ctx, batch)
		if err != nil && l.o.Stuck(err) {
			if results, err = l.without(ctx, flush, batch, err, all); err != nil && l.o.Stuck(err) {
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
}

// without flushes a batch that was stuck without the items whose needs are held, and
// notes those as left behind. None of them may be by now: then it is tried again.
func (l *Lanes[T, R, N]) without(ctx context.Context, flush func(context.Context, []T) ([]R, error), batch []T, stuck error, all []passed[R, N]) ([]R, error) {
	var needs []N
	for _, item := range batch {
		needs = append(needs, l.o.Needs(item)...)
	}
	held, err := l.o.Held(ctx, needs)
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
	return flush(ctx, free)
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
