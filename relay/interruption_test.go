package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/relay"
)

// leave sends a request and goes away after so many lines of its answer.
func (h *house) leave(secret, path, body string, lines int, headers ...string) {
	h.Helper()
	ctx, cancel := context.WithCancel(h.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		h.Fatal(err)
	}
	req.Header.Set("X-Api-Key", secret)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if lines == 0 { // before the answer begins
		time.AfterFunc(400*time.Millisecond, cancel) // it has been forwarded, on a busy machine too
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		if lines > 0 {
			h.Fatal(err)
		}
		return
	}
	defer func() { _ = resp.Body.Close() }()
	text := bufio.NewScanner(resp.Body)
	for lines > 0 && text.Scan() {
		lines--
	}
}

// Guarantee: a client that goes away pays what its request used: exactly, where the answer
// is read to its end; by what was received, never more than the request's bound, where it is
// cancelled; and so does one whose provider stalls, breaks off, or never tells the usage.
// These are the amounts of the table in docs/relay.md.
func TestInterruption(t *testing.T) {
	t.Parallel()
	const gap = "20ms"
	for name, c := range map[string]struct {
		path, body string
		mode       string
		lines      int // that the client reads; negative: all
		headers    []string
		rows       int
		estimated  bool
		input      [2]int64 // least and most
		output     [2]int64
	}{
		"the client leaves a stream, drained":            {"/v1/messages", with(messages, streamed), relay.Drain, 8, []string{"X-Mock-Events", "20", "X-Mock-Gap", gap}, 1, false, [2]int64{100, 100}, [2]int64{20, 20}},
		"the client leaves a stream, cancelled":          {"/v1/messages", with(messages, streamed), relay.Cancel, 12, []string{"X-Mock-Events", "50", "X-Mock-Gap", gap}, 1, true, [2]int64{100, 100}, [2]int64{1, 40}},
		"the client leaves a chat, drained":              {"/v1/chat/completions", with(chat, streamed), relay.Drain, 4, []string{"X-Mock-Events", "20", "X-Mock-Gap", gap}, 1, false, [2]int64{60, 60}, [2]int64{20, 20}},
		"the client leaves a chat, cancelled":            {"/v1/chat/completions", with(chat, streamed), relay.Cancel, 4, []string{"X-Mock-Events", "50", "X-Mock-Gap", gap}, 1, true, [2]int64{600, 700}, [2]int64{2, 40}},
		"the client leaves responses, cancelled":         {"/v1/responses", with(responses, streamed), relay.Cancel, 8, []string{"X-Mock-Events", "50", "X-Mock-Gap", gap}, 1, true, [2]int64{600, 700}, [2]int64{2, 40}},
		"the client leaves Gemini, drained":              {"/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", content, relay.Drain, 4, []string{"X-Mock-Events", "20", "X-Mock-Gap", gap}, 1, false, [2]int64{63, 63}, [2]int64{22, 22}},
		"the client leaves Gemini, cancelled":            {"/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", content, relay.Cancel, 4, []string{"X-Mock-Events", "50", "X-Mock-Gap", gap}, 1, true, [2]int64{63, 63}, [2]int64{3, 40}},
		"the client leaves before the answer, drained":   {"/v1/messages", with(messages, ""), relay.Drain, 0, []string{"X-Mock-Delay", "800ms"}, 1, false, [2]int64{100, 100}, [2]int64{5, 5}},
		"the client leaves before the answer, cancelled": {"/v1/messages", with(messages, ""), relay.Cancel, 0, []string{"X-Mock-Delay", "800ms"}, 1, true, [2]int64{600, 700}, [2]int64{0, 0}},
		"the provider stalls":                            {"/v1/messages", with(messages, streamed), relay.Drain, -1, []string{"X-Mock-Stall", "3"}, 1, true, [2]int64{100, 100}, [2]int64{3, 9}},
		"the provider stalls before it says anything":    {"/v1/messages", with(messages, streamed), relay.Drain, -1, []string{"X-Mock-Delay", "30s"}, 1, true, [2]int64{600, 700}, [2]int64{0, 0}},
		"the provider breaks off":                        {"/v1/messages", with(messages, streamed), relay.Drain, -1, []string{"X-Mock-Break", "3"}, 1, true, [2]int64{100, 100}, [2]int64{3, 9}},
		"the provider breaks off a chat":                 {"/v1/chat/completions", with(chat, streamed), relay.Drain, -1, []string{"X-Mock-Break", "3"}, 1, true, [2]int64{600, 700}, [2]int64{3, 9}},
		"the usage is never told":                        {"/v1/chat/completions", with(chat, streamed), relay.Drain, -1, []string{"X-Mock-No-Usage", "1"}, 1, true, [2]int64{600, 700}, [2]int64{5, 10}},
		"the usage is never told, not streamed":          {"/v1/messages", with(messages, ""), relay.Drain, -1, []string{"X-Mock-No-Usage", "1"}, 1, true, [2]int64{600, 700}, [2]int64{0, 100}},
		"more is received than the bound":                {"/v1/messages", with(messages, streamed), relay.Drain, -1, []string{"X-Mock-Pad", "400", "X-Mock-Break", "4"}, 1, true, [2]int64{100, 100}, [2]int64{100, 100}},
		"a response that is incomplete":                  {"/v1/responses", with(responses, streamed), relay.Drain, -1, []string{"X-Mock-Ends", "incomplete"}, 1, false, [2]int64{60, 60}, [2]int64{5, 5}},
		"a response that failed":                         {"/v1/responses", with(responses, streamed), relay.Drain, -1, []string{"X-Mock-Ends", "failed"}, 1, false, [2]int64{60, 60}, [2]int64{5, 5}},
		"an error of the provider":                       {"/v1/messages", with(messages, streamed), relay.Drain, -1, []string{"X-Mock-Status", "400"}, 0, false, [2]int64{}, [2]int64{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, func(_ *house, cfg *relay.Config) {
				cfg.OnDisconnect = c.mode
				cfg.IdleTimeout = time.Second
			})
			id, secret := h.key(key.Columns{"concurrency_limit": 5, "total_cost_limit": 100})
			if c.lines < 0 {
				h.send(t.Context(), secret, c.path, c.body, c.headers...)
			} else {
				h.leave(secret, c.path, c.body, c.lines, c.headers...)
			}
			for _, r := range h.ledger(id, c.rows) {
				if r.estimated != c.estimated || r.input < c.input[0] || r.input > c.input[1] || r.output < c.output[0] || r.output > c.output[1] {
					t.Errorf("the ledger has %+v, want an input of %v, an output of %v, estimated %v\n%s", r, c.input, c.output, c.estimated, h.log)
				}
			}
			waitUntil(t.Context(), t, "no admission is open", func() bool { return h.open(id) == 0 })
		})
	}
}

