package admit_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/coalesce"

	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var (
	ctx   = context.Background()
	start = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC) // a Monday
)

func usd(text string) decimal.Decimal { return decimal.RequireFromString(text) }

func ptr[T any](v T) *T { return &v }

// stand is what a test decides with.
type stand struct {
	t       testing.TB
	db      *db.DB
	options admit.Options
	admit   *admit.Decider
	record  *usage.Recorder
}

func newStand(t testing.TB, d *db.DB, zone string) *stand {
	t.Helper()
	prices := price.New(d, cache.Deaf)
	if _, err := prices.PutBuiltin(ctx); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load([]string{"DATABASE_URL=x", "KEYLEDGER_PEPPERS=p:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="})
	if err != nil {
		t.Fatal(err)
	}
	writers := coalesce.NewWriters(1)
	s := &stand{t: t, db: d, record: usage.New(usage.Options{Fast: d, Patient: d, Prices: prices, Timezone: zone, Writers: writers})}
	s.options = admit.Options{Fast: d, Patient: d, Prices: prices, Clients: cfg.Clients, Timezone: zone, ReservationTTL: time.Hour,
		Refusals: admit.NewRefusals(d, zone, nil), Writers: writers, Log: slog.New(slog.DiscardHandler)}
	s.admit = admit.New(s.options)
	return s
}

// with makes admissions of other options.
func (s *stand) with(change func(*admit.Options)) {
	change(&s.options)
	s.admit = admit.New(s.options)
}

func (s *stand) key(fields key.Columns) uuid.UUID {
	s.t.Helper()
	id, _ := pgtest.Key(s.t, s.db, pgtest.KeyRow{Fields: fields})
	return id
}

func (s *stand) ask(r admit.Request, at time.Time) admit.Decision {
	s.t.Helper()
	d, err := s.admit.Decide(ctx, r, &at)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *stand) want(r admit.Request, at time.Time, code admit.Code) admit.Decision {
	s.t.Helper()
	d := s.ask(r, at)
	if d.Code != code {
		s.t.Errorf("%s: %s, want %s (%+v)", at.Format(time.RFC3339Nano), d.Code, code, d)
	}
	return d
}

