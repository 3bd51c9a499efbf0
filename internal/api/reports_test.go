package api_test

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/internal/api"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/rollup"
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
	roll := func() {
		t.Helper()
		if _, err := rollup.New(h.db, "Asia/Kathmandu").Roll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	roll()
	record("later", time.Now().AddDate(0, 0, -3))
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
	roll()
	record("tail", time.Now())
	for _, c := range []struct{ falsify, repair, rollup, column, model string }{
		{"UPDATE usage_daily SET cost = cost + 1 WHERE day = (SELECT max(day) FROM usage_daily)", "UPDATE usage_daily SET cost = cost - 1 WHERE day = (SELECT max(day) FROM usage_daily)", "usage_daily", "cost", "gpt-4o"},
		{"UPDATE usage_daily SET input_tokens = input_tokens + 1 WHERE day = (SELECT max(day) FROM usage_daily)", "UPDATE usage_daily SET input_tokens = input_tokens - 1 WHERE day = (SELECT max(day) FROM usage_daily)", "usage_daily", "input_tokens", "gpt-4o"},
		{"UPDATE account_usage SET requests = requests + 1 WHERE day = (SELECT max(day) FROM account_usage)", "UPDATE account_usage SET requests = requests - 1 WHERE day = (SELECT max(day) FROM account_usage)", "account_usage", "requests", "gpt-4o"},
		{"UPDATE daily_cost SET cost = cost - 0.000000000001 WHERE day = (SELECT max(day) FROM daily_cost)", "UPDATE daily_cost SET cost = cost + 0.000000000001 WHERE day = (SELECT max(day) FROM daily_cost)", "daily_cost", "cost", ""},
		{"UPDATE key_counters SET ephemeral_1h_tokens = 7", "UPDATE key_counters SET ephemeral_1h_tokens = 0", "key_counters", "ephemeral_1h_tokens", ""},
		{"UPDATE key_counters SET day_cost = day_cost + 1", "UPDATE key_counters SET day_cost = day_cost - 1", "key_counters", "day_cost", ""},
		{"UPDATE key_counters SET week_cost = week_cost + 1", "UPDATE key_counters SET week_cost = week_cost - 1", "key_counters", "week_cost", ""},
		{"UPDATE key_counters SET month_cost = month_cost + 1", "UPDATE key_counters SET month_cost = month_cost - 1", "key_counters", "month_cost", ""},
		{"UPDATE model_usage SET requests = requests + 1", "UPDATE model_usage SET requests = requests - 1", "model_usage", "requests", "gpt-4o"},
		{"UPDATE tag_usage SET cost = cost + 7", "UPDATE tag_usage SET cost = cost - 7", "tag_usage", "cost", "gpt-4o"},
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
	// What derives from the ledger can be made anew.
	for _, table := range []string{"usage_daily", "account_usage", "model_usage", "tag_usage"} {
		pgtest.Exec(t, h.db, "UPDATE "+table+" SET requests = 99")
	}
	pgtest.Exec(t, h.db, "DELETE FROM daily_cost")
	pgtest.Exec(t, h.db, "UPDATE account_totals SET cost = 99")
	today := pgtest.Scan[string](t, h.db, "SELECT (now() AT TIME ZONE 'Asia/Kathmandu')::date::text")
	week := pgtest.Scan[string](t, h.db, "SELECT ((now() AT TIME ZONE 'Asia/Kathmandu')::date - 7)::text")
	rebuild := map[string]any{"from": week, "to": today}
	h.want(h.as(h.reader, "POST", "/v1/reports/rebuild", rebuild), 403)
	for range 2 {
		h.want(h.do("POST", "/v1/reports/rebuild", rebuild), 200)
		if a := reconcile(); a.text("agrees") != "true" || pgtest.Scan[int](t, h.db, "SELECT count(*) FROM daily_cost") == 0 {
			t.Errorf("after the rollups were rebuilt: %s", a.raw)
		}
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM audit_log WHERE action = 'rollups.rebuild' AND actor = 'the-admin'"); n != 2 {
		t.Errorf("%d audit rows tell of two rebuilds", n)
	}
	if a := h.want(h.do("POST", "/v1/reports/rebuild", map[string]any{"from": today, "to": week}), 422); a.wrongFields() != "from" {
		t.Errorf("days in the wrong order: %s", a.raw)
	}
	pgtest.Exec(t, h.db, "DELETE FROM usage_events WHERE request_id = 'now'")
	if a := reconcile(); a.text("agrees") != "false" || a.text("differences", 0, "rollup") != "account_usage" {
		t.Errorf("after a ledger row was deleted: %s", a.raw)
	}
	h.want(h.do("GET", "/v1/reports/reconcile?from=2026-11-23&to=2026-11-22", nil), 422)
	h.want(h.do("GET", "/v1/reports/reconcile?from=yesterday", nil), 422)
	h.want(h.as(h.relay, "GET", "/v1/reports/reconcile", nil), 403)
	retention(t, h)
	if a := h.want(h.do("GET", "/v1/reports/reconcile?from=2020-01-01&to=2020-12-31", nil), 200); a.text("to") != "2020-12-31" || a.text("from") <= "2020-12-31" {
		t.Errorf("of days long gone: %s", a.raw)
	}
}

// retention drops what was received more than a week ago.
func retention(t *testing.T, h *harness) {
	t.Helper()
	pgtest.Exec(t, h.db, "SELECT make_ledger_partitions((now() AT TIME ZONE 'UTC')::date - 9, (now() AT TIME ZONE 'UTC')::date - 8)")
	pgtest.Exec(t, h.db, "SELECT drop_ledger_partitions((now() AT TIME ZONE 'UTC')::date - 7)")
}

// Guarantee: what is the same for all rows is worked out once: a hundred thousand
// ledger rows are reconciled in seconds.
func TestReconcileScale(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{"name": "k"})
	pgtest.Exec(t, h.db, `INSERT INTO usage_events (event_id, received_at, kind, ledger_id, chunk, account_id, model, model_received, request_id, occurred_at, day, tag_set, requests,
			input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost, priced, estimated)
		SELECT gen_random_uuid(), now(), 'usage', (SELECT ledger_id FROM api_keys WHERE id = $1::uuid), 0, NULL, 'm', 'm', g::text, now(), (now() AT TIME ZONE 'UTC')::date, '00000000-0000-0000-0000-000000000000', 1,
			10, 0, 0, 0, 0, 0.000001, true, false FROM generate_series(1, 100000) AS g`, id)
	start := time.Now()
	a := h.want(h.do("GET", "/v1/reports/reconcile", nil), 200)
	if took := time.Since(start); took > 5*time.Second || a.text("ledgerRows") != "100000" || a.text("agrees") != "false" || a.text("differences", 0, "summed", "costUsd") != "0.1" {
		t.Errorf("in %s: %s", took, a.raw)
	}
}

