package price_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/internal/price"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func usd(text string) *decimal.Decimal {
	d := decimal.RequireFromString(text)
	return &d
}

func litellm(t testing.TB) price.Import {
	t.Helper()
	raw, err := os.ReadFile("testdata/litellm.json")
	if err != nil {
		t.Fatal(err)
	}
	file, err := price.ParseLiteLLM(raw)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Guarantee: every one of the public file's 1315 entries is read or counted as
// skipped, and every number is read exactly, exponents too.
func TestParseLiteLLM(t *testing.T) {
	t.Parallel()
	file := litellm(t)
	skipped := 0
	for _, s := range file.Skipped {
		skipped += s.Count
	}
	if len(file.Prices)+skipped != 1315 {
		t.Errorf("%d read and %d skipped are not 1315", len(file.Prices), skipped)
	}
	var raw map[string]map[string]any
	text, err := os.ReadFile("testdata/litellm.json")
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	if err := decoder.Decode(&raw); err != nil {
		t.Fatal(err)
	}
	million := decimal.New(1, 6)
	for _, p := range file.Prices {
		for member, got := range map[string]*decimal.Decimal{"input_cost_per_token": p.Base.Input, "output_cost_per_token": p.Base.Output,
			"cache_read_input_token_cost": p.Base.CacheRead, "input_cost_per_token_above_200k_tokens": p.Long.Input} {
			number, given := raw[p.Model][member].(json.Number)
			if given != (got != nil) || given && !decimal.RequireFromString(number.String()).Mul(million).Equal(*got) {
				t.Errorf("%s %s: file %v, read %v", p.Model, member, number, got)
			}
		}
		if p.Model == "sample_spec" || strings.Contains(p.Model, "dall-e") {
			t.Errorf("%s was not skipped", p.Model)
		}
	}
}

// Guarantee: a price file with anything that cannot be kept exactly is refused
// whole, and the error names the entry.
func TestParseLiteLLMRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`[]`, `5`, `{"m":5}`, `{"m":{"input_cost_per_token":-1}}`, `{"m":{"input_cost_per_token":"x"}}`,
		`{"m":{"input_cost_per_token":1e-30}}`, `{"m":{"input_cost_per_token":1e30}}`, `{"m":{"input_cost_per_token":1e999999999}}`,
		`{"":{"input_cost_per_token":1}}`,
	} {
		if file, err := price.ParseLiteLLM([]byte(text)); err == nil {
			t.Errorf("%s was read as %+v", text, file)
		} else if strings.Contains(text, `"m"`) && !strings.Contains(err.Error(), `"m"`) {
			t.Errorf("%s: the error does not name the entry: %v", text, err)
		}
	}
}

// Guarantee: model names are normalised and looked up as measured on the
// original, but for where that was wrong: a name is never matched by a part of it.
func TestNames(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/original_names.json")
	if err != nil {
		t.Fatal(err)
	}
	var facts struct {
		Normalized []struct{ Model, Name string }
		Lookup     []struct {
			Model string
			Entry *string
		}
	}
	if err := json.Unmarshal(raw, &facts); err != nil {
		t.Fatal(err)
	}
	for _, f := range facts.Normalized {
		if got := price.Normalize(f.Model); got != f.Name {
			t.Errorf("Normalize(%q) = %q, want %q", f.Model, got, f.Name)
		}
	}
	c := price.NewCatalogue(1, litellm(t).Prices)
	for _, f := range facts.Lookup {
		got, ok := c.Lookup(f.Model, now)
		switch {
		case f.Entry == nil && ok:
			t.Errorf("Lookup(%q) = %q, want nothing", f.Model, got.Model)
		case f.Entry != nil && got.Model != *f.Entry:
			t.Errorf("Lookup(%q) = %q, want %q", f.Model, got.Model, *f.Entry)
		}
	}
}

func entry(model, from string) price.Price {
	p := price.Price{Model: model, Base: price.Rates{Input: usd("1")}}
	if from != "" {
		p.EffectiveFrom, _ = time.Parse(time.DateOnly, from)
	}
	return p
}

