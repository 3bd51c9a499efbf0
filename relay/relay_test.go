package relay_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/relay"
)

// The requests of the clients of each provider.
const (
	messages  = `{"model":"claude-sonnet-4-20250514","max_tokens":100,"messages":[{"role":"user","content":"hello"}]%s}`
	chat      = `{"model":"gpt-4o","max_completion_tokens":100,"messages":[{"role":"user","content":"hello"}]%s}`
	responses = `{"model":"gpt-4o","max_output_tokens":100,"input":"hello"%s}`
	content   = `{"contents":[{"role":"user","parts":[{"text":"hello"}]}],"generationConfig":{"maxOutputTokens":100}}`
	streamed  = `,"stream":true`
)

func with(body, more string) string { return fmt.Sprintf(body, more) }

// Guarantee: what a provider says that an answer used is what the ledger has, to the last
// token and cent, for every operation, streamed or not, compressed or not, with the service
// in the same process or elsewhere; the answer is what the provider sent, and no slot stays
// taken once the client has seen its end.
func TestUsageIsRead(t *testing.T) {
	t.Parallel()
	sonnet := row{model: "claude-sonnet-4-20250514", account: "claude-1", input: 100, output: 5, cost: decimal.RequireFromString("0.000375")}
	sonnetStream := row{model: "claude-sonnet-4-20250514", account: "claude-1", input: 100, output: 5, cacheCreate: 30, cacheRead: 20, hour: 20, cost: decimal.RequireFromString("0.0005385")}
	gpt := row{model: "gpt-4o", account: "openai-1", input: 60, output: 5, cacheRead: 40, cost: decimal.RequireFromString("0.00025")}
	gemini := row{model: "gemini-2.5-flash", account: "gemini-1", input: 63, output: 7, cacheRead: 40, cost: decimal.RequireFromString("0.0000376")}
	for name, c := range map[string]struct {
		path, body, want string
		row              row
	}{
		"messages":                  {"/v1/messages", with(messages, ""), `"output_tokens":5`, sonnet},
		"messages with a query":     {"/v1/messages?beta=true", with(messages, ""), `"output_tokens":5`, sonnet},
		"messages under a prefix":   {"/claude/v1/messages", with(messages, ""), `"output_tokens":5`, sonnet},
		"messages, streamed":        {"/v1/messages", with(messages, streamed), "event: message_stop", sonnetStream},
		"chat":                      {"/v1/chat/completions", with(chat, ""), `"completion_tokens":5`, gpt},
		"chat, streamed":            {"/v1/chat/completions", with(chat, streamed), "data: [DONE]", gpt},
		"chat, streamed with usage": {"/openai/v1/chat/completions", with(chat, streamed+`,"stream_options":{"include_usage":true}`), `"completion_tokens":5`, gpt},
		"chat, other options":       {"/v1/chat/completions", with(chat, `,"stream_options":{"include_obfuscation":false, "include_usage" : false}`+streamed), "data: [DONE]", gpt},
		"responses":                 {"/v1/responses", with(responses, ""), `"output_tokens":5`, gpt},
		"responses, streamed":       {"/v1/responses", with(responses, streamed), "response.completed", gpt},
		"embeddings":                {"/v1/embeddings", `{"model":"text-embedding-3-small","input":["hello"]}`, "embedding", row{model: "text-embedding-3-small", account: "openai-1", input: 100}},
		"generate":                  {"/v1beta/models/gemini-2.5-flash:generateContent", content, "usageMetadata", gemini},
		"generate, events":          {"/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", content, "STOP", gemini},
		"generate, an array":        {"/v1beta/models/gemini-2.5-flash:streamGenerateContent", content, "STOP", gemini},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, remote := range []bool{false, true} {
				h := newHouse(t, func(h *house, c *relay.Config) {
					if remote {
						c.Ledger = h.remote()
					}
				})
				for _, encoding := range []string{"", "gzip", "br"} {
					id, secret := h.key(key.Columns{"concurrency_limit": 1})
					got := h.send(t.Context(), secret, c.path, c.body, "Accept-Encoding", "br, gzip, zstd", "X-Mock-Encoding", encoding, "X-Mock-Id", "resp_"+encoding+id.String())
					if body := decoded(t, got); got.status != 200 || !strings.Contains(body, c.want) {
						t.Fatalf("remote %v, %q: %d %v\n%s\n%s", remote, encoding, got.status, got.err, body, h.log)
					}
					if h.open(id) != 0 {
						t.Errorf("remote %v, %q: a slot was still taken when the client had seen the end", remote, encoding)
					}
					r := h.ledger(id, 1)[0]
					if !strings.HasPrefix(r.request, "resp_") && name != "embeddings" {
						t.Errorf("the request id is %q, not the provider's", r.request)
					}
					r.request = ""
					if !r.cost.Equal(c.row.cost) && name != "embeddings" {
						t.Errorf("it cost %s, want %s", r.cost, c.row.cost)
					}
					if r.cost = c.row.cost; r != c.row {
						t.Errorf("remote %v, %q: the ledger has %+v\nwant %+v", remote, encoding, r, c.row)
					}
				}
			}
		})
	}
}

