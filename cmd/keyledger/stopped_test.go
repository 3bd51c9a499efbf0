package main_test

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: while the roll-up stands still, limits hold to the cent, and pages, reports and
// views are right; once it goes on, it has caught up within a minute. make soak records an
// hour's worth of 300 events a second in between.
func TestRollUpStopped(t *testing.T) {
	t.Parallel()
	const keys, perRequest = 20, 500
	rows := 40_000
	if os.Getenv("KEYLEDGER_TEST_SOAK") != "" {
		rows = 1_080_000
	}
	url := pgtest.URL(t)
	d := pgtest.Open(t, url)
	stopped, env := serve(t, url, "KEYLEDGER_ROLLUP_INTERVAL=24h", "KEYLEDGER_LOG_LEVEL=info")
	base := env[0][len("KEYLEDGER_URL="):]
	var ids [keys]string
	for i := range ids {
		_, made := post(t, base, "/v1/keys", map[string]any{"name": fmt.Sprint("k", i), "tags": []string{fmt.Sprint("team-", i%3), "all"}})
		ids[i] = made["id"].(string)
	}
	pays := func(dollars int) { // of a budget that pays for ten requests of a dime, and for no eleventh
		t.Helper()
		_, made := post(t, base, "/v1/keys", map[string]any{"name": "pays", "dailyCostLimit": dollars})
		passed := 0
		for range 12 * dollars {
			_, admitted := post(t, base, "/v1/admissions", map[string]any{"apiKey": made["apiKey"], "model": "claude-haiku-4-5", "estimate": map[string]any{"costUsd": "0.1"}})
			if admitted["allowed"] != true {
				continue
			}
			passed++
			post(t, base, "/v1/usage", map[string]any{"admissionId": admitted["admissionId"], "model": "claude-haiku-4-5", "accountId": "a", "usage": map[string]any{"input_tokens": 100_000}})
		}
		if passed != 10*dollars {
			t.Errorf("%d requests passed a budget of $%d, want %d", passed, dollars, 10*dollars)
		}
	}
	pays(1)

	var next atomic.Int64
	var feeding sync.WaitGroup
	for range 8 {
		feeding.Go(func() {
			for {
				first := int(next.Add(perRequest)) - perRequest
				if first >= rows {
					return
				}
				events := make([]map[string]any, perRequest)
				for i := range events {
					n := first + i
					events[i] = map[string]any{"requestId": fmt.Sprint("r", n), "keyId": ids[n%keys], "accountId": fmt.Sprint("account-", n%5), "model": fmt.Sprint("model-", n%3), "usage": map[string]any{"input_tokens": 1 + n%2}}
				}
				if status, answer := post(t, base, "/v1/usage", map[string]any{"events": events}); status != 200 {
					t.Errorf("%d, %v", status, answer)
					return
				}
			}
		})
	}
	feeding.Wait()

	right := func() {
		t.Helper()
		all := pgtest.Scan[int64](t, d, "SELECT count(*) FROM usage_events")
		if sums := pgtest.Scan[string](t, d, `SELECT concat_ws(' ', (SELECT sum(requests) FROM reporting.usage_by_key), (SELECT sum(requests) FROM reporting.usage_by_model),
			(SELECT sum(requests) FROM reporting.usage_by_account), (SELECT sum(requests) FROM reporting.usage_by_tag_day WHERE tag = 'all'))`); sums != fmt.Sprint(all, all, all, rows) {
			t.Errorf("views have %s requests of %d", sums, all)
		}
		for i, id := range ids {
			total := read(t, base, "/v1/keys/"+id+"/usage")["total"].(map[string]any)
			if want := rows / keys; total["requests"] != float64(want) || total["inputTokens"] != float64(want+want*(i%2)) {
				t.Errorf("key %d: %v of %d requests", i, total, want)
			}
		}
		for _, by := range []string{"", "key", "model", "account", "tag", "account,model"} {
			began := time.Now()
			answer := read(t, base, "/v1/reports/usage?granularity=day&groupBy="+by)
			sums := 0.
			for _, row := range answer["data"].([]any) {
				sums += row.(map[string]any)["requests"].(float64)
			}
			if by == "tag" {
				sums -= float64(rows) // twice, under two tags
			}
			if totals := answer["totals"].(map[string]any); totals["requests"] != float64(all) || sums != float64(all) {
				t.Errorf("by %q: %v and %v of %d requests", by, totals["requests"], sums, all)
			}
			t.Logf("by %q in %v", by, time.Since(began).Round(time.Millisecond))
		}
		if found := read(t, base, "/v1/reports/reconcile"); len(found["differences"].([]any)) != 0 {
			t.Errorf("differences: %v", found)
		}
	}
	if tail := pgtest.Scan[int64](t, d, "SELECT count(*) FROM ledger_tail"); tail != int64(rows)+10 {
		t.Fatalf("%d rows are not rolled up, want %d", tail, rows+10)
	}
	right()
	pays(2)

	stopped.stop(syscall.SIGTERM)
	_, env = serve(t, url, "KEYLEDGER_ROLLUP_INTERVAL=1s", "KEYLEDGER_LOG_LEVEL=info")
	base = env[0][len("KEYLEDGER_URL="):]
	began := time.Now()
	for pgtest.Scan[int64](t, d, "SELECT count(*) FROM ledger_tail") > 0 {
		if time.Since(began) > time.Minute {
			t.Fatalf("%d rows are still to be rolled up after a minute", pgtest.Scan[int64](t, d, "SELECT count(*) FROM ledger_tail"))
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("%d rows were rolled up in %v", rows+30, time.Since(began).Round(100*time.Millisecond))
	right()
	pays(1)
}
