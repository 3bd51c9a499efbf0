package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: a new key has the contract's defaults, shows its secret in this
// answer only, and is who its token says.
func TestCreateKey(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	a := h.want(h.do("POST", "/v1/keys", map[string]any{"name": "  alice "}), http.StatusCreated)
	for field, want := range map[string]string{"name": "alice", "tokenLimit": "1000000", "permissions": `["all"]`, "status": "active", "isActive": "true",
		"createdBy": "the-admin", "version": "1", "expiresAt": "", "tags": "[]", "enforcement": "enforce", "dailyCostLimit": "0", "windowRemainingSeconds": ""} {
		if got := a.text(field); got != want {
			t.Errorf("%s = %q, want %q", field, got, want)
		}
	}
	if a.header.Get("ETag") != `"1"` || !strings.HasSuffix(a.text("createdAt"), "Z") || len(a.text("createdAt")) != len("2026-01-02T03:04:05.678Z") {
		t.Errorf("ETag %s, createdAt %s", a.header.Get("ETag"), a.text("createdAt"))
	}
	secret := a.text("apiKey")
	if h.verifyCode(secret) != "VALID" {
		t.Error("the new key is not valid")
	}
	for _, path := range []string{"/v1/keys", "/v1/keys/" + a.text("id"), "/v1/keys/" + a.text("id") + "/audit"} {
		if strings.Contains(h.do("GET", path, nil).raw, secret) {
			t.Errorf("%s shows the secret", path)
		}
	}
}

// Guarantee: what the original service made of these inputs ours makes too, or
// refuses by name where the original stored nonsense.
func TestCreateLikeTheOriginal(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	var facts []struct {
		Case          string
		Input, Result map[string]any
	}
	readFile(t, "testdata/original_create.json", &facts)
	refused := map[string]string{"empty strings": "concurrencyLimit,dailyCostLimit,tokenLimit", "dirty numbers": "concurrencyLimit,dailyCostLimit,tokenLimit"}
	for _, f := range facts {
		if f.Input["name"] == nil {
			f.Input["name"] = f.Result["name"] // ours wants a name
		}
		a := h.do("POST", "/v1/keys", f.Input)
		if fields, bad := refused[f.Case]; bad {
			if a.status != http.StatusUnprocessableEntity || a.wrongFields() != fields {
				t.Errorf("%s: %d %s", f.Case, a.status, a.raw)
			}
			continue
		}
		h.want(a, http.StatusCreated)
		for field, value := range f.Result {
			want := fmt.Sprint(value)
			switch field {
			case "createdAt", "createdBy":
				continue
			case "permissions":
				want = fmt.Sprintf(`["%v"]`, value) // always a list in ours
			case "restrictedModels", "allowedClients", "tags":
				want = strings.ReplaceAll(strings.ReplaceAll(want, "[", `["`), "]", `"]`)
				want = strings.ReplaceAll(want, `[""]`, "[]")
			}
			if got := a.text(field); got != want {
				t.Errorf("%s: %s = %s, original %s", f.Case, field, got, want)
			}
		}
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM api_keys"); n != len(facts)-len(refused) {
		t.Errorf("%d keys are stored", n)
	}
}