// Guarantee: restrictions are tried in the contract's order, and leaving out what
// a key is restricted by is no way round it.
func TestRestrictions(t *testing.T) {
	t.Parallel()
	s := newStand(t, pgtest.New(t), "UTC")
	const agent = "claude-cli/1.0.58 (external, cli)"
	names := func(models ...string) key.Columns {
		compared := []string{}
		for _, m := range models {
			compared = append(compared, price.Denied(m))
		}
		return key.Columns{"enable_model_restriction": true, "restricted_models": append([]string{}, models...), "restricted_model_names": compared}
	}
	allow := key.Columns{"enable_model_restriction": true, "allowed_models": []string{"claude-sonnet-4"}, "allowed_model_names": []string{price.Comparable("claude-sonnet-4")}}
	for i, c := range []struct {
		fields key.Columns
		ask    admit.Request
		want   admit.Code
	}{
		{nil, admit.Request{}, admit.Allowed},
		{key.Columns{"is_active": false, "expires_at": start.Add(-1)}, admit.Request{}, "DISABLED"},
		{key.Columns{"expires_at": start.Add(-time.Microsecond)}, admit.Request{}, "EXPIRED"},
		{key.Columns{"expires_at": start}, admit.Request{}, admit.Allowed},
		{key.Columns{"permissions": []string{"claude"}}, admit.Request{Service: "claude"}, admit.Allowed},
		{key.Columns{"permissions": []string{"claude"}}, admit.Request{Service: "gemini"}, admit.ServiceNotPermitted},
		{key.Columns{"permissions": []string{"claude"}}, admit.Request{}, admit.ServiceNotPermitted},
		{names("claude-opus-4_1"), admit.Request{Model: "us.anthropic.CLAUDE-opus-4-1-v1:0"}, admit.ModelNotAllowed},
		{names("claude-opus-4_1"), admit.Request{Model: "claude-opus-4-1[1m]"}, admit.ModelNotAllowed},
		{names("claude-opus-4_1"), admit.Request{Model: "claude-opus-4"}, admit.Allowed},
		{names("claude-opus-4_1"), admit.Request{}, admit.ModelNotAllowed},
		{names("gemini-2.5-pro", "claude-opus-4-1-20250805"), admit.Request{Model: "models/gemini-2.5-pro"}, admit.ModelNotAllowed},
		{names("gemini-2.5-pro", "claude-opus-4-1-20250805"), admit.Request{Model: "google/gemini-2.5-pro"}, admit.ModelNotAllowed},
		{names("gemini-2.5-pro", "claude-opus-4-1-20250805"), admit.Request{Model: "anthropic/claude-opus-4-1-20250805"}, admit.ModelNotAllowed},
		{names("gemini-2.5-pro", "claude-opus-4-1-20250805"), admit.Request{Model: "claude-opus-4-1"}, admit.ModelNotAllowed},
		{names(), admit.Request{}, admit.Allowed},
		{allow, admit.Request{Model: "Claude_Sonnet_4"}, admit.Allowed},
		{allow, admit.Request{Model: "claude-sonnet-4-5"}, admit.ModelNotAllowed},
		{allow, admit.Request{}, admit.ModelNotAllowed},
		{key.Columns{"restricted_model_names": []string{"x"}}, admit.Request{Model: "x"}, admit.Allowed},
		{key.Columns{"enable_client_restriction": true, "allowed_clients": []string{"claude_code"}}, admit.Request{UserAgent: agent}, admit.Allowed},
		{key.Columns{"enable_client_restriction": true, "allowed_clients": []string{"gemini_cli"}}, admit.Request{UserAgent: agent}, admit.ClientNotAllowed},
		{key.Columns{"enable_client_restriction": true, "allowed_clients": []string{"claude_code"}}, admit.Request{}, admit.ClientNotAllowed},
		{key.Columns{"enable_client_restriction": true, "allowed_clients": []string{"gemini_cli"}}, admit.Request{UserAgent: "GeminiCLI/0.9.0/gemini-2.5-pro (linux; x64; terminal)"}, admit.Allowed},
		{key.Columns{"enable_client_restriction": true, "allowed_clients": []string{"gemini_cli"}}, admit.Request{UserAgent: "GeminiCLI/v0.1.9 (linux; x64)"}, admit.Allowed},
		{key.Columns{"enable_client_restriction": true}, admit.Request{}, admit.Allowed},
	} {
		c.ask.KeyID = s.key(c.fields)
		if d := s.ask(c.ask, start); d.Code != c.want || d.Allowed != (c.want == admit.Allowed) || d.Message == "" {
			t.Errorf("case %d: %+v, want %s", i, d, c.want)
		}
	}
	s.want(admit.Request{KeyID: uuid.New()}, start, "NOT_FOUND")
	if n := pgtest.Scan[int](t, s.db, "SELECT count(*) FROM admissions"); n != 11 {
		t.Errorf("%d admissions are written, want one for each allowed request", n)
	}
}

