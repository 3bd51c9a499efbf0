package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// clients is how many requests are under way at once, each sent when the one before
// it was answered.
const clients = 256

// traffic is a kind of request and what its answer must be.
type traffic struct {
	path string
	// next is the body of request n.
	next func(n uint64) []byte
	// header is what a request has in the place of the access token; nil: the token.
	header func() http.Header
	// check looks at an answer and says what is wrong with it; nil: only the status
	// counts. Called by one goroutine.
	check func(body []byte) error
	// before and after, if not nil, are done around a load; after is told how many
	// answers were right, and looks for them in the database.
	before func(ctx context.Context) error
	after  func(ctx context.Context, right int64) error
}

// sample is what a load measured.
type sample struct {
	Requests int64         `json:"requests"`
	Took     time.Duration `json:"took"`
	PerSec   float64       `json:"perSecond"` // requests a second, each of them answered rightly
	P50      time.Duration `json:"p50"`
	P95      time.Duration `json:"p95"`
	P99      time.Duration `json:"p99"`
	Refused  int64         `json:"refused,omitempty"` // answered with 503, where that was allowed
}

// target is a server that takes a load.
type target struct {
	url, token string
}

// loadOptions are what a load differs in.
type loadOptions struct {
	clients  int  // 0: clients
	rate     int  // requests a second, whatever the answers take; 0: each client asks when it was answered
	requests int  // at most; 0: for as long as it takes
	overload bool // 503 with Retry-After is an answer too
	broken   bool // no answer and 503 are expected: the test ends processes
}

// drive sends traffic to a server for a time, as fast as it answers. The first wrong
// answer is an error.
func drive(ctx context.Context, to target, what traffic, d time.Duration, o loadOptions) (sample, error) {
	if o.clients == 0 {
		o.clients = clients
	}
	if what.before != nil {
		if err := what.before(ctx); err != nil {
			return sample{}, err
		}
	}
	n := uint64(o.clients) //nolint:gosec // small
	transport := &http.Transport{MaxIdleConnsPerHost: max(o.clients, o.rate), MaxConnsPerHost: max(o.clients, o.rate), DisableCompression: true}
	defer transport.CloseIdleConnections()
	most := n
	if o.rate > 0 { // an open loop: a slow answer holds no other request up
		most = vegeta.DefaultMaxWorkers
	}
	attacker := vegeta.NewAttacker(vegeta.Workers(n), vegeta.MaxWorkers(most), vegeta.Client(&http.Client{Transport: transport, Timeout: time.Minute}))
	header := http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + to.token}}
	var serial atomic.Uint64
	var down atomic.Bool // the last request failed
	start := time.Now()
	results := attacker.Attack(func(t *vegeta.Target) error {
		if down.Load() {
			time.Sleep(50 * time.Millisecond) // who gets no answer does not ask again at once
		}
		at := serial.Add(1) - 1
		if o.requests > 0 && at >= uint64(o.requests) {
			return vegeta.ErrNoTargets
		}
		t.Method, t.URL, t.Body, t.Header = http.MethodPost, to.url+what.path, what.next(at), header
		if what.header != nil {
			t.Header = what.header()
		}
		return nil
	}, vegeta.Rate{Freq: o.rate, Per: time.Second}, d, "")
	var s sample
	var wrong error
	latencies := make([]time.Duration, 0, 1<<16)
	var last time.Time
	for r := range results {
		if wrong != nil || ctx.Err() != nil {
			attacker.Stop()
			continue
		}
		if r.Error == vegeta.ErrNoTargets.Error() {
			continue
		}
		down.Store(o.broken && r.Code != http.StatusOK)
		switch {
		case r.Code == http.StatusOK:
			if what.check != nil {
				wrong = what.check(r.Body)
			}
			s.Requests++
			latencies = append(latencies, r.Latency)
			last = r.End()
		case o.broken && (r.Code == 0 || r.Code == http.StatusServiceUnavailable):
		case o.overload && r.Code == http.StatusServiceUnavailable && r.Headers.Get("Retry-After") != "":
			s.Refused++
		default:
			wrong = fmt.Errorf("%s answered %d %s %s", what.path, r.Code, r.Error, bytes.TrimSpace(r.Body))
		}
	}
	if wrong != nil || ctx.Err() != nil {
		return s, fmt.Errorf("after %d right answers: %w", s.Requests, firstOf(wrong, ctx.Err()))
	}
	if what.after != nil {
		if err := what.after(ctx, s.Requests); err != nil {
			return s, err
		}
	}
	s.Took = last.Sub(start)
	if s.Requests > 0 {
		s.PerSec = float64(s.Requests) / s.Took.Seconds()
	}
	s.P50, s.P95, s.P99 = quantile(latencies, .5), quantile(latencies, .95), quantile(latencies, .99)
	return s, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// quantile sorts the values.
func quantile[T int64 | float64 | time.Duration](values []T, q float64) T {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(len(values)-1, int(q*float64(len(values))))]
}

func median(values []float64) float64 { return quantile(slices.Clone(values), .5) }