// Guarantee: all wrong fields are named at once, bodies that cannot be read have
// their own status, and nothing of a refused request is stored.
func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	big := `{"name":"` + strings.Repeat("x", 1<<20) + `"}`
	for body, want := range map[string]struct {
		status int
		fields string
	}{
		`{"name":"","tokenLimit":-1,"foo":1,"tags":["a","a"]}`: {422, "foo,name,tags,tokenLimit"},
		`{}`:                                 {422, "name"},
		`{"name":"a","Name":"b"}`:            {422, "Name"},
		`[]`:                                 {422, "body"},
		`"x"`:                                {422, "body"},
		`null`:                               {400, ""},
		``:                                   {400, ""},
		`{"name":`:                           {400, ""},
		`{"name":"a"} trailing`:              {400, ""},
		`{"name":"a","name":"b"}`:            {400, ""},
		"{\"name\":\"\xff\xfe\"}":            {400, ""},
		`{"name":"a\u0000b"}`:                {422, "name"},
		`{"name":"a","dailyCostLimit":NaN}`:  {400, ""},
		`{"name":"a","dailyCostLimit":1e30}`: {422, "dailyCostLimit"},
		`{"name":"a","tokenLimit":9223372036854775808}`: {422, "tokenLimit"},
		strings.Repeat("[", 100000):                     {400, ""},
		big:                                             {413, ""},
	} {
		a := h.do("POST", "/v1/keys", body)
		if a.status != want.status || a.wrongFields() != want.fields || a.text("requestId") == "" || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%.60s: %d %q, want %d %q: %.300s", body, a.status, a.wrongFields(), want.status, want.fields, a.raw)
		}
	}
	if a := h.as(h.admin, "POST", "/v1/keys", `{"name":"a"}`, "Content-Type", "text/plain"); a.status != http.StatusUnsupportedMediaType {
		t.Errorf("text/plain: %d", a.status)
	}
	if a := h.as(h.admin, "POST", "/v1/keys", `{"name":"a"}`, "Content-Type", "application/json; charset=utf-8"); a.status != http.StatusCreated {
		t.Errorf("JSON with a charset: %d", a.status)
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM api_keys"); n != 1 {
		t.Errorf("%d keys are stored, want the one good one", n)
	}
}

// Guarantee: PATCH changes what is named and nothing else, null sets back to the
// default, expiry never changes isActive, and If-Match loses a race with 409.
func TestUpdateKey(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{"name": "a", "description": "d", "tags": []string{"x"}, "dailyCostLimit": "1.50", "isActive": false, "claudeAccountId": "acct"})
	path := "/v1/keys/" + id
	a := h.want(h.do("PATCH", path, map[string]any{"name": "b", "expiresAt": "2020-01-01T00:00:00Z"}), 200)
	for field, want := range map[string]string{"name": "b", "description": "d", "tags": `["x"]`, "dailyCostLimit": "1.5", "isActive": "false", "expiresAt": "2020-01-01T00:00:00.000Z", "version": "2", "status": "expired", "claudeAccountId": "acct"} {
		if got := a.text(field); got != want {
			t.Errorf("%s = %q, want %q", field, got, want)
		}
	}
	a = h.want(h.do("PATCH", path, `{"description":null,"tags":null,"dailyCostLimit":null,"isActive":null,"expiresAt":null,"claudeAccountId":null,"permissions":"gemini"}`), 200)
	for field, want := range map[string]string{"description": "", "tags": "[]", "dailyCostLimit": "0", "isActive": "true", "expiresAt": "", "claudeAccountId": "", "permissions": `["gemini"]`, "version": "3"} {
		if got := a.text(field); got != want {
			t.Errorf("after null %s = %q, want %q", field, got, want)
		}
	}
	h.want(h.as(h.admin, "PATCH", path, `{"name":"c"}`, "If-Match", `"2"`), 409)
	h.want(h.as(h.admin, "PATCH", path, `{"name":"c"}`, "If-Match", a.header.Get("ETag")), 200)
	h.want(h.as(h.admin, "PATCH", path, `{"name":"c"}`, "If-Match", "soon"), 422)
	if a := h.want(h.do("PATCH", path, `{"name":null,"nope":1}`), 422); a.wrongFields() != "name,nope" {
		t.Errorf("wrong fields %s", a.wrongFields())
	}
	h.want(h.do("PATCH", "/v1/keys/"+uuid.NewString(), `{"name":"c"}`), 404)
	h.want(h.do("DELETE", path, nil), 204)
	h.want(h.do("PATCH", path, `{"name":"c"}`), 404)
}

