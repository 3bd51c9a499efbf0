package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/pgtest"
)

var readmeUsage = map[string]any{"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 40,
	"cache_creation": map[string]any{"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000}}

// Guarantee: README's usage costs exactly 0.016092, counts once however often it
// is sent, and shows in the statistics of its key and account.
func TestRecordUsage(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{})
	event := map[string]any{"keyId": id, "requestId": "r1", "accountId": "acct/1", "model": "claude-sonnet-4-20250514", "usage": readmeUsage}
	a := h.want(h.record(event), 200)
	for field, want := range map[string]string{"status": "recorded", "costUsd": "0.016092", "priced": "true", "keyId": id, "requestId": "r1", "model": "claude-sonnet-4-20250514", "conflict": ""} {
		if got := a.text("results", 0, field); got != want {
			t.Errorf("%s = %q, want %q", field, got, want)
		}
	}
	for range 3 {
		again := h.want(h.record(event), 200)
		if again.text("results", 0, "status") != "duplicate" || again.text("results", 0, "costUsd") != "0.016092" || again.text("results", 0, "eventId") != a.text("results", 0, "eventId") || again.get("results", 0, "conflict") != nil {
			t.Errorf("the repeat: %s", again.raw)
		}
	}
	other := map[string]any{"keyId": id, "requestId": "r1", "accountId": "acct/1", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 5}}
	if a := h.want(h.record(other), 200); a.text("results", 0, "conflict") != "true" || a.text("results", 0, "costUsd") != "0.016092" || a.text("results", 0, "model") != "claude-sonnet-4-20250514" {
		t.Errorf("the conflict: %s", a.raw)
	}
	s := h.want(h.as(h.reader, "GET", "/v1/keys/"+id+"/usage", nil), 200)
	for path, want := range map[string]string{"requests": "1", "tokens": "3070", "allTokens": "3070", "inputTokens": "10", "outputTokens": "20",
		"cacheCreateTokens": "3000", "cacheReadTokens": "40", "ephemeral5mTokens": "1000", "ephemeral1hTokens": "2000", "costUsd": "0.016092"} {
		for _, block := range []string{"total", "daily", "monthly"} {
			if got := s.text(block, path); got != want {
				t.Errorf("%s.%s = %s, want %s", block, path, got, want)
			}
		}
	}
	for _, period := range []string{"daily", "weekly", "monthly", "total"} {
		if s.text("cost", period) != "0.016092" {
			t.Errorf("cost.%s = %s", period, s.text("cost", period))
		}
	}
	if s.text("models", 0, "model") != "claude-sonnet-4-20250514" || s.text("models", 0, "allTokens") != "3070" {
		t.Errorf("models: %v", s.get("models"))
	}
	acct := h.want(h.as(h.reader, "GET", "/v1/accounts/"+url.PathEscape("acct/1")+"/usage", nil), 200)
	if acct.text("total", "tokens") != "30" || acct.text("total", "allTokens") != "3070" || acct.text("cost", "total") != "0.016092" {
		t.Errorf("the account: %s", acct.raw)
	}
	h.want(h.do("GET", "/v1/accounts/nobody/usage", nil), 404)
	h.want(h.do("GET", "/v1/keys/"+uuid.NewString()+"/usage", nil), 404)
}

