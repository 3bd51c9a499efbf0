package api_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: a LiteLLM file is imported whole, again without a change, and every
// entry is accounted for.
func TestImportPrices(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	file, err := os.ReadFile("../price/testdata/litellm.json")
	if err != nil {
		t.Fatal(err)
	}
	path := "/v1/prices/import?effectiveFrom=2026-01-01T00:00:00Z"
	h.want(h.as(h.reader, "POST", path, string(file)), 403)
	a := h.want(h.do("POST", path, string(file)), 200)
	sum := 0
	for i := range a.get("skipped").([]any) {
		n := 0
		_, _ = fmt.Sscan(a.text("skipped", i, "count"), &n)
		sum += n
	}
	models := 0
	_, _ = fmt.Sscan(a.text("models"), &models)
	if models+sum != 1315 || a.text("changed") == "0" {
		t.Errorf("imported: %s", a.raw)
	}
	if a := h.want(h.do("POST", path, string(file)), 200); a.text("changed") != "0" {
		t.Errorf("imported again: %s", a.raw)
	}
	if a := h.want(h.do("POST", "/v1/prices/import", string(file)), 200); a.text("changed") != "0" {
		t.Errorf("imported again from another day on: %s", a.raw)
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM audit_log WHERE target_type = 'prices' AND actor = 'the-admin'"); n != 1 {
		t.Errorf("%d audit rows of imports, want one for the one that changed something", n)
	}
	h.want(h.do("POST", path, `{"m":{"input_cost_per_token":-1}}`), 422)
	h.want(h.do("POST", path, `[]`), 422)
	h.want(h.do("POST", "/v1/prices/import?effectiveFrom=x", `{}`), 422)
	h.want(h.do("POST", path, strings.Repeat(" ", 9<<20)), 413)
	all := 0
	cursor := ""
	for range 100 {
		page := h.want(h.as(h.reader, "GET", "/v1/prices?limit=200&cursor="+cursor, nil), 200)
		all += len(page.get("data").([]any))
		if cursor = page.text("nextCursor"); cursor == "" {
			break
		}
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM model_prices"); n != all {
		t.Errorf("pages hold %d of %d prices", all, n)
	}
	if a := h.do("GET", "/v1/prices?q=SONNET-4-2025&provider=anthropic", nil); !strings.Contains(a.raw, `"claude-sonnet-4-20250514"`) || strings.Contains(a.raw, "gpt") {
		t.Errorf("the filter: %.300s", a.raw)
	}
}

// Guarantee: a price is stored as given and read back, and every wrong field of
// one is named.
func TestPutPrice(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	a := h.want(h.do("POST", "/v1/prices", `{"model":" m ","provider":"p","inputPerMillion":"0.000000000001","outputPerMillion":2,"above200k":{"inputPerMillion":3},"effectiveFrom":"2026-01-01T00:00:00+01:00"}`), 200)
	if a.text("model") != "m" || a.text("inputPerMillion") != "0.000000000001" || a.text("above200k", "inputPerMillion") != "3" || a.text("effectiveFrom") != "2025-12-31T23:00:00.000Z" || a.text("source") != "manual" {
		t.Errorf("stored: %s", a.raw)
	}
	if b := h.do("GET", "/v1/prices?q=m&provider=p", nil); b.text("data", 0, "outputPerMillion") != "2" {
		t.Errorf("read back: %s", b.raw)
	}
	for body, fields := range map[string]string{
		`{}`: "model,inputPerMillion", `{"model":"","inputPerMillion":-1}`: "model,inputPerMillion", `{"model":"m","inputPerMillion":"x","foo":1}`: "inputPerMillion,foo",
		`{"model":"m","inputPerMillion":1,"above200k":5}`: "above200k", `{"model":"m","inputPerMillion":1,"above200k":{"x":1}}`: "above200k.x",
		`{"model":"m","inputPerMillion":0.0000000000001}`: "inputPerMillion", `{"model":"m","inputPerMillion":1,"effectiveFrom":"x"}`: "effectiveFrom",
	} {
		if a := h.want(h.do("POST", "/v1/prices", body), 422); a.wrongFields() != fields {
			t.Errorf("%s: %q, want %q", body, a.wrongFields(), fields)
		}
	}
}