// Guarantee: the contract's order of lookup, step by step, and the dates at
// which entries hold.
func TestLookupOrder(t *testing.T) {
	t.Parallel()
	c := price.NewCatalogue(1, []price.Price{
		entry("claude-x-20250101", ""), entry("claude-x-20250601", ""), entry("Exact_Name", ""), entry("exact-name", ""),
		entry("gpt-y", ""), entry("amazon.nova-z-v1:0", ""), entry("dated", "2026-01-01"), entry("dated", "2026-06-01"), entry("o1", ""),
	})
	for model, want := range map[string]string{
		"Exact_Name": "Exact_Name", "EXACT-NAME": "Exact_Name", "exact-name": "exact-name",
		"anthropic/claude-x-20250101": "claude-x-20250101", "openrouter/anthropic/claude-x-20250101": "claude-x-20250101",
		"us.anthropic.claude-x-20250101-v1:0": "claude-x-20250101", "claude-x-20250101[1m]": "claude-x-20250101",
		"claude-x": "claude-x-20250601", "claude-x-20249999": "claude-x-20250601", "claude-x@20250101": "claude-x-20250101",
		"gpt-y-2026-02-03": "gpt-y", "eu.amazon.nova-z-v1:0": "amazon.nova-z-v1:0",
		"foo1bar": "", "claude": "", "o": "", "o11": "", "gpt": "",
	} {
		if p, _ := c.Lookup(model, now); p.Model != want {
			t.Errorf("Lookup(%q) = %q, want %q", model, p.Model, want)
		}
	}
	for at, want := range map[string]string{"2025-12-31": "", "2026-01-01": "2026-01-01", "2026-05-31": "2026-01-01", "2026-06-01": "2026-06-01", "2030-01-01": "2026-06-01"} {
		instant, _ := time.Parse(time.DateOnly, at)
		p, ok := c.Lookup("dated", instant)
		if ok != (want != "") || ok && p.EffectiveFrom.Format(time.DateOnly) != want {
			t.Errorf("at %s the entry of %s holds, want %q", at, p.EffectiveFrom, want)
		}
	}
	wild := price.NewCatalogue(1, []price.Price{entry("*", ""), entry("gpt-y", "")})
	if p, _ := wild.Lookup("whatever", now); p.Model != "*" {
		t.Errorf("the operator's * entry did not price an unknown model: %q", p.Model)
	}
	if p, _ := wild.Lookup("gpt-y", now); p.Model != "gpt-y" {
		t.Errorf("the * entry came before a model's own: %q", p.Model)
	}
}

