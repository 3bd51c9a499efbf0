package admit_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/usage"
)

// model is a plain, sequential account of one key: what the database must agree
// with after every step.
type model struct {
	window, requestLimit, tokenLimit, concurrency int64
	daily, total                                  decimal.Decimal

	windowStart      time.Time
	requests, tokens int64
	open             map[uuid.UUID]*slot
	spent            map[string]decimal.Decimal // by day

	requestOf map[uuid.UUID]string // of admissions; none: ""
	current   map[string]uuid.UUID // latest admission of each request id
	ended     map[uuid.UUID]bool   // admissions that usage has ended
	recorded  map[string]first     // by what usage is counted once by
}

// first is the usage that was recorded first under a request id or admission.
type first struct {
	admission uuid.UUID
	tokens    int64
	at        time.Time
}

func newModel(window int64) *model {
	return &model{window: window, open: map[uuid.UUID]*slot{}, spent: map[string]decimal.Decimal{}, requestOf: map[uuid.UUID]string{},
		current: map[string]uuid.UUID{}, ended: map[uuid.UUID]bool{}, recorded: map[string]first{}}
}

// repeats is what a request id alone decides; "": it decides nothing.
func (m *model) repeats(request string, at time.Time) (code admit.Code, id uuid.UUID) {
	if request == "" {
		return "", uuid.Nil
	}
	id = m.current[request]
	if _, used := m.recorded["r:"+request]; used || m.ended[id] {
		return admit.RequestSettled, uuid.Nil
	}
	if s := m.open[id]; s != nil && s.lease.After(at) {
		return admit.Allowed, id
	}
	return "", uuid.Nil
}

// settle is the contract on usage that counts once, in the plainest words: whether an
// event is recorded. named: the event names the admission; else its request id found it.
func (m *model) settle(admission uuid.UUID, request string, named bool, tokens int64, at time.Time) bool {
	event := first{admission, tokens, at}
	byRequest, again := m.recorded["r:"+request]
	again = again && request != ""
	_, settled := m.recorded["a:"+admission.String()]
	otherRun := again && byRequest.admission != admission && (byRequest.tokens != tokens || !byRequest.at.Equal(at))
	if admission == uuid.Nil {
		settled, otherRun = again, false
	}
	if settled || again && !otherRun {
		if named && m.open[admission] != nil {
			m.ended[admission] = true
			delete(m.open, admission)
		}
		return false
	}
	if admission != uuid.Nil {
		m.recorded["a:"+admission.String()] = event
		m.ended[admission] = true
		delete(m.open, admission)
	}
	if request != "" && !again {
		m.recorded["r:"+request] = event
	}
	return true
}

type slot struct {
	lease, until time.Time // zero lease: none
	tokens       int64
	cost         decimal.Decimal
}

func (m *model) inWindow(at time.Time) bool {
	return m.window > 0 && !m.windowStart.IsZero() && at.Before(m.windowStart.Add(time.Duration(m.window)*time.Minute))
}

func (m *model) all() (sum decimal.Decimal) {
	for _, c := range m.spent {
		sum = sum.Add(c)
	}
	return sum
}

// decide is the contract's order, in the plainest words.
func (m *model) decide(at time.Time, lease bool, tokens int64, cost decimal.Decimal) admit.Code {
	var leases, heldTokens int64
	held := decimal.Zero
	for _, s := range m.open {
		if s.lease.After(at) {
			leases++
		}
		if s.until.After(at) {
			heldTokens += s.tokens
			held = held.Add(s.cost)
		}
	}
	requests, used := int64(0), int64(0)
	if m.inWindow(at) {
		requests, used = m.requests, m.tokens
	}
	over := func(limit, spent decimal.Decimal) bool {
		return limit.IsPositive() && (spent.Add(held).GreaterThanOrEqual(limit) || spent.Add(held).Add(cost).GreaterThan(limit))
	}
	switch {
	case lease && m.concurrency > 0 && leases >= m.concurrency:
		return admit.ConcurrencyExceeded
	case m.window > 0 && m.requestLimit > 0 && requests >= m.requestLimit:
		return admit.RequestsExceeded
	case m.window > 0 && m.tokenLimit > 0 && (used+heldTokens >= m.tokenLimit || used+heldTokens+tokens > m.tokenLimit):
		return admit.TokensExceeded
	case over(m.daily, m.spent[at.Format(time.DateOnly)]):
		return admit.DailyCostExceeded
	case over(m.total, m.all()):
		return admit.TotalCostExceeded
	}
	return admit.Allowed
}

func (m *model) admit(id uuid.UUID, at time.Time, lease, tokens int64, cost decimal.Decimal) {
	if m.window > 0 && !m.inWindow(at) {
		m.windowStart, m.requests, m.tokens = at, 0, 0
	}
	m.requests++
	s := &slot{until: at.Add(max(time.Hour, time.Duration(lease)*time.Second)), tokens: tokens, cost: cost}
	if lease > 0 {
		s.lease = at.Add(time.Duration(lease) * time.Second)
	}
	m.open[id] = s
}