// decoded is the body of an answer, as plain text.
func decoded(t *testing.T, a answer) string {
	t.Helper()
	var r io.Reader = strings.NewReader(a.body)
	switch a.header.Get("Content-Encoding") {
	case "gzip":
		var err error
		if r, err = gzip.NewReader(r); err != nil {
			t.Fatal(err)
		}
	case "br":
		r = brotli.NewReader(r)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// remote is the service elsewhere.
func (h *house) remote() relay.Ledger {
	server := httptest.NewServer(h.service)
	h.Cleanup(server.Close)
	l, err := relay.Remote(server.URL, h.token)
	if err != nil {
		h.Fatal(err)
	}
	return l
}

// Guarantee: a client that did not ask for the chunk with the usage does not get it, nor
// anything else that the provider did not mean for it; one that asked gets it.
func TestUsageChunkIsHidden(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	_, secret := h.key(nil)
	for more, want := range map[string]int{streamed: 0, streamed + `,"stream_options":{"include_usage":true}`: 1} {
		got := h.send(t.Context(), secret, "/v1/chat/completions", with(chat, more))
		if n := strings.Count(got.body, `"choices":[]`); n != want || strings.Count(got.body, "data: ") != 7+want {
			t.Errorf("%s: %d chunks of usage, want %d:\n%s", more, n, want, got.body)
		}
	}
}

// Guarantee: what goes upstream has the account's secret and not the client's key, wherever
// that stood; no cookie, nothing of the way it came, and the body as it was. What comes back
// tells nothing of the account.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	_, secret := h.key(nil)
	var seen *http.Request
	var sent []byte
	h.mock.Seen = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		seen, sent = r, body
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("Anthropic-Organization-Id", "org")
		w.Header().Set("Anthropic-Ratelimit-Requests-Limit", "5")
		return false
	}
	body := with(messages, `,"metadata":{"user_id":"ü"}`)
	got := h.send(t.Context(), secret, "/v1/messages?beta=true&key="+secret, body, "Authorization", "Bearer "+secret, "X-Goog-Api-Key", secret, "Api-Key", secret,
		"Cookie", "session=1", "X-Forwarded-For", "10.0.0.1", "Forwarded", "for=1", "Anthropic-Beta", "b1", "Anthropic-Version", "2023-06-01", "User-Agent", "claude-cli/1.0 (x)", "X-Keyledger-Admission-Id", "x")
	if got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	dump := fmt.Sprint(seen.URL, seen.Header, string(sent))
	if strings.Contains(dump, secret) {
		t.Errorf("the client's key went upstream: %s", dump)
	}
	if seen.Header.Get("X-Api-Key") != secrets+"claude-1" || seen.Header.Get("Authorization") != "" {
		t.Errorf("the account's secret is not where it belongs: %v", seen.Header)
	}
	for _, name := range []string{"Cookie", "X-Forwarded-For", "Forwarded", "X-Goog-Api-Key", "Api-Key", "X-Keyledger-Admission-Id"} {
		if seen.Header.Get(name) != "" {
			t.Errorf("%s went upstream", name)
		}
	}
	if seen.Header.Get("Anthropic-Beta") != "b1" || seen.Header.Get("User-Agent") != "claude-cli/1.0 (x)" || seen.URL.RawQuery != "beta=true" || string(sent) != body {
		t.Errorf("it went upstream as %v %s %s", seen.Header, seen.URL, sent)
	}
	for _, name := range []string{"Set-Cookie", "Anthropic-Organization-Id", "Anthropic-Ratelimit-Requests-Limit"} {
		if got.header.Get(name) != "" {
			t.Errorf("%s came back", name)
		}
	}
	h.mock.Seen = nil
	for _, status := range []string{"400", "500", "401"} {
		got := h.send(t.Context(), secret, "/v1/chat/completions", with(chat, ""), "X-Mock-Status", status)
		if fmt.Sprint(got.status) != status || strings.Contains(got.body+fmt.Sprint(got.header), secrets) || !strings.Contains(got.body, "[redacted]") {
			t.Errorf("%s: %d %v %s", status, got.status, got.header, got.body)
		}
	}
	if log := h.log.String(); strings.Contains(log, secret) || strings.Contains(log, secrets) {
		t.Error("a secret is in the log")
	}
}