// Guarantee: of many concurrent changes at one version exactly one wins.
func TestUpdateRace(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{})
	var wins, losses int
	var mu sync.Mutex
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			a := h.as(h.admin, "PATCH", "/v1/keys/"+id, fmt.Sprintf(`{"name":"n%d"}`, i), "If-Match", `"1"`)
			mu.Lock()
			defer mu.Unlock()
			switch a.status {
			case 200:
				wins++
			case 409:
				losses++
			}
		})
	}
	group.Wait()
	if wins != 1 || losses != 19 {
		t.Errorf("%d won and %d lost", wins, losses)
	}
}

// Guarantee: a deleted key stops at once and keeps its usage; restore brings it
// back as it was; deleting twice is harmless; a live key cannot be restored.
func TestDeleteRestore(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, secret := h.create(map[string]any{"name": "a"})
	h.want(h.record(map[string]any{"keyId": id, "requestId": "r", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 100}}), 200)
	h.want(h.do("POST", "/v1/keys/"+id+"/restore", nil), 409)
	h.want(h.do("DELETE", "/v1/keys/"+id, nil), 204)
	h.want(h.do("DELETE", "/v1/keys/"+id, nil), 204)
	if code := h.verifyCode(secret); code != "NOT_FOUND" {
		t.Errorf("a deleted key is %s", code)
	}
	a := h.want(h.do("GET", "/v1/keys/"+id, nil), 200)
	if a.text("status") != "deleted" || a.text("deletedAt") == "" || a.text("usage", "total", "requests") != "1" {
		t.Errorf("a deleted key reads as %s", a.raw)
	}
	h.want(h.record(map[string]any{"keyId": id, "requestId": "late", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 1}}), 200)
	if a := h.want(h.do("POST", "/v1/keys/"+id+"/restore", nil), 200); a.text("status") != "active" || a.text("usage", "total", "requests") != "2" {
		t.Errorf("restored: %s", a.raw)
	}
	if code := h.verifyCode(secret); code != "VALID" {
		t.Errorf("a restored key is %s", code)
	}
	for _, path := range []string{"/v1/keys/" + uuid.NewString(), "/v1/keys/" + uuid.NewString() + "?purge=true"} {
		h.want(h.do("DELETE", path, nil), 404)
	}
	h.want(h.do("POST", "/v1/keys/"+uuid.NewString()+"/restore", nil), 404)
}

// Guarantee: purge erases the key, its secrets and every trace of its name,
// while every sum stays, under an anonymous id.
func TestPurge(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	made := h.want(h.as(h.admin, "POST", "/v1/keys", `{"name":"Erika Mustermann","description":"erika@example.com"}`, "Idempotency-Key", "make"), 201)
	id, secret := made.text("id"), made.text("apiKey")
	h.want(h.do("PATCH", "/v1/keys/"+id, `{"tags":["erika-tag"]}`), 200)
	h.want(h.as(h.admin, "POST", "/v1/keys/"+id+"/rotate", `{}`, "Idempotency-Key", "x"), 200)
	h.want(h.record(map[string]any{"keyId": id, "requestId": "r", "accountId": "acct", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 100}}), 200)
	sums := func() string {
		return pgtest.Scan[string](t, h.db, `SELECT concat_ws(' ', (SELECT sum(cost) FROM usage_events), (SELECT sum(cost) FROM key_days),
			(SELECT sum(cost) FROM cost_days), (SELECT sum(cost_usd) FROM reporting.usage_by_key), (SELECT sum(cost) FROM account_days))`)
	}
	before := sums()
	h.want(h.do("DELETE", "/v1/keys/"+id+"?purge=true", nil), 204)
	if after := sums(); after != before {
		t.Errorf("sums were %s and are %s", before, after)
	}
	h.want(h.do("GET", "/v1/keys/"+id, nil), 404)
	if code := h.verifyCode(secret); code != "NOT_FOUND" {
		t.Errorf("a purged key is %s", code)
	}
	if a := h.record(map[string]any{"keyId": id, "usage": map[string]any{}}); a.status != 422 || a.wrongFields() != "keyId" {
		t.Errorf("usage of a purged key: %d %s", a.status, a.raw)
	}
	for _, table := range []string{"api_keys", "api_key_secrets", "audit_log", "usage_events", "usage_daily", "key_counters", "daily_cost", "admissions", "admission_refusals", "usage_dedup", "idempotency_keys"} {
		for _, trace := range []string{id, "Erika", "erika"} {
			if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM "+table+" AS x WHERE x::text LIKE '%' || $1 || '%'", trace); n != 0 {
				t.Errorf("%s still holds %q", table, trace)
			}
		}
	}
	// Who made it and never heard makes no second one by asking again.
	if a := h.want(h.as(h.admin, "POST", "/v1/keys", `{"name":"Erika Mustermann","description":"erika@example.com"}`, "Idempotency-Key", "make"), 409); !strings.Contains(a.text("detail"), "purged") {
		t.Errorf("the repeat of a purged key: %s", a.raw)
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM api_keys"); n != 0 {
		t.Errorf("%d keys after a purge", n)
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM audit_log WHERE action = 'key.purge' AND actor = 'the-admin'"); n != 1 {
		t.Errorf("%d audit rows tell of the purge", n)
	}
}