// Guarantee: the first instant of a day is the first instant of that day, in every zone
// and on every date, also where midnight comes twice or never.
func TestDayStartProperty(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	zones := []string{"UTC", "Europe/Berlin", "Atlantic/Azores", "Africa/Cairo", "America/Santiago", "America/Havana", "Asia/Beirut", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia", "America/Nuuk"}
	rapid.Check(t, func(rt *rapid.T) {
		zone := rapid.SampledFrom(zones).Draw(rt, "zone")
		loc, err := time.LoadLocation(zone)
		if err != nil {
			rt.Fatal(err)
		}
		day := time.Date(2012, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, rapid.IntRange(0, 9000).Draw(rt, "day")).Format(time.DateOnly)
		start := pgtest.Scan[time.Time](t, d, "SELECT day_start($1::date, $2)", day, zone)
		if got := start.In(loc).Format(time.DateOnly); got != day {
			rt.Fatalf("%s begins at %s in %s, where it is %s", day, start.UTC(), zone, got)
		}
		for before := time.Minute; before < 4*time.Hour; before += time.Minute {
			if start.Add(-before).In(loc).Format(time.DateOnly) == day {
				rt.Fatalf("%s begins at %s in %s, and it is that day %s before", day, start.UTC(), zone, before)
			}
		}
	})
}

// Guarantee: a window starts at the first admitted request, counts requests and
// tokens, refuses at its last millisecond and starts anew at its end.
func TestWindow(t *testing.T) {
	t.Parallel()
	s := newStand(t, pgtest.New(t), "UTC")
	id := s.key(key.Columns{"rate_limit_window": 60, "rate_limit_requests": 2, "token_limit": 0})
	s.want(admit.Request{KeyID: id}, start, admit.Allowed)
	d := s.want(admit.Request{KeyID: id}, start.Add(time.Minute), admit.Allowed)
	if l := d.Limits[0]; l.Name != "requests" || l.Used.String() != "2" || l.Remaining.String() != "0" || !l.ResetsAt.Equal(start.Add(time.Hour)) {
		t.Errorf("the limit reads %+v", l)
	}
	d = s.want(admit.Request{KeyID: id}, start.Add(time.Hour-time.Millisecond), admit.RequestsExceeded)
	if *d.RetryAfterSeconds != 1 {
		t.Errorf("retry after %d s at the last millisecond", *d.RetryAfterSeconds)
	}
	if d := s.ask(admit.Request{KeyID: id}, start.Add(time.Minute)); *d.RetryAfterSeconds != 59*60 {
		t.Errorf("retry after %d s, want 3540", *d.RetryAfterSeconds)
	}
	d = s.want(admit.Request{KeyID: id}, start.Add(time.Hour), admit.Allowed)
	if l := d.Limits[0]; l.Used.String() != "1" || !l.ResetsAt.Equal(start.Add(2*time.Hour)) {
		t.Errorf("the next window reads %+v", l)
	}
	tokens := s.key(key.Columns{"rate_limit_window": 60, "token_limit": 1000})
	now := time.Now()
	first := s.want(admit.Request{KeyID: tokens, Tokens: 600}, now, admit.Allowed)
	d = s.want(admit.Request{KeyID: tokens, Tokens: 401}, now, admit.TokensExceeded)
	if l := d.Limits[0]; l.Name != "tokens" || l.Reserved.String() != "600" || l.Remaining.String() != "400" {
		t.Errorf("the token limit reads %+v", l)
	}
	s.want(admit.Request{KeyID: tokens, Tokens: 400}, now, admit.Allowed)
	s.want(admit.Request{KeyID: tokens}, now, admit.TokensExceeded)
	if d := s.ask(admit.Request{KeyID: tokens, Tokens: 1001}, now); d.RetryAfterSeconds != nil {
		t.Error("waiting does not help an estimate above the limit")
	}
	s.settle(first.AdmissionID, 100, "")
	s.want(admit.Request{KeyID: tokens, Tokens: 501}, now, admit.TokensExceeded)
	s.want(admit.Request{KeyID: tokens, Tokens: 500}, now, admit.Allowed)
	none := s.key(key.Columns{"rate_limit_requests": 1, "token_limit": 1})
	for range 3 {
		s.want(admit.Request{KeyID: none, Tokens: 5}, start, admit.Allowed)
	}
}

// settle records input tokens of gpt-4o ($2.50 a million) for an admission.
func (s *stand) settle(admission uuid.UUID, tokens int64, requestID string) usage.Result {
	s.t.Helper()
	r, err := s.record.Record(ctx, []usage.Event{{AdmissionID: admission, RequestID: requestID, Model: "gpt-4o", ModelReceived: "gpt-4o", Counts: usage.Counts{Input: tokens}}})
	if err != nil {
		s.t.Fatal(err)
	}
	return r[0]
}

// Guarantee: slots are live leases: given back by time to the millisecond, by
// release and by settlement, extended by renewal while they live and not after.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	s := newStand(t, pgtest.New(t), "UTC")
	id := s.key(key.Columns{"concurrency_limit": 2})
	a := s.want(admit.Request{KeyID: id, LeaseSeconds: 60}, start, admit.Allowed)
	s.want(admit.Request{KeyID: id, LeaseSeconds: 30}, start, admit.Allowed)
	d := s.want(admit.Request{KeyID: id, LeaseSeconds: 60}, start.Add(500*time.Millisecond), admit.ConcurrencyExceeded)
	if *d.RetryAfterSeconds != 30 || d.Limits[0].Used.String() != "2" {
		t.Errorf("%+v", d)
	}
	s.want(admit.Request{KeyID: id}, start, admit.Allowed) // takes no slot
	s.want(admit.Request{KeyID: id, LeaseSeconds: 60}, start.Add(30*time.Second-time.Millisecond), admit.ConcurrencyExceeded)
	c := s.want(admit.Request{KeyID: id, LeaseSeconds: 60}, start.Add(30*time.Second), admit.Allowed)
	s.want(admit.Request{KeyID: id, LeaseSeconds: 60}, start.Add(31*time.Second), admit.ConcurrencyExceeded)
	for range 2 {
		if err := s.admit.Release(ctx, c.AdmissionID); err != nil {
			t.Error(err)
		}
	}
	s.want(admit.Request{KeyID: id, LeaseSeconds: 60}, start.Add(31*time.Second), admit.Allowed)
	end, err := s.admit.Renew(ctx, a.AdmissionID, 100, ptr(start.Add(59*time.Second)))
	if err != nil || !end.Equal(start.Add(159*time.Second)) {
		t.Errorf("renewed to %s: %v", end, err)
	}
	if _, err := s.admit.Renew(ctx, a.AdmissionID, 100, ptr(start.Add(159*time.Second))); err == nil {
		t.Error("a lease that was over was renewed")
	}
	b := s.want(admit.Request{KeyID: id, LeaseSeconds: 3600}, start.Add(200*time.Second), admit.Allowed)
	s.settle(b.AdmissionID, 1, "")
	if _, err := s.admit.Renew(ctx, b.AdmissionID, 100, ptr(start.Add(201*time.Second))); err == nil {
		t.Error("a settled lease was renewed")
	}
	for _, id := range []uuid.UUID{uuid.New()} {
		if _, err := s.admit.Renew(ctx, id, 100, nil); err == nil || s.admit.Release(ctx, id) == nil {
			t.Error("an admission that is not there was renewed or released")
		}
	}
}