// Guarantee: each refusal comes in the words of the provider whose client asked, with a
// status that its SDK neither hammers nor sleeps at; nothing goes upstream.
func TestRefusals(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.mock.Seen = func(_ http.ResponseWriter, r *http.Request, _ []byte) bool {
		t.Errorf("%s went upstream", r.URL)
		return false
	}
	spent := func(more key.Columns) string {
		id, secret := h.key(more)
		pgtest.Exec(t, h.db, "UPDATE key_counters SET cost = 2, day_cost = 2, day = (now() AT TIME ZONE 'UTC')::date WHERE key_id = $1", id)
		return secret
	}
	_, disabled := h.key(key.Columns{"is_active": false})
	_, openAIOnly := h.key(key.Columns{"permissions": []string{"bedrock"}})
	_, small := h.key(key.Columns{"total_cost_limit": 0.0000001})
	for name, c := range map[string]struct {
		secret, code            string
		claude, openAI, gemini  int
		typ, openAICode, status string
		wait                    bool
	}{
		"an unknown key":   {"cr_" + strings.Repeat("0", 64), "NOT_FOUND", 401, 401, 401, "authentication_error", "invalid_api_key", "UNAUTHENTICATED", false},
		"no key":           {"", "MALFORMED", 401, 401, 401, "authentication_error", "invalid_api_key", "UNAUTHENTICATED", false},
		"a disabled key":   {disabled, "DISABLED", 401, 401, 401, "authentication_error", "invalid_api_key", "UNAUTHENTICATED", false},
		"a service denied": {openAIOnly, "SERVICE_NOT_PERMITTED", 403, 403, 403, "permission_error", "permission_denied", "PERMISSION_DENIED", false},
		"a total spent":    {spent(key.Columns{"total_cost_limit": 1}), "TOTAL_COST_EXCEEDED", 402, 429, 402, "billing_error", "insufficient_quota", "RESOURCE_EXHAUSTED", false},
		"a day spent":      {spent(key.Columns{"daily_cost_limit": 1}), "DAILY_COST_EXCEEDED", 402, 429, 402, "billing_error", "insufficient_quota", "RESOURCE_EXHAUSTED", false},
		"a dear request":   {small, "TOTAL_COST_EXCEEDED", 402, 429, 402, "billing_error", "insufficient_quota", "RESOURCE_EXHAUSTED", false},
	} {
		for _, side := range []struct {
			path, body, member, want string
			status                   int
		}{
			{"/v1/messages", with(messages, ""), "type", c.typ, c.claude},
			{"/v1/chat/completions", with(chat, ""), "code", c.openAICode, c.openAI},
			{"/v1beta/models/gemini-2.5-flash:generateContent", content, "status", c.status, c.gemini},
		} {
			got := h.send(t.Context(), c.secret, side.path, side.body)
			var body struct {
				Error map[string]any `json:"error"`
			}
			if err := json.Unmarshal([]byte(got.body), &body); err != nil || body.Error[side.member] != side.want || got.status != side.status || got.header.Get("X-Keyledger-Code") != c.code {
				t.Errorf("%s at %s: %d %v %s, want %d %s", name, side.path, got.status, got.header, got.body, side.status, side.want)
			}
			if wait := got.header.Get("Retry-After"); wait != "" || (got.status == 402 || got.status == 429) && got.header.Get("X-Should-Retry") != "false" {
				t.Errorf("%s at %s: it is told to come again: %v", name, side.path, got.header)
			}
		}
	}
}

