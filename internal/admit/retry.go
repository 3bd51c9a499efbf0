package admit

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"golang.org/x/sync/singleflight"

	"github.com/keyledger/keyledger/db"
)

// What bounds the question when a refused request could pass. It is asked apart from
// the decision, whose batch others wait for, and its answer is remembered: a client that
// hammers a refused key costs one query a second, however much the key holds.
const (
	endsRemembered = time.Second
	endsTimeout    = 250 * time.Millisecond
	endsAtOnce     = 2      // queries under way
	endsKept       = 10_000 // keys remembered
)

// obstacle is one limit that a refused request must wait for.
type obstacle struct {
	measure         string // what is held against it; empty: nothing
	most, used, ask decimal.Decimal
	periodEnd       time.Time // zero: it never ends
}

// ending is an amount that a key holds until so many seconds after an instant.
type ending struct {
	seconds int64
	amount  decimal.Decimal
}

// endings remembers what keys hold and when it ends.
type endings struct {
	flights singleflight.Group
	mu      sync.Mutex
	known   map[uuid.UUID]held
	busy    int
}

// held is what a key held at an instant, by measure, the earliest end first.
type held struct {
	at   time.Time // by the database's clock
	read time.Time // by ours
	ends map[string][]ending
}

// withWait is a decision with the time after which a request that a limit has refused
// could pass at the earliest, if nothing happens but the passing of time: when the
// last of its limits frees enough. A request that no waiting helps has none, nor has one
// for which that could not be found out in time. Others cost nothing.
func (d *Decider) withWait(ctx context.Context, r Request, one decided, holds func(context.Context, uuid.UUID, time.Time) (held, error)) Decision {
	decision := one.Decision
	if !refusedByLimit(one.row) {
		return decision
	}
	found, err := holds(ctx, r.KeyID, one.row.DecidedAt)
	if err != nil {
		slog.DebugContext(ctx, "when a refused request could pass was not found out", "keyId", r.KeyID, "error", err)
		return decision
	}
	at := one.row.DecidedAt
	for _, o := range obstacles(r, one.row) {
		freeAt, ever := o.frees(one.row.DecidedAt, found)
		if !ever {
			return decision
		}
		at = latest(at, freeAt)
	}
	if expires := timeOrNil(one.row.KeyExpiresAt); expires == nil || !at.After(*expires) {
		wait := int64(math.Ceil(at.Sub(one.row.DecidedAt).Seconds()))
		decision.RetryAfterSeconds = &wait
	}
	return decision
}

func refusedByLimit(row db.AdmitRow) bool {
	_, byLimit := limitOf(Code(row.Code))
	return byLimit && !row.LetThrough
}

// obstacles are the limits of a key that a request asks for.
func obstacles(r Request, row db.AdmitRow) (list []obstacle) {
	for _, l := range limits {
		s, has := l.state(row)
		ask, asks := l.asks(r, row)
		if !has || !asks {
			continue
		}
		if l.measure == measureLeases {
			s.used = decimal.Zero // all that is used of it are leases, which end
		}
		list = append(list, obstacle{l.measure, s.most, s.used, ask, s.resetsAt})
	}
	return list
}

// frees is the earliest instant at which a limit has room for what is asked; false: waiting
// does not help. Leases and reservations end, and a period's use counts no more once
// the period is over.
func (o obstacle) frees(decided time.Time, h held) (at time.Time, ever bool) {
	left := decimal.Zero
	for _, e := range h.ends[o.measure] {
		left = left.Add(e.amount)
	}
	room := func(used decimal.Decimal) bool {
		return !left.GreaterThan(o.most.Sub(used).Sub(o.ask)) && left.LessThan(o.most.Sub(used))
	}
	consider := func(candidate time.Time) {
		if !ever || candidate.Before(at) {
			at, ever = candidate, true
		}
	}
	since := decided
	for next := 0; ; next++ {
		if room(o.used) {
			consider(since)
		}
		if o.periodEnd.Year() > 1 && room(decimal.Zero) {
			consider(latest(since, o.periodEnd))
		}
		if next == len(h.ends[o.measure]) {
			return at, ever
		}
		e := h.ends[o.measure][next]
		left, since = left.Sub(e.amount), h.at.Add(time.Duration(e.seconds)*time.Second)
	}
}

// remembered is what a key holds, as it was within the last second.
func (d *Decider) remembered(ctx context.Context, key uuid.UUID, at time.Time) (held, error) {
	if h, known := d.ends.get(key); known {
		return h, nil
	}
	found := d.ends.flights.DoChan(key.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endsTimeout)
		defer cancel()
		if !d.ends.enter() {
			return held{}, context.DeadlineExceeded
		}
		defer d.ends.leave()
		h, err := d.read(ctx, key, at)
		if err == nil {
			d.ends.put(key, h)
		}
		return h, err
	})
	select {
	case r := <-found:
		h, _ := r.Val.(held) // zero where reading failed
		return h, r.Err
	case <-ctx.Done():
		return held{}, ctx.Err()
	}
}

// read asks the database what a key holds at an instant.
func (d *Decider) read(ctx context.Context, key uuid.UUID, at time.Time) (held, error) {
	rows, err := d.o.Fast.AdmissionEnds(ctx, db.AdmissionEndsParams{KeyID: key, Now: at})
	if err != nil {
		return held{}, fmt.Errorf("reading what a key holds: %w", err)
	}
	h := held{at: at, read: time.Now(), ends: map[string][]ending{}}
	for _, row := range rows {
		h.ends[row.Measure] = append(h.ends[row.Measure], ending{row.Seconds, row.Amount})
	}
	return h, nil
}

// get is what is remembered of a key, if it was read less than a second before.
func (e *endings) get(key uuid.UUID) (held, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	h, known := e.known[key]
	return h, known && time.Since(h.read) < endsRemembered
}

func (e *endings) put(key uuid.UUID, h held) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known == nil || len(e.known) >= endsKept {
		e.known = map[uuid.UUID]held{} // a second's worth is soon read again
	}
	e.known[key] = h
}

// enter reports whether another query may be under way; leave ends it.
func (e *endings) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.busy == endsAtOnce {
		return false
	}
	e.busy++
	return true
}

func (e *endings) leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.busy--
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