// flaky is a ledger that can be away.
type flaky struct {
	relay.Ledger

	away  atomic.Bool
	after atomic.Bool // Record does its work, and its answer is lost
}

func (f *flaky) Record(ctx context.Context, u relay.Usage) (bool, error) {
	if f.away.Load() {
		return false, errors.New("away")
	}
	duplicate, err := f.Ledger.Record(ctx, u)
	if f.after.Load() {
		return false, errors.New("the answer was lost")
	}
	return duplicate, err
}

// Guarantee: usage that keyledger cannot take waits in the journal and is in the ledger once
// when it can, whether the ledger had taken it before or not, and whether the relay that
// wrote it lives or another one comes after it.
func TestUsageWaits(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		for _, restart := range []bool{false, true} {
			f := &flaky{}
			h := newHouse(t, func(h *house, c *relay.Config) {
				f.Ledger = h.local
				c.Ledger = f
			})
			id, secret := h.key(nil)
			f.away.Store(!lost)
			f.after.Store(lost)
			if got := h.send(t.Context(), secret, "/v1/messages", with(messages, streamed)); got.status != 200 || !strings.Contains(got.body, "message_stop") {
				t.Fatalf("%d %s", got.status, got.body)
			}
			if restart {
				if err := h.relay.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			f.away.Store(false)
			f.after.Store(false)
			if restart {
				h.openAgain()
			}
			if r := h.ledger(id, 1)[0]; r.estimated || r.output != 5 {
				t.Errorf("lost %v, restart %v: the ledger has %+v", lost, restart, r)
			}
			time.Sleep(1200 * time.Millisecond) // another round of tries
			h.ledger(id, 1)
			waitUntil(t.Context(), t, "the journal is empty", func() bool { return h.journal() == 0 })
		}
	}
}

