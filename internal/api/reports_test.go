package api_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: reconcile finds nothing in what the service wrote, also while it writes
// and with events of past days and taken-back ones; and every row that somebody falsifies
// in psql, in any rollup, by its name, with what it should be.
func TestReconcile(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{zone: "Asia/Kathmandu"})
	id, _ := h.create(map[string]any{"name": "k"})
	record := func(request string, at time.Time) string {
		a := h.want(h.record(map[string]any{"keyId": id, "accountId": "acct", "requestId": request, "model": "gpt-4o", "occurredAt": at.Format(time.RFC3339), "usage": map[string]any{"prompt_tokens": 1000}}), 200)
		return a.text("results", 0, "eventId")
	}
	record("now", time.Now())
	record("late", time.Now().AddDate(0, 0, -3))
	h.want(h.do("POST", "/v1/events/"+record("void", time.Now())+"/void", map[string]any{"reason": "test"}), 200)
	reconcile := func() answer { return h.want(h.as(h.reader, "GET", "/v1/reports/reconcile", nil), 200) }
	if a := reconcile(); a.text("agrees") != "true" || a.text("ledgerRows") == "0" {
		t.Fatalf("nothing was falsified: %s", a.raw)
	}
	var writing sync.WaitGroup
	for i := range 4 {
		writing.Go(func() {
			for n := range 25 {
				record(fmt.Sprintf("w%d-%d", i, n), time.Now())
			}
		})
	}
	for range 10 {
		if a := reconcile(); a.text("agrees") != "true" {
			t.Errorf("while usage is written: %s", a.raw)
		}
	}
	writing.Wait()
	for _, c := range []struct{ falsify, repair, rollup, column, model string }{
		{"UPDATE usage_daily SET cost = cost + 1 WHERE day = (SELECT max(day) FROM usage_daily)", "UPDATE usage_daily SET cost = cost - 1 WHERE day = (SELECT max(day) FROM usage_daily)", "usage_daily", "cost", "gpt-4o"},
		{"UPDATE usage_daily SET input_tokens = input_tokens + 1 WHERE day = (SELECT max(day) FROM usage_daily)", "UPDATE usage_daily SET input_tokens = input_tokens - 1 WHERE day = (SELECT max(day) FROM usage_daily)", "usage_daily", "input_tokens", "gpt-4o"},
		{"UPDATE account_usage SET requests = requests + 1 WHERE day = (SELECT max(day) FROM account_usage)", "UPDATE account_usage SET requests = requests - 1 WHERE day = (SELECT max(day) FROM account_usage)", "account_usage", "requests", "gpt-4o"},
		{"UPDATE daily_cost SET cost = cost - 0.000000000001 WHERE day = (SELECT max(day) FROM daily_cost)", "UPDATE daily_cost SET cost = cost + 0.000000000001 WHERE day = (SELECT max(day) FROM daily_cost)", "daily_cost", "cost", ""},
		{"UPDATE key_totals SET ephemeral_1h_tokens = 7", "UPDATE key_totals SET ephemeral_1h_tokens = 0", "key_totals", "ephemeral_1h_tokens", ""},
		{"UPDATE account_totals SET cost = cost * 2", "UPDATE account_totals SET cost = cost / 2", "account_totals", "cost", ""},
	} {
		pgtest.Exec(t, h.db, c.falsify)
		a := reconcile()
		found := false
		for i := 0; a.get("differences", i) != nil; i++ {
			d := func(field string) string { return a.text("differences", i, field) }
			found = found || d("rollup") == c.rollup && strings.Contains(d("columns"), c.column) && d("model") == c.model && a.get("differences", i, "summed", "requests") != nil
		}
		if a.text("agrees") != "false" || !found {
			t.Errorf("after %q: %s", c.falsify, a.raw)
		}
		pgtest.Exec(t, h.db, c.repair)
	}
	pgtest.Exec(t, h.db, "DELETE FROM usage_events WHERE request_id = 'now'")
	if a := reconcile(); a.text("agrees") != "false" || a.text("differences", 0, "rollup") != "account_usage" {
		t.Errorf("after a ledger row was deleted: %s", a.raw)
	}
	h.want(h.do("GET", "/v1/reports/reconcile?from=2026-11-23&to=2026-11-22", nil), 422)
	h.want(h.do("GET", "/v1/reports/reconcile?from=yesterday", nil), 422)
	h.want(h.as(h.relay, "GET", "/v1/reports/reconcile", nil), 403)
	if a := h.want(h.do("GET", "/v1/reports/reconcile?from=2020-01-01&to=2020-12-31", nil), 200); a.text("to") != "2020-12-31" || a.text("from") <= "2020-12-31" {
		t.Errorf("of days long gone: %s", a.raw)
	}
}

// Guarantee: what is the same for all rows is worked out once: a hundred thousand
// ledger rows are reconciled in seconds.
func TestReconcileScale(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{"name": "k"})
	pgtest.Exec(t, h.db, `INSERT INTO usage_events (event_id, received_at, kind, key_id, model, model_received, request_id, occurred_at, day, requests,
			input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_5m_tokens, ephemeral_1h_tokens, cost, priced)
		SELECT gen_random_uuid(), now(), 'usage', $1::uuid, 'm', 'm', g::text, now(), (now() AT TIME ZONE 'UTC')::date, 1, 10, 0, 0, 0, 0, 0, 0.000001, true FROM generate_series(1, 100000) AS g`, id)
	start := time.Now()
	a := h.want(h.do("GET", "/v1/reports/reconcile", nil), 200)
	if took := time.Since(start); took > 5*time.Second || a.text("ledgerRows") != "100000" || a.text("agrees") != "false" || a.text("differences", 0, "summed", "costUsd") != "0.1" {
		t.Errorf("in %s: %s", took, a.raw)
	}
}