// Guarantee: a window that is full, and slots that are taken, are told with 429 and a wait
// of a minute at most, however long the true one is.
func TestLimitedForAWhile(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	_, secret := h.key(key.Columns{"rate_limit_window": 600, "rate_limit_requests": 1})
	if got := h.send(t.Context(), secret, "/v1/messages", with(messages, "")); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	for path, body := range map[string]string{"/v1/messages": with(messages, ""), "/v1/responses": with(responses, ""), "/v1beta/models/gemini-2.5-flash:generateContent": content} {
		got := h.send(t.Context(), secret, path, body)
		if got.status != 429 || got.header.Get("Retry-After") != "60" || got.header.Get("X-Should-Retry") != "" || got.header.Get("X-Keyledger-Code") != "REQUESTS_EXCEEDED" {
			t.Errorf("%s: %d %v", path, got.status, got.header)
		}
		if wait := got.header.Get("X-Keyledger-Retry-After"); len(wait) < 5 {
			t.Errorf("%s: the true wait is told as %q", path, wait)
		}
		if strings.HasPrefix(path, "/v1beta") && !strings.Contains(got.body, `"retryDelay":"60s"`) {
			t.Errorf("Gemini's clients are not told when to come again: %s", got.body)
		}
	}
}

// Guarantee: a cost limit that open reservations alone fill is no end: 429 with a wait of
// five seconds at most, where the same limit spent is 402.
func TestReservedIsNotSpent(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	// 100 tokens of output cost $0.0015, the input's bound less than that.
	id, secret := h.key(key.Columns{"total_cost_limit": 0.005})
	done := make(chan answer)
	go func() {
		done <- h.send(t.Context(), secret, "/v1/messages", with(messages, streamed), "X-Mock-Gap", "300ms")
	}()
	for h.open(id) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	got := h.send(t.Context(), secret, "/v1/messages", with(messages, ""))
	if got.status != 429 || got.header.Get("X-Should-Retry") != "" || got.header.Get("X-Keyledger-Code") != "TOTAL_COST_EXCEEDED" {
		t.Errorf("%d %v %s", got.status, got.header, got.body)
	}
	if wait := got.header.Get("Retry-After"); wait == "" || wait > "5" || len(wait) > 1 {
		t.Errorf("it is told to wait %q seconds", wait)
	}
	if first := <-done; first.status != 200 {
		t.Errorf("the one before it: %d %s", first.status, first.body)
	}
	if got := h.send(t.Context(), secret, "/v1/messages", with(messages, "")); got.status != 200 {
		t.Errorf("when the reservation was settled: %d %s", got.status, got.body)
	}
}