// history is one run of random steps against the database and the model.
type history struct {
	*rapid.T

	s   *stand
	m   *model
	id  uuid.UUID
	now time.Time
	ids []uuid.UUID
}

func (h *history) admits() {
	lease := rapid.SampledFrom([]int64{0, 5, 60, 3600}).Draw(h.T, "lease")
	tokens := rapid.SampledFrom([]int64{0, 1, 100, 700}).Draw(h.T, "tokens")
	cost := decimal.New(rapid.SampledFrom([]int64{0, 1, 5, 40}).Draw(h.T, "cost"), -4)
	n := rapid.IntRange(1, 3).Draw(h.T, "batch")
	batch := make([]admit.Request, n)
	var order, later []int // a repeat within the batch is decided after the rest
	for i := range batch {
		request := rapid.SampledFrom([]string{"", "", "r1", "r2", "r3"}).Draw(h.T, "request")
		if slices.ContainsFunc(batch[:i], func(r admit.Request) bool { return request != "" && r.RequestID == request }) {
			later = append(later, i)
		} else {
			order = append(order, i)
		}
		batch[i] = admit.Request{KeyID: h.id, RequestID: request, LeaseSeconds: int32(lease), Tokens: tokens, CostUSD: &cost}
	}
	if n == 3 && len(later) == 2 && batch[1].RequestID == batch[2].RequestID && batch[0].RequestID == batch[1].RequestID {
		order, later = []int{0, 1}, []int{2} // three times the same: one after another
	}
	got, err := h.s.admit.DecideAll(ctx, batch, &h.now)
	if err != nil {
		h.Fatal(err)
	}
	defer func() {
		for _, d := range got {
			if d.Code != admit.RequestSettled {
				h.checkWait(d, lease > 0, tokens, cost)
			}
		}
	}()
	for _, i := range append(order, later...) {
		d, request := got[i], batch[i].RequestID
		if code, id := h.m.repeats(request, h.now); code != "" {
			if d.Code != code || d.AdmissionID != id || d.Repeated != (code == admit.Allowed) {
				h.Fatalf("request %q at %s: %s %s, the model says %s %s", request, h.now, d.Code, d.AdmissionID, code, id)
			}
			continue
		}
		want := h.m.decide(h.now, lease > 0, tokens, cost)
		if d.Code != want {
			h.Fatalf("request %d at %s: the database says %s, the model %s\n%+v\n%+v", i, h.now, d.Code, want, d.Limits, h.m)
		}
		if d.Allowed {
			h.m.admit(d.AdmissionID, h.now, lease, tokens, cost)
			h.ids = append(h.ids, d.AdmissionID)
			if h.m.requestOf[d.AdmissionID] = request; request != "" {
				h.m.current[request] = d.AdmissionID
			}
		}
	}
}

// checkWait holds retryAfterSeconds to the model: after so many seconds the same
// request would pass if nothing else happened, and a second earlier it would not;
// without one it would not in a hundred years.
func (h *history) checkWait(d admit.Decision, lease bool, tokens int64, cost decimal.Decimal) {
	if d.Allowed {
		return
	}
	after := func(seconds int64) admit.Code {
		return h.m.decide(h.now.Add(time.Duration(seconds)*time.Second), lease, tokens, cost)
	}
	const century = 3_155_760_000
	switch s := d.RetryAfterSeconds; {
	case s == nil && after(century) == admit.Allowed:
		h.Fatalf("%s at %s: no time to retry at, but the model lets it through later\n%+v", d.Code, h.now, h.m)
	case s != nil && (after(*s) != admit.Allowed || *s > 0 && after(*s-1) == admit.Allowed):
		h.Fatalf("%s at %s: retry after %d s: then %s, a second before %s\n%+v", d.Code, h.now, *s, after(*s), after(*s-1), h.m)
	}
}

func (h *history) pick() (uuid.UUID, *slot) {
	if len(h.ids) == 0 {
		h.Skip("nothing was admitted yet")
	}
	id := rapid.SampledFrom(h.ids).Draw(h.T, "admission")
	return id, h.m.open[id]
}

func (h *history) releases() {
	id, _ := h.pick()
	if err := h.s.admit.Release(ctx, id); err != nil {
		h.Fatal(err)
	}
	delete(h.m.open, id)
}

func (h *history) renews() {
	id, s := h.pick()
	seconds := rapid.SampledFrom([]int32{5, 600}).Draw(h.T, "seconds")
	end, err := h.s.admit.Renew(ctx, id, seconds, &h.now)
	if live := s != nil && s.lease.After(h.now); live != (err == nil) {
		h.Fatalf("renew: lease live %v, error %v", live, err)
	}
	if err == nil {
		if want := h.now.Add(time.Duration(seconds) * time.Second); want.After(s.lease) {
			s.lease = want
		}
		if until := h.now.Add(time.Hour); until.After(s.until) {
			s.until = until
		}
		if !end.Equal(s.lease) {
			h.Fatalf("renewed to %s, want %s", end, s.lease)
		}
	}
}