// Guarantee: rotation keeps id, limits and ledger; the old secret works through
// its grace and not a moment longer; a repeat with the same Idempotency-Key
// rotates no second time.
func TestRotate(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, first := h.create(map[string]any{"name": "a"})
	a := h.want(h.do("POST", "/v1/keys/"+id+"/rotate", `{"graceSeconds":3600}`), 200)
	second := a.text("apiKey")
	if a.text("id") != id || second == first || a.text("keyHint") != pgtest.Hasher().Hint(second) || a.text("version") != "2" {
		t.Errorf("rotated: %s", a.raw)
	}
	if h.verifyCode(first) != "VALID" || h.verifyCode(second) != "VALID" {
		t.Error("both secrets should work during the grace")
	}
	pgtest.Exec(t, h.db, "UPDATE api_key_secrets SET expires_at = now() WHERE expires_at IS NOT NULL")
	if h.verifyCode(first) != "NOT_FOUND" || h.verifyCode(second) != "VALID" {
		t.Error("after the grace only the new secret should work")
	}
	leaked := h.want(h.do("POST", "/v1/keys/"+id+"/rotate", `{"graceSeconds":2592000}`), 200).text("apiKey")
	h.want(h.do("POST", "/v1/keys/"+id+"/rotate", `{"graceSeconds":2592000}`), 200)
	h.want(h.do("POST", "/v1/keys/"+id+"/rotate", nil), 200)
	if h.verifyCode(leaked) != "NOT_FOUND" || h.verifyCode(second) != "NOT_FOUND" {
		t.Error("a rotation without grace should end every secret issued before")
	}
	third := h.want(h.as(h.admin, "POST", "/v1/keys/"+id+"/rotate", nil, "Idempotency-Key", "once"), 200)
	again := h.want(h.as(h.admin, "POST", "/v1/keys/"+id+"/rotate", nil, "Idempotency-Key", "once"), 200)
	if again.text("replayed") != "true" || again.text("apiKey") != "" || again.text("version") != third.text("version") {
		t.Errorf("the repeat: %s", again.raw)
	}
	if h.verifyCode(second) != "NOT_FOUND" || h.verifyCode(third.text("apiKey")) != "VALID" {
		t.Error("without a grace the old secret should stop at once")
	}
	h.want(h.as(h.admin, "POST", "/v1/keys/"+id+"/rotate", `{"graceSeconds":5}`, "Idempotency-Key", "once"), 422)
	for _, bad := range []string{`{"graceSeconds":-1}`, `{"graceSeconds":2592001}`, `{"graceSeconds":"1"}`, `{"grace":1}`} {
		h.want(h.do("POST", "/v1/keys/"+id+"/rotate", bad), 422)
	}
	h.want(h.do("POST", "/v1/keys/"+uuid.NewString()+"/rotate", nil), 404)
}