// Guarantee: a batch is all or nothing; every bad event is named by index and
// field; a batch may hold one request twice and counts it once.
func TestRecordBatch(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{})
	event := func(request string, more map[string]any) map[string]any {
		e := map[string]any{"keyId": id, "requestId": request, "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 1000}}
		for k, v := range more {
			e[k] = v
		}
		return e
	}
	bad := map[string]any{"events": []any{
		event("a", nil),
		event("b", map[string]any{"usage": map[string]any{"prompt_tokens": -1}}),
		event("c", map[string]any{"keyId": "x", "model": 5, "nope": 1}),
		event("d", map[string]any{"usage": map[string]any{}, "requestId": strings.Repeat("x", 201)}),
	}}
	a := h.want(h.record(bad), 422)
	if got := a.wrongFields(); got != "events[1].usage.prompt_tokens,events[2].keyId,events[2].model,events[2].nope,events[3].requestId" {
		t.Errorf("wrong fields %s", got)
	}
	a = h.want(h.record(map[string]any{"events": []any{event("a", nil), event("b", map[string]any{"keyId": uuid.NewString()}), event("c", map[string]any{"keyId": uuid.NewString()})}}), 422)
	if got := a.wrongFields(); got != "events[1].keyId,events[2].keyId" {
		t.Errorf("unknown keys are named %s", got)
	}
	a = h.want(h.record(map[string]any{"events": []any{event("a", nil), event("b", map[string]any{"occurredAt": time.Now().Add(6 * time.Minute).Format(time.RFC3339)})}}), 422)
	if got := a.wrongFields(); got != "events[1].occurredAt" {
		t.Errorf("a time ahead is named %s", got)
	}
	for _, at := range []string{"0001-01-01T00:00:00Z", "1999-12-31T23:59:59Z"} {
		if a := h.want(h.record(event("a", map[string]any{"occurredAt": at})), 422); a.wrongFields() != "occurredAt" || !strings.Contains(a.raw, "2000") {
			t.Errorf("a time of another age: %s", a.raw)
		}
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT (SELECT count(*) FROM usage_events) + (SELECT count(*) FROM key_days) + (SELECT count(*) FROM usage_dedup)"); n != 0 {
		t.Errorf("refused batches left %d rows", n)
	}
	a = h.want(h.record(map[string]any{"events": []any{event("a", nil), event("b", nil), event("a", nil), event("a", map[string]any{"model": "gpt-5"})}}), 200)
	var states []string
	for i := range 4 {
		states = append(states, a.text("results", i, "status")+a.text("results", i, "conflict"))
	}
	if got := strings.Join(states, " "); got != "recorded recorded duplicate duplicatetrue" {
		t.Errorf("states %s", got)
	}
	if got := h.do("GET", "/v1/keys/"+id, nil); got.text("usage", "total", "requests") != "2" || got.text("totalCost") != "0.005" {
		t.Errorf("counted: %s", got.raw)
	}
	for body, field := range map[string]string{`{}`: "keyId,usage", `{"events":[]}`: "events", `{"events":[{}],"model":"x"}`: "events", `{"events":5}`: "events", `{"events":[5]}`: "events[0].body",
		`{"keyId":"` + id + `","usage":{"input_tokens":1},"occurredAt":"yesterday"}`: "occurredAt", `{"keyId":"` + id + `"}`: "usage"} {
		if a := h.want(h.record(jsonObject(t, body)), 422); a.wrongFields() != field {
			t.Errorf("%s: %q, want %q", body, a.wrongFields(), field)
		}
	}
	many := make([]any, 1001)
	for i := range many {
		many[i] = event(fmt.Sprint("m", i), nil)
	}
	h.want(h.record(map[string]any{"events": many}), 422)
	h.want(h.record(map[string]any{"events": many[:1000]}), 200)
}

