package key_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/key"
)

func readJSON(t *testing.T, file string, into any) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

func hasher() *key.Hasher {
	return &key.Hasher{
		Prefixes: []string{"cr_", "kl_live_", "kl_"},
		Peppers:  []key.Pepper{{ID: "new", Secret: []byte(strings.Repeat("n", 32))}, {ID: "old", Secret: []byte(strings.Repeat("o", 32))}},
		Legacy:   "oracle-encryption-key-32-chars!!",
	}
}

// Guarantee: keys that the original service issued keep their hash, so that they
// are found after the move.
func TestLegacyHash(t *testing.T) {
	t.Parallel()
	var facts []struct{ Key, Pepper, SHA256 string }
	readJSON(t, "testdata/original_hashes.json", &facts)
	for _, f := range facts {
		if got := hex.EncodeToString(key.LegacyHash(f.Key, f.Pepper)); got != f.SHA256 {
			t.Errorf("LegacyHash(%q, %q) = %s, want %s", f.Key, f.Pepper, got, f.SHA256)
		}
	}
}

// Guarantee: an issued key is prefix + 64 lowercase hex, well-formed, never the
// same twice, and its hint shows eight characters of it and no more.
func TestIssue(t *testing.T) {
	t.Parallel()
	h := hasher()
	a, b := h.Issue(), h.Issue()
	if a == b || !regexp.MustCompile(`^cr_[0-9a-f]{64}$`).MatchString(a) || !h.WellFormed(a) {
		t.Errorf("issued %q and %q", a, b)
	}
	if want := a[:7] + "..." + a[len(a)-4:]; h.Hint(a) != want {
		t.Errorf("hint %q, want %q", h.Hint(a), want)
	}
}

// Guarantee: what is no key text at all is told from an unknown key.
func TestWellFormed(t *testing.T) {
	t.Parallel()
	h := hasher()
	for text, want := range map[string]bool{
		"cr_" + strings.Repeat("a", 64): true, "cr_0123456789": true, "kl_live_0123456789": true, "kl_0123456789": true,
		"cr_" + strings.Repeat("a", 509): true, "cr_" + strings.Repeat("a", 510): false, "cr_0123456": true, "cr_012345": false, "": false, "cr_": false,
		"CR_0123456789": false, "sk-0123456789": false, "cr_01234 56789": false, "cr_0123456789\x00": false, "cr_012345678é": false,
	} {
		if got := h.WellFormed(text); got != want {
			t.Errorf("WellFormed(%q) = %v", text, got)
		}
	}
}

// Guarantee: a key is looked up under every pepper in use, the current one
// first, and under the original's scheme; a different pepper or key never gives
// the same hash.
func TestCandidates(t *testing.T) {
	t.Parallel()
	h := hasher()
	found := h.Candidates("cr_0123456789")
	if len(found) != 3 || found[0].PepperID != "new" || found[1].PepperID != "old" || found[2].Scheme != key.SchemeLegacy {
		t.Fatalf("candidates: %+v", found)
	}
	seen := map[string]bool{}
	for _, c := range append(found, h.Candidates("cr_0123456780")...) {
		if len(c.Hash) != 32 || seen[string(c.Hash)] {
			t.Errorf("hash %x is not 32 bytes or comes twice", c.Hash)
		}
		seen[string(c.Hash)] = true
	}
	if h.Peppers[0].CheckValue() == h.Peppers[1].CheckValue() {
		t.Error("two peppers have one check value")
	}
}