// Guarantee: pricing again changes exactly the events of the days and the model asked for
// that cost something else, by adjustments, with every sum following; a dry run tells the
// same and changes nothing; done again, nothing changes; usage that had no price counts as
// priced; what was taken back stays taken back, and what is taken back later is gone with
// its new cost; and all of it reconciles.
func TestReprice(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{"name": "alice"})
	today := pgtest.Scan[string](t, h.db, "SELECT (now() AT TIME ZONE 'UTC')::date::text")
	record := func(request, model string, daysAgo int) string {
		return h.want(h.record(map[string]any{"keyId": id, "accountId": "acct", "requestId": request, "model": model, "occurredAt": time.Now().AddDate(0, 0, -daysAgo).Format(time.RFC3339), "usage": map[string]any{"prompt_tokens": 1000, "completion_tokens": 100}}), 200).text("results", 0, "eventId")
	}
	record("a", "no-such-model", 0)
	taken := record("b", "no-such-model", 0)
	h.want(h.do("POST", "/v1/events/"+taken+"/void", map[string]any{"reason": "test"}), 200)
	record("earlier", "no-such-model", 2)
	record("other", "gpt-4o", 0)
	later := record("c", "no-such-model", 0)
	h.want(h.do("POST", "/v1/prices", map[string]any{"model": "no-such-model", "inputPerMillion": 10, "outputPerMillion": 50, "effectiveFrom": "2020-01-01T00:00:00Z"}), 200)
	state := func() string {
		return pgtest.Scan[string](t, h.db, `SELECT (SELECT concat_ws(' ', requests, input_tokens, output_tokens, trim_scale(cost)) FROM key_counters) || ' | ' ||
			(SELECT string_agg(concat_ws(' ', (now() AT TIME ZONE 'UTC')::date - d.day, d.model, d.requests, d.input_tokens, trim_scale(d.cost)), ', ' ORDER BY d.day, d.model)
				FROM (SELECT day, model, sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cost) AS cost FROM key_days GROUP BY day, model) AS d) || ' | ' || (SELECT trim_scale(sum(cost)) FROM cost_days)
			|| ' | ' || (SELECT trim_scale(sum(cost)) FROM account_sums) || ' | ' || (SELECT count(*) FROM usage_events)`)
	}
	before := state()
	ask := func(dry bool) answer {
		return h.want(h.do("POST", "/v1/prices/reprice", map[string]any{"from": today, "to": today, "dryRun": dry}), 200)
	}
	planned := ask(true)
	if planned.text("events") != "3" || planned.text("changed") != "2" || planned.text("costBefore") != "0.0035" && planned.text("costBefore") != "0" || planned.text("costAfter") != "0.03" || planned.text("changes", 0, "keyName") != "alice" {
		t.Errorf("planned: %s", planned.raw)
	}
	if state() != before {
		t.Error("a dry run changed something")
	}
	if done := ask(false); strings.Replace(done.raw, `"dryRun":false`, `"dryRun":true`, 1) != planned.raw {
		t.Errorf("planned %s and did %s", planned.raw, done.raw)
	}
	const want = "4 4000 400 0.0335 | 2 no-such-model 1 1000 0, 0 gpt-4o 1 1000 0.0035, 0 no-such-model 2 2000 0.03 | 0.0335 | 0.0335 | 10"
	if got := state(); got != want {
		t.Errorf("after it\n%s, want\n%s", got, want)
	}
	if again := ask(false); again.text("changed") != "0" || state() != want {
		t.Errorf("done again: %s", again.raw)
	}
	if a := h.want(h.do("GET", "/v1/prices/unpriced", nil), 200); a.text("data", 0, "requests") != "1" { // of the day that was not asked for
		t.Errorf("unpriced: %s", a.raw)
	}
	h.want(h.do("POST", "/v1/prices", map[string]any{"model": "no-such-model", "inputPerMillion": 20, "outputPerMillion": 50, "effectiveFrom": "2020-01-01T00:00:00Z"}), 200)
	if a := ask(false); a.text("changed") != "2" || a.text("costBefore") != "0.03" || a.text("costAfter") != "0.05" {
		t.Errorf("at another price: %s", a.raw)
	}
	h.want(h.do("POST", "/v1/events/"+later+"/void", map[string]any{"reason": "test"}), 200)
	if got := state(); !strings.Contains(got, "3 3000 300 0.0285 |") {
		t.Errorf("taken back after it: %s", got)
	}
	if a := h.want(h.do("GET", "/v1/reports/reconcile", nil), 200); a.text("agrees") != "true" {
		t.Errorf("%s", a.raw)
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM audit_log WHERE action = 'ledger.reprice'"); n != 2 {
		t.Errorf("%d audit rows, want one for each transaction that changed something", n)
	}
	if a := h.want(h.do("POST", "/v1/prices/reprice", map[string]any{"from": today, "to": "2020-01-01", "model": ""}), 422); a.wrongFields() != "from,model" {
		t.Errorf("wrong: %s", a.raw)
	}
	h.want(h.do("POST", "/v1/prices/reprice", map[string]any{}), 422)
	h.want(h.as(h.relay, "POST", "/v1/prices/reprice", map[string]any{"from": today, "to": today}), 403)
}