// Guarantee: the contract's cost rules: a class without a price is charged as
// input, 1-hour writes of Anthropic models twice the input, long requests at
// long rates as a whole from 200001 tokens on.
func TestCostRules(t *testing.T) {
	t.Parallel()
	full := price.Rates{Input: usd("1"), Output: usd("2"), CacheRead: usd("3"), CacheWrite: usd("4"), CacheWrite1h: usd("5")}
	long := price.Rates{Input: usd("10"), Output: usd("20")}
	each := price.Tokens{Input: 1e6, Output: 1e6, CacheRead: 1e6, CacheWrite: 1e6, CacheWrite1h: 1e6}
	for name, c := range map[string]struct {
		p    price.Price
		t    price.Tokens
		want string
	}{
		"each class its price":            {price.Price{Base: full}, each, "15"},
		"only input, not Anthropic":       {price.Price{Base: price.Rates{Input: usd("1")}}, each, "5"},
		"only input, Anthropic provider":  {price.Price{Provider: "anthropic", Base: price.Rates{Input: usd("1")}}, each, "6"},
		"only input, Claude elsewhere":    {price.Price{Model: "vertex_ai/Claude-9", Base: price.Rates{Input: usd("1")}}, each, "6"},
		"200000 is not long":              {price.Price{Base: full, Long: long}, price.Tokens{Input: 199999, CacheRead: 1, Output: 1e6}, "2.200002"},
		"200001 is long, output too":      {price.Price{Base: full, Long: long}, price.Tokens{Input: 200000, CacheRead: 1, Output: 1e6}, "22.000003"},
		"output does not make it long":    {price.Price{Base: full, Long: long}, price.Tokens{Output: 1e6}, "2"},
		"long input prices what has none": {price.Price{Base: price.Rates{Input: usd("1")}, Long: price.Rates{Input: usd("2")}}, price.Tokens{Input: 200001, Output: 1}, "0.400004"},
		"no input price is free input":    {price.Price{Base: price.Rates{Output: usd("2")}}, each, "2"},
		"rounded once, half up":           {price.Price{Base: price.Rates{Input: usd("0.0000005")}}, price.Tokens{Input: 1}, "0.000000000001"},
		"nothing":                         {price.Price{Base: full}, price.Tokens{}, "0"},
	} {
		if got := c.p.Cost(c.t); !got.Equal(decimal.RequireFromString(c.want)) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// Guarantee: without long rates cost adds up: what two requests cost apart they
// cost together, to the last decimal, so sums in the ledger are sums of tokens.
func TestCostAddsUp(t *testing.T) {
	t.Parallel()
	p := price.Price{Base: price.Rates{Input: usd("3"), Output: usd("15"), CacheRead: usd("0.3"), CacheWrite: usd("3.75"), CacheWrite1h: usd("6")}}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 1<<53)
		a := price.Tokens{n.Draw(t, "a"), n.Draw(t, "b"), n.Draw(t, "c"), n.Draw(t, "d"), n.Draw(t, "e")}
		b := price.Tokens{n.Draw(t, "f"), n.Draw(t, "g"), n.Draw(t, "h"), n.Draw(t, "i"), n.Draw(t, "j")}
		sum := price.Tokens{a.Input + b.Input, a.Output + b.Output, a.CacheRead + b.CacheRead, a.CacheWrite + b.CacheWrite, a.CacheWrite1h + b.CacheWrite1h}
		if !p.Cost(a).Add(p.Cost(b)).Equal(p.Cost(sum)) {
			t.Fatalf("%v and %v cost %s and %s, together %s", a, b, p.Cost(a), p.Cost(b), p.Cost(sum))
		}
	})
}

// Guarantee: no name makes the lookup panic or match an entry that it shares no
// base name with.
func FuzzLookup(f *testing.F) {
	for _, seed := range []string{"claude-sonnet-4", "us.anthropic.claude-3-v1:0", "a/b/c", "[", "x[1m]", "é", "-20250101", "..", ":latest"} {
		f.Add(seed)
	}
	c := price.NewCatalogue(1, []price.Price{entry("claude-sonnet-4-20250514", ""), entry("o1", "")})
	f.Fuzz(func(t *testing.T, model string) {
		p, ok := c.Lookup(model, now)
		if ok && !strings.Contains(price.Fold(model), strings.TrimSuffix(p.Model, "-20250514")) {
			t.Errorf("%q was priced as %s", model, p.Model)
		}
	})
}

// Guarantee: the catalogue in the binary can be read, names its day, and prices
// the models of the README and of the contract's facts.
func TestBuiltin(t *testing.T) {
	t.Parallel()
	prices, asOf, err := price.Builtin()
	if err != nil || asOf == "" || len(prices) < 50 {
		t.Fatalf("%d prices as of %q: %v", len(prices), asOf, err)
	}
	seen := map[string]bool{}
	for _, p := range prices {
		if seen[p.Model] || p.Base.Input == nil || p.Provider == "" {
			t.Errorf("%s stands twice or lacks a price or provider", p.Model)
		}
		seen[p.Model] = true
		for _, r := range []*decimal.Decimal{p.Base.Input, p.Base.Output, p.Base.CacheRead, p.Base.CacheWrite, p.Base.CacheWrite1h, p.Long.Input} {
			if r != nil && price.CheckRate(*r) != nil {
				t.Errorf("%s: %s cannot be kept", p.Model, r)
			}
		}
	}
	c := price.NewCatalogue(1, prices)
	p, ok := c.Lookup("claude-sonnet-4-20250514", now)
	cost := p.Cost(price.Tokens{Input: 10, Output: 20, CacheRead: 40, CacheWrite: 1000, CacheWrite1h: 2000})
	if !ok || cost.String() != "0.016092" {
		t.Errorf("README's usage costs %s", cost)
	}
	for _, alias := range []string{"claude-opus-4-0", "claude-sonnet-4-0", "claude-3-7-sonnet-latest", "claude-3-5-haiku-latest", "gemini-2.5-flash-001", "anthropic/claude-opus-4-0", "models/gemini-2.5-flash-001"} {
		if p, ok := c.Lookup(alias, now); !ok || !p.Cost(price.Tokens{Output: 1}).IsPositive() {
			t.Errorf("%s passes every cost limit: %+v", alias, p)
		}
	}
}

