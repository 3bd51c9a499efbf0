package api_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// signIn starts a session with an access token and returns its cookie.
func (h *harness) signIn(token string) string {
	h.t.Helper()
	a := h.want(h.as("", "POST", "/v1/session", map[string]any{"token": token}), http.StatusCreated)
	cookie, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
	return cookie
}

// Guarantee: a session stands for its access token and for nothing more. No script can read
// the cookie, no other site's page can use it, a change needs the console's header beside it,
// and it ends with the token.
func TestSession(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	started := h.want(h.as("", "POST", "/v1/session", map[string]any{"token": h.admin}), http.StatusCreated)
	set := started.header.Get("Set-Cookie")
	for _, part := range []string{"HttpOnly", "SameSite=Strict", "Path=/v1/", "Max-Age=43200"} {
		if !strings.Contains(set, part) {
			t.Errorf("the cookie is not %s: %s", part, set)
		}
	}
	if strings.Contains(set, "Secure") || strings.Contains(started.raw, h.admin) {
		t.Errorf("over plain HTTP: cookie %s, answer %s", set, started.raw)
	}
	if a := h.as("", "POST", "/v1/session", map[string]any{"token": h.admin}, "X-Forwarded-Proto", "https"); !strings.Contains(a.header.Get("Set-Cookie"), "; Secure") {
		t.Errorf("behind TLS the cookie is not Secure: %s", a.header.Get("Set-Cookie"))
	}
	if started.text("role") != "admin" || started.text("timezone") != "UTC" || started.text("services") != `["claude","gemini","openai","bedrock"]` {
		t.Errorf("the session is %s", started.raw)
	}

	admin, reader, relay := h.signIn(h.admin), h.signIn(h.reader), h.signIn(h.relay)
	for _, c := range []struct {
		cookie, method, path string
		body                 any
		header               string
		want                 int
	}{
		{admin, "GET", "/v1/keys", nil, "", 200},
		{admin, "POST", "/v1/keys", map[string]any{"name": "a"}, "", 403}, // a form of another site cannot send the header
		{admin, "POST", "/v1/keys", map[string]any{"name": "a"}, "1", 201},
		{reader, "GET", "/v1/keys", nil, "", 200},
		{reader, "POST", "/v1/keys", map[string]any{"name": "a"}, "1", 403},
		{relay, "GET", "/v1/session", nil, "", 200},
		{relay, "GET", "/v1/keys", nil, "", 403},
		{"keyledger_session=!", "GET", "/v1/keys", nil, "", 401},
		{"keyledger_session=bm9uc2Vuc2U", "GET", "/v1/keys", nil, "", 401},
		{admin, "GET", "/v1/self", nil, "", 401}, // a session is no key
	} {
		headers := []string{"Cookie", c.cookie}
		if c.header != "" {
			headers = append(headers, "X-Keyledger-Console", c.header)
		}
		if a := h.as("", c.method, c.path, c.body, headers...); a.status != c.want {
			t.Errorf("%s %s as %.30s with header %q: %d, want %d: %s", c.method, c.path, c.cookie, c.header, a.status, c.want, a.raw)
		}
	}
	if a := h.as(h.admin, "POST", "/v1/keys", map[string]any{"name": "a"}, "Cookie", reader); a.status != 201 {
		t.Errorf("a token beside a session: %d", a.status)
	}

	for _, bad := range []string{"wrong", "", strings.Repeat("x", 501)} {
		if a := h.as("", "POST", "/v1/session", map[string]any{"token": bad}); a.status != 401 && a.status != 422 || a.header.Get("Set-Cookie") != "" {
			t.Errorf("signing in with %.10q: %d", bad, a.status)
		}
	}
	h.want(h.as("", "POST", "/v1/session", "token="+h.admin, "Content-Type", "application/x-www-form-urlencoded"), 415)

	h.want(h.as("", "DELETE", "/v1/session", nil, "Cookie", admin), 400)
	h.want(h.as("", "POST", "/v1/session", map[string]any{"token": h.reader}, "Cookie", admin), 201) // signing in again needs no header
	if strings.Contains(admin, h.admin) || strings.Contains(admin, base64.RawURLEncoding.EncodeToString([]byte(h.admin))) {
		t.Error("the token can be read from its session")
	}
	sealed, err := access.NewSessions([]byte("a secret of at least thirty-two bytes"))
	if err != nil {
		t.Fatal(err)
	}
	h.want(h.as("", "GET", "/v1/keys", nil, "Cookie", "keyledger_session="+sealed.Seal(h.admin, time.Now().Add(time.Minute))), 200)
	h.want(h.as("", "GET", "/v1/keys", nil, "Cookie", "keyledger_session="+sealed.Seal(h.admin, time.Now().Add(-time.Minute))), 401)
	// Whoever has no token holds no memory that others need.
	h.want(h.as("", "POST", "/v1/session", `{"token":"`+strings.Repeat("x", 17<<10)+`"}`), 413)
	if a := h.want(h.as("", "DELETE", "/v1/session", nil, "Cookie", admin, "X-Keyledger-Console", "1"), 204); !strings.Contains(a.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("signing out sets %q", a.header.Get("Set-Cookie"))
	}
	pgtest.Exec(t, h.db, "UPDATE access_tokens SET revoked_at = now() WHERE role = 'reader'")
	h.want(h.as("", "GET", "/v1/keys", nil, "Cookie", reader), 401)
}