// Guarantee: reservations hold each cost limit exactly; they outlive their lease,
// and end with settlement, release or their own time; a settlement counts once,
// by its admission or its request id, late too.
func TestCost(t *testing.T) {
	t.Parallel()
	s := newStand(t, pgtest.New(t), "UTC")
	now := time.Now()
	for column, code := range map[string]admit.Code{"daily_cost_limit": admit.DailyCostExceeded, "weekly_cost_limit": admit.WeeklyCostExceeded, "monthly_cost_limit": admit.MonthlyCostExceeded, "total_cost_limit": admit.TotalCostExceeded} {
		id := s.key(key.Columns{column: "0.01", "estimate_per_request": "0.004"})
		a := s.want(admit.Request{KeyID: id, LeaseSeconds: 5}, now, admit.Allowed)
		s.want(admit.Request{KeyID: id, CostUSD: ptr(usd("0.006000000001"))}, now, code)
		b := s.want(admit.Request{KeyID: id, CostUSD: ptr(usd("0.006"))}, now, admit.Allowed)
		s.want(admit.Request{KeyID: id, CostUSD: ptr(decimal.Zero)}, now, code)
		s.want(admit.Request{KeyID: id}, now.Add(59*time.Minute), code) // the lease is long over, the reservation not
		if r := s.settle(a.AdmissionID, 800, ""); r.Cost.String() != "0.002" || r.Duplicate || r.KeyID != id {
			t.Errorf("settled: %+v", r)
		}
		for _, request := range []string{"", "another"} {
			if r := s.settle(a.AdmissionID, 800, request); !r.Duplicate || r.Cost.String() != "0.002" {
				t.Errorf("settled again as %q: %+v", request, r)
			}
		}
		c := s.want(admit.Request{KeyID: id, CostUSD: ptr(usd("0.002"))}, now, admit.Allowed)
		if err := s.admit.Release(ctx, c.AdmissionID); err != nil {
			t.Error(err)
		}
		d := s.want(admit.Request{KeyID: id, CostUSD: ptr(usd("0.002")), DryRun: true}, now, admit.Allowed)
		if l := d.Limits[0]; l.Used.String() != "0.002" || l.Reserved.String() != "0.006" || l.Remaining.String() != "0.002" || d.AdmissionID != uuid.Nil {
			t.Errorf("%s reads %+v", column, l)
		}
		if r := s.settle(b.AdmissionID, 40000, "late"); r.Cost.String() != "0.1" { // dearer than its estimate: it happened
			t.Errorf("settled late: %+v", r)
		}
		s.want(admit.Request{KeyID: id}, now, code)
	}
	free := s.key(nil)
	s.want(admit.Request{KeyID: free, Tokens: 1 << 50}, now, admit.Allowed)
	tokens := s.key(key.Columns{"daily_cost_limit": "0.01"})
	s.want(admit.Request{KeyID: tokens, Model: "gpt-4o", Tokens: 1000}, now, admit.Allowed) // $10 a million at the dearest
	s.want(admit.Request{KeyID: tokens, Model: "gpt-4o", Tokens: 1}, now, admit.DailyCostExceeded)
	s.with(func(o *admit.Options) { o.RefuseUnpriced = true })
	limited := s.key(key.Columns{"daily_cost_limit": 1})
	for _, model := range []string{"nobody-knows", ""} { // leaving the model out is no way round
		s.want(admit.Request{KeyID: limited, Model: model}, now, admit.ModelNotPriced)
		s.want(admit.Request{KeyID: limited, Model: model, CostUSD: ptr(usd("0"))}, now, admit.ModelNotPriced)
		s.want(admit.Request{KeyID: limited, Model: model, CostUSD: ptr(usd("0.01"))}, now, admit.Allowed)
		s.want(admit.Request{KeyID: s.key(key.Columns{"daily_cost_limit": 1, "estimate_per_request": "0.01"}), Model: model}, now, admit.Allowed)
		s.want(admit.Request{KeyID: free, Model: model}, now, admit.Allowed)
	}
}