// Guarantee: a usage report has what it is grouped by and no more, the same in pages of
// JSON and in CSV, with the names of keys; keys with two tags count under both, and the
// totals say so; what is wrong is named, all at once.
func TestUsageReport(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	for i, tags := range [][]string{{"red", "blue"}, {"red"}, {}} {
		id, _ := h.create(map[string]any{"name": fmt.Sprintf("key, %d", i), "tags": tags})
		for day := range 3 {
			h.want(h.record(map[string]any{"keyId": id, "accountId": "acct", "model": "gpt-4o", "occurredAt": time.Now().AddDate(0, 0, -day).Format(time.RFC3339), "usage": map[string]any{"prompt_tokens": 1000}}), 200)
		}
	}
	const all = "/v1/reports/usage?groupBy=key,model,tag"
	var lines []string
	for path, pages := all+"&limit=5", 0; path != ""; pages++ {
		a := h.want(h.as(h.reader, "GET", path, nil), 200)
		for i := 0; a.get("data", i) != nil; i++ {
			row := func(name string) string { return a.text("data", i, name) }
			lines = append(lines, strings.Join([]string{row("period"), row("keyName"), row("model"), row("tag"), row("requests"), row("allTokens"), row("costUsd")}, ";"))
			if a.get("data", i, "accountId") != nil {
				t.Errorf("it is not grouped by account: %s", a.raw)
			}
		}
		if a.text("totals", "requests") != "9" || a.text("totals", "costUsd") != "0.0225" || a.text("totals", "rowsOverlap") != "true" {
			t.Errorf("the totals of %s: %s", path, a.raw)
		}
		if path = ""; a.text("nextCursor") != "" {
			path = all + "&limit=5&cursor=" + a.text("nextCursor")
		}
		if pages > 3 {
			t.Fatal("the pages do not end")
		}
	}
	if len(lines) != 12 || !strings.Contains(strings.Join(lines, "|"), ";key, 0;gpt-4o;blue;1;1000;0.0025") {
		t.Errorf("rows: %q", lines)
	}
	a := h.want(h.do("GET", all+"&format=csv", nil), 200)
	table, err := csv.NewReader(strings.NewReader(a.raw)).ReadAll()
	if at, err := time.Parse(time.RFC3339, a.header.Get("X-As-Of")); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("as of %q", a.header.Get("X-As-Of"))
	}
	if err != nil || len(table) != 13 || strings.Join(table[0], ",") != "period,keyId,keyName,model,tag,requests,inputTokens,outputTokens,cacheCreateTokens,cacheReadTokens,ephemeral5mTokens,ephemeral1hTokens,allTokens,costUsd" {
		t.Fatalf("%v %q", err, a.raw)
	}
	for i, line := range lines {
		row := table[i+1]
		if got := strings.Join([]string{row[0], row[2], row[3], row[4], row[5], row[12], row[13]}, ";"); got != line {
			t.Errorf("row %d of the CSV is %q, of the JSON %q", i, got, line)
		}
	}
	if a := h.want(h.do("GET", "/v1/reports/usage?granularity=total&groupBy=account&tag=blue", nil), 200); a.text("data", 0, "period") != "total" || a.text("data", 0, "accountId") != "acct" || a.text("data", 0, "requests") != "3" || a.text("totals", "rowsOverlap") != "false" {
		t.Errorf("one tag: %s", a.raw)
	}
	if a := h.want(h.do("GET", "/v1/reports/usage?from=2020-01-01&to=2020-02-01&format=csv", nil), 200); strings.Count(a.raw, "\n") != 1 {
		t.Errorf("nothing is a head alone: %q", a.raw)
	}
	if a := h.want(h.do("GET", "/v1/reports/usage?granularity=week&groupBy=color&limit=0&format=xml&tag=", nil), 422); a.wrongFields() != "granularity,limit,groupBy,tag,format" {
		t.Errorf("wrong: %s", a.wrongFields())
	}
	h.want(h.do("GET", "/v1/reports/usage?granularity=hour&from=2020-01-01", nil), 200)
	retention(t, h)
	h.want(h.do("GET", "/v1/reports/usage?granularity=hour&from=2020-01-01", nil), 422)
	h.want(h.do("GET", "/v1/reports/usage?groupBy=key,account&from=2020-01-01", nil), 422)
	h.want(h.do("GET", "/v1/reports/usage?groupBy=key&from=2020-01-01", nil), 200)
	h.want(h.do("GET", "/v1/reports/usage?cursor=WyJhIl0", nil), 422)
	h.want(h.as(h.relay, "GET", "/v1/reports/usage", nil), 403)
}

