package api_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/rollup"
)

// Guarantee: what moved to the archive is in the ledger as before: every answer that reads
// events is the same, and they can be taken back, priced again and added up again.
func TestArchivedUsage(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{"name": "k", "tags": []string{"red"}})
	other, _ := h.create(map[string]any{"name": "other"})
	ago := func(days int) time.Time { return time.Now().UTC().AddDate(0, 0, -days) }
	var events []string
	for i := range 12 {
		model, key := "gpt-4o", id
		if i == 11 {
			model, key = "nobody-knows", other
		}
		a := h.want(h.record(map[string]any{"keyId": key, "accountId": "acct", "model": model, "requestId": fmt.Sprint(i), "occurredAt": ago(i / 2).Format(time.RFC3339), "usage": map[string]any{"prompt_tokens": 1000}}), 200)
		events = append(events, a.text("results", 0, "eventId"))
	}
	if _, err := rollup.New(h.db, "UTC").Roll(context.Background()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, h.db, "SELECT make_ledger_partitions((now() AT TIME ZONE 'UTC')::date - 6, (now() AT TIME ZONE 'UTC')::date - 2)")
	pgtest.Age(t, h.db)
	from, to := ago(6).Format(time.DateOnly), ago(0).Format(time.DateOnly)
	paths := []string{
		"/v1/events?limit=5", "/v1/events?limit=5&keyId=" + id, "/v1/events?model=nobody-knows", "/v1/events?requestId=9", "/v1/events/" + events[9], "/v1/prices/unpriced",
		"/v1/reports/usage?granularity=hour&groupBy=key,model,account,tag&from=" + from + "&to=" + to,
		"/v1/reports/usage?granularity=total&groupBy=account,key&from=" + from + "&to=" + to,
		"/v1/reports/reconcile?from=" + from + "&to=" + to,
	}
	answers := func() (all []string) {
		for _, path := range paths {
			for next := path; next != ""; {
				a := h.want(h.do(http.MethodGet, next, nil), 200)
				delete(a.body, "asOf")
				cursor := a.text("nextCursor")
				delete(a.body, "nextCursor")
				all = append(all, fmt.Sprint(next, a.body))
				if next = ""; cursor != "" {
					next = path + "&cursor=" + cursor
				}
			}
		}
		return all
	}
	before := answers()
	pgtest.Archive(t, h.db)
	if moved := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM usage_archive"); moved != 6 {
		t.Fatalf("%d rows were archived, want 6", moved)
	}
	for i, after := range answers() {
		if after != before[i] {
			t.Errorf("archived: %s\nbefore: %s", after, before[i])
		}
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM reporting.ledger"); n != 12 {
		t.Errorf("SQL sees %d rows of the ledger, want 12", n)
	}

	const report = "/v1/reports/usage?granularity=hour&keyId="
	total := func() string {
		return h.want(h.do(http.MethodGet, report+id+"&from="+from+"&to="+to, nil), 200).text("totals", "requests")
	}
	for range 2 { // the second time it is a duplicate
		h.want(h.do(http.MethodPost, "/v1/events/"+events[9]+"/void", map[string]any{"reason": "test"}), 200)
	}
	if n := total(); n != "10" {
		t.Errorf("%s requests after an archived one was taken back, want 10", n)
	}
	h.want(h.do(http.MethodPost, "/v1/prices", map[string]any{"model": "nobody-knows", "effectiveFrom": ago(30).Format(time.RFC3339), "inputPerMillion": "1"}), 200)
	a := h.want(h.do(http.MethodPost, "/v1/prices/reprice", map[string]any{"from": from, "to": to, "model": "nobody-knows"}), 200)
	if a.text("changes", 0, "events") != "1" {
		t.Errorf("archived usage priced again: %s", a.raw)
	}
	if a := h.want(h.do(http.MethodGet, "/v1/prices/unpriced", nil), 200); a.get("data", 0) != nil {
		t.Errorf("there is still usage without a price: %s", a.raw)
	}
	for range 2 {
		if a := h.want(h.do(http.MethodGet, "/v1/reports/reconcile?from="+from+"&to="+to, nil), 200); a.text("agrees") != "true" {
			t.Errorf("sums disagree: %s", a.raw)
		}
		if _, err := rollup.New(h.db, "UTC").Roll(context.Background()); err != nil {
			t.Fatal(err)
		}
		h.want(h.do(http.MethodPost, "/v1/reports/rebuild", map[string]any{"from": from, "to": to}), 200)
	}
}