// Guarantee: days, ISO weeks and months of cost limits begin and end where the
// zone says, across a change to summer time, half hours and the year's end, and
// resetsAt is the true start of the next.
func TestPeriods(t *testing.T) {
	t.Parallel()
	for zone, cases := range map[string][]struct{ column, used, last, next string }{
		"Europe/Berlin":    {{"daily_cost_limit", "2026-03-29T12:00:00Z", "2026-03-29T21:59:59.999Z", "2026-03-29T22:00:00Z"}, {"monthly_cost_limit", "2025-12-31T12:00:00Z", "2025-12-31T22:59:59.999Z", "2025-12-31T23:00:00Z"}, {"weekly_cost_limit", "2026-03-23T00:00:00Z", "2026-03-29T21:59:59.999Z", "2026-03-29T22:00:00Z"}},
		"Asia/Kolkata":     {{"daily_cost_limit", "2026-01-01T00:00:00Z", "2026-01-01T18:29:59.999Z", "2026-01-01T18:30:00Z"}, {"weekly_cost_limit", "2025-12-30T00:00:00Z", "2026-01-04T18:29:59.999Z", "2026-01-04T18:30:00Z"}},
		"Atlantic/Azores":  {{"daily_cost_limit", "2026-10-24T12:00:00Z", "2026-10-24T23:59:59.999Z", "2026-10-25T00:00:00Z"}, {"daily_cost_limit", "2026-10-25T00:30:00Z", "2026-10-26T00:59:59.999Z", "2026-10-26T01:00:00Z"}}, // 00:00 to 01:00 comes twice
		"Africa/Cairo":     {{"daily_cost_limit", "2026-04-23T12:00:00Z", "2026-04-23T21:59:59.999Z", "2026-04-23T22:00:00Z"}},                                                                                                   // the day begins at 01:00
		"America/St_Johns": {{"daily_cost_limit", "2025-11-02T12:00:00Z", "2025-11-03T03:29:59.999Z", "2025-11-03T03:30:00Z"}},
	} {
		s := newStand(t, pgtest.New(t), zone)
		for _, c := range cases {
			at := func(text string) time.Time {
				i, err := time.Parse(time.RFC3339Nano, text)
				if err != nil {
					t.Fatal(err)
				}
				return i
			}
			id := s.key(key.Columns{c.column: "0.01"})
			if _, err := s.record.RecordAt(ctx, []usage.Event{{KeyID: id, Model: "gpt-4o", ModelReceived: "gpt-4o", Counts: usage.Counts{Input: 4000}, OccurredAt: at(c.used)}}, at(c.last)); err != nil {
				t.Fatal(err)
			}
			d := s.ask(admit.Request{KeyID: id}, at(c.last))
			if d.Allowed || *d.RetryAfterSeconds != 1 || !d.Limits[0].ResetsAt.Equal(at(c.next)) {
				t.Errorf("%s %s at the last millisecond: %+v", zone, c.column, d)
			}
			if d := s.ask(admit.Request{KeyID: id}, at(c.next)); !d.Allowed {
				t.Errorf("%s %s at the first instant: %+v", zone, c.column, d)
			}
		}
	}
}