// Guarantee: the rows of a report and its totals are of one moment, also while usage is
// written.
func TestTotalsAreTheRows(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	var ids []string
	for range 3 {
		id, _ := h.create(map[string]any{})
		ids = append(ids, id)
	}
	end := time.Now().Add(3 * time.Second)
	var writing sync.WaitGroup
	for i := range 3 {
		writing.Go(func() {
			for time.Now().Before(end) {
				h.record(map[string]any{"keyId": ids[i], "accountId": "a", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 1}})
			}
		})
	}
	seen := map[string]bool{}
	for time.Now().Before(end) {
		for _, path := range []string{"/v1/reports/usage?groupBy=key,model", "/v1/reports/usage?granularity=hour&groupBy=key,account", "/v1/reports/usage?granularity=total&groupBy=account"} {
			a := h.want(h.do("GET", path, nil), 200)
			requests, cost := int64(0), decimal.Zero
			for i := 0; a.get("data", i) != nil; i++ {
				n, _ := a.get("data", i, "requests").(json.Number).Int64()
				requests, cost = requests+n, cost.Add(decimal.RequireFromString(a.text("data", i, "costUsd")))
			}
			if fmt.Sprint(requests) != a.text("totals", "requests") || !cost.Equal(decimal.RequireFromString(a.text("totals", "costUsd"))) {
				t.Fatalf("rows add up to %d requests and $%s: %s", requests, cost, a.raw)
			}
			seen[a.text("totals", "requests")] = true
		}
	}
	writing.Wait()
	if len(seen) < 3 {
		t.Errorf("nothing was written meanwhile: totals of %v", seen)
	}
}