// Guarantee: window fields of list rows mean what they meant in the original,
// measured there; and an open window's edges are exact.
func TestWindow(t *testing.T) {
	t.Parallel()
	var facts struct {
		Now   time.Time
		Cases []struct {
			Case                         string
			Minutes                      int32
			Start, StartShown, End       *time.Time
			StoredRequests, StoredTokens int64
			Requests, Tokens             int64
			RemainingSeconds             *int64
		}
	}
	readJSON(t, "testdata/original_windows.json", &facts)
	same := func(a, b *time.Time) bool { return a == nil && b == nil || a != nil && b != nil && a.Equal(*b) }
	for _, c := range facts.Cases {
		w := key.WindowAt(c.Start, c.Minutes, c.StoredRequests, c.StoredTokens, facts.Now)
		if w.Requests != c.Requests || w.Tokens != c.Tokens || !same(w.Start, c.StartShown) || !same(w.End, c.End) ||
			(w.RemainingSeconds == nil) != (c.RemainingSeconds == nil) || w.RemainingSeconds != nil && *w.RemainingSeconds != *c.RemainingSeconds {
			t.Errorf("%s: %+v", c.Case, w)
		}
	}
	start := facts.Now
	last := key.WindowAt(&start, 1, 5, 6, start.Add(time.Minute-time.Millisecond))
	if last.Requests != 5 || last.End == nil || *last.RemainingSeconds != 0 {
		t.Errorf("the last millisecond of a window: %+v", last)
	}
	if over := key.WindowAt(&start, 1, 5, 6, start.Add(time.Minute)); over.Requests != 0 || over.End != nil {
		t.Errorf("the first instant after a window: %+v", over)
	}
}

// Guarantee: the order of states, and that a key is valid at the very instant of
// its expiresAt.
func TestStatus(t *testing.T) {
	t.Parallel()
	now := time.Now()
	past := now.Add(-time.Nanosecond)
	for _, c := range []struct {
		deleted, expires *time.Time
		active           bool
		want             string
	}{
		{nil, nil, true, key.StatusActive}, {nil, &now, true, key.StatusActive}, {nil, nil, false, key.StatusDisabled},
		{nil, &past, true, key.StatusExpired}, {nil, &past, false, key.StatusExpired}, {&now, &past, false, key.StatusDeleted},
	} {
		if got := key.Status(c.deleted, c.expires, c.active, now); got != c.want {
			t.Errorf("Status(%v) = %s", c, got)
		}
	}
}

func object(t testing.TB, text string) field.Object {
	var o field.Object
	if err := jsonv2.Unmarshal([]byte(text), &o); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o
}

var rules = key.Rules{DefaultTokenLimit: 1000000, Services: []string{"claude", "gemini"}, Clients: []string{"claude_code"}, Comparable: strings.ToLower, Denied: strings.ToLower}

