package relay

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// atOnce is how many settlements, or leases, are on their way to the ledger at once when
// many wait.
const atOnce = 16

// journalAfter is how long the ledger may take before the journal is told of a settlement:
// until then it has the request as open, which is enough, since an admission is settled once,
// whatever settles it.
const journalAfter = 100 * time.Millisecond

// settle records what a request used. If the ledger cannot take it now, the journal keeps it;
// whoever waits for it waits no longer than settleWait.
func (r *Relay) settle(u Usage) {
	done := make(chan struct{})
	r.claim(u.AdmissionID)
	r.background.Go(func() {
		defer r.unclaim(u.AdmissionID)
		ctx, cancel := context.WithTimeout(context.Background(), ledgerTimeout)
		defer cancel()
		kept := sync.OnceFunc(func() { r.keep(ctx, u) })
		slow := time.AfterFunc(journalAfter, kept)
		recorded := r.record(ctx, u, true)
		if !slow.Stop() || !recorded {
			kept() // or wait until it is
		}
		close(done)
		if recorded {
			r.journal.forget(u.AdmissionID)
		}
	})
	select {
	case <-done:
	case <-time.After(settleWait):
	}
}

// keep tells the journal of a settlement.
func (r *Relay) keep(ctx context.Context, u Usage) {
	if err := r.journal.write(ctx, line{ID: u.AdmissionID, State: stateSettle, Usage: u}); err != nil {
		// The journal has at least that the request is open, and what was seen of it.
		r.metrics.journaled.WithLabelValues("journal").Inc()
		r.log.Error("the journal did not take a settlement", "admission", u.AdmissionID, "error", err)
	}
}

// record brings a settlement into the ledger, and tells whether that is done with. first: it
// has not been tried before, so if the ledger has it already, another request had the same id
// from its provider: then it is recorded under one that no other request has.
func (r *Relay) record(ctx context.Context, u Usage, first bool) (done bool) {
	duplicate, err := r.c.Ledger.Record(ctx, u)
	if errors.Is(err, ErrRefused) && u.Fallback != nil {
		r.log.Error("the ledger refuses what a provider told: it is estimated", "admission", u.AdmissionID, "usage", string(u.Usage), "error", err)
		u.Usage, u.Estimated, u.Fallback = u.Fallback, true, nil
		duplicate, err = r.c.Ledger.Record(ctx, u)
	}
	if err == nil && duplicate && first && u.RequestID != "" {
		u.RequestID = shortID(u.RequestID + "#" + u.AdmissionID.String())
		_, err = r.c.Ledger.Record(ctx, u)
	}
	switch {
	case errors.Is(err, ErrRefused):
		r.log.Error("the ledger refuses what a request used: it is given up", "admission", u.AdmissionID, "usage", string(u.Usage), "error", err)
	case err != nil:
		r.metrics.journaled.WithLabelValues("record").Inc()
		r.log.Warn("what a request used waits in the journal until the ledger takes it", "admission", u.AdmissionID, "error", err)
		return false
	}
	return true
}

// claim takes a settlement to be recorded by one goroutine; false: another one has it.
func (r *Relay) claim(admission uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[admission] {
		return false
	}
	r.busy[admission] = true
	return true
}

func (r *Relay) unclaim(admission uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, admission)
}

// release ends an admission of which nothing was used. The journal knows it first, so that
// it is tried again if the ledger is away, and nothing is estimated after a crash.
func (r *Relay) release(x *exchange) {
	id := x.decision.AdmissionID
	r.claim(id)
	defer r.unclaim(id)
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()
	if err := r.journal.write(ctx, line{ID: id, State: stateRelease}); err != nil {
		r.metrics.journaled.WithLabelValues("journal").Inc()
	}
	if r.released(ctx, id) {
		r.journal.forget(id)
	}
}

// released releases an admission, and tells whether that is done with.
func (r *Relay) released(ctx context.Context, id uuid.UUID) bool {
	if err := r.c.Ledger.Release(ctx, id); err != nil {
		r.metrics.journaled.WithLabelValues("release").Inc()
		r.log.Warn("an admission was not released, and is tried again", "admission", id, "error", err)
		return false
	}
	return true
}