// Guarantee: no cell of a CSV is a formula to a spreadsheet.
func TestCellsAreNoFormulas(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	for _, text := range []string{"=cmd|' /C calc'!A0", "@SUM(1+1)", "+1+1", "-2+3", "plain"} {
		id, _ := h.create(map[string]any{"name": text, "tags": []string{text}})
		h.want(h.record(map[string]any{"keyId": id, "accountId": text, "model": text, "usage": map[string]any{"prompt_tokens": 1}}), 200)
	}
	a := h.want(h.do("GET", "/v1/reports/usage?groupBy=key,model,tag&format=csv", nil), 200)
	b := h.want(h.do("GET", "/v1/reports/usage?groupBy=account&format=csv", nil), 200)
	cells := 0
	for _, raw := range []string{a.raw, b.raw} {
		table, err := csv.NewReader(strings.NewReader(raw)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range table[1:] {
			for _, cell := range row {
				if cells++; cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
					t.Errorf("a spreadsheet runs %q", cell)
				}
			}
		}
		if !strings.Contains(raw, "'@SUM(1+1)") || !strings.Contains(raw, "plain") || strings.Contains(raw, "'plain") {
			t.Errorf("the texts are not all there: %s", raw)
		}
	}
	if cells < 50 {
		t.Errorf("%d cells", cells)
	}
}

