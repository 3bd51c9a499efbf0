package api_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/api"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: no body makes any operation answer with a 5xx or with what
// openapi.yaml does not say. Seeds are the shapes that break decoders.
func FuzzBodies(f *testing.F) {
	for _, body := range []string{
		``, `{}`, `[]`, `null`, `{"name":"a"}`, `{"name":"\u0000"}`, "{\"name\":\"\xff\"}", `{"name":1e400}`, `{"tokenLimit":1e30}`, `{"dailyCostLimit":"1e999999999"}`,
		`{"keyId":"00000000-0000-4000-8000-000000000001","usage":{"input_tokens":9223372036854775808}}`, `{"events":[{"usage":{}},5,null,[]]}`,
		`{"apiKey":{"a":[]}}`, `{"apiKey":"cr_` + strings.Repeat("\u00e9", 300) + `"}`, `{"ids":["x",5,null]}`, `{"model":"m","inputPerMillion":{}}`, `{"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
		`{"m":{"input_cost_per_token":"x"}}`, `{"m":{"input_cost_per_token":1e-400}}`, `{"reason":"\ud800"}`, `{"graceSeconds":99999999999}`, `{"expiresAt":"9999-12-31T23:59:59Z"}`, `{"name":"a","expiresAt":"0001-01-01T00:00:00Z"}`,
		`{"occurredAt":"0000-01-01T00:00:00Z","keyId":"00000000-0000-4000-8000-000000000001","usage":{}}`,
	} {
		f.Add(body)
	}
	h := newHarness(f, options{})
	f.Fuzz(func(t *testing.T, body string) {
		one := *h
		one.t = t
		id, _ := pgtest.Key(t, h.db, pgtest.KeyRow{})
		for _, operation := range []string{"POST /v1/keys", "POST /v1/keys/batch", "PATCH /v1/keys/batch", "POST /v1/keys/batch-delete", "POST /v1/keys/verify",
			"PATCH /v1/keys/" + id.String(), "POST /v1/keys/" + id.String() + "/rotate", "POST /v1/usage", "POST /v1/events/" + id.String() + "/void", "POST /v1/prices", "POST /v1/prices/import"} {
			method, path, _ := strings.Cut(operation, " ")
			if a := one.do(method, path, body); a.status >= 500 {
				t.Errorf("%s %.200q: %d %s", operation, body, a.status, a.raw)
			}
		}
	})
}

// Guarantee: no query parameter makes a list answer with a 5xx.
func TestQueries(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	for _, path := range []string{"/v1/keys", "/v1/events", "/v1/prices", "/v1/accounts/usage", "/v1/accounts/a%00b/usage", "/v1/keys/x/usage", "/v1/accounts/%ff/usage"} {
		for _, value := range []string{"", "%00", "%ff%fe", "1e30", "NaN", "-1", "9223372036854775808", strings.Repeat("x", 5000), "2026-01-01T00:00:00Z", "%27;--", "WyJhIl0", "WyIxIiwiMiIsIjMiLCI0IiwiNSJd"} {
			for _, name := range []string{"q", "tag", "status", "permission", "accountId", "sort", "limit", "cursor", "asOf", "keyId", "model", "kind", "from", "to", "provider", "requestId"} {
				if a := h.do("GET", path+"?"+name+"="+value, nil); a.status >= 500 {
					t.Errorf("%s?%s=%.40s: %d %s", path, name, value, a.status, a.raw)
				}
			}
		}
	}
}

// Guarantee: an object with a million members is refused before it is unfolded, at
// whatever depth it stands; a list of prices as long as those that are published is not.
func TestCrowded(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	object := func(n int, member string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `%s"m%d":%s`, map[bool]string{true: ","}[i > 0], i, member)
		}
		return "{" + b.String() + "}"
	}
	many := object(600_000, "0")
	for _, body := range []string{many, `{"events":[{"usage":` + many + `}]}`, `{"usage":{"x":[[` + many + `]]}}`} {
		a := h.do("POST", "/v1/usage", body)
		if a.status != 400 || !strings.Contains(a.raw, "more than 10000 members") {
			t.Errorf("%.40q: %d %s", body, a.status, a.raw)
		}
	}
	if a := h.do("POST", "/v1/prices/import", object(5000, `{"input_cost_per_token":1e-6,"output_cost_per_token":1e-6,"litellm_provider":"openai","mode":"chat"}`)); a.status != 200 {
		t.Errorf("5000 prices: %d %.300s", a.status, a.raw)
	}
}

// Guarantee: a body beyond its limit is refused whether its length is announced
// or not, and a client that sends nothing does not hold a connection for ever.
func TestLargeAndSlow(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	if a := h.do("POST", "/v1/usage", strings.Repeat(" ", 50<<20)); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("50 MiB: %d", a.status)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(conn, "POST /v1/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", h.admin)
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<16, strings.Repeat(" ", 1<<16))
	for range 32 {
		if _, err := conn.Write([]byte(chunk)); err != nil {
			break // the service has hung up, as it may
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "413") {
		t.Errorf("2 MiB in chunks: %q %v", line, err)
	}
}

// Guarantee: a client that hangs up is no error of ours: nothing above debug is logged, and
// metrics count it as 499.
func TestHungUp(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	h := newHarness(t, options{dbURL: dbURL})
	id, secret := h.create(map[string]any{"dailyCostLimit": 1})
	release := pgtest.Hold(t, dbURL, "SELECT FROM key_counters WHERE key_id = $1 FOR UPDATE", id)
	defer release()
	for range 3 {
		ctx, hangUp := context.WithTimeout(t.Context(), 100*time.Millisecond)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/v1/admissions", strings.NewReader(`{"apiKey":"`+secret+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+h.relay)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			t.Errorf("it was answered with %d before it hung up", resp.StatusCode)
		}
		hangUp()
	}
	told := func() string {
		w := httptest.NewRecorder()
		h.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Body.String()
	}
	for until := time.Now().Add(10 * time.Second); !strings.Contains(told(), `status="499"`); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("no request is counted as 499")
		}
	}
	if text := told(); strings.Contains(text, `status="503"`) || strings.Contains(text, `status="500"`) {
		t.Error("a client that hung up is counted as a failure")
	}
	h.logMu.Lock()
	defer h.logMu.Unlock()
	for _, line := range strings.Split(h.log.String(), "\n") {
		if strings.Contains(line, `"level":"ERROR"`) || strings.Contains(line, `"level":"WARN"`) {
			t.Errorf("logged: %s", line)
		}
	}
}