// openAgain opens a relay after the last one has been closed.
func (h *house) openAgain() {
	h.Helper()
	r, err := relay.New(h.config)
	if err != nil {
		h.Fatal(err)
	}
	server := httptest.NewServer(r)
	h.url = server.URL
	h.relay = r
	h.Cleanup(func() {
		server.Close()
		if err := r.Close(context.Background()); err != nil {
			h.Error(err)
		}
	})
}

// journal counts the requests that the journal has open when a relay would read it.
func (h *house) journal() int {
	raw, err := os.ReadFile(filepath.Join(h.config.SpoolDir, "journal.jsonl"))
	if err != nil {
		h.Fatal(err)
	}
	live := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		if _, rest, ok := strings.Cut(line, `"id":"`); ok {
			live[rest[:len(uuid.Nil.String())]] = !strings.Contains(line, `"state":"done"`)
		}
	}
	n := 0
	for _, is := range live {
		if is {
			n++
		}
	}
	return n
}

// Guarantee: what an earlier relay left open, at whatever line its journal ends, is in the
// ledger once, by estimate; a line that is not whole stops nothing; a second relay is not let
// into the directory of a first.
func TestJournalIsAdopted(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	if _, err := relay.New(h.config); err == nil || !strings.Contains(err.Error(), "another relay") {
		t.Errorf("a second relay with the same directory: %v", err)
	}
	id, secret := h.key(nil)
	done := make(chan answer)
	go func() {
		done <- h.send(t.Context(), secret, "/v1/messages", with(messages, streamed), "X-Mock-Events", "30", "X-Mock-Gap", "100ms")
	}()
	waitUntil(t.Context(), t, "the journal has seen some of it", func() bool {
		raw, err := os.ReadFile(filepath.Join(h.config.SpoolDir, "journal.jsonl"))
		return err == nil && strings.Contains(string(raw), `"seen"`)
	})
	raw, err := os.ReadFile(filepath.Join(h.config.SpoolDir, "journal.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	second := h.config
	second.SpoolDir = t.TempDir()
	if err := os.WriteFile(filepath.Join(second.SpoolDir, "journal.jsonl"), append(raw, `{"id":"half`...), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := relay.New(second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close(context.Background()) }()
	got := h.ledger(id, 1)[0]
	if !got.estimated || got.input != 100 || got.output < 3 || got.output > 60 {
		t.Errorf("the ledger has %+v", got)
	}
	<-done
}

// Guarantee: a journal that cannot be written refuses new work with 503, and gives the
// admission back.
func TestJournalUnwritable(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	id, secret := h.key(nil)
	h.relay.BreakJournal()
	if got := h.send(t.Context(), secret, "/v1/messages", with(messages, "")); got.status != 503 || !strings.Contains(got.body, "journal") {
		t.Errorf("%d %s", got.status, got.body)
	}
	h.ledger(id, 0)
	if h.open(id) != 0 {
		t.Error("an admission stayed open")
	}
}

// Guarantee: an answer that does not stream and breaks off has been received in part, and is
// estimated by that.
func TestBrokenDocument(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	id, secret := h.key(nil)
	h.mock.Seen = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(`{"type":"message","content":[{"type":"text","text":"` + strings.Repeat("word ", 30)))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	h.send(t.Context(), secret, "/v1/messages", with(messages, ""))
	if r := h.ledger(id, 1)[0]; !r.estimated || r.output < 30 || r.output > 100 {
		t.Errorf("the ledger has %+v", r)
	}
}