// Guarantee: the report in FOCUS has the columns of the view, mandatory ones filled, and its cost
// is that of the ledger, to the last digit; a reader gets it for one key or all.
func TestFocus(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	var ids []string
	for i, tags := range [][]string{{"red", "blue"}, nil} {
		id, _ := h.create(map[string]any{"name": fmt.Sprintf("=key, %d", i), "tags": tags})
		ids = append(ids, id)
		for _, model := range []string{"claude-haiku-4-5", "gpt-4o", "my-model"} {
			h.want(h.record(map[string]any{"keyId": id, "accountId": "acct", "model": model, "usage": map[string]any{"input_tokens": 1001, "output_tokens": 7}}), 200)
		}
	}
	taken := h.want(h.record(map[string]any{"keyId": ids[0], "model": "gpt-4o-mini", "usage": map[string]any{"input_tokens": 5}}), 200)
	h.want(h.do("POST", "/v1/events/"+taken.text("results", 0, "eventId")+"/void", map[string]any{"reason": "test"}), 200)
	table := func(path string) (rows []map[string]string) {
		t.Helper()
		read, err := csv.NewReader(strings.NewReader(h.want(h.as(h.reader, "GET", path, nil), 200).raw)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if want := pgtest.Scan[[]string](t, h.db, "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'reporting.focus'::regclass AND attnum > 0"); !slices.Equal(read[0], want) {
			t.Fatalf("columns %v, want %v", read[0], want)
		}
		for _, cells := range read[1:] {
			row := map[string]string{}
			for i, cell := range cells {
				row[read[0][i]] = cell
			}
			rows = append(rows, row)
		}
		return rows
	}
	rows, sum := table("/v1/reports/focus"), decimal.Zero
	for _, row := range rows {
		sum = sum.Add(decimal.RequireFromString(row["BilledCost"]))
		for _, mandatory := range []string{"BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeDescription",
			"ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName",
			"ServiceCategory", "ServiceName", "HostProviderName", "ServiceProviderName"} {
			if row[mandatory] == "" {
				t.Errorf("%s is empty in %v", mandatory, row)
			}
		}
		if row["ConsumedQuantity"] != "1008" || !strings.HasPrefix(row["SubAccountName"], "'=key") || !strings.HasSuffix(row["ChargePeriodStart"], "T00:00:00Z") {
			t.Errorf("%v", row)
		}
	}
	if ledger := pgtest.Scan[string](t, h.db, "SELECT sum(cost)::text FROM usage_events"); len(rows) != 6 || !sum.Equal(decimal.RequireFromString(ledger)) {
		t.Errorf("%d rows cost %s, want 6 that cost %s", len(rows), sum, ledger)
	}
	of := func(sku string) map[string]string {
		for _, row := range table("/v1/reports/focus?keyId=" + ids[0]) {
			if row["SkuId"] == sku {
				return row
			}
		}
		t.Fatalf("no row of %s", sku)
		return nil
	}
	if got := of("claude-haiku-4-5"); got["ServiceProviderName"] != "Anthropic" || got["ServiceName"] != "Claude API" || got["Tags"] != `{"red": true, "blue": true}` && got["Tags"] != `{"blue": true, "red": true}` {
		t.Errorf("%v", got)
	}
	if got := of("my-model"); got["ServiceProviderName"] != "Unknown" || got["SubAccountId"] != ids[0] {
		t.Errorf("%v", got)
	}
	if rows := table("/v1/reports/focus?from=2020-01-01&to=2020-01-31"); len(rows) != 0 {
		t.Errorf("%v", rows)
	}
	h.want(h.do("GET", "/v1/reports/focus?from=2026-02-01&to=2026-01-01", nil), 422)
	h.want(h.do("GET", "/v1/reports/focus?keyId="+uuid.Nil.String(), nil), 422)
}

// Guarantee: a CSV that fails in its middle ends with a broken connection, so that
// nobody takes a part for the whole.
func TestBrokenOff(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	pgtest.Exec(t, h.db, `INSERT INTO usage_daily SELECT gen_random_uuid(), '2026-01-01'::date + g % 300, 'm-' || g, '00000000-0000-0000-0000-000000000000', 1, 1, 1, 0, 0, 0, 0.5 FROM generate_series(1, 200000) AS g`)
	pgtest.Exec(t, h.db, `INSERT INTO ledger_holders (ledger_id) SELECT ledger_id FROM usage_daily`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.url+"/v1/reports/usage?from=2026-01-01&groupBy=key,model&format=csv", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.admin)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.ReadFull(resp.Body, make([]byte, 100)); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v", resp.StatusCode, err)
	}
	pgtest.Exec(t, h.db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%ReportKeys%' AND pid <> pg_backend_pid()")
	n, err := io.Copy(io.Discard, resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after %d more bytes: %v, want an unexpected end", n, err)
	}
}

// Guarantee: a CSV report that fails on the way is never taken for a whole one, however few rows it had and
// however long it took: its client sees no end, or no 200.
func TestBrokenCSV(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	for _, rows := range []int{0, 1, 10, 400, 700} {
		for _, after := range []time.Duration{0, 1100 * time.Millisecond} {
			server := httptest.NewUnstartedServer(h.api.BrokenCSV(rows, after))
			server.Config = api.HTTPServer(server.Config.Handler, slog.New(slog.DiscardHandler))
			server.Start()
			resp, err := http.Get(server.URL + "/v1/reports/usage")
			if err != nil {
				server.Close()
				continue
			}
			got, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if rows == 0 && resp.StatusCode != http.StatusInternalServerError {
				t.Errorf("no rows, %s: %d", after, resp.StatusCode)
			}
			if err == nil && resp.StatusCode == http.StatusOK {
				t.Errorf("%d rows, %s: a whole answer of %d bytes", rows, after, len(got))
			}
			server.Close()
		}
	}
}