// Guarantee: an address has no more connections than it may, its closed ones make room, and
// other addresses and trusted proxies are not counted with it.
func TestPerAddress(t *testing.T) {
	t.Parallel()
	plain, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := api.PerAddress(plain, 2, []netip.Prefix{netip.MustParsePrefix("127.0.9.0/24")})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	defer func() { _ = server.Close() }()
	open := func(from string) (conn net.Conn, answered bool) {
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(t.Context(), "tcp", plain.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		line, err := bufio.NewReader(conn).ReadString('\n')
		return conn, err == nil && strings.Contains(line, "204")
	}
	first, one := open("127.0.1.1")
	_, two := open("127.0.1.1")
	_, three := open("127.0.1.1")
	_, other := open("127.0.1.2")
	if !one || !two || three || !other {
		t.Errorf("answered %v %v %v of one address and %v of another, want the third refused", one, two, three, other)
	}
	for range 5 {
		if _, ok := open("127.0.9.1"); !ok {
			t.Error("a trusted proxy was refused")
		}
	}
	_ = first.Close()
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, ok := open("127.0.1.1"); ok {
			break
		}
		if time.Now().After(until) {
			t.Fatal("a closed connection made no room")
		}
	}
}

// Guarantee: who asks for a report or for repricing without a token, and then sends
// nothing, is answered and hung up on like anybody else: no deadline is lifted for him.
func TestIdleWithoutToken(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{short: 500 * time.Millisecond})
	for _, path := range []string{"/v1/reports/usage", "/v1/prices/reprice", "/v1/keys"} {
		for name, rest := range map[string]string{"a body that never comes": "Content-Length: 100\r\n\r\n", "no further request": "\r\n"} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\n%s", path, rest)
			answer, err := io.ReadAll(conn) // until the service closes it
			if err != nil || !strings.Contains(string(answer), "401") {
				t.Errorf("%s, %s: %v after %.60q, want 401 and the end", path, name, err, answer)
			}
			_ = conn.Close()
		}
	}
}