// Guarantee: of concurrent rotations of one key each gives a secret, and exactly
// one is current at the end.
func TestRotateRace(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{})
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if a := h.do("POST", "/v1/keys/"+id+"/rotate", nil); a.status != 200 {
				t.Errorf("rotate: %d %s", a.status, a.raw)
			}
		})
	}
	group.Wait()
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM api_key_secrets WHERE expires_at IS NULL OR expires_at > now()"); n != 1 {
		t.Errorf("%d secrets work", n)
	}
}

// Guarantee: a repeated create with the same Idempotency-Key makes no second key
// and says so, also when both arrive at once; another body is refused; another
// token's header is another header; after 24 hours it is new again.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	var group sync.WaitGroup
	ids, secrets := make([]string, 8), make([]string, 8)
	for i := range ids {
		group.Go(func() {
			a := h.as(h.admin, "POST", "/v1/keys", `{"name":"a","tags":["x"]}`, "Idempotency-Key", "k1")
			ids[i], secrets[i] = a.text("id"), a.text("apiKey")
		})
	}
	group.Wait()
	if joined := strings.Join(secrets, ""); len(joined) != 67 {
		t.Errorf("the secret was shown %d times", len(joined)/67)
	}
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("ids differ: %v", ids)
			break
		}
	}
	h.want(h.as(h.admin, "POST", "/v1/keys", `{"tags":["x"],"name":"a"}`, "Idempotency-Key", "k1"), 200) // the same body in another order
	h.want(h.as(h.admin, "POST", "/v1/keys", `{"name":"b"}`, "Idempotency-Key", "k1"), 422)
	pgtest.Exec(t, h.db, "UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
	h.want(h.as(h.admin, "POST", "/v1/keys", `{"name":"b"}`, "Idempotency-Key", "k1"), 201)
	h.want(h.as(h.admin, "POST", "/v1/keys", `{"name":"b"}`, "Idempotency-Key", strings.Repeat("x", 201)), 422)
}

// Guarantee: batches are all or nothing, name what is missing, and make the
// names that the contract says.
func TestBatches(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	a := h.want(h.do("POST", "/v1/keys/batch", map[string]any{"baseName": "stud", "count": 3, "tags": []string{"x"}}), 201)
	var ids []string
	for i := range 3 {
		ids = append(ids, a.text("data", i, "id"))
		if a.text("data", i, "name") != fmt.Sprintf("stud_%d", i+1) || h.verifyCode(a.text("data", i, "apiKey")) != "VALID" {
			t.Errorf("key %d: %v", i, a.get("data", i))
		}
	}
	ghost := uuid.NewString()
	if a := h.want(h.do("PATCH", "/v1/keys/batch", map[string]any{"ids": []string{ids[0], ghost}, "isActive": false}), 404); !strings.Contains(a.text("detail"), ghost) || strings.Contains(a.text("detail"), ids[0]) {
		t.Errorf("what is missing: %s", a.text("detail"))
	}
	if a := h.do("GET", "/v1/keys/"+ids[0], nil); a.text("isActive") != "true" {
		t.Error("a refused batch changed a key")
	}
	if a := h.want(h.do("PATCH", "/v1/keys/batch", map[string]any{"ids": append(ids, ids[0]), "isActive": false}), 200); a.text("changed") != "3" {
		t.Errorf("changed %s", a.text("changed"))
	}
	h.want(h.do("POST", "/v1/keys/batch-delete", map[string]any{"ids": []string{ids[0], ghost}}), 404)
	if a := h.do("GET", "/v1/keys/"+ids[0], nil); a.text("status") != "disabled" {
		t.Errorf("a refused batch deleted a key: %s", a.text("status"))
	}
	h.want(h.do("POST", "/v1/keys/batch-delete", map[string]any{"ids": ids}), 200)
	for path, bodies := range map[string]map[string]string{
		"POST /v1/keys/batch":        {`{"count":0,"foo":1,"name":"x"}`: "foo,name,baseName,count", `{"baseName":"a","count":501}`: "count", `{"baseName":"a","count":"3"}`: "count", `{"baseName":"` + strings.Repeat("x", 97) + `","count":1}`: "baseName"},
		"PATCH /v1/keys/batch":       {`{"isActive":1}`: "isActive,ids", `{"ids":[],"name":"x"}`: "ids", `{"ids":["x"],"name":"x"}`: "ids", `{"ids":["` + ghost + `"]}`: "body"},
		"POST /v1/keys/batch-delete": {`{}`: "ids", `{"ids":[]}`: "ids", `{"ids":[5],"x":1}`: "ids[0],x"},
	} {
		method, url, _ := strings.Cut(path, " ")
		for body, fields := range bodies {
			if a := h.want(h.do(method, url, body), 422); a.wrongFields() != fields {
				t.Errorf("%s %s: wrong fields %q, want %q", path, body, a.wrongFields(), fields)
			}
		}
	}
	if a := h.want(h.do("POST", "/v1/keys/batch", map[string]any{"baseName": "many", "count": 500}), 201); len(a.get("data").([]any)) != 500 {
		t.Error("500 keys at once")
	}
}