func jsonObject(t *testing.T, text string) (o map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// Guarantee: the same requests sent at once through two replicas, in batches
// that overlap, count once each; ledger and every rollup agree to the last
// decimal; nobody deadlocks.
func TestRecordConcurrently(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	replicas := []*harness{newHarness(t, options{dbURL: dbURL}), newHarness(t, options{dbURL: dbURL})}
	h := replicas[0]
	var keys []string
	for range 5 {
		id, _ := h.create(map[string]any{})
		keys = append(keys, id)
	}
	const requests, senders = 60, 8
	var group sync.WaitGroup
	for s := range senders {
		group.Go(func() {
			for from := 0; from < requests; from += 10 {
				var events []any
				for i := range 20 {
					n := (from + (i*7+s*3)%20) % requests
					events = append(events, map[string]any{"keyId": keys[n%len(keys)], "requestId": fmt.Sprint("r", n), "accountId": fmt.Sprint("acct-", n%3),
						"model": []string{"gpt-4o", "claude-sonnet-4-20250514"}[n%2], "usage": map[string]any{"input_tokens": n + 1, "output_tokens": 2}})
				}
				if a := replicas[s%2].record(map[string]any{"events": events}); a.status != 200 {
					t.Errorf("status %d: %s", a.status, a.raw)
				}
			}
		})
	}
	group.Wait()
	row := pgtest.Scan[string](t, h.db, `SELECT concat_ws(' ',
		(SELECT count(*) FROM usage_events), (SELECT sum(requests) FROM key_days), (SELECT sum(requests) FROM key_counters),
		(SELECT sum(requests) FROM account_days), (SELECT sum(requests) FROM account_sums))`)
	if row != "60 60 60 60 60" {
		t.Errorf("ledger and rollups count %s", row)
	}
	costs := pgtest.Scan[int](t, h.db, `SELECT count(DISTINCT c) FROM (VALUES
		((SELECT sum(cost) FROM usage_events)), ((SELECT sum(cost) FROM key_days)), ((SELECT sum(cost) FROM cost_days)),
		((SELECT sum(cost) FROM key_counters)), ((SELECT sum(cost) FROM account_days)), ((SELECT sum(cost) FROM account_sums))) AS v (c)`)
	if costs != 1 {
		t.Error("ledger and rollups disagree about cost")
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}

// Guarantee: a request id counts once across midnight, although the ledger's
// rows of two days lie in two partitions.
func TestDuplicateAcrossMidnight(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{})
	event := map[string]any{"keyId": id, "requestId": "r", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 1000}, "occurredAt": "2026-01-01T23:59:59.999Z"}
	h.want(h.record(event), 200)
	pgtest.Exec(t, h.db, "UPDATE usage_events SET received_at = received_at - interval '1 day'")
	event["occurredAt"] = "2026-01-02T00:00:00Z"
	if a := h.want(h.record(event), 200); a.text("results", 0, "status") != "duplicate" || a.text("results", 0, "conflict") != "true" {
		t.Errorf("after midnight: %s", a.raw)
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM usage_events"); n != 1 {
		t.Errorf("%d ledger rows", n)
	}
}

// Guarantee: usage of an expired, disabled or deleted key is recorded; of an
// unknown one refused. A model without a price costs 0, says so and is listed.
func TestRecordWhatHappened(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	for _, fields := range []map[string]any{{"expiresAt": "2020-01-01T00:00:00Z"}, {"isActive": false}} {
		id, _ := h.create(fields)
		a := h.want(h.record(map[string]any{"keyId": id, "model": "acme/own-model-7", "usage": map[string]any{"prompt_tokens": 10}}), 200)
		if a.text("results", 0, "priced") != "false" || a.text("results", 0, "costUsd") != "0" {
			t.Errorf("unpriced: %s", a.raw)
		}
	}
	u := h.want(h.as(h.reader, "GET", "/v1/prices/unpriced", nil), 200)
	if u.text("data", 0, "model") != "acme/own-model-7" || u.text("data", 0, "requests") != "2" || u.text("data", 0, "tokens") != "20" || u.text("data", 0, "pricedNow") != "false" {
		t.Errorf("unpriced models: %s", u.raw)
	}
	h.want(h.do("POST", "/v1/prices", `{"model":"own-model-7","inputPerMillion":"2.5"}`), 200)
	if u := h.do("GET", "/v1/prices/unpriced", nil); u.text("data", 0, "pricedNow") != "true" {
		t.Errorf("after a price was set: %s", u.raw)
	}
	id, _ := h.create(map[string]any{})
	if a := h.record(map[string]any{"keyId": id, "model": "acme/own-model-7", "usage": map[string]any{"prompt_tokens": 10}}); a.text("results", 0, "costUsd") != "0.000025" {
		t.Errorf("the new price holds for the next event: %s", a.raw)
	}
}

// Guarantee: an event takes the price in force when it happened.
func TestPriceInForce(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{})
	h.want(h.do("POST", "/v1/prices", `{"model":"m","inputPerMillion":1,"effectiveFrom":"2026-01-01T00:00:00Z"}`), 200)
	h.want(h.do("POST", "/v1/prices", `{"model":"m","inputPerMillion":2,"effectiveFrom":"2026-06-01T00:00:00Z"}`), 200)
	for at, want := range map[string]string{"2025-12-31T23:59:59.999Z": "0", "2026-01-01T00:00:00Z": "1", "2026-05-31T23:59:59.999Z": "1", "2026-06-01T00:00:00Z": "2"} {
		if a := h.record(map[string]any{"keyId": id, "model": "m", "usage": map[string]any{"input_tokens": 1000000}, "occurredAt": at}); a.text("results", 0, "costUsd") != want {
			t.Errorf("at %s it cost %s, want %s", at, a.text("results", 0, "costUsd"), want)
		}
	}
}