// Guarantee: the server waits a bounded time for requests, and not for its own work: a
// report that takes longer than a request may take to arrive is answered.
func TestSlowReport(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	h := newHarness(t, options{dbURL: dbURL, short: 300 * time.Millisecond})
	release := pgtest.Hold(t, dbURL, "LOCK TABLE usage_daily IN ACCESS EXCLUSIVE MODE")
	time.AfterFunc(1500*time.Millisecond, release)
	start := time.Now()
	h.want(h.do("GET", "/v1/reports/usage?groupBy=key", nil), 200)
	if took := time.Since(start); took < time.Second {
		t.Errorf("it took %s, and proves nothing", took)
	}
}

// Guarantee: a token that takes longer to look up than a request may take to arrive is waited for, with
// a body that is there and without one.
func TestSlowToken(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	for method, sent := range map[string]struct {
		body   any
		status int
		answer string
	}{
		"GET":  {nil, http.StatusOK, `"data"`},
		"POST": {map[string]any{"name": "slow", "description": strings.Repeat("x", 20_000)}, http.StatusUnprocessableEntity, `"description"`},
	} {
		h := newHarness(t, options{dbURL: dbURL, short: 300 * time.Millisecond})
		release := pgtest.Hold(t, dbURL, "LOCK TABLE access_tokens IN ACCESS EXCLUSIVE MODE")
		time.AfterFunc(1500*time.Millisecond, release)
		start := time.Now()
		a := h.as(h.admin, method, "/v1/keys", sent.body)
		if a.status != sent.status || !strings.Contains(a.raw, sent.answer) {
			t.Errorf("%s: %d %.200s", method, a.status, a.raw)
		}
		if took := time.Since(start); took < time.Second {
			t.Errorf("%s took %s, and proves nothing", method, took)
		}
	}
}

// Guarantee: a body that arrives as slowly as it may is worked on like any other, though
// that took longer than the work on a request may take; and where no token is asked for
// no body is kept.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	for method, status := range map[string]int{"GET": http.StatusRequestEntityTooLarge, "POST": http.StatusUnauthorized} {
		if a := h.as("", method, "/v1/self", strings.Repeat(" ", 100<<10)); a.status != status {
			t.Errorf("%s with 100 KiB without a token: %d %s", method, a.status, a.raw)
		}
	}
	id, _ := h.create(map[string]any{})
	body := strings.Repeat(" ", 300<<10) + `{"keyId":"` + id + `","usage":{"input_tokens":1}}`
	reader, writer := io.Pipe()
	go func() {
		const parts = 33 // of half a second each
		for i := range parts {
			if _, err := io.WriteString(writer, body[len(body)*i/parts:len(body)*(i+1)/parts]); err != nil {
				return
			}
			time.Sleep(500 * time.Millisecond)
		}
		_ = writer.Close()
	}()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.url+"/v1/usage", reader)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+h.relay)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || !strings.Contains(string(answer), "recorded") {
		t.Errorf("%d %s", resp.StatusCode, answer)
	}
}

// Guarantee: who sends a part of a body and no more is told so, and who ends his side of the connection while
// his request is worked on does not take it for done: neither sees a 200.
func TestUnfinishedRequests(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	h := newHarness(t, options{dbURL: dbURL, short: 300 * time.Millisecond})
	id, _ := h.create(map[string]any{"dailyCostLimit": 1})
	ask := func(body string, length int, halfway bool) string {
		t.Helper()
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(conn, "POST /v1/usage HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", h.relay, length, body)
		if tcp, ok := conn.(*net.TCPConn); ok && halfway {
			time.Sleep(300 * time.Millisecond)
			_ = tcp.CloseWrite()
		}
		answer, err := io.ReadAll(conn) // until the service closes it
		if err != nil {
			t.Errorf("%v after %.200q", err, answer)
		}
		return string(answer)
	}
	event := `{"keyId":"` + id + `","usage":{"input_tokens":1}}`
	for name, part := range map[string]string{"no body": "", "a part": event[:20], "much": strings.Repeat(" ", 100_000)} {
		if answer := ask(part, 200_000, false); !strings.HasPrefix(answer, "HTTP/1.1 408 ") || !strings.Contains(answer, "BODY_TOO_SLOW") {
			t.Errorf("%s: %.200q", name, answer)
		}
	}
	release := pgtest.Hold(t, dbURL, "SELECT FROM key_counters WHERE key_id = $1 FOR UPDATE", id)
	defer release()
	if answer := ask(event, len(event), true); !strings.HasPrefix(answer, "HTTP/1.1 499 ") {
		t.Errorf("his side ended: %.200q", answer)
	}
}