// Guarantee: every filter and sort gives what it says, pages neither repeat nor
// skip, and each row carries the numbers of its own key.
func TestListKeys(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	now := time.Now().UTC()
	stamp := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339Nano) }
	var ids []string
	for i := range 7 {
		fields := map[string]any{"name": fmt.Sprintf("key %c", 'g'-i), "tags": []string{fmt.Sprintf("t%d", i%2)}}
		if i%3 == 0 {
			fields["permissions"] = []string{"claude"}
		}
		if i == 2 {
			fields["geminiAccountId"], fields["description"] = "acct-2", "100%_sure"
		}
		if i == 3 {
			fields["expiresAt"] = stamp(-time.Hour)
		}
		if i == 4 {
			fields["isActive"], fields["expiresAt"] = false, stamp(time.Hour)
		}
		id, _ := h.create(fields)
		ids = append(ids, id)
		for n := range i {
			h.want(h.record(map[string]any{"keyId": id, "requestId": fmt.Sprint(n), "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 1000}, "occurredAt": stamp(-time.Duration(i) * time.Minute)}), 200)
		}
	}
	h.want(h.do("DELETE", "/v1/keys/"+ids[5], nil), 204)
	list := func(query string) (got string) {
		cursor := ""
		for range 10 {
			a := h.want(h.as(h.reader, "GET", "/v1/keys?limit=2&cursor="+cursor+"&"+query, nil), 200)
			for _, row := range a.get("data").([]any) {
				for i, id := range ids {
					if row.(map[string]any)["id"] == id {
						got += fmt.Sprint(i)
					}
				}
			}
			if cursor = a.text("nextCursor"); cursor == "" {
				return got
			}
		}
		return got + " and no end"
	}
	for query, want := range map[string]string{
		"": "643210", "sort=createdAt": "012346", "sort=name": "643210", "sort=-name": "012346",
		"sort=cost": "012346", "sort=-cost": "643210", "sort=requests": "012346", "sort=-requests": "643210",
		"sort=lastUsedAt": "064321", "sort=-lastUsedAt": "123460", "sort=expiresAt": "34" + order(ids, 0, 1, 2, 6), "sort=-expiresAt": reverse("34" + order(ids, 0, 1, 2, 6)),
		"status=active": "6210", "status=disabled": "4", "status=expired": "3", "status=deleted": "5",
		"tag=t1": "31", "tag=nope": "", "permission=claude": "643210", "permission=gemini": "421", "accountId=acct-2": "2",
		"q=KEY%20G": "0", "q=100%25_": "2", "q=0%25_": "2", "q=%25": "2", "q=" + ids[3]: "3", "q=nope": "", "q=%5C": "",
	} {
		if got := list(query); got != want {
			t.Errorf("%s lists %s, want %s", query, got, want)
		}
	}
	a := h.do("GET", "/v1/keys?sort=-cost&limit=1", nil)
	if a.text("data", 0, "usage", "total", "requests") != "6" || a.text("data", 0, "totalCost") != "0.015" || a.text("data", 0, "dailyCost") == "" || a.text("data", 0, "lastUsedAt") == "" {
		t.Errorf("the row's numbers: %s", a.raw)
	}
	for query, field := range map[string]string{"sort=nope": "sort", "limit=0": "limit", "limit=0&sort=nope&status=nope": "limit,sort,status", "limit=201": "limit", "limit=x": "limit", "status=nope": "status", "cursor=nope": "cursor",
		"sort=cost&cursor=" + h.do("GET", "/v1/keys?limit=1", nil).text("nextCursor"): "cursor"} {
		if a := h.want(h.do("GET", "/v1/keys?"+query, nil), 422); a.wrongFields() != field {
			t.Errorf("%s: wrong field %q", query, a.wrongFields())
		}
	}
	if a := h.do("GET", "/v1/tags", nil); a.raw != `{"data":[{"keys":4,"tag":"t0"},{"keys":2,"tag":"t1"}]}`+"\n" {
		t.Errorf("tags: %s", a.raw)
	}
	if a := h.do("GET", "/v1/clients", nil); a.text("data", 0, "id") != "claude_code" || a.text("data", 1, "id") != "gemini_cli" {
		t.Errorf("clients: %s", a.raw)
	}
	if a := h.do("GET", "/v1/keys?q=a%00b", nil); a.status != 422 {
		t.Errorf("U+0000 in a search: %d", a.status)
	}
}

// Guarantee: a search finds the keys that have the text in their name, description, hint or id, whatever
// its case, and those alone, each once and in the order asked for, whether it finds none, few or most of them.
func TestSearchKeys(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	for _, base := range []string{"Many", "many more", "Mány"} {
		h.want(h.do("POST", "/v1/keys/batch", map[string]any{"baseName": base, "count": 400, "description": "of " + base}), 201)
	}
	list := func(query string) (rows []map[string]any) {
		for cursor := ""; ; {
			a := h.want(h.do("GET", "/v1/keys?limit=200&cursor="+cursor+"&"+query, nil), 200)
			for _, row := range a.get("data").([]any) {
				rows = append(rows, row.(map[string]any))
			}
			if cursor = a.text("nextCursor"); cursor == "" {
				return rows
			}
		}
	}
	some := list("")[7]
	id, hint := some["id"].(string), some["keyHint"].(string)
	for _, sort := range []string{"name", "-createdAt", "-cost"} {
		all := list("sort=" + sort)
		if len(all) != 1200 {
			t.Fatalf("%d keys, want 1200", len(all))
		}
		for _, q := range []string{"m", "MANY", "MáNY", "many MORE", "many 12", id[:3], strings.ToUpper(id), hint, hint[len(hint)-2:], "of", "-", "nobody has this"} {
			var want, got []string
			for _, row := range all {
				for _, in := range []string{"name", "description", "keyHint", "id"} {
					if strings.Contains(strings.ToLower(row[in].(string)), strings.ToLower(q)) {
						want = append(want, row["id"].(string))
						break
					}
				}
			}
			for _, row := range list("sort=" + sort + "&q=" + url.QueryEscape(q)) {
				got = append(got, row["id"].(string))
			}
			if !slices.Equal(got, want) {
				t.Errorf("sort=%s q=%s lists %d keys, want %d in this order", sort, q, len(got), len(want))
			}
		}
	}
}

// order lists keys that tie in a sort, by id.
func order(ids []string, which ...int) (got string) {
	for len(which) > 0 {
		least := 0
		for i := range which {
			if ids[which[i]] < ids[which[least]] {
				least = i
			}
		}
		got += fmt.Sprint(which[least])
		which = append(which[:least], which[least+1:]...)
	}
	return got
}

func reverse(s string) (r string) {
	for _, c := range s {
		r = string(c) + r
	}
	return r
}

// Guarantee: the window fields of a row come from the key's stored window.
func TestListWindow(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Fields: key.Columns{"rate_limit_window": 60}})
	pgtest.Exec(t, h.db, "UPDATE key_counters SET window_start = now() - interval '30 minutes', window_requests = 3 WHERE key_id = $1", id)
	h.want(h.record(map[string]any{"keyId": id, "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 100, "completion_tokens": 11}}), 200)
	a := h.do("GET", "/v1/keys/"+id.String(), nil)
	if a.text("currentWindowRequests") != "3" || a.text("currentWindowTokens") != "111" || a.text("windowEndTime") == "" || !strings.HasPrefix(a.text("windowRemainingSeconds"), "179") && a.text("windowRemainingSeconds") != "1800" {
		t.Errorf("an open window: %s", a.raw)
	}
	pgtest.Exec(t, h.db, "UPDATE key_counters SET window_start = now() - interval '60 minutes' WHERE key_id = $1", id)
	h.want(h.record(map[string]any{"keyId": id, "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 100}}), 200)
	a = h.do("GET", "/v1/keys/"+id.String(), nil)
	if a.text("currentWindowRequests") != "0" || a.text("windowRemainingSeconds") != "0" || a.text("windowStartTime") != "" {
		t.Errorf("an ended window: %s", a.raw)
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT window_tokens FROM key_counters"); n != 111 {
		t.Errorf("an ended window counted tokens: %d", n)
	}
}

// Guarantee: each change leaves an audit row with who, what, before and after,
// in its own transaction, and none holds a secret or a hash.
func TestAudit(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, _ := h.create(map[string]any{"name": "a"})
	path := "/v1/keys/" + id
	h.want(h.as(h.admin, "PATCH", path, `{"name":"b","dailyCostLimit":2}`, "X-Request-Id", "req-42"), 200)
	h.want(h.do("PATCH", path, `{"name":""}`), 422)
	h.want(h.do("POST", path+"/rotate", nil), 200)
	h.want(h.do("DELETE", path, nil), 204)
	h.want(h.do("POST", path+"/restore", nil), 200)
	pgtest.Exec(t, h.db, "UPDATE api_keys SET description = 'by hand'")
	a := h.want(h.as(h.reader, "GET", path+"/audit", nil), 200)
	var actions []string
	for _, row := range a.get("data").([]any) {
		actions = append(actions, row.(map[string]any)["action"].(string)+" by "+row.(map[string]any)["actor"].(string))
	}
	want := "key.update by psql:keyledger, key.restore by the-admin, key.delete by the-admin, secret.rotate by the-admin, secret.rotate by the-admin, key.rotate by the-admin, key.update by the-admin, secret.create by the-admin, key.create by the-admin"
	got := strings.Join(actions, ", ")
	if strings.Count(got, "create") != 2 || len(actions) != 9 || !strings.HasPrefix(got, "key.update by psql:keyledger, key.restore by the-admin, key.delete by the-admin") {
		t.Errorf("audit rows\n %s\nwant\n %s", got, want)
	}
	update := a.get("data", 6).(map[string]any)
	before, after := update["before"].(map[string]any), update["after"].(map[string]any)
	if update["requestId"] != "req-42" || before["name"] != "a" || after["name"] != "b" || before["daily_cost_limit"] == nil || before["tags"] != nil {
		t.Errorf("the update's row: %v", update)
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM audit_log WHERE before ? 'hash' OR after ? 'hash'"); n != 0 {
		t.Errorf("%d audit rows hold a hash", n)
	}
}