// Guarantee: a deny list bars a model under every spelling under which it would be
// priced, and its neighbours under none.
func TestDenied(t *testing.T) {
	t.Parallel()
	prices, _, err := price.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	c := price.NewCatalogue(1, prices)
	for _, d := range []struct {
		entry         string
		barred, other []string
	}{
		{"gemini-2.5-pro", []string{"gemini-2.5-pro", "models/gemini-2.5-pro", "google/gemini-2.5-pro", "Gemini_2.5_Pro", "vertex_ai/gemini-2.5-pro"}, []string{"gemini-2.5-flash", "gemini-2.5", "pro"}},
		{"claude-opus-4-1-20250805", []string{"claude-opus-4-1-20250805", "anthropic/claude-opus-4-1-20250805", "claude-opus-4-1", "claude-opus-4-1@20250805", "us.anthropic.claude-opus-4-1-20250805-v1:0",
			"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-1-20250805-v1:0", "claude-opus-4-1-20250805[1m]"}, []string{"claude-opus-4-20250514", "claude-opus-4-5", "claude-sonnet-4-1"}},
		{"claude-opus-4-1", []string{"claude-opus-4-1", "claude-opus-4-1-20250805", "bedrock/us.anthropic.claude-opus-4-1-20250805-v1:0", "claude-opus-4-1-20301231"}, []string{"claude-opus-4", "claude-opus-4-0"}},
		{"nobody/prices-this-1", []string{"prices-this-1", "NOBODY/Prices_This_1"}, []string{"prices-this-2"}},
	} {
		bars := func(model string) bool {
			return slices.Contains(strings.Split(c.Names(model), price.NameSeparator), price.Denied(d.entry))
		}
		for _, model := range d.barred {
			if !bars(model) {
				t.Errorf("with %s denied, %s passes: it is known as %q", d.entry, model, c.Names(model))
			}
		}
		for _, model := range d.other {
			if bars(model) {
				t.Errorf("with %s denied, %s is barred", d.entry, model)
			}
		}
	}
}

// Guarantee: no price file makes the reader panic, and every price that it takes is one that the
// catalogue may hold: not negative, and of a model that has a name.
func FuzzLiteLLM(f *testing.F) {
	for _, seed := range []string{
		`{}`, `[]`, `null`, `{"m":{}}`, `{"m":{"input_cost_per_token":1e-6,"output_cost_per_token":"2e-6","litellm_provider":"openai","mode":"chat"}}`,
		`{"m":{"input_cost_per_token":-1}}`, `{"m":{"input_cost_per_token":1e400}}`, `{"":{"input_cost_per_token":1e-6,"output_cost_per_token":1e-6,"mode":"chat"}}`,
		`{"m":{"input_cost_per_token":1e-6,"input_cost_per_token":2e-6}}`, `{"m":[1,2]}`, `{"m\u0000":{"mode":"chat","input_cost_per_token":1e-6}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := price.ParseLiteLLM(file)
		if err != nil {
			return
		}
		for _, p := range got.Prices {
			for _, rate := range []*decimal.Decimal{p.Base.Input, p.Base.Output, p.Base.CacheRead, p.Base.CacheWrite, p.Base.CacheWrite1h} {
				if rate != nil && price.CheckRate(*rate) != nil {
					t.Errorf("%q costs %s", p.Model, rate)
				}
			}
			if p.Model == "" {
				t.Error("a price of no model")
			}
		}
	})
}
