package api_test

import (
	"context"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"gopkg.in/yaml.v3"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: every operation lets in the roles that openapi.yaml marks it with
// and no other: 401 without a token, 403 with the wrong role.
func TestRoles(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	raw, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// parameters of a path are a list: take the operations only
	var loose struct {
		Paths map[string]map[string]yaml.Node
	}
	if err := yaml.Unmarshal(raw, &loose); err != nil {
		t.Fatal(err)
	}
	operations, open := 0, []string{}
	for path, methods := range loose.Paths {
		for method, node := range methods {
			if method == "parameters" || !strings.HasPrefix(path, "/v1/") && !strings.HasPrefix(path, "/otlp/") {
				continue
			}
			var op struct {
				Security []map[string][]string `yaml:"security"`
			}
			if err := node.Decode(&op); err != nil {
				t.Fatal(err)
			}
			if op.Security != nil && !slices.ContainsFunc(op.Security, func(scheme map[string][]string) bool { _, has := scheme["token"]; return has }) {
				open = append(open, method+" "+path)
				continue
			}
			operations++
			url := regexp.MustCompile(`\{[^}]+\}`).ReplaceAllString(path, uuid.NewString())
			verb := strings.ToUpper(method)
			relay := len(op.Security) > 0 && len(op.Security[0]["token"]) > 0
			for token, allowed := range map[string]bool{h.relay: relay, h.reader: verb == http.MethodGet, h.admin: true} {
				a := h.as(token, verb, url, `{"nonsense":1}`)
				if refused := a.status == 401 || a.status == 403; refused == allowed {
					t.Errorf("%s %s: status %d, allowed should be %v", verb, path, a.status, allowed)
				}
			}
			for _, token := range []string{"", "nonsense", h.admin + "x"} {
				if a := h.as(token, verb, url, nil); a.status != 401 || a.header.Get("WWW-Authenticate") != "Bearer" {
					t.Errorf("%s %s with token %q: %d", verb, path, token, a.status)
				}
			}
		}
	}
	// What is asked without an access token is a short list, which nothing joins by accident.
	if slices.Sort(open); !slices.Equal(open, []string{"delete /v1/session", "get /v1/self", "get /v1/usage", "post /v1/keys/revoke-leaked", "post /v1/session"}) {
		t.Errorf("asked without an access token: %v", open)
	}
	if operations < 25 {
		t.Errorf("only %d operations were tried", operations)
	}
}

// Guarantee: 401 and 403 are the same bytes, but for the request id, whether or
// not the thing asked for exists.
func TestRefusalsTellNothing(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{})
	for _, token := range []string{"", "wrong", h.relay} {
		var bodies []string
		for _, path := range []string{"/v1/keys/" + id, "/v1/keys/" + uuid.NewString(), "/v1/keys/not-an-id", "/v1/no/such/path"} {
			a := h.as(token, "GET", path, nil, "X-Request-Id", "same")
			bodies = append(bodies, http.StatusText(a.status)+a.raw)
		}
		for _, b := range bodies {
			if b != bodies[0] {
				t.Errorf("with token %.5q: %v", token, bodies)
				break
			}
		}
	}
	h.want(h.do("GET", "/v1/no/such/path", nil), 404)
	h.want(h.do("PUT", "/v1/keys", `{}`), 405)
}

// Guarantee: a token past its end or revoked opens nothing from the next request
// on; tokens are stored as hashes only.
func TestTokens(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	ctx := context.Background()
	tokens := access.New(h.db, cache.Deaf)
	soon := time.Now().Add(time.Hour)
	text, row, err := tokens.Create(ctx, db.Actor{Name: "test"}, "short-lived", access.Reader, &soon)
	if err != nil {
		t.Fatal(err)
	}
	h.want(h.as(text, "GET", "/v1/tags", nil), 200)
	pgtest.Exec(t, h.db, "UPDATE access_tokens SET expires_at = now() - interval '1 second' WHERE id = $1", row.ID)
	h.want(h.as(text, "GET", "/v1/tags", nil), 401)
	if _, err := tokens.Revoke(ctx, db.Actor{Name: "test"}, "the-reader"); err != nil {
		t.Fatal(err)
	}
	h.want(h.as(h.reader, "GET", "/v1/tags", nil), 401)
	_, toGo, err := tokens.Create(ctx, db.Actor{Name: "test"}, "to-go", access.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var revoked atomic.Int64
	for range 8 { // one of them revokes it, and the audit trail has one row of it
		all.Go(func() {
			if _, err := tokens.Revoke(ctx, db.Actor{Name: "test"}, "to-go"); err == nil {
				revoked.Add(1)
			}
		})
	}
	all.Wait()
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM audit_log WHERE target_id = $1::text AND before IS NOT NULL", toGo.ID.String()); n != 1 || revoked.Load() == 0 {
		t.Errorf("revoked %d times, with %d audit rows", revoked.Load(), n)
	}
	if _, err := tokens.Revoke(ctx, db.Actor{Name: "test"}, "nobody"); err == nil {
		t.Error("a token that is not there was revoked")
	}
	for _, bad := range []struct {
		name string
		role access.Role
		end  *time.Time
	}{{"", access.Admin, nil}, {"x", "owner", nil}, {strings.Repeat("x", 101), access.Admin, nil}, {"x", access.Admin, ptr(time.Now().Add(-time.Hour))}} {
		if _, _, err := tokens.Create(ctx, db.Actor{Name: "test"}, bad.name, bad.role, bad.end); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM access_tokens AS a WHERE a::text LIKE '%' || $1 || '%'", strings.TrimPrefix(h.admin, "kl_")); n != 0 {
		t.Error("a token is stored as it is")
	}
}