// Guarantee: an observing key is let through over its limits, which are counted;
// restrictions still refuse it.
func TestObserve(t *testing.T) {
	t.Parallel()
	s := newStand(t, pgtest.New(t), "UTC")
	id := s.key(key.Columns{"enforcement": "observe", "rate_limit_window": 60, "rate_limit_requests": 1, "permissions": []string{"claude"}})
	ask := admit.Request{KeyID: id, Service: "claude"}
	s.want(ask, start, admit.Allowed)
	for range 3 {
		if d := s.want(ask, start, admit.Allowed); d.Observed != admit.RequestsExceeded || d.AdmissionID == uuid.Nil {
			t.Errorf("%+v", d)
		}
	}
	s.want(admit.Request{KeyID: id, Service: "gemini"}, start, admit.ServiceNotPermitted)
	for range 2 {
		if err := s.options.Refusals.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	got := pgtest.Scan[string](t, s.db, "SELECT string_agg(concat_ws(' ', code, let_through, refusals), ', ' ORDER BY code) FROM admission_refusals")
	if got != "REQUESTS_EXCEEDED t 3, SERVICE_NOT_PERMITTED f 1" {
		t.Errorf("counted: %s", got)
	}
}

// Guarantee: the same request id gives the same admission and consumes nothing,
// in one batch, in another, and after settlement.
func TestSameRequest(t *testing.T) {
	t.Parallel()
	s := newStand(t, pgtest.New(t), "UTC")
	id := s.key(key.Columns{"rate_limit_window": 60, "rate_limit_requests": 2, "concurrency_limit": 2})
	ask := admit.Request{KeyID: id, RequestID: "r", LeaseSeconds: 60}
	batch, err := s.admit.DecideAll(ctx, []admit.Request{ask, ask, {KeyID: id, LeaseSeconds: 60}, {KeyID: id, LeaseSeconds: 60}}, &start)
	if err != nil {
		t.Fatal(err)
	}
	if batch[0].AdmissionID != batch[1].AdmissionID || !batch[1].Repeated || batch[0].Repeated || !batch[2].Allowed || batch[3].Code != admit.ConcurrencyExceeded || *batch[3].RetryAfterSeconds != 3600 {
		t.Errorf("the batch: %+v", batch)
	}
	again := s.want(ask, start.Add(time.Second), admit.Allowed)
	if again.AdmissionID != batch[0].AdmissionID || !again.Repeated {
		t.Errorf("asked again: %+v", again)
	}
	s.settle(again.AdmissionID, 1, "r")
	s.want(ask, start.Add(time.Second), admit.RequestSettled)
	s.want(admit.Request{KeyID: s.key(nil), RequestID: "r"}, start, admit.Allowed) // another key's request
	for name, end := range map[string]func(admission uuid.UUID) time.Time{
		"lapsed": func(uuid.UUID) time.Time { return start.Add(time.Minute) },
		"released": func(admission uuid.UUID) time.Time {
			if err := s.admit.Release(ctx, admission); err != nil {
				t.Fatal(err)
			}
			return start.Add(time.Minute)
		},
	} {
		one := s.key(key.Columns{"concurrency_limit": 1, "daily_cost_limit": 1})
		ask := admit.Request{KeyID: one, RequestID: name, LeaseSeconds: 60, CostUSD: ptr(usd("0.2"))}
		first := s.want(ask, start, admit.Allowed)
		now := end(first.AdmissionID)
		second := s.want(ask, now, admit.Allowed)
		if second.AdmissionID == first.AdmissionID || second.Repeated {
			t.Errorf("%s: it is the same admission: %+v", name, second)
		}
		s.want(admit.Request{KeyID: one, LeaseSeconds: 60}, now, admit.ConcurrencyExceeded) // it holds the only slot
		dear := admit.Request{KeyID: one, RequestID: name, LeaseSeconds: 60, CostUSD: ptr(usd("1000"))}
		s.settle(second.AdmissionID, 1, name)
		s.want(dear, now, admit.RequestSettled)
	}
	if l := again.Limits[0]; l.Used.String() != "2" || l.Remaining.String() != "0" {
		t.Errorf("limits of a repeat: %+v", l)
	}
	pgtest.Exec(t, s.db, "UPDATE api_keys SET is_active = false WHERE id = $1", id)
	if d := s.want(ask, start.Add(time.Second), "DISABLED"); d.AdmissionID != uuid.Nil {
		t.Errorf("a repeat on a disabled key: %+v", d)
	}
}

// Guarantee: a batch is decided in order: a request that does not fit takes
// nothing from a later one that does.
func TestBatchOrder(t *testing.T) {
	t.Parallel()
	s := newStand(t, pgtest.New(t), "UTC")
	id := s.key(key.Columns{"total_cost_limit": 10})
	other := s.key(key.Columns{"total_cost_limit": 1})
	var batch []admit.Request
	for _, cost := range []string{"8", "5", "2", "0.000000000001"} {
		batch = append(batch, admit.Request{KeyID: id, CostUSD: ptr(usd(cost))}, admit.Request{KeyID: other, CostUSD: ptr(usd("0.5"))})
	}
	got, err := s.admit.DecideAll(ctx, batch, &start)
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, d := range got {
		text = append(text, fmt.Sprint(d.Allowed))
	}
	if want := "true true false true true false false false"; strings.Join(text, " ") != want {
		t.Errorf("decided %s, want %s", strings.Join(text, " "), want)
	}
}

// Guarantee: a refusal changes no row.
func TestRefusalWritesNothing(t *testing.T) {
	d := pgtest.New(t)
	s := newStand(t, d, "UTC")
	id := s.key(key.Columns{"rate_limit_window": 60, "rate_limit_requests": 1})
	s.want(admit.Request{KeyID: id}, start, admit.Allowed)
	changes := func() string {
		time.Sleep(1200 * time.Millisecond) // sessions hand their statistics over at most once a second
		for range 8 {
			_, _ = d.Now(ctx)
		}
		time.Sleep(200 * time.Millisecond)
		return pgtest.Scan[string](t, d, "SELECT string_agg(concat_ws(' ', relname, n_tup_ins, n_tup_upd, n_tup_del), ', ' ORDER BY relname) FROM pg_stat_user_tables")
	}
	before := changes()
	for range 50 {
		s.want(admit.Request{KeyID: id}, start, admit.RequestsExceeded)
	}
	if after := changes(); after != before {
		t.Errorf("refusals changed rows:\n%s\n%s", before, after)
	}
	if err := s.options.Refusals.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if n := pgtest.Scan[int](t, d, "SELECT sum(refusals) FROM admission_refusals"); n != 50 {
		t.Errorf("%d refusals are counted", n)
	}
}

// Guarantee: with 30 parallel requests without an estimate on a $0.01 limit and
// 0.001 reserved for each, exactly 10 pass (the original let all 30 through).
func TestThirty(t *testing.T) {
	t.Parallel()
	s := newStand(t, pgtest.New(t), "UTC")
	id := s.key(key.Columns{"daily_cost_limit": "0.01", "estimate_per_request": "0.001"})
	var passed sync.Map
	var group sync.WaitGroup
	for i := range 30 {
		group.Go(func() {
			d, err := s.admit.Decide(ctx, admit.Request{KeyID: id, LeaseSeconds: 60}, nil)
			if err != nil {
				t.Error(err)
			}
			if d.Allowed {
				passed.Store(i, true)
			}
		})
	}
	group.Wait()
	n := 0
	passed.Range(func(any, any) bool { n++; return true })
	if n != 10 {
		t.Errorf("%d of 30 passed, want 10", n)
	}
}

// Guarantee: retryAfterSeconds is when enough is free: not at the first of several
// reservations' ends but at the one that makes room, at the later of two limits'
// times, and never where waiting does not help or the key ends before.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	s := newStand(t, pgtest.New(t), "UTC")
	retry := func(r admit.Request, at time.Time) int64 {
		t.Helper()
		d := s.ask(r, at)
		switch {
		case d.Allowed:
			t.Fatalf("let through: %+v", d)
		case d.RetryAfterSeconds == nil:
			return -1
		}
		return *d.RetryAfterSeconds
	}
	hold := func(id uuid.UUID, cost string, at time.Time) {
		t.Helper()
		s.want(admit.Request{KeyID: id, CostUSD: ptr(usd(cost))}, at, admit.Allowed)
	}
	total := s.key(key.Columns{"total_cost_limit": 10})
	for i, cost := range []string{"1", "2", "6"} { // they end 60, 61 and 62 minutes from the start
		hold(total, cost, start.Add(time.Duration(i)*time.Minute))
	}
	now := start.Add(10 * time.Minute)
	for cost, want := range map[string]int64{"2": 50 * 60, "4": 51 * 60, "5": 52 * 60, "10": 52 * 60, "11": -1} {
		if got := retry(admit.Request{KeyID: total, CostUSD: ptr(usd(cost))}, now); got != want {
			t.Errorf("$%s: retry after %d s, want %d", cost, got, want)
		}
	}
	both := s.key(key.Columns{"daily_cost_limit": 1, "concurrency_limit": 1})
	s.want(admit.Request{KeyID: both, LeaseSeconds: 60, CostUSD: ptr(usd("0.8"))}, start, admit.Allowed)
	if got := retry(admit.Request{KeyID: both, LeaseSeconds: 60, CostUSD: ptr(usd("0.5"))}, start); got != 3600 {
		t.Errorf("slot free in 60 s, budget in 3600: retry after %d", got)
	}
	late := start.Add(13*time.Hour + 30*time.Minute) // half an hour before midnight
	hold(both, "0.8", late)
	if got := retry(admit.Request{KeyID: both, CostUSD: ptr(usd("0.5"))}, late); got != 3600 {
		t.Errorf("the day ends in 1800 s, the reservation in 3600: retry after %d", got)
	}
	ending := s.key(key.Columns{"rate_limit_window": 60, "rate_limit_requests": 1, "expires_at": start.Add(30 * time.Minute)})
	s.want(admit.Request{KeyID: ending}, start, admit.Allowed)
	if got := retry(admit.Request{KeyID: ending}, start); got != -1 {
		t.Errorf("the key ends before its window: retry after %d", got)
	}
	batched := s.key(key.Columns{"rate_limit_window": 60, "rate_limit_requests": 1})
	all, err := s.admit.DecideAll(ctx, []admit.Request{{KeyID: batched}, {KeyID: batched}}, &start)
	if err != nil || all[1].RetryAfterSeconds == nil || *all[1].RetryAfterSeconds != 3600 {
		t.Errorf("refused by its own batch's first: %+v %v", all, err)
	}
}

