package api_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

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