// Guarantee: every rule of the contract's table refuses what is just beyond it
// and takes what is just within.
func TestFieldRules(t *testing.T) {
	t.Parallel()
	long := func(n int) string { return strings.Repeat("x", n) }
	many := func(n int) string {
		items := make([]string, n)
		for i := range items {
			items[i] = `"t` + strings.Repeat("i", i%7) + long(i/7) + `"`
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	for field, values := range map[string]struct{ good, bad []string }{
		"name":                   {[]string{`"a"`, `" a "`, `"` + long(100) + `"`, `"` + strings.Repeat("é", 100) + `"`}, []string{`""`, `"  "`, `null`, `5`, `"` + long(101) + `"`, `"a\u0000b"`}},
		"description":            {[]string{`""`, `null`, `"` + long(500) + `"`}, []string{`"` + long(501) + `"`, `[]`}},
		"tokenLimit":             {[]string{`0`, `null`, `9223372036854775807`}, []string{`-1`, `1.5`, `"1"`, `1e3`, `9223372036854775808`, `true`, `"NaN"`}},
		"rateLimitWindow":        {[]string{`0`, `null`, `527040`}, []string{`-1`, `527041`, `0.5`}},
		"rateLimitRequests":      {[]string{`0`, `null`, `7`}, []string{`-1`, `""`}},
		"concurrencyLimit":       {[]string{`0`, `null`, `2147483647`}, []string{`-1`, `2147483648`, `2.9`, `""`}},
		"dailyCostLimit":         {[]string{`0`, `null`, `"12.50"`, `0.000000000001`, `999999999999.999999999999`, `1e2`}, []string{`-0.01`, `0.0000000000001`, `1000000000000`, `"abc"`, `""`, `1e30`, `"1e999999999"`, `1e-999999999`, `"NaN"`, `"Infinity"`, `true`}},
		"weeklyCostLimit":        {[]string{`1`}, []string{`-1`}},
		"monthlyCostLimit":       {[]string{`1`}, []string{`-1`}},
		"totalCostLimit":         {[]string{`1`}, []string{`-1`}},
		"permissions":            {[]string{`null`, `"all"`, `"claude"`, `["claude","gemini"]`, `["all"]`}, []string{`[]`, `["bedrock"]`, `["claude","claude"]`, `["all","claude"]`, `"nope"`, `5`, `[5]`}},
		"restrictedModels":       {[]string{`[]`, `null`, `["m"]`}, []string{`["m","m"]`, `[""]`, `"m"`, `["` + long(201) + `"]`}},
		"allowedModels":          {[]string{`["m"]`}, []string{`{}`}},
		"allowedClients":         {[]string{`[]`, `["claude_code"]`}, []string{`["nope"]`}},
		"claudeAccountId":        {[]string{`null`, `"a"`, `"` + long(200) + `"`}, []string{`""`, `"` + long(201) + `"`}},
		"estimatePerRequest":     {[]string{`null`, `0.001`}, []string{`-1`}},
		"enforcement":            {[]string{`null`, `"enforce"`, `"observe"`}, []string{`"off"`, `true`}},
		"tags":                   {[]string{`[]`, `null`, `["a"," b "]`, many(50)}, []string{many(51), `["a"," a"]`, `[""]`, `["` + long(51) + `"]`}},
		"expiresAt":              {[]string{`null`, `"2020-01-01T00:00:00Z"`, `"2030-01-01T00:00:00.123+05:30"`}, []string{`"tomorrow"`, `"2020-01-01"`, `5`, `"2020-13-01T00:00:00Z"`, `""`}},
		"alertAt":                {[]string{`[]`, `null`, `[80,100]`, `[1,2,3,4,5,6,7,8,9,10]`}, []string{`[0]`, `[101]`, `[80,80]`, `["80"]`, `[1.5]`, `80`, `[1,2,3,4,5,6,7,8,9,10,11]`}},
		"alertExpiryDays":        {[]string{`[]`, `null`, `[365]`}, []string{`[366]`, `[-1]`, `{}`}},
		"isActive":               {[]string{`true`, `false`, `null`}, []string{`"true"`, `1`}},
		"enableModelRestriction": {[]string{`true`, `null`}, []string{`0`}},
		"nope":                   {nil, []string{`1`}},
		"id":                     {nil, []string{`"x"`}},
		"Name":                   {nil, []string{`"case matters"`}},
	} {
		for _, v := range values.good {
			if _, wrong := key.ForUpdate(object(t, `{"`+field+`":`+v+`}`), rules); wrong != nil {
				t.Errorf("%s: %.60s was refused: %v", field, v, wrong)
			}
		}
		for _, v := range values.bad {
			_, wrong := key.ForUpdate(object(t, `{"`+field+`":`+v+`}`), rules)
			if len(wrong) != 1 || wrong[0].Field != field || wrong[0].Message == "" {
				t.Errorf("%s: %.60s was accepted, or not named: %v", field, v, wrong)
			}
		}
	}
}

// Guarantee: a new key gets the contract's defaults, and all wrong fields are
// named at once.
func TestForCreate(t *testing.T) {
	t.Parallel()
	columns, wrong := key.ForCreate(object(t, `{"name":" alice "}`), rules, true)
	if wrong != nil || columns["name"] != "alice" || columns["token_limit"] != int64(1000000) || columns["is_active"] != true || columns["enforcement"] != "enforce" {
		t.Errorf("defaults: %v %v", columns, wrong)
	}
	columns, _ = key.ForCreate(object(t, `{"name":"a","tokenLimit":null}`), rules, true)
	if columns["token_limit"] != int64(0) {
		t.Errorf("tokenLimit null is no limit, got %v", columns["token_limit"])
	}
	_, wrong = key.ForCreate(object(t, `{"tokenLimit":-1,"tags":[""],"foo":1,"expiresAt":"x"}`), rules, true)
	var fields []string
	for _, w := range wrong {
		fields = append(fields, w.Field)
	}
	if got := strings.Join(fields, " "); got != "expiresAt foo name tags tokenLimit" {
		t.Errorf("wrong fields named: %s", got)
	}
}

// Guarantee: no JSON value makes validation panic, and a refused field is never
// among the columns.
func TestFieldsProperty(t *testing.T) {
	t.Parallel()
	value := rapid.OneOf(rapid.Just("null"), rapid.Just("true"), rapid.Just("[]"), rapid.Just("{}"), rapid.Just(`[[["a"]]]`), rapid.Just("1e400"), rapid.Just(`"\u0000"`),
		rapid.Map(rapid.Int64(), func(n int64) string { b, _ := json.Marshal(n); return string(b) }),
		rapid.Map(rapid.Float64(), func(f float64) string { b, _ := json.Marshal(f); return string(b) }),
		rapid.Map(rapid.String(), func(s string) string { b, _ := json.Marshal(s); return string(b) }))
	names := []string{"name", "tokenLimit", "dailyCostLimit", "permissions", "tags", "expiresAt", "isActive", "enforcement", "allowedClients", "what"}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(names).Draw(t, "field")
		columns, wrong := key.ForUpdate(field.Object{name: []byte(value.Draw(t, "value"))}, rules)
		if len(columns)+len(wrong) != 1 {
			t.Fatalf("columns %v, wrong %v", columns, wrong)
		}
	})
}