// Guarantee: an explanation tells the cost that was weighed and where it comes
// from, and names the want of a price.
func TestExplain(t *testing.T) {
	t.Parallel()
	s := newStand(t, pgtest.New(t), "UTC")
	s.with(func(o *admit.Options) { o.DefaultEstimate, o.RefuseUnpriced = usd("0.25"), true })
	explain := func(fields key.Columns, r admit.Request) string {
		t.Helper()
		r.KeyID = s.key(fields)
		shown, err := s.db.KeyShow(ctx, db.KeyShowParams{KeyIDs: []uuid.UUID{r.KeyID}})
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, c := range admit.Explain(shown[0].APIKey, r, s.ask(r, start)) {
			fmt.Fprintln(&text, c.Passed, c.Check, c.Detail)
		}
		return text.String()
	}
	poor := key.Columns{"daily_cost_limit": "0.01"}
	for _, c := range []struct {
		fields key.Columns
		ask    admit.Request
		want   string
	}{
		{poor, admit.Request{Model: "gpt-4o"}, "asked for 0.25 (the key's estimatePerRequest, or the service's default)"},
		{poor, admit.Request{Model: "gpt-4o", Tokens: 10000}, "asked for 0.1 (10000 tokens at the model's dearest rate)"},
		{poor, admit.Request{Model: "gpt-4o", CostUSD: ptr(usd("0.5"))}, "asked for 0.5 (the request's estimate)"},
		{poor, admit.Request{Model: "no-such"}, `DAILY_COST_EXCEEDED limit 0.01 USD`},
	} {
		if text := explain(c.fields, c.ask); !strings.Contains(text, c.want) {
			t.Errorf("%+v:\n%swant %s", c.ask, text, c.want)
		}
	}
}