// Guarantee: an event counts on the day of its occurrence in the service's zone,
// at the recorded edges of zones with whole, half and negative offsets.
func TestDays(t *testing.T) {
	t.Parallel()
	var facts []struct{ At, Zone, Day string }
	readFile(t, "testdata/original_days.json", &facts)
	facts = append(facts, []struct{ At, Zone, Day string }{
		{"2025-12-31T18:29:59.999Z", "Asia/Kolkata", "2025-12-31"}, {"2025-12-31T18:30:00Z", "Asia/Kolkata", "2026-01-01"},
		{"2025-03-30T21:59:59.999Z", "Europe/Berlin", "2025-03-30"}, {"2025-03-30T22:00:00Z", "Europe/Berlin", "2025-03-31"},
		{"2025-10-26T22:59:59.999Z", "Europe/Berlin", "2025-10-26"}, {"2025-10-26T23:00:00Z", "Europe/Berlin", "2025-10-27"},
		{"2025-11-02T02:29:59Z", "America/St_Johns", "2025-11-01"}, {"2025-11-02T02:30:00Z", "America/St_Johns", "2025-11-02"},
	}...)
	harnesses := map[string]*harness{}
	for i, f := range facts {
		h := harnesses[f.Zone]
		if h == nil {
			h = newHarness(t, options{zone: f.Zone})
			harnesses[f.Zone] = h
		}
		id, _ := h.create(map[string]any{})
		h.want(h.record(map[string]any{"keyId": id, "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 1}, "occurredAt": f.At}), 200)
		day := pgtest.Scan[time.Time](t, h.db, "SELECT u.day FROM key_days AS u JOIN api_keys AS k ON k.ledger_id = u.ledger_id WHERE k.id = $1", id)
		if got := day.Format(time.DateOnly); got != f.Day {
			t.Errorf("fact %d: %s in %s is %s, want %s", i, f.At, f.Zone, got, f.Day)
		}
	}
}

// Guarantee: sequences of usage add up as measured on the original: totals, day,
// month, averages and cost of the key and of its account, to the last digit.
func TestGoldenSequences(t *testing.T) {
	t.Parallel()
	type block map[string]json.Number
	var facts []struct {
		Name, Zone        string
		CreatedAt, ReadAt time.Time
		Events            []struct {
			At             string
			Usage          map[string]any
			Model, Account *string
		}
		Key      map[string]block
		Cost     block
		Accounts map[string]map[string]block
		LastUsed string `json:"lastUsedAt"`
	}
	readFile(t, "testdata/original_sequences.json", &facts)
	h := newHarness(t, options{zone: facts[0].Zone, prices: true})
	for _, f := range facts {
		pgtest.Exec(t, h.db, "TRUNCATE usage_events, account_usage, account_totals")
		id, _ := pgtest.Key(t, h.db, pgtest.KeyRow{CreatedAt: f.CreatedAt})
		for i, e := range f.Events {
			h.want(h.record(map[string]any{"keyId": id, "requestId": fmt.Sprint(i), "usage": e.Usage, "model": e.Model, "accountId": e.Account, "occurredAt": e.At}), 200)
		}
		asOf := "?asOf=" + url.QueryEscape(f.ReadAt.Format(time.RFC3339Nano))
		s := h.want(h.do("GET", "/v1/keys/"+id.String()+"/usage"+asOf, nil), 200)
		compare := func(who string, got answer, want map[string]block) {
			for name, b := range want {
				for field, value := range b {
					if !sameNumber(got.text(name, field), value.String()) {
						t.Errorf("%s: %s %s.%s = %s, want %s", f.Name, who, name, field, got.text(name, field), value)
					}
				}
			}
		}
		compare("key", s, f.Key)
		compare("key", s, map[string]block{"cost": f.Cost})
		for account, want := range f.Accounts {
			compare(account, h.want(h.do("GET", "/v1/accounts/"+account+"/usage"+asOf, nil), 200), want)
		}
		if got := h.do("GET", "/v1/keys/"+id.String(), nil).text("lastUsedAt"); got != f.LastUsed {
			t.Errorf("%s: lastUsedAt %s, want %s", f.Name, got, f.LastUsed)
		}
	}
}

func sameNumber(a, b string) bool {
	x, err1 := decimal.NewFromString(a)
	y, err2 := decimal.NewFromString(b)
	return err1 == nil && err2 == nil && x.Equal(y)
}

// Guarantee: a void takes an event back out of every rollup, stays in the ledger
// with its reason and audit row, and does so once.
func TestVoid(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{})
	h.want(h.record(map[string]any{"keyId": id, "requestId": "stays", "accountId": "acct", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 4000}}), 200)
	gone := h.record(map[string]any{"keyId": id, "requestId": "goes", "accountId": "acct", "model": "claude-sonnet-4-20250514", "usage": readmeUsage}).text("results", 0, "eventId")
	h.want(h.as(h.relay, "POST", "/v1/events/"+gone+"/void", `{"reason":"r"}`), 403)
	h.want(h.do("POST", "/v1/events/"+gone+"/void", `{"reason":" "}`), 422)
	h.want(h.do("POST", "/v1/events/"+gone+"/void", `{}`), 422)
	h.want(h.do("POST", "/v1/events/"+uuid.NewString()+"/void", `{"reason":"r"}`), 404)
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			if a := h.do("POST", "/v1/events/"+gone+"/void", `{"reason":"charged twice"}`); a.status != 200 || a.text("costUsd") != "-0.016092" {
				t.Errorf("void: %d %s", a.status, a.raw)
			}
		})
	}
	group.Wait()
	s := h.do("GET", "/v1/keys/"+id+"/usage", nil)
	if s.text("total", "requests") != "1" || s.text("total", "allTokens") != "4000" || s.text("cost", "daily") != "0.01" || s.text("cost", "total") != "0.01" {
		t.Errorf("after the void: %s", s.raw)
	}
	if a := h.do("GET", "/v1/accounts/acct/usage", nil); a.text("total", "requests") != "1" || a.text("cost", "total") != "0.01" {
		t.Errorf("the account after the void: %s", a.raw)
	}
	e := h.want(h.as(h.reader, "GET", "/v1/events?kind=adjustment", nil), 200)
	if len(e.get("data").([]any)) != 1 || e.text("data", 0, "adjusts") != gone || e.text("data", 0, "reason") != "charged twice" || e.text("data", 0, "requests") != "-1" {
		t.Errorf("the adjustment: %s", e.raw)
	}
	h.want(h.do("POST", "/v1/events/"+e.text("data", 0, "id")+"/void", `{"reason":"r"}`), 409)
	pgtest.Exec(t, h.db, "UPDATE usage_dedup SET received_at = received_at - interval '8 days'")
	if _, err := h.db.DedupPrune(context.Background(), db.DedupPruneParams{HorizonSeconds: 7 * 24 * 3600, RetentionDays: 92}); err != nil {
		t.Fatal(err)
	}
	if a := h.want(h.do("POST", "/v1/events/"+gone+"/void", `{"reason":"again, much later"}`), 200); a.text("status") != "duplicate" {
		t.Errorf("a void past the deduplication horizon counted again: %s", a.raw)
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM audit_log WHERE action = 'event.void' AND actor = 'the-admin' AND target_id = $1", gone); n != 1 {
		t.Errorf("%d audit rows", n)
	}
}