// Guarantee: a request that finds no slot when its body is there is told so, with 503 and
// when to come again, and is not taken for one whose client has gone.
func TestNoSlotAfterBody(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	h := newHarness(t, options{dbURL: dbURL, slots: 1})
	id, secret := h.create(map[string]any{"dailyCostLimit": 1})
	reader, writer := io.Pipe()
	late := make(chan answer)
	go func() {
		req, err := http.NewRequest(http.MethodPost, h.url+"/v1/usage", reader)
		if err != nil {
			panic(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+h.relay)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			late <- answer{raw: err.Error()}
			return
		}
		defer func() { _ = resp.Body.Close() }()
		raw, _ := io.ReadAll(resp.Body)
		late <- answer{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
	}()
	_, _ = io.WriteString(writer, `{"keyId":"`+id+`",`) // it has passed the token's slot
	time.Sleep(300 * time.Millisecond)
	release := pgtest.Hold(t, dbURL, "SELECT FROM key_counters WHERE key_id = $1 FOR UPDATE", id)
	var busy sync.WaitGroup
	busy.Go(func() { h.as(h.relay, "POST", "/v1/admissions", map[string]any{"apiKey": secret}) })
	time.Sleep(300 * time.Millisecond)
	_, _ = io.WriteString(writer, `"usage":{}}`)
	_ = writer.Close()
	if a := <-late; a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("%d %v %s, want 503 with Retry-After", a.status, a.header, a.raw)
	}
	release()
	busy.Wait()
}

// Guarantee: a log line of a request names the W3C trace that the caller says it belongs to, and
// nothing that is no trace.
func TestTraceIsLogged(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	const trace = "0af7651916cd43dd8448eb211c80319c"
	for header, named := range map[string]bool{
		"00-" + trace + "-b7ad6b7169203331-01": true, "cc-" + trace + "-b7ad6b7169203331-01-what-comes-later": true,
		"": false, trace: false, "ff-" + trace + "-b7ad6b7169203331-01": false, "00-00000000000000000000000000000000-b7ad6b7169203331-01": false,
		"00-" + strings.ToUpper(trace) + "-b7ad6b7169203331-01": false, "00-" + trace + "-b7ad6b7169203331-01" + strings.Repeat("x", 500): false,
	} {
		h.logMu.Lock()
		h.log.Reset()
		h.logMu.Unlock()
		h.want(h.as(h.admin, "GET", "/v1/clients", nil, "Traceparent", header), 200)
		h.logMu.Lock()
		line := h.log.String()
		h.logMu.Unlock()
		if got := strings.Contains(line, `"traceId":"`+trace+`"`); got != named || !strings.Contains(line, `"requestId":"`) {
			t.Errorf("%q: %s", header, line)
		}
	}
}

// Guarantee: no text in a query makes a list or a report answer with a 5xx, or with what openapi.yaml
// does not say; cursors are such texts.
func FuzzQueries(f *testing.F) {
	for _, seed := range []string{"WyJhIl0", "WyIxIiwiMiIsIjMiLCI0IiwiNSJd", "\x00", "9223372036854775808", "2026-13-01", "-1", "' OR 1=1 --", "%", "_", strings.Repeat("x", 3000)} {
		f.Add(seed)
	}
	h := newHarness(f, options{})
	f.Fuzz(func(t *testing.T, text string) {
		if text == "" {
			return // as if it were not there
		}
		one := *h
		one.t = t
		for _, path := range []string{"/v1/keys?cursor=", "/v1/keys?q=", "/v1/keys?tag=", "/v1/events?cursor=", "/v1/prices?q=", "/v1/accounts/usage?cursor=", "/v1/audit?cursor=", "/v1/audit?actor=",
			"/v1/reports/usage?cursor=", "/v1/reports/usage?groupBy=", "/v1/reports/usage?from=", "/v1/keys?limit="} {
			if a := one.do("GET", path+url.QueryEscape(text), nil); a.status >= 500 {
				t.Errorf("%s%.100q: %d %s", path, text, a.status, a.raw)
			}
		}
	})
}