// Guarantee: with bounds that cover what is used, a hundred streams at once never take a key
// past its limit, whatever else happens.
func TestParallelStreams(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	limit := decimal.RequireFromString("0.01")
	id, secret := h.key(key.Columns{"total_cost_limit": limit})
	var all sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for range 100 {
		all.Go(func() {
			for range 3 {
				got := h.send(t.Context(), secret, "/v1/messages", with(messages, streamed), "X-Mock-Events", "100", "X-Mock-Gap", "1ms")
				mu.Lock()
				statuses[got.status]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	spent := pgtest.Scan[decimal.Decimal](t, h.db, "SELECT cost FROM key_counters WHERE key_id = $1", id)
	if spent.GreaterThan(limit) || spent.IsZero() {
		t.Errorf("$%s of $%s were spent; %v", spent, limit, statuses)
	}
	if statuses[200] == 0 || statuses[200]+statuses[429]+statuses[402] != 300 {
		t.Errorf("the clients were told %v", statuses)
	}
	h.ledger(id, statuses[200])
}

// Guarantee: Claude Code, which sets a bound of 32 000 tokens and sends three requests at
// once, works on a key of $5, and is told to come again, not to give up, when its own
// reservations fill the key.
func TestClaudeCode(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	id, secret := h.key(key.Columns{"total_cost_limit": 5, "enable_client_restriction": true, "allowed_clients": []string{"claude_code"}})
	text := strings.Repeat("You are an interactive CLI tool. ", 1500)
	body := fmt.Sprintf(`{"model":"claude-opus-4-1-20250805","max_tokens":32000,"stream":true,"system":[{"type":"text","text":%q,"cache_control":{"type":"ephemeral"}}],
		"tools":[{"name":"Bash","description":"Run a command","input_schema":{"type":"object","properties":{"command":{"type":"string"}}}}],
		"messages":[{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}}]}],"metadata":{"user_id":"u"}}`, text)
	agent := []string{"User-Agent", "claude-cli/2.0.1 (external, cli)", "Authorization", "Bearer " + secret, "Anthropic-Beta", "claude-code-20250219", "X-Mock-Gap", "100ms"}
	if got := h.send(t.Context(), secret, "/v1/messages/count_tokens?beta=true", body, agent...); got.status != 200 {
		t.Errorf("count_tokens: %d %s", got.status, got.body)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for {
				got := h.send(t.Context(), secret, "/v1/messages?beta=true", body, agent...)
				if got.status == 429 && got.header.Get("X-Should-Retry") != "false" {
					time.Sleep(100 * time.Millisecond)
					continue
				}
				if got.status != 200 {
					t.Errorf("%d %s", got.status, got.body)
				}
				return
			}
		})
	}
	all.Wait()
	h.ledger(id, 3)
	if got := h.send(t.Context(), secret, "/v1/messages", body, "User-Agent", "curl/8"); got.status != 403 {
		t.Errorf("another client: %d %s", got.status, got.body)
	}
}

// Guarantee: what costs nothing is passed on with a good key, whatever its limits say, and
// leaves nothing in the ledger; what cannot be metered is not passed on at all.
func TestFreeAndUnmetered(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	id, secret := h.key(key.Columns{"total_cost_limit": 1, "enable_model_restriction": true, "allowed_models": []string{"x"}})
	pgtest.Exec(t, h.db, "UPDATE key_counters SET cost = 2 WHERE key_id = $1", id)
	for path, body := range map[string]string{
		"/v1/messages/count_tokens": `{"model":"x"}`, "/v1beta/models/x:countTokens": `{}`, "/v1/models": "", "/v1beta/models": "", "/claude/v1/models": "",
	} {
		if got := h.send(t.Context(), secret, path, body); got.status != 200 {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
		if got := h.send(t.Context(), "cr_"+strings.Repeat("1", 64), path, body); got.status != 401 {
			t.Errorf("%s with a wrong key: %d", path, got.status)
		}
	}
	for path, want := range map[string]string{
		"/v1/files": `"code":"not_found"`, "/v1/batches": `"code":"not_found"`, "/v1/messages/batches": `"not_found_error"`, "/v1beta/files": `"NOT_FOUND"`, "/v1/realtime": `"not_found"`, "/nothing": `"not_found"`, "/v1beta/models/x:embedContent": `"NOT_FOUND"`,
	} {
		if got := h.send(t.Context(), secret, path, `{}`); got.status != 404 || !strings.Contains(got.body, want) {
			t.Errorf("%s: %d %s, want 404 with %s", path, got.status, got.body, want)
		}
	}
	h.ledger(id, 0)
}

// Guarantee: programs that show a balance find it where they look for it, by the key alone; asking
// costs nothing, and a wrong key sees nothing.
func TestBalance(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	id, secret := h.key(key.Columns{"daily_cost_limit": 5, "total_cost_limit": 40, "permissions": []string{"gemini"}})
	_, free := h.key(key.Columns{})
	pgtest.Exec(t, h.db, "UPDATE key_counters SET cost = 1.25, day_cost = 1.25, day = (now() AT TIME ZONE 'UTC')::date WHERE key_id = $1", id)
	for _, path := range []string{"/user/balance", "/v1/usage"} {
		if got := h.send(t.Context(), secret, path, ""); got.status != 200 || got.header.Get("Content-Type") != "application/json" ||
			!strings.Contains(got.body, `"balance":3.75`) || !strings.Contains(got.body, `"is_active":true`) || !strings.Contains(got.body, `"planName":"daily"`) {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
		if got := h.send(t.Context(), free, path, ""); got.status != 200 || !strings.Contains(got.body, `"balance":null`) {
			t.Errorf("%s without a limit: %d %s", path, got.status, got.body)
		}
		if got := h.send(t.Context(), "cr_"+strings.Repeat("1", 64), path, ""); got.status != 401 {
			t.Errorf("%s with a wrong key: %d %s", path, got.status, got.body)
		}
	}
	h.ledger(id, 0)
}

// Guarantee: a body that cannot be read, or asks for what cannot be metered, is refused with
// what is wrong with it, and nothing goes upstream.
func TestBadBodies(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	id, secret := h.key(nil)
	h.mock.Seen = func(_ http.ResponseWriter, r *http.Request, _ []byte) bool {
		t.Errorf("%s went upstream", r.URL)
		return false
	}
	for body, want := range map[string]string{
		`{`: "cannot be read", `[]`: "must be an object", `x`: "cannot be read", `{"model":"a","model":"b"}`: "duplicate", `{"model":"gpt-4o"} {}`: "follows", `{}`: "model is required",
		"{\"model\":\"\xff\"}": "cannot be read", `{"model":"gpt-4o","background":true}`: "background", strings.Repeat(`{"a":`, 20000): "cannot be read",
	} {
		if got := h.send(t.Context(), secret, "/v1/responses", body); got.status != 400 || !strings.Contains(got.body, want) {
			t.Errorf("%.40s: %d %s, want 400 with %q", body, got.status, got.body, want)
		}
	}
	if got := h.send(t.Context(), secret, "/v1/messages", `{"a":"`+strings.Repeat("x", 33<<20)+`"}`); got.err == nil && got.status != 413 {
		t.Errorf("33 MiB: %d %s", got.status, got.body)
	}
	h.ledger(id, 0)
}

// Guarantee: a large body, which is kept in a file, arrives upstream as it was, or with what
// asks for the usage in its place, and may be sent twice; no byte of the budget stays taken.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(h *house, c *relay.Config) {
		h.addAccount(c, "openai", "openai-2")
		c.BodyBytes = 12 << 20
	})
	_, secret := h.key(nil)
	var mu sync.Mutex
	var sizes []int
	fail := true
	h.mock.Seen = func(w http.ResponseWriter, _ *http.Request, body []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		sizes = append(sizes, len(body))
		if !json.Valid(body) || !bytes.Contains(body, []byte(`"include_usage":true`)) {
			t.Errorf("%.200s… went upstream", body)
		}
		if fail {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fail = !fail
		return !fail
	}
	large := with(chat, streamed+`,"user":"`+strings.Repeat("y", 5<<20)+`"`)
	for range 3 {
		if got := h.send(t.Context(), secret, "/v1/chat/completions", large); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	if len(sizes) != 6 || sizes[0] != sizes[1] || sizes[0] < len(large) {
		t.Errorf("bodies of %v bytes went upstream", sizes)
	}
	if got := h.send(t.Context(), secret, "/v1/chat/completions", with(chat, `,"user":"`+strings.Repeat("y", 13<<20)+`"`)); got.status != 503 {
		t.Errorf("past the budget: %d %s", got.status, got.body)
	}
}

// Guarantee: two requests that a provider gives the same id are both counted.
func TestSameProviderID(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	id, secret := h.key(nil)
	for range 2 {
		h.send(t.Context(), secret, "/v1/messages", with(messages, ""), "X-Mock-Id", "msg_1")
	}
	rows := h.ledger(id, 2)
	if rows[0].request != "msg_1" || !strings.HasPrefix(rows[1].request, "msg_1") {
		t.Errorf("the ledger has %+v", rows)
	}
}

// Guarantee: a key bound to an account is served by that one, or not at all.
func TestBoundKeys(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(h *house, c *relay.Config) { h.addAccount(c, "claude", "claude-2") })
	for account, status := range map[string]int{"claude-2": 200, "elsewhere": 503} {
		id, secret := h.key(key.Columns{"claude_account_id": account})
		for range 3 {
			if got := h.send(t.Context(), secret, "/v1/messages", with(messages, "")); got.status != status {
				t.Errorf("%s: %d %s", account, got.status, got.body)
			}
		}
		if status == 200 {
			for _, r := range h.ledger(id, 3) {
				if r.account != account {
					t.Errorf("%s served a key that is bound to %s", r.account, account)
				}
			}
		}
	}
}

// Guarantee: 401, 429 and 5xx are tried once on another account, which the client does not
// notice; the account that failed rests as long as the provider says; a 403 rests nobody; a
// key bound to an account that rests gets that account's error.
func TestRestingAccounts(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(h *house, c *relay.Config) { h.addAccount(c, "claude", "claude-2") })
	id, secret := h.key(nil)
	_, bound := h.key(key.Columns{"claude_account_id": "claude-1"})
	var mu sync.Mutex
	served := map[string]int{}
	status := 429
	h.mock.Seen = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		account := strings.TrimPrefix(r.Header.Get("X-Api-Key"), secrets)
		served[account]++
		if account != "claude-1" {
			return false
		}
		w.Header().Set("Retry-After", "3000")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"type":"error","error":{"type":"rate_limit_error","message":"of claude-1"}}`)
		return true
	}
	status = 403
	if got := h.send(t.Context(), secret, "/v1/messages", with(messages, "")); got.status != 403 {
		t.Errorf("a 403: %d %s", got.status, got.body)
	}
	status = 429
	for range 5 {
		if got := h.send(t.Context(), secret, "/v1/messages", with(messages, "")); got.status != 200 {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	if served["claude-1"] > 2 || served["claude-2"] < 5 {
		t.Errorf("the accounts served %v", served)
	}
	for _, r := range h.ledger(id, 5) {
		if r.account != "claude-2" {
			t.Errorf("the ledger says that %s served", r.account)
		}
	}
	before := served["claude-1"]
	got := h.send(t.Context(), bound, "/v1/messages", with(messages, ""))
	if got.status != 429 || !strings.Contains(got.body, "of claude-1") || got.header.Get("Retry-After") != "60" || served["claude-1"] != before {
		t.Errorf("a key bound to an account that rests: %d %v %s", got.status, got.header, got.body)
	}
}

// Guarantee: a provider's redirect is not followed, and a provider that is not there is told
// as such; both give the admission back.
func TestUpstreamTrouble(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	id, secret := h.key(nil)
	h.mock.Seen = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if r.URL.Path == "/elsewhere" {
			t.Error("a redirect was followed")
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		return true
	}
	if got := h.send(t.Context(), secret, "/v1/messages", with(messages, "")); got.status != 502 || got.header.Get("Location") != "" {
		t.Errorf("a redirect: %d %v", got.status, got.header)
	}
	h.mock.Seen = func(http.ResponseWriter, *http.Request, []byte) bool { panic(http.ErrAbortHandler) }
	if got := h.send(t.Context(), secret, "/v1/messages", with(messages, "")); got.status != 502 || !strings.Contains(got.body, "api_error") {
		t.Errorf("no answer: %d %s", got.status, got.body)
	}
	h.ledger(id, 0)
	if h.open(id) != 0 {
		t.Error("an admission is still open")
	}
}

// Guarantee: keyledger away is 503, in each provider's format, and nothing goes upstream.
func TestLedgerAway(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(_ *house, c *relay.Config) {
		gone := httptest.NewServer(http.NotFoundHandler())
		gone.Close()
		var err error
		if c.Ledger, err = relay.Remote(gone.URL, "token"); err != nil {
			t.Fatal(err)
		}
	})
	for path, body := range map[string]string{"/v1/messages": with(messages, ""), "/v1/chat/completions": with(chat, ""), "/v1beta/models/m:generateContent": content} {
		got := h.send(t.Context(), "cr_x", path, body)
		if got.status != 503 || got.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %v %s", path, got.status, got.header, got.body)
		}
	}
}

// waitUntil waits for what must come about.
func waitUntil(ctx context.Context, t *testing.T, what string, holds func() bool) {
	t.Helper()
	end := time.Now().Add(15 * time.Second)
	for !holds() {
		if time.Now().After(end) || ctx.Err() != nil {
			t.Fatalf("it never came about that %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
