package usage_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
)

// Guarantee: each provider's object is read as the provider means it: cached
// tokens that are part of the input are counted once, thoughts are output, the
// flat remainder of cache writes is of the 5-minute kind.
func TestShapes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]usage.Counts{
		`{}`:                                   {},
		`{"input_tokens":1,"output_tokens":2}`: {Input: 1, Output: 2},
		`{"input_tokens":1,"output_tokens":2,"cache_creation_input_tokens":30,"cache_read_input_tokens":4}`:                                                    {Input: 1, Output: 2, CacheCreate: 30, CacheRead: 4},
		`{"input_tokens":1,"cache_creation":{"ephemeral_5m_input_tokens":5,"ephemeral_1h_input_tokens":6}}`:                                                    {Input: 1, CacheCreate: 11, Ephemeral1h: 6},
		`{"cache_creation_input_tokens":30,"cache_creation":{"ephemeral_5m_input_tokens":5,"ephemeral_1h_input_tokens":6}}`:                                    {CacheCreate: 30, Ephemeral1h: 6},
		`{"cache_creation_input_tokens":3,"cache_creation":{"ephemeral_5m_input_tokens":5,"ephemeral_1h_input_tokens":6}}`:                                     {CacheCreate: 11, Ephemeral1h: 6},
		`{"cache_creation_input_tokens":3000,"cache_creation":{}}`:                                                                                             {CacheCreate: 3000},
		`{"input_tokens":null,"output_tokens":2,"cache_creation":null,"service_tier":"standard","server_tool_use":{"web_search_requests":3}}`:                  {Output: 2},
		`{"prompt_tokens":100,"completion_tokens":5,"total_tokens":105}`:                                                                                       {Input: 100, Output: 5},
		`{"prompt_tokens":100,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":60,"audio_tokens":0}}`:                                            {Input: 40, CacheRead: 60, Output: 5},
		`{"prompt_tokens":100,"completion_tokens":5,"prompt_tokens_details":null}`:                                                                             {Input: 100, Output: 5},
		`{"input_tokens":100,"output_tokens":5,"input_tokens_details":{"cached_tokens":60},"output_tokens_details":{"reasoning_tokens":3},"total_tokens":105}`: {Input: 40, CacheRead: 60, Output: 5},
		`{"promptTokenCount":100,"candidatesTokenCount":5,"cachedContentTokenCount":30,"thoughtsTokenCount":7,"totalTokenCount":112}`:                          {Input: 70, CacheRead: 30, Output: 12},
		`{"inputTokens":1,"outputTokens":2,"cacheReadInputTokens":3,"cacheWriteInputTokens":4,"totalTokens":10}`:                                               {Input: 1, Output: 2, CacheRead: 3, CacheCreate: 4},
		`{"input_tokens":7,"output_tokens":2,"prompt_tokens":7,"completion_tokens":2}`:                                                                         {Input: 7, Output: 2},
		`{"input_tokens":9007199254740992}`: {Input: 1 << 53},
		`{"prompt_tokens":2006,"completion_tokens":300,"input_tokens":0,"output_tokens":0,"prompt_tokens_details":{"cached_tokens":1920}}`: {Input: 86, CacheRead: 1920, Output: 300},
		`{"prompt_tokens":10,"prompt_tokens_details":{"cached_tokens":4},"cache_read_input_tokens":4}`:                                     {Input: 6, CacheRead: 4},
	} {
		got, wrong := usage.ReadCounts([]byte(text), "usage")
		if wrong != nil || got != want {
			t.Errorf("%s\n read %+v %v\n want %+v", text, got, wrong, want)
		}
	}
}