// Guarantee: an event that was taken back costs nothing after it is priced again, however
// wrong the clock of the replica was that took it back: the database's clock alone orders
// events, and not the time in their ids.
func TestRepriceSlowClock(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{"name": "k"})
	for i := range 10 {
		event := h.want(h.record(map[string]any{"keyId": id, "requestId": fmt.Sprint(i), "model": "later-priced", "usage": map[string]any{"prompt_tokens": 1000000}}), 200).text("results", 0, "eventId")
		if i < 7 {
			h.want(h.do("POST", "/v1/events/"+event+"/void", map[string]any{"reason": "x"}), 200)
		}
	}
	// As a replica would have made them whose clock is two minutes slow, and one whose is fast.
	pgtest.Exec(t, h.db, `UPDATE usage_events SET event_id = (lpad(to_hex((floor(extract(epoch FROM received_at) * 1000)::bigint + CASE request_id WHEN '1' THEN 120000 ELSE -120000 END)), 12, '0') || substr(replace(event_id::text, '-', ''), 13))::uuid
		WHERE adjusts IS NOT NULL`)
	h.want(h.do("POST", "/v1/prices", map[string]any{"model": "later-priced", "inputPerMillion": 2, "effectiveFrom": "2020-01-01T00:00:00Z"}), 200)
	today := pgtest.Scan[string](t, h.db, "SELECT (now() AT TIME ZONE 'UTC')::date::text")
	for range 2 {
		h.want(h.do("POST", "/v1/prices/reprice", map[string]any{"from": today, "to": today}), 200)
		if got := pgtest.Scan[string](t, h.db, "SELECT concat_ws(' ', requests, trim_scale(cost)) FROM key_counters"); got != "3 6" {
			t.Errorf("requests and cost of what was not taken back: %s, want 3 6", got)
		}
	}
}

// Guarantee: several who price again and take back at once leave what one after another
// would: every event costs what the catalogue says, or nothing.
func TestRepriceAtOnce(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{"name": "k"})
	var events []string
	const many = 600 // more than one transaction's
	var batch []any
	for i := range many {
		batch = append(batch, map[string]any{"keyId": id, "requestId": fmt.Sprint(i), "model": "later-priced", "usage": map[string]any{"prompt_tokens": 1000}})
	}
	recorded := h.want(h.do("POST", "/v1/usage", map[string]any{"events": batch}), 200)
	for i := range many {
		events = append(events, recorded.text("results", i, "eventId"))
	}
	today := pgtest.Scan[string](t, h.db, "SELECT (now() AT TIME ZONE 'UTC')::date::text")
	h.want(h.do("POST", "/v1/prices", map[string]any{"model": "later-priced", "inputPerMillion": 1, "effectiveFrom": "2020-01-01T00:00:00Z"}), 200)
	var all sync.WaitGroup
	for range 12 { // more than there are connections; all but one at a time are told to come again
		all.Go(func() {
			if a := h.do("POST", "/v1/prices/reprice", map[string]any{"from": today, "to": today}); a.status != 200 && a.status != 503 {
				t.Errorf("%d %s", a.status, a.raw)
			}
		})
	}
	for _, event := range events[:20] {
		all.Go(func() { h.want(h.do("POST", "/v1/events/"+event+"/void", map[string]any{"reason": "x"}), 200) })
	}
	all.Wait()
	h.want(h.do("POST", "/v1/prices/reprice", map[string]any{"from": today, "to": today}), 200)
	if got := pgtest.Scan[string](t, h.db, "SELECT concat_ws(' ', requests, input_tokens, trim_scale(cost)) FROM key_counters"); got != "580 580000 0.58" {
		t.Errorf("the key's totals: %s", got)
	}
	if a := h.want(h.do("GET", "/v1/reports/reconcile", nil), 200); a.text("agrees") != "true" {
		t.Errorf("%s", a.raw)
	}
}