// adopt settles what an earlier relay left open, by what it last saw of it.
func (r *Relay) adopt(ctx context.Context) error {
	open := r.journal.left(stateOpen, stateSeen)
	if len(open) == 0 {
		return nil
	}
	r.log.Info("requests that an earlier relay left open are settled by estimate", "requests", len(open))
	for i := range open {
		open[i].State = stateSettle
	}
	return r.journal.write(ctx, open...)
}

// every calls a function again and again until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

const (
	// behind is how far the journal may be behind what was seen.
	behind = time.Second
	// followEvery is how often those answers are looked for whose time has come: each in
	// its turn, since a thousand of them at once would hold up what flows.
	followEvery = behind / 20
)

// follow tells the journal what has come of answers.
func (r *Relay) follow(ctx context.Context) {
	every(ctx, followEvery, func() {
		var lines []line
		now := time.Now()
		for _, x := range r.underWay() {
			x.mu.Lock()
			if x.news && !x.settled && now.Sub(x.told) >= behind-followEvery {
				lines = append(lines, line{ID: x.decision.AdmissionID, State: stateSeen, Usage: x.usage(true)})
				x.news, x.told = false, now
			}
			x.mu.Unlock()
		}
		if len(lines) == 0 {
			return
		}
		if err := r.journal.write(ctx, lines...); err != nil && ctx.Err() == nil {
			r.metrics.journaled.WithLabelValues("journal").Inc()
			r.log.Error("the journal did not take what was seen", "error", err)
		}
	})
}

// tidy lets the journal write what is done when no other line takes it along.
func (r *Relay) tidy(ctx context.Context) {
	every(ctx, behind, func() {
		if err := r.journal.tidy(); err != nil {
			r.metrics.journaled.WithLabelValues("journal").Inc()
			r.log.Error("the journal did not take what is done", "error", err)
		}
	})
}

// keepLeases renews the leases of answers that flow.
func (r *Relay) keepLeases(ctx context.Context) {
	every(ctx, followEvery, func() {
		var due []*exchange
		for _, x := range r.underWay() {
			if time.Since(x.renewed) > renewEvery {
				due = append(due, x)
			}
		}
		r.all(len(due), func(i int) {
			due[i].renewed = time.Now()
			ctx, cancel := context.WithTimeout(ctx, ledgerTimeout)
			defer cancel()
			if err := r.c.Ledger.Renew(ctx, due[i].decision.AdmissionID, lease); err != nil && !due[i].done() {
				r.metrics.journaled.WithLabelValues("renew").Inc()
				r.log.Debug("a lease was not renewed", "admission", due[i].decision.AdmissionID, "error", err)
			}
		})
	})
}

// Waits between tries of what the ledger did not take.
const (
	retryLeast = time.Second
	retryMost  = 30 * time.Second
)

// retry brings what waits in the journal into the ledger.
func (r *Relay) retry(ctx context.Context) {
	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		before := r.journal.left(stateSettle, stateRelease)
		r.all(len(before), func(i int) {
			if !r.claim(before[i].ID) {
				return
			}
			defer r.unclaim(before[i].ID)
			ctx, cancel := context.WithTimeout(ctx, ledgerTimeout)
			defer cancel()
			var done bool
			if before[i].State == stateRelease {
				done = r.released(ctx, before[i].ID)
			} else {
				done = r.record(ctx, before[i].Usage, false)
			}
			if done {
				r.journal.forget(before[i].ID)
			}
		})
		switch {
		case len(before) == 0 || len(r.journal.left(stateSettle, stateRelease)) < len(before):
			wait = retryLeast
		default:
			wait = min(max(2*wait, retryLeast), retryMost)
		}
	}
}

// all does something for each of n, a few at a time.
func (r *Relay) all(n int, do func(i int)) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range n {
		g.Go(func() error {
			do(i)
			return nil
		})
	}
	_ = g.Wait() // do tells what fails
}