// Guarantee: what is no usage object, and every count that is none, is refused
// with the name of the field; two shapes at once are refused unless they agree,
// since either reading would lose tokens.
func TestShapesRefuse(t *testing.T) {
	t.Parallel()
	for text, field := range map[string]string{
		`5`: "usage", `null`: "usage", `[]`: "usage", `"x"`: "usage", `{"foo":1}`: "usage", `{"total_tokens":5}`: "usage",
		`{"input_tokens":"5"}`:                                                     "usage.input_tokens",
		`{"input_tokens":-1}`:                                                      "usage.input_tokens",
		`{"output_tokens":1.5}`:                                                    "usage.output_tokens",
		`{"output_tokens":1e3}`:                                                    "usage.output_tokens",
		`{"input_tokens":9007199254740993}`:                                        "usage.input_tokens",
		`{"input_tokens":1e400}`:                                                   "usage.input_tokens",
		`{"input_tokens":99999999999999999999999}`:                                 "usage.input_tokens",
		`{"input_tokens":true}`:                                                    "usage.input_tokens",
		`{"cache_creation":5}`:                                                     "usage.cache_creation",
		`{"cache_creation":{"ephemeral_5m_input_tokens":-1}}`:                      "usage.cache_creation.ephemeral_5m_input_tokens",
		`{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":6}}`:          "usage.prompt_tokens_details.cached_tokens",
		`{"promptTokenCount":5,"cachedContentTokenCount":6}`:                       "usage.cachedContentTokenCount",
		`{"input_tokens":5,"prompt_tokens":6}`:                                     "usage",
		`{"prompt_tokens":100,"completion_tokens":5,"cache_read_input_tokens":50}`: "usage",
		`{"input_tokens":5,"input_tokens_details":{"cached_tokens":1},"cache_read_input_tokens":9}`: "usage",
	} {
		_, wrong := usage.ReadCounts([]byte(text), "usage")
		if len(wrong) != 1 || wrong[0].Field != field || wrong[0].Message == "" {
			t.Errorf("%s: want one error on %s, got %v", text, field, wrong)
		}
	}
}

// Guarantee: usage costs what was measured on the original, with the prices of
// the public file, but for the recorded cases where the original was wrong.
func TestGoldenCosts(t *testing.T) {
	t.Parallel()
	var facts []struct {
		Model   string
		Usage   json.RawMessage
		CostUSD string
	}
	raw, err := os.ReadFile("testdata/original_costs.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &facts); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile("../price/testdata/litellm.json")
	if err != nil {
		t.Fatal(err)
	}
	prices, err := price.ParseLiteLLM(file)
	if err != nil {
		t.Fatal(err)
	}
	catalogue := price.NewCatalogue(1, prices.Prices)
	for _, f := range facts {
		counts, wrong := usage.ReadCounts([]byte(f.Usage), "usage")
		p, ok := catalogue.Lookup(f.Model, time.Now())
		if got := p.Cost(counts.Tokens()); wrong != nil || !ok || got.String() != f.CostUSD {
			t.Errorf("%s %s costs %s (%v), want %s", f.Model, f.Usage, got, wrong, f.CostUSD)
		}
	}
}

// Guarantee: every rule on an event's own fields, each named with its path.
func TestCheck(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	text := func(s string) *string { return &s }
	good := usage.Report{KeyID: &id, Usage: []byte(`{"input_tokens":1}`)}
	e, wrong := usage.Check(good, "")
	if wrong != nil || e.Model != "unknown" || e.KeyID != id {
		t.Errorf("the smallest event: %+v %v", e, wrong)
	}
	named := good
	named.Model = text("  us.anthropic.claude-sonnet-4-20250514-v1:0 ")
	if e, _ := usage.Check(named, ""); e.Model != "claude-sonnet-4-20250514" || e.ModelReceived != "us.anthropic.claude-sonnet-4-20250514-v1:0" {
		t.Errorf("model %q, received %q", e.Model, e.ModelReceived)
	}
	far := time.Date(10001, 1, 1, 0, 0, 0, 0, time.UTC)
	_, wrong = usage.Check(usage.Report{RequestID: text(""), AccountID: text(strings.Repeat("x", 201)), Model: text("a\x00"), OccurredAt: &far}, "events[3].")
	var fields []string
	for _, w := range wrong {
		fields = append(fields, w.Field)
	}
	if got := strings.Join(fields, " "); got != "events[3].requestId events[3].accountId events[3].model events[3].keyId events[3].occurredAt events[3].usage" {
		t.Errorf("wrong fields named: %s", got)
	}
}

// Guarantee: no text makes the reader panic, and what it accepts is within
// bounds: no negative count, no count beyond a sum of five times 2^53.
func FuzzReadCounts(f *testing.F) {
	for _, seed := range []string{`{}`, `{"input_tokens":1}`, `{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":1}}`, `{"promptTokenCount":-0}`,
		`{"inputTokens":1e5}`, `{"cache_creation":{"ephemeral_1h_input_tokens":9007199254740992}}`, `{"input_tokens":null}`, `[`, "\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, wrong := usage.ReadCounts(raw, "usage")
		if wrong != nil {
			return
		}
		for _, n := range []int64{c.Input, c.Output, c.CacheCreate, c.CacheRead, c.Ephemeral5m(), c.Ephemeral1h} {
			if n < 0 || n > 2*usage.MaxCount {
				t.Errorf("%q was read as %+v", raw, c)
			}
		}
		if c.Ephemeral5m()+c.Ephemeral1h != c.CacheCreate {
			t.Errorf("%q: the parts of cacheCreate do not add up: %+v", raw, c)
		}
	})
}