// Guarantee: the ledger lists newest first with every filter, and pages neither
// repeat nor skip.
func TestListEvents(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	a, _ := h.create(map[string]any{})
	b, _ := h.create(map[string]any{})
	for i := range 9 {
		h.want(h.record(map[string]any{"keyId": []string{a, b}[i%2], "requestId": fmt.Sprint(i), "accountId": fmt.Sprint("acct", i%3), "model": []string{"gpt-4o", "us.anthropic.claude-sonnet-4-20250514-v1:0"}[i/5],
			"usage": map[string]any{"input_tokens": i}, "occurredAt": fmt.Sprintf("2026-01-0%dT00:00:00Z", i+1)}), 200)
	}
	list := func(query string) (got string) {
		cursor := ""
		for range 10 {
			page := h.want(h.as(h.reader, "GET", "/v1/events?limit=2&cursor="+cursor+"&"+query, nil), 200)
			for i := range page.get("data").([]any) {
				got += page.text("data", i, "requestId")
			}
			if cursor = page.text("nextCursor"); cursor == "" {
				return got
			}
		}
		return got + " and no end"
	}
	for query, want := range map[string]string{"": "876543210", "keyId=" + b: "7531", "accountId=acct2": "852", "model=claude-sonnet-4-20250514": "8765", "requestId=4": "4",
		"kind=usage": "876543210", "kind=opening": "", "from=2026-01-03T00:00:00Z&to=2026-01-05T00:00:00Z": "32", "keyId=" + uuid.NewString(): ""} {
		if got := list(query); got != want {
			t.Errorf("%s lists %s, want %s", query, got, want)
		}
	}
	for _, query := range []string{"kind=x", "keyId=x", "from=x", "limit=0", "cursor=x"} {
		h.want(h.do("GET", "/v1/events?"+query, nil), 422)
	}
	one := h.do("GET", "/v1/events?limit=1", nil)
	if got := h.want(h.do("GET", "/v1/events/"+one.text("data", 0, "id"), nil), 200); got.text("modelReceived") != "us.anthropic.claude-sonnet-4-20250514-v1:0" || got.text("inputTokens") != "8" {
		t.Errorf("one event: %s", got.raw)
	}
	h.want(h.do("GET", "/v1/events/"+uuid.NewString(), nil), 404)
}