// settles records input tokens of gpt-4o, $2.50 a million, at the history's time: by an
// admission, by it and its request id, or by the request id alone.
func (h *history) settles() {
	id, _ := h.pick()
	tokens := rapid.SampledFrom([]int64{0, 40, 400, 4000}).Draw(h.T, "settled")
	event := usage.Event{AdmissionID: id, Model: "gpt-4o", ModelReceived: "gpt-4o", Counts: usage.Counts{Input: tokens}, OccurredAt: h.now}
	by := rapid.SampledFrom([]string{"admission", "both", "request"}).Draw(h.T, "by")
	request := h.m.requestOf[id]
	if by != "admission" {
		event.RequestID = request
	}
	if by == "request" && request != "" {
		event.KeyID, event.AdmissionID, id = h.id, uuid.Nil, h.m.current[request]
	}
	got, err := h.s.record.RecordAt(ctx, []usage.Event{event}, h.now)
	if err != nil {
		h.Fatal(err)
	}
	if recorded := h.m.settle(id, event.RequestID, event.AdmissionID != uuid.Nil, tokens, h.now); recorded == got[0].Duplicate {
		h.Fatalf("usage by %s of %s, request %q: recorded %v says the model, duplicate %v the answer", by, id, request, recorded, got[0].Duplicate)
	}
	if got[0].Duplicate {
		return
	}
	day := h.now.Format(time.DateOnly)
	h.m.spent[day] = h.m.spent[day].Add(decimal.NewFromInt(tokens).Mul(decimal.New(25, -7)))
	if h.m.inWindow(h.now) {
		h.m.tokens += tokens
	}
}

func (h *history) patches() {
	h.m.concurrency = rapid.Int64Range(0, 3).Draw(h.T, "concurrency")
	h.m.requestLimit = rapid.Int64Range(0, 6).Draw(h.T, "requests")
	h.m.tokenLimit = rapid.SampledFrom([]int64{0, 500, 2000}).Draw(h.T, "tokens limit")
	h.m.daily = decimal.New(rapid.SampledFrom([]int64{0, 50, 100}).Draw(h.T, "daily"), -4)
	h.m.total = decimal.New(rapid.SampledFrom([]int64{0, 200}).Draw(h.T, "total"), -4)
	h.store()
}

func (h *history) store() {
	pgtest.Exec(h.s.t, h.s.db, `UPDATE api_keys SET concurrency_limit = $2, rate_limit_requests = $3, token_limit = $4, daily_cost_limit = $5, total_cost_limit = $6 WHERE id = $1`,
		h.id, h.m.concurrency, h.m.requestLimit, h.m.tokenLimit, h.m.daily, h.m.total)
}

func (h *history) waits() {
	h.now = h.now.Add(rapid.SampledFrom([]time.Duration{time.Millisecond, 5*time.Second - time.Millisecond, time.Minute, 10 * time.Minute, time.Hour, 9 * time.Hour}).Draw(h.T, "step"))
}

func (h *history) sweeps() {
	if _, err := h.s.db.AdmissionSweep(ctx, &h.now); err != nil {
		h.Fatal(err)
	}
}

// Guarantee: over random interleavings of admissions, renewals, releases,
// settlements, expiry, changes of limits and steps of the clock, with request ids
// repeated after every kind of end, the database decides and records as a plain model in
// memory does, every time. make soak runs 10 000
// histories.
func TestHistoriesProperty(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	s := newStand(t, d, "UTC")
	rapid.Check(t, func(r *rapid.T) {
		m := newModel(rapid.SampledFrom([]int64{0, 1, 30}).Draw(r, "window"))
		h := &history{T: r, s: s, m: m, id: s.key(key.Columns{"rate_limit_window": m.window}), now: start}
		h.patches()
		for range rapid.IntRange(5, 25).Draw(r, "steps") {
			step := rapid.SampledFrom([]string{"admits", "admits", "admits", "settles", "releases", "renews", "waits", "patches", "sweeps"}).Draw(r, "step kind")
			if len(h.ids) == 0 && (step == "settles" || step == "releases" || step == "renews") {
				continue
			}
			map[string]func(){"admits": h.admits, "settles": h.settles, "releases": h.releases, "renews": h.renews, "waits": h.waits, "patches": h.patches, "sweeps": h.sweeps}[step]()
		}
		held, err := d.AdmissionsHeld(ctx, db.AdmissionsHeldParams{KeyIDs: []uuid.UUID{h.id}, Now: &h.now})
		if err != nil {
			r.Fatal(err)
		}
		leases := int64(0)
		for _, slot := range m.open {
			if slot.lease.After(h.now) {
				leases++
			}
		}
		if len(held) == 1 && held[0].Leases != leases || len(held) == 0 && leases != 0 {
			r.Fatalf("leases held: %v, the model has %d", held, leases)
		}
	})
}