// Guarantee: access tokens are issued, listed and revoked over the API, their text is in one
// answer alone, and the last live admin token cannot be revoked.
func TestTokensOverAPI(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	made := h.want(h.do("POST", "/v1/tokens", map[string]any{"name": " dashboards ", "role": "reader"}), 201)
	text := made.text("token")
	if made.text("name") != "dashboards" || !strings.HasPrefix(text, "kl_") {
		t.Errorf("issued %s", made.raw)
	}
	h.want(h.as(text, "GET", "/v1/keys", nil), 200)
	list := h.want(h.as(h.reader, "GET", "/v1/tokens", nil), 200)
	if strings.Contains(list.raw, text) || !strings.Contains(list.raw, made.text("hint")) {
		t.Errorf("the list is %s", list.raw)
	}
	h.want(h.do("DELETE", "/v1/tokens/"+made.text("id"), nil), 204)
	h.want(h.do("DELETE", "/v1/tokens/"+made.text("id"), nil), 204)
	h.want(h.as(text, "GET", "/v1/keys", nil), 401)
	h.want(h.do("DELETE", "/v1/tokens/"+uuid.NewString(), nil), 404)
	for _, bad := range []map[string]any{
		{"name": "", "role": "reader"}, {"name": "x", "role": "root"}, {"name": "x", "role": "reader", "expiresAt": "2020-01-01T00:00:00Z"}, {"role": "reader"},
	} {
		if a := h.do("POST", "/v1/tokens", bad); a.status != 422 {
			t.Errorf("%v: %d %s", bad, a.status, a.raw)
		}
	}
	var mine string
	for _, row := range h.want(h.do("GET", "/v1/tokens", nil), 200).get("data").([]any) {
		if row := row.(map[string]any); row["role"] == "admin" {
			mine = row["id"].(string)
		}
	}
	h.want(h.do("DELETE", "/v1/tokens/"+mine, nil), 409)
	soon := time.Now().Add(time.Minute).UTC().Format(time.RFC3339)
	h.want(h.do("POST", "/v1/tokens", map[string]any{"name": "for a minute", "role": "admin", "expiresAt": soon}), 201)
	h.want(h.do("DELETE", "/v1/tokens/"+mine, nil), 409)
	h.want(h.do("POST", "/v1/tokens", map[string]any{"name": "second", "role": "admin"}), 201)
	h.want(h.do("DELETE", "/v1/tokens/"+mine, nil), 204)
	h.want(h.do("GET", "/v1/tokens", nil), 401)
}

