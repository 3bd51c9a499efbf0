package api_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

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