// Guarantee: money is read exactly, whatever its text, or refused.
func FuzzMoney(f *testing.F) {
	for _, seed := range []string{"0", "1.5", `"2.000000000001"`, "1e-12", "1e999", `"x"`, "-1", `"1e-99999999"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var raw json.RawMessage
		if json.Unmarshal([]byte(text), &raw) != nil {
			return
		}
		amount, wrong := field.Money([]byte(strings.TrimSpace(text)))
		if wrong == "" && (amount.IsNegative() || amount.Exponent() > 64 || !amount.Equal(amount.Truncate(12))) {
			t.Errorf("%q was read as %s", text, amount)
		}
	})
}

// Guarantee: whatever object a key is made of, each member is a column or is named as wrong, and
// what is taken can be encoded for the database.
func FuzzFields(f *testing.F) {
	for _, seed := range []string{
		`{"name":"a"}`, `{"name":"a","permissions":"all","tags":["x"],"expiresAt":"2030-01-01T00:00:00Z"}`, `{"alertAt":[80,100],"alertExpiryDays":null}`,
		`{"dailyCostLimit":"1e-12","tokenLimit":9223372036854775807}`, `{"restrictedModels":["anthropic/claude-3-5-sonnet-v2:0"]}`, `{"name":"\ud800"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var o field.Object
		if jsonv2.Unmarshal([]byte(text), &o) != nil {
			return
		}
		columns, wrong := key.ForUpdate(o, rules)
		for name := range o {
			named := slices.ContainsFunc(wrong, func(e field.Error) bool { return e.Field == name && e.Message != "" })
			if !named && len(columns) == 0 {
				t.Errorf("%q is neither taken nor named: %s", name, text)
			}
		}
		if raw, err := columns.JSON(); err != nil || bytes.Contains(raw, []byte(`\u0000`)) {
			t.Errorf("%s: %s %v", text, raw, err)
		}
	})
}