// Guarantee: the audit trail is read in pages, newest first, of one kind of thing or one
// actor, each row once.
func TestAuditTrail(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, secret := h.create(map[string]any{"name": "watched"})
	h.want(h.do("PATCH", "/v1/keys/"+id, map[string]any{"isActive": false}), 200)
	h.want(h.do("POST", "/v1/keys/"+id+"/rotate", map[string]any{"graceSeconds": 3600}), 200)
	seen := map[string]int{}
	cursor := ""
	for pages := 0; ; pages++ {
		a := h.want(h.as(h.reader, "GET", "/v1/audit?limit=2&cursor="+cursor, nil), 200)
		for _, row := range a.get("data").([]any) {
			row := row.(map[string]any)
			seen[row["action"].(string)]++
		}
		if strings.Contains(a.raw, secret) {
			t.Error("the trail holds a secret")
		}
		if cursor = a.text("nextCursor"); cursor == "" {
			break
		}
		if pages > 50 {
			t.Fatal("pages without end")
		}
	}
	if seen["key.create"] != 1 || seen["key.update"] != 1 || seen["token.create"] != 3 {
		t.Errorf("the trail has %v", seen)
	}
	of := h.want(h.do("GET", "/v1/audit?targetType=key&targetId="+id+"&actor=the-admin", nil), 200)
	if of.text("data", 0, "action") != "key.rotate" || of.text("data", 1, "action") != "key.update" || of.text("data", 2, "action") != "key.create" || of.text("data", 3) != "" {
		t.Errorf("of one key: %s", of.raw)
	}
	if a := h.do("GET", "/v1/audit?targetType=nonsense&limit=0", nil); a.status != 422 || a.wrongFields() != "limit,targetType" {
		t.Errorf("%d %s", a.status, a.raw)
	}
	h.want(h.do("GET", "/v1/audit?cursor=WyJ4Il0", nil), 422)
}