// Guarantee: accounts list by the tokens of the day, descending, in pages.
func TestListAccounts(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{})
	for i := range 5 {
		h.want(h.record(map[string]any{"keyId": id, "accountId": fmt.Sprint("acct", i), "model": "gpt-4o", "usage": map[string]any{"input_tokens": 10 * (i % 4), "cache_read_input_tokens": i}}), 200)
	}
	var got []string
	cursor := ""
	for range 10 {
		page := h.want(h.as(h.reader, "GET", "/v1/accounts/usage?limit=2&cursor="+cursor, nil), 200)
		for i := range page.get("data").([]any) {
			got = append(got, page.text("data", i, "accountId")+":"+page.text("data", i, "daily", "allTokens")+":"+page.text("data", i, "daily", "tokens"))
		}
		if cursor = page.text("nextCursor"); cursor == "" {
			break
		}
	}
	if want := "acct3:33:30 acct2:22:20 acct1:11:10 acct4:4:0 acct0:0:0"; strings.Join(got, " ") != want {
		t.Errorf("accounts %v, want %s", got, want)
	}
	if a := h.do("GET", "/v1/accounts/usage?asOf=2020-01-01T00:00:00Z&limit=1", nil); a.text("data", 0, "accountId") != "acct0" || a.text("data", 0, "daily", "requests") != "0" {
		t.Errorf("as of another day: %s", a.raw)
	}
}

// Guarantee: counts so large that a sum would not fit are refused with the rule,
// never with a 5xx, and leave every sum as it was.
func TestSumsThatDoNotFit(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{})
	var events []any
	for i := range 1000 {
		events = append(events, map[string]any{"keyId": id, "requestId": fmt.Sprint(i), "model": "gpt-4o", "usage": map[string]any{"input_tokens": int64(1) << 53}})
	}
	h.want(h.record(map[string]any{"events": events}), 200)
	for i := range events {
		events[i].(map[string]any)["requestId"] = fmt.Sprint("more", i)
	}
	a := h.want(h.record(map[string]any{"events": events}), 422)
	if !strings.Contains(a.text("detail"), "9223372036854775807") {
		t.Errorf("the rule is not named: %s", a.raw)
	}
	other := map[string]any{"keyId": id, "requestId": "all four", "accountId": "acct", "usage": map[string]any{"output_tokens": int64(1) << 53, "cache_read_input_tokens": int64(1) << 53}}
	for i := range 12 {
		other["requestId"] = fmt.Sprint("class", i)
		if a := h.record(other); a.status != 200 && a.status != 422 {
			t.Errorf("sums over the classes: %d %s", a.status, a.raw)
		}
	}
	if total := h.do("GET", "/v1/keys/"+id+"/usage", nil).text("total", "allTokens"); strings.HasPrefix(total, "-") {
		t.Errorf("the sum of all classes wrapped around: %s", total)
	}
	h.want(h.do("GET", "/v1/accounts/usage", nil), 200)
	h.want(h.do("GET", "/v1/prices/unpriced", nil), 200)
	if got := h.want(h.do("GET", "/v1/keys/"+id, nil), 200).text("usage", "total", "inputTokens"); got != "9007199254740992000" {
		t.Errorf("the sum is now %s", got)
	}
}
