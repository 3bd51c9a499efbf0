package relay_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/relay"
)

// Guarantee: no way of writing a request makes the provider see another model, or another
// operation, than the one that was admitted.
func TestNoWayRound(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	var names []string
	denied := []string{"gemini-2.5-pro", "gpt-4o", "claude-opus-4-1-20250805"}
	for _, model := range denied {
		names = append(names, price.Denied(model))
	}
	id, secret := h.key(key.Columns{"enable_model_restriction": true, "restricted_models": denied, "restricted_model_names": names})
	h.mock.Seen = func(_ http.ResponseWriter, r *http.Request, _ []byte) bool {
		t.Errorf("%s went upstream", r.URL)
		return false
	}
	for path, body := range map[string]string{
		"/v1beta/models/gemini-2.5-pr%6F:generateContent": content, "/v1beta/models/gemini-2.5-pr%256F:generateContent": content, "/v1beta/models/x%2F..%2Fgemini-2.5-pro:generateContent": content,
		"/v1/models/..%252f..%252fv1%252ffiles": "", "/v1/models/..%2Ffiles": "", "/v1/chat/completions#1": `{"model":"gpt-4o"}`,
		"/v1/chat/completions": `{"model":"mini","Model":"gpt-4o","max_tokens":1}`, "/v1/responses": `{"model":"o3","tools":[{"type":"image_generation","model":"gpt-4o"}],"max_output_tokens":1}`,
		"/v1/messages":         `{"model":"claude-3-haiku-20240307","max_tokens":1,"tools":[{"type":"advisor","model":"claude-opus-4-1-20250805"}]}`,
		"/openai/v1/responses": `{"model":"o3","models":["gpt-4o"],"max_output_tokens":1}`, "/claude/v1/messages": `{"model":"` + strings.Repeat("m", 201) + `","max_tokens":1}`,
		"/claude/v1/messages?": `{"model":"a\u0000","max_tokens":1}`,
	} {
		if got := h.send(t.Context(), secret, path, body); got.status < 400 || got.status >= 500 {
			t.Errorf("%s %s: %d %s", path, body, got.status, got.body)
		}
	}
	h.ledger(id, 0)
}