func ptr[T any](v T) *T { return &v }

// Guarantee: the first token of a fresh database becomes admin, once, also when
// several replicas start at the same moment.
func TestBootstrap(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	made := make(chan bool, 6)
	for range cap(made) {
		d := pgtest.Open(t, dbURL)
		go func() {
			ok, err := access.New(d, cache.Deaf).Bootstrap(context.Background(), strings.Repeat("b", 40))
			if err != nil {
				t.Error(err)
			}
			made <- ok
		}()
	}
	wins := 0
	for range cap(made) {
		if <-made {
			wins++
		}
	}
	if wins != 1 {
		t.Errorf("%d replicas made the first token", wins)
	}
}

// Guarantee: a key holder sees what its own key may use and has used with the key
// alone, nothing of what its owner notes beside it, and nothing without a valid key.
func TestSelf(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, secret := h.create(map[string]any{"name": "mine", "dailyCostLimit": 3, "description": "a note", "tags": []string{"a-team"}, "claudeAccountId": "upstream-1"})
	h.want(h.record(map[string]any{"keyId": id, "model": "claude-sonnet-4-20250514", "usage": readmeUsage}), 200)
	a := h.want(h.as(secret, "GET", "/v1/self", nil), 200)
	b := h.want(h.as("", "GET", "/v1/self", nil, "x-api-key", secret), 200)
	for _, owners := range []string{"a note", "a-team", "upstream-1", "createdBy", "version", "the-admin", id} {
		if strings.Contains(a.raw, owners) {
			t.Errorf("the holder sees %s: %s", owners, a.raw)
		}
	}
	if a.text("key", "name") != "mine" || b.text("key", "dailyCostLimit") != "3" || a.text("usage", "total", "allTokens") != "3070" || a.text("key", "dailyCost") != "0.016092" || strings.Contains(a.raw, secret) {
		t.Errorf("self: %s", a.raw)
	}
	for _, token := range []string{"", h.admin, "cr_" + strings.Repeat("0", 64)} {
		h.want(h.as(token, "GET", "/v1/self", nil), 401)
	}
	h.want(h.do("PATCH", "/v1/keys/"+id, `{"isActive":false}`), 200)
	if a := h.want(h.as(secret, "GET", "/v1/self", nil), 401); !strings.Contains(a.text("detail"), "disabled") {
		t.Errorf("a disabled key's holder reads %s", a.raw)
	}
}

// Guarantee: the service's own paths need no token, and tell what they promise.
func TestServicePaths(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	if a := h.want(h.as("", "GET", "/healthz", nil), 200); a.text("status") != "ok" {
		t.Errorf("healthz: %s", a.raw)
	}
	if a := h.want(h.as("", "GET", "/readyz", nil), 200); a.text("status") != "ready" {
		t.Errorf("readyz: %s", a.raw)
	}
	if a := h.want(h.as("", "GET", "/openapi.yaml", nil), 200); !strings.HasPrefix(a.raw, "openapi: 3") {
		t.Errorf("openapi.yaml: %.40s", a.raw)
	}
	if a := h.want(h.as("", "GET", "/docs/", nil), 200); !strings.Contains(a.raw, "/openapi.yaml") || regexp.MustCompile(`(src|href)="https?://`).MatchString(a.raw) {
		t.Errorf("docs: %.200s", a.raw)
	}
	h.db.Close()
	if a := h.want(h.as("", "GET", "/readyz", nil), 503); a.text("checks", "database") == "ok" {
		t.Errorf("readyz without a database: %s", a.raw)
	}
	h.want(h.as("", "GET", "/healthz", nil), 200)
}

// Guarantee: an address that presents wrong tokens is slowed down, by bearer and at sign-in
// together, and by nothing that it writes into X-Forwarded-For; others are not, and neither is
// a request without a token.
func TestWrongTokensAreSlowedDown(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{wrong: 4, behind: "127.0.0.0/8"})
	from := func(ip, token string) answer {
		t.Helper()
		return h.as(token, "GET", "/v1/tags", nil, "X-Forwarded-For", ip)
	}
	for range 2 {
		h.want(from("203.0.113.9", "wrong"), 401)
		h.want(h.as("", "POST", "/v1/session", map[string]any{"token": "wrong"}, "X-Forwarded-For", "203.0.113.9"), 401)
	}
	for _, ip := range []string{"203.0.113.9", "8.8.8.8, 203.0.113.9"} {
		if a := from(ip, "wrong"); a.status != 429 || a.header.Get("Retry-After") == "" || a.text("code") != "TOO_MANY_ATTEMPTS" {
			t.Errorf("from %s: %d %s", ip, a.status, a.raw)
		}
	}
	h.want(h.as("", "POST", "/v1/session", map[string]any{"token": h.admin}, "X-Forwarded-For", "203.0.113.9"), 429)
	h.want(from("203.0.113.9", ""), 401)
	h.want(from("203.0.113.10", h.admin), 200)
	h.want(from("203.0.113.9", h.admin), 200) // known to be live by now, heard or unheard
	h.want(from("203.0.113.9, 203.0.113.10", "wrong"), 401)
	for range 4 { // one network of IPv6 is one address
		from("2001:db8::1", "wrong")
	}
	h.want(from("2001:db8::2", "wrong"), 429)
	h.want(from("2001:db8:0:1::1", "wrong"), 401)
}