// Guarantee: the overview and what a key's page shows are what happened: keys by status, live
// admissions, refusals by reason, the dearest keys, secrets with their grace.
func TestOverview(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, secret := h.create(map[string]any{"name": "busy", "dailyCostLimit": 1})
	h.create(map[string]any{"name": "off", "isActive": false})
	h.create(map[string]any{"name": "over", "expiresAt": "2020-01-01T00:00:00Z"})
	admit := map[string]any{"apiKey": secret, "model": "claude-sonnet-4-20250514", "estimate": map[string]any{"costUsd": 0.2}}
	h.want(h.as(h.relay, "POST", "/v1/admissions", admit), 200)
	h.want(h.record(map[string]any{"keyId": id, "requestId": "r", "model": "claude-sonnet-4-20250514", "usage": map[string]any{"input_tokens": 200000}}), 200)
	if a := h.as(h.relay, "POST", "/v1/admissions", admit); a.text("code") != "ALLOWED" {
		t.Errorf("code %s", a.text("code"))
	}
	pgtest.Exec(t, h.db, `INSERT INTO admission_refusals
		SELECT k.ledger_id, d.day, 'DAILY_COST_EXCEEDED', false, d.n FROM api_keys AS k,
		       (VALUES ((now() AT TIME ZONE 'UTC')::date, 3), ((now() AT TIME ZONE 'UTC')::date - 6, 4), ((now() AT TIME ZONE 'UTC')::date - 7, 5)) AS d (day, n)
		 WHERE k.name = 'busy'`)
	o := h.want(h.as(h.reader, "GET", "/v1/overview", nil), 200)
	for path, want := range map[string]string{
		"keys": `{"active":1,"disabled":1,"expired":1}`, "live": `{"admissions":2,"reservedCost":0.4,"reservedTokens":0}`,
		"refusals": `[{"code":"DAILY_COST_EXCEEDED","letThrough":false,"today":3,"week":7}]`,
		"topToday": `[{"costUsd":0.6,"keyId":"` + id + `","keyName":"busy"}]`, "topMonth": `[{"costUsd":0.6,"keyId":"` + id + `","keyName":"busy"}]`,
	} {
		if got := o.text(path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	refusals := h.want(h.as(h.reader, "GET", "/v1/keys/"+id+"/refusals", nil), 200)
	if refusals.text("data", 0, "refusals") != "3" || refusals.text("data", 2, "refusals") != "5" {
		t.Errorf("refusals of the key: %s", refusals.raw)
	}
	h.want(h.do("POST", "/v1/keys/"+id+"/rotate", map[string]any{"graceSeconds": 3600}), 200)
	secrets := h.want(h.as(h.reader, "GET", "/v1/keys/"+id+"/secrets", nil), 200)
	if secrets.text("data", 0, "expiresAt") != "" || secrets.text("data", 1, "expiresAt") == "" || secrets.text("data", 2) != "" {
		t.Errorf("secrets of the key: %s", secrets.raw)
	}
	self := h.want(h.as("", "GET", "/v1/self", nil, "X-Api-Key", secret), 200)
	if self.text("days", 0, "costUsd") != "0.6" || self.text("days", 0, "tokens") != "200000" || self.text("key", "weeklyCost") != "0.6" || self.text("timezone") != "UTC" {
		t.Errorf("the holder sees %s", self.raw)
	}
	for _, path := range []string{"secrets", "refusals"} {
		h.want(h.do("GET", "/v1/keys/"+uuid.NewString()+"/"+path, nil), 404)
	}
	if s := h.want(h.as(h.reader, "GET", "/v1/service", nil), 200); s.text("ready", "status") != "ready" || s.text("rollup", "rows") != "1" || s.text("queues", 0, "name") != "admissions" {
		t.Errorf("the service is %s", s.raw)
	}
	if r := h.want(h.as(h.reader, "GET", "/v1/relay", nil), 200); r.text("running") != "false" {
		t.Errorf("the relay is %s", r.raw)
	}
}

// Guarantee: a GET that is asked again with the tag of its answer is answered 304 while
// nothing changed, and anew as soon as something has.
func TestUnchanged(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{"name": "a"})
	first := h.want(h.do("GET", "/v1/keys", nil), 200)
	tag := first.header.Get("ETag")
	if a := h.as(h.admin, "GET", "/v1/keys", nil, "If-None-Match", tag); a.status != 304 || a.raw != "" {
		t.Errorf("unchanged: %d %s", a.status, a.raw)
	}
	h.want(h.as(h.relay, "GET", "/v1/keys", nil, "If-None-Match", tag), 403)
	h.want(h.record(map[string]any{"keyId": id, "requestId": "r", "usage": map[string]any{"input_tokens": 1}}), 200)
	if a := h.as(h.admin, "GET", "/v1/keys", nil, "If-None-Match", tag); a.status != 200 || a.header.Get("ETag") == tag {
		t.Errorf("changed: %d", a.status)
	}
	// The tag of one key is its version, which usage does not change.
	one := h.want(h.do("GET", "/v1/keys/"+id, nil), 200)
	h.want(h.as(h.admin, "GET", "/v1/keys/"+id, nil, "If-None-Match", one.header.Get("ETag")), 200)
}

// Guarantee: a dry run of an import tells what would change, before and after, and changes
// nothing; the import then changes just that.
func TestImportPreview(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	file := map[string]any{
		"gpt-4o": map[string]any{"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6},
		"new-1":  map[string]any{"litellm_provider": "me", "mode": "chat", "input_cost_per_token": 1e-6},
		"image":  map[string]any{"mode": "image_generation"},
	}
	dry := h.want(h.do("POST", "/v1/prices/import?dryRun=true", file), 200)
	if dry.text("dryRun") != "true" || dry.text("changed") != "2" || dry.text("changes", 0, "before", "inputPerMillion") != "2.5" ||
		dry.text("changes", 0, "after", "inputPerMillion") != "1" || dry.text("changes", 1, "model") != "new-1" || dry.get("changes", 1, "before") != nil {
		t.Errorf("the dry run says %s", dry.raw)
	}
	if a := h.do("GET", "/v1/prices?q=new-1", nil); a.text("data", 0) != "" {
		t.Errorf("the dry run stored %s", a.raw)
	}
	if a := h.do("GET", "/v1/audit?targetType=prices&actor=the-admin", nil); a.text("data", 0) != "" {
		t.Errorf("the dry run left %s", a.raw)
	}
	now := time.Now().Add(-time.Second).UTC().Format(time.RFC3339)
	if a := h.want(h.do("POST", "/v1/prices/import?effectiveFrom="+now, file), 200); a.text("changed") != "2" || a.text("dryRun") != "false" {
		t.Errorf("the import says %s", a.raw)
	}
	if a := h.want(h.do("POST", "/v1/prices/import?dryRun=true", file), 200); a.text("changed") != "0" {
		t.Errorf("again: %s", a.raw)
	}
	// What would fail says so.
	release := pgtest.Hold(t, h.dbURL, "LOCK TABLE model_prices IN SHARE ROW EXCLUSIVE MODE")
	if a := h.do("POST", "/v1/prices/import?dryRun=true", map[string]any{"new-2": map[string]any{"mode": "chat", "input_cost_per_token": 1e-6}}); a.status != 503 {
		t.Errorf("a dry run that could not be made: %d %s", a.status, a.raw)
	}
	release()
	if a := h.do("POST", "/v1/prices/import?dryRun=true", `{"x":{"input_cost_per_token":"much"}}`); a.status != 422 {
		t.Errorf("a bad file: %d", a.status)
	}
}