// Guarantee: what would hide the usage of an answer, or change what is answered, does not go
// upstream.
func TestUsageCannotBeHidden(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	id, secret := h.key(nil)
	var query, mask string
	h.mock.Seen = func(_ http.ResponseWriter, r *http.Request, _ []byte) bool {
		query, mask = r.URL.RawQuery, r.Header.Get("X-Goog-Fieldmask")
		return false
	}
	if got := h.send(t.Context(), secret, "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=proto&fields=candidates&callback=f&access_token=x&$alt=media", content, "X-Goog-Fieldmask", "candidates"); got.status != 200 || query != "" || mask != "" {
		t.Errorf("%d: %q and %q went upstream", got.status, query, mask)
	}
	if got := h.send(t.Context(), secret, "/v1/chat/completions", with(chat, `,"stream_options":null`+streamed)); got.status != 200 || strings.Contains(got.body, `"choices":[]`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := h.send(t.Context(), secret, "/v1/chat/completions", with(chat, `,"stream_options":[]`+streamed)); got.status != 400 {
		t.Errorf("stream_options as a list: %d %s", got.status, got.body)
	}
	for _, r := range h.ledger(id, 2) {
		if r.estimated || r.output < 5 {
			t.Errorf("the ledger has %+v", r)
		}
	}
}

// Guarantee: no request of one key, whatever it has in it, makes the accounts rest for all.
func TestNobodyRestsAll(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(h *house, c *relay.Config) {
		h.addAccount(c, "claude", "claude-2")
		h.addAccount(c, "openai", "openai-2")
	})
	_, secret := h.key(nil)
	h.mock.Seen = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		for _, name := range []string{"Openai-Organization", "Openai-Project", "Upgrade", "Http2-Settings"} {
			if r.Header.Get(name) != "" {
				t.Errorf("%s went upstream", name)
			}
		}
		if strings.HasSuffix(r.URL.Path, "count_tokens") {
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		return false
	}
	for range 4 {
		h.send(t.Context(), secret, "/v1/messages/count_tokens", `{"model":"m"}`)
		h.send(t.Context(), secret, "/v1/messages", with(messages, ""), "Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c", "Http2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA")
		h.send(t.Context(), secret, "/v1/chat/completions", with(chat, ""), "OpenAI-Organization", "org-x", "OpenAI-Project", "p")
	}
	for path, body := range map[string]string{"/v1/messages": with(messages, ""), "/v1/chat/completions": with(chat, "")} {
		if got := h.send(t.Context(), secret, path, body); got.status != 200 {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
}

// Guarantee: a provider that is silent on one account is not asked again, and is not held
// against another.
func TestSilence(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(h *house, c *relay.Config) {
		h.addAccount(c, "claude", "claude-2")
		c.IdleTimeout = 200 * time.Millisecond
	})
	_, secret := h.key(nil)
	var asked atomic.Int64
	h.mock.Seen = func(_ http.ResponseWriter, r *http.Request, _ []byte) bool {
		if asked.Add(1) <= 2 {
			<-r.Context().Done()
			return true
		}
		return false
	}
	for range 2 {
		if got := h.send(t.Context(), secret, "/v1/messages", with(messages, "")); got.status != 502 {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	if got := h.send(t.Context(), secret, "/v1/messages", with(messages, "")); got.status != 200 || asked.Load() != 3 {
		t.Errorf("after %d requests: %d %s", asked.Load(), got.status, got.body)
	}
}

// Guarantee: an account's secret is not in an error however the provider sends it, and not in
// what a key that is bound to a resting account is told.
func TestCompressedErrors(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	_, secret := h.key(key.Columns{"claude_account_id": "claude-1"})
	h.mock.Seen = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(http.StatusUnauthorized)
		z := gzip.NewWriter(w)
		_, _ = fmt.Fprintf(z, `{"error":{"message":"bad key %s, or sk-ab****wxyz"}}`, r.Header.Get("X-Api-Key"))
		_ = z.Close()
		return true
	}
	for range 2 { // the second is told what the account rests for
		got := h.send(t.Context(), secret, "/v1/messages", with(messages, ""), "Accept-Encoding", "gzip")
		if got.status != 401 || strings.Contains(got.body, secrets) || strings.Contains(got.body, "wxyz") || !strings.Contains(got.body, "bad key [redacted]") || got.header.Get("Content-Encoding") != "" {
			t.Errorf("%d %v %s", got.status, got.header, got.body)
		}
	}
}

// Guarantee: an event that is too long to be held goes on whole, where others are held until
// it is known what they are.
func TestLongEventPasses(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	id, secret := h.key(nil)
	got := h.send(t.Context(), secret, "/v1/chat/completions", with(chat, streamed), "X-Mock-Pad", "1500000", "X-Mock-Events", "2")
	if n := strings.Count(got.body, "x"); n < 3_000_000 || strings.Contains(got.body, `"choices":[]`) {
		t.Errorf("%d bytes of 3000000 came", n)
	}
	if r := h.ledger(id, 1)[0]; r.estimated || r.output != 2 {
		t.Errorf("the ledger has %+v", r)
	}
}

// picky refuses what a provider tells, as the ledger refuses counts that cannot be.
type picky struct{ relay.Ledger }

func (p picky) Record(ctx context.Context, u relay.Usage) (bool, error) {
	if !u.Estimated {
		return false, fmt.Errorf("%w: it cannot be", relay.ErrRefused)
	}
	return p.Ledger.Record(ctx, u)
}

// Guarantee: usage that the ledger refuses is no free pass: it is estimated.
func TestRefusedUsage(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(h *house, c *relay.Config) { c.Ledger = picky{h.local} })
	id, secret := h.key(nil)
	h.send(t.Context(), secret, "/v1/messages", with(messages, ""))
	if r := h.ledger(id, 1)[0]; !r.estimated || r.output < 5 {
		t.Errorf("the ledger has %+v", r)
	}
}

// Guarantee: who has no key holds no more of the relay's memory than a small body.
func TestUnknownKeysHoldNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(_ *house, c *relay.Config) { c.BodyBytes = 1 << 20 })
	_, secret := h.key(nil)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for range 20 {
		body, more := io.Pipe()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/v1/messages", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Api-Key", "cr_"+strings.Repeat("0", 64))
		go func() {
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err == nil {
				_ = resp.Body.Close()
			}
		}()
		go func() { _, _ = more.Write(make([]byte, 500<<10)) }()
	}
	time.Sleep(500 * time.Millisecond)
	if got := h.send(t.Context(), secret, "/v1/messages", with(messages, "")); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// Guarantee: a body that nests without end costs no more memory than it has bytes.
func TestNesting(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	_, secret := h.key(nil)
	name := strings.Repeat("n", 100)
	if got := h.send(t.Context(), secret, "/v1/messages", strings.Repeat(`{"`+name+`":`, 5000)); got.status != 400 || !strings.Contains(got.body, "nests deeper") {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// Guarantee: an error within a stream that has told nothing costs nothing.
func TestErrorWithinStream(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	id, secret := h.key(nil)
	for path, c := range map[string][2]string{
		"/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse": {content, `data: {"error":{"code":503,"status":"UNAVAILABLE"}}`},
		"/v1/chat/completions": {with(chat, streamed), `data: {"error":{"message":"no"}}`},
		"/v1/messages":         {with(messages, streamed), "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}"},
		"/v1/responses":        {with(responses, streamed), "event: error\ndata: {\"type\":\"error\",\"message\":\"no\"}"},
	} {
		h.mock.Seen = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, c[1]+"\n\n")
			return true
		}
		if got := h.send(t.Context(), secret, path, c[0]); got.status != 200 || !strings.Contains(got.body, c[1]) {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
	waitUntil(t.Context(), t, "no admission is open", func() bool { return h.open(id) == 0 })
	h.ledger(id, 0)
}