// Guarantee: refusals are booked to the day they were made on in the service's
// zone, whenever they are written; a purged key's are dropped, and old ones go.
func TestRefusalCounts(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	s := newStand(t, d, "Asia/Kathmandu") // +05:45
	kept, purged := s.key(key.Columns{"is_active": false}), s.key(key.Columns{"is_active": false})
	midnight := time.Date(2026, 3, 2, 18, 15, 0, 0, time.UTC)
	for _, at := range []time.Time{midnight.Add(-time.Millisecond), midnight, midnight.Add(time.Hour)} {
		s.want(admit.Request{KeyID: kept}, at, "DISABLED")
	}
	s.want(admit.Request{KeyID: purged}, midnight, "DISABLED")
	pgtest.Exec(t, d, "DELETE FROM api_keys WHERE id = $1", purged)
	if err := s.options.Refusals.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	got := pgtest.Scan[string](t, d, "SELECT string_agg(k.id || ' ' || r.day || ' ' || r.refusals, ', ' ORDER BY r.day) FROM admission_refusals AS r JOIN api_keys AS k USING (ledger_id)")
	if want := fmt.Sprintf("%s 2026-03-02 1, %s 2026-03-03 2", kept, kept); got != want {
		t.Errorf("counted %s, want %s", got, want)
	}
	now := time.Date(2026, 3, 5, 12, 0, 0, 0, time.UTC)
	if n, err := d.RefusalsPrune(ctx, db.RefusalsPruneParams{Now: &now, Days: 2}); n != 1 || err != nil {
		t.Errorf("pruned %d, %v, want 1", n, err)
	}
}
