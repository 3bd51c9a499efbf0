package api_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/pgtest"
)

func (h *harness) admit(body map[string]any) answer {
	h.t.Helper()
	return h.want(h.as(h.relay, "POST", "/v1/admissions", body), 200)
}

// Guarantee: a relay's round: ask, renew, settle, and the key's numbers follow;
// what is asked twice with one request id is one admission.
func TestAdmissionRound(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, secret := h.create(map[string]any{"concurrencyLimit": 2, "rateLimitWindow": 60, "rateLimitRequests": 5, "tokenLimit": 10000, "dailyCostLimit": 1, "claudeAccountId": "acct"})
	ask := map[string]any{"apiKey": secret, "requestId": "r1", "service": "claude", "model": "claude-sonnet-4-20250514", "estimate": map[string]any{"tokens": 1000, "costUsd": "0.05"}, "leaseSeconds": 60}
	a := h.admit(ask)
	admission := a.text("admissionId")
	if a.text("code") != "ALLOWED" || admission == "" || a.text("leaseExpiresAt") == "" || a.text("key", "claudeAccountId") != "acct" || a.text("limits", 0, "name") != "requests" || a.text("limits", 3, "reserved") != "0.05" {
		t.Errorf("admitted: %s", a.raw)
	}
	if again := h.admit(ask); again.text("admissionId") != admission || again.text("repeated") != "true" {
		t.Errorf("asked again: %s", again.raw)
	}
	k := h.do("GET", "/v1/keys/"+id, nil)
	if k.text("currentConcurrency") != "1" || k.text("reservedTokens") != "1000" || k.text("reservedCost") != "0.05" || k.text("currentWindowRequests") != "1" {
		t.Errorf("the key shows %s", k.raw)
	}
	if l := h.want(h.as(h.reader, "GET", "/v1/keys/"+id+"/admissions", nil), 200); l.text("data", 0, "id") != admission || l.text("data", 0, "requestId") != "r1" {
		t.Errorf("live admissions: %s", l.raw)
	}
	h.want(h.as(h.relay, "POST", "/v1/admissions/"+admission+"/renew", `{"leaseSeconds":120}`), 200)
	h.want(h.as(h.relay, "POST", "/v1/admissions/"+admission+"/renew", nil), 200)
	settle := map[string]any{"admissionId": admission, "requestId": "r1", "accountId": "acct", "model": "claude-sonnet-4-20250514", "usage": readmeUsage}
	if s := h.want(h.record(settle), 200); s.text("results", 0, "keyId") != id || s.text("results", 0, "status") != "recorded" || s.text("results", 0, "costUsd") != "0.016092" {
		t.Errorf("settled: %s", s.raw)
	}
	for _, repeat := range []map[string]any{settle, {"admissionId": admission, "usage": readmeUsage, "model": "claude-sonnet-4-20250514"}, {"keyId": id, "requestId": "r1", "usage": map[string]any{}}} {
		if s := h.want(h.record(repeat), 200); s.text("results", 0, "status") != "duplicate" || s.text("results", 0, "costUsd") != "0.016092" {
			t.Errorf("settled again: %s", s.raw)
		}
	}
	k = h.do("GET", "/v1/keys/"+id, nil)
	if k.text("currentConcurrency") != "0" || k.text("reservedCost") != "0" || k.text("currentWindowTokens") != "3070" || k.text("dailyCost") != "0.016092" || k.text("usage", "total", "requests") != "1" {
		t.Errorf("after settlement the key shows %s", k.raw)
	}
	h.want(h.as(h.relay, "POST", "/v1/admissions/"+admission+"/renew", nil), 409)
	a2, b2 := h.admit(map[string]any{"apiKey": secret}).text("admissionId"), h.admit(map[string]any{"apiKey": secret}).text("admissionId")
	states := ""
	for _, e := range []map[string]any{{"admissionId": a2, "requestId": "q1"}, {"admissionId": a2, "requestId": "q2"}, {"admissionId": b2, "requestId": "q2"}, {"keyId": id, "requestId": "q2"}} {
		e["usage"] = map[string]any{}
		states += h.want(h.record(e), 200).text("results", 0, "status") + " "
	}
	if states != "recorded duplicate recorded duplicate " {
		t.Errorf("a settlement that was a duplicate kept another out: %s", states)
	}
	for range 2 {
		h.want(h.as(h.relay, "DELETE", "/v1/admissions/"+admission, nil), 204)
	}
	if d := h.admit(map[string]any{"apiKey": secret, "estimate": map[string]any{"costUsd": 0.99}}); d.text("code") != "DAILY_COST_EXCEEDED" || d.text("retryAfterSeconds") == "" || d.text("limits", 3, "used") != "0.016092" || d.get("admissionId") != nil {
		t.Errorf("over the limit: %s", d.raw)
	}
}

// Guarantee: keys that are none, dead or restricted are refused with their code;
// a limit changed by PATCH holds for the next request.
func TestAdmissionCodes(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, secret := h.create(map[string]any{})
	for _, bad := range []any{nil, 5, "", "sk-1", "CR_" + secret[3:]} {
		if a := h.admit(map[string]any{"apiKey": bad}); a.text("code") != "MALFORMED" || a.text("allowed") != "false" {
			t.Errorf("%v: %s", bad, a.raw)
		}
	}
	if a := h.admit(map[string]any{}); a.text("code") != "MALFORMED" {
		t.Errorf("without a key: %s", a.raw)
	}
	if a := h.admit(map[string]any{"apiKey": "cr_" + strings.Repeat("0", 64)}); a.text("code") != "NOT_FOUND" {
		t.Errorf("unknown: %s", a.raw)
	}
	for _, step := range []struct{ patch, code string }{
		{`{"isActive":false}`, "DISABLED"}, {`{"isActive":true,"expiresAt":"2020-01-01T00:00:00Z"}`, "EXPIRED"}, {`{"expiresAt":null,"permissions":["gemini"]}`, "SERVICE_NOT_PERMITTED"},
		{`{"permissions":null,"enableModelRestriction":true,"restrictedModels":["GPT_4o"]}`, "MODEL_NOT_ALLOWED"},
		{`{"restrictedModels":null,"allowedModels":["gpt-5"]}`, "MODEL_NOT_ALLOWED"},
		{`{"allowedModels":["gpt-4o"],"enableClientRestriction":true,"allowedClients":["gemini_cli"]}`, "CLIENT_NOT_ALLOWED"},
		{`{"enableClientRestriction":false,"concurrencyLimit":1}`, "ALLOWED"}, {`{}`, "CONCURRENCY_EXCEEDED"}, {`{"concurrencyLimit":2}`, "ALLOWED"},
		{`{"concurrencyLimit":0,"rateLimitWindow":60,"rateLimitRequests":1}`, "ALLOWED"}, {`{}`, "REQUESTS_EXCEEDED"}, {`{"enforcement":"observe"}`, "ALLOWED"},
	} {
		h.want(h.do("PATCH", "/v1/keys/"+id, step.patch), 200)
		a := h.admit(map[string]any{"apiKey": secret, "service": "openai", "model": "gpt-4o", "userAgent": "curl/8"})
		if a.text("code") != step.code || a.text("allowed") != fmt.Sprint(step.code == "ALLOWED") {
			t.Errorf("after %s: %s, want %s", step.patch, a.raw, step.code)
		}
	}
	h.want(h.do("DELETE", "/v1/keys/"+id, nil), 204)
	if a := h.admit(map[string]any{"apiKey": secret}); a.text("code") != "NOT_FOUND" {
		t.Errorf("deleted: %s", a.raw)
	}
}

// Guarantee: every wrong field is named, a dry run consumes nothing and explains
// itself, and a key may be named by id only in an admin's dry run.
func TestAdmissionRequests(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, secret := h.create(map[string]any{"dailyCostLimit": "0.01", "permissions": []string{"claude"}})
	for body, fields := range map[string]string{
		`{"apiKey":"x","leaseSeconds":4,"requestId":"","estimate":{"tokens":-1,"costUsd":-1}}`: "requestId,leaseSeconds,estimate.tokens,estimate.costUsd",
		`{"leaseSeconds":3601}`: "leaseSeconds", `{"estimate":{"tokens":9007199254740993}}`: "estimate.tokens", `{"estimate":{"costUsd":"0.0000000000001"}}`: "estimate.costUsd",
		`{"nope":1,"model":5}`: "model,nope", `{"model":"` + strings.Repeat("x", 201) + `"}`: "model", `{"service":"a\u0000"}`: "service",
		`{"keyId":"` + id + `"}`: "keyId", `{"keyId":"` + id + `","dryRun":true}`: "keyId",
	} {
		if a := h.want(h.as(h.relay, "POST", "/v1/admissions", body), 422); a.wrongFields() != fields {
			t.Errorf("%s: %q, want %q", body, a.wrongFields(), fields)
		}
	}
	h.want(h.as(h.reader, "POST", "/v1/admissions", map[string]any{"apiKey": secret}), 403)
	for range 3 {
		a := h.want(h.do("POST", "/v1/admissions", map[string]any{"keyId": id, "dryRun": true, "explain": true, "service": "claude", "estimate": map[string]any{"costUsd": 0.01}}), 200)
		if a.text("code") != "ALLOWED" || a.get("admissionId") != nil || a.text("limits", 0, "reserved") != "0" || !strings.Contains(a.text("explanation"), "DAILY_COST_EXCEEDED") {
			t.Errorf("dry run: %s", a.raw)
		}
	}
	a := h.do("POST", "/v1/admissions", map[string]any{"keyId": id, "dryRun": true, "explain": true, "service": "gemini"})
	checks := a.get("explanation").([]any)
	if last := checks[len(checks)-1].(map[string]any); last["check"] != "SERVICE_NOT_PERMITTED" || last["passed"] != false || !strings.Contains(last["detail"].(string), "claude") {
		t.Errorf("explained: %s", a.raw)
	}
	if n := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM admissions"); n != 0 {
		t.Errorf("dry runs left %d admissions", n)
	}
	for _, path := range []string{"/v1/admissions/" + uuid.NewString(), "/v1/admissions/x"} {
		if a := h.as(h.relay, "DELETE", path, nil); a.status != 404 && a.status != 422 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	h.want(h.as(h.relay, "POST", "/v1/admissions/"+uuid.NewString()+"/renew", `{"leaseSeconds":1}`), 422)
	h.want(h.as(h.relay, "POST", "/v1/admissions/"+uuid.NewString()+"/renew", nil), 404)
	if a := h.record(map[string]any{"admissionId": uuid.NewString(), "usage": map[string]any{}}); a.status != 422 || a.wrongFields() != "admissionId" {
		t.Errorf("an unknown admission: %s", a.raw)
	}
	other, _ := h.create(map[string]any{})
	mine := h.admit(map[string]any{"apiKey": secret, "service": "claude"}).text("admissionId")
	if a := h.record(map[string]any{"admissionId": mine, "keyId": other, "usage": map[string]any{}}); a.status != 422 || a.wrongFields() != "keyId" {
		t.Errorf("another key's admission: %s", a.raw)
	}
}

// ask sends a request to authz as a proxy would.
func (h *harness) ask(path string, headers ...string) (int, http.Header, string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, h.authz+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

// Guarantee: authz finds the key in every place that clients put it, in order,
// and tells decision and key by status and headers.
func TestAuthz(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, secret := h.create(map[string]any{"rateLimitWindow": 60, "rateLimitRequests": 100, "geminiAccountId": "acct/1 x", "permissions": []string{"claude"}, "concurrencyLimit": 1})
	for _, where := range [][]string{
		{"/v1/authz?service=claude", "X-Api-Key", secret}, {"/v1/authz?service=claude", "X-Goog-Api-Key", secret}, {"/v1/authz?service=claude", "Authorization", "bearer " + secret},
		{"/v1/authz?service=claude", "Api-Key", secret}, {"/v1/authz?service=claude", "Authorization", secret}, {"/v1/authz?service=claude&key=" + secret},
		{"/v1/authz", "X-Keyledger-Service", "claude", "X-Forwarded-Uri", "/v1/models?a=b&key=" + secret}, {"/v1/authz/any//path?x=1", "X-Keyledger-Service", "claude", "X-Api-Key", secret},
	} {
		status, header, body := h.ask(where[0], where[1:]...)
		if status != 200 || header.Get("X-Keyledger-Key-Id") != id || header.Get("X-Keyledger-Admission-Id") == "" || header.Get("X-Keyledger-Gemini-Account-Id") != "acct%2F1%20x" || body != "" {
			t.Errorf("%v: %d %v %s", where, status, header, body)
		}
		if header.Get("Ratelimit-Policy") != `"requests";q=100;w=3600, "tokens";q=1000000;qu="tokens";w=3600, "concurrency";q=1;qu="concurrent-requests"` || !strings.HasPrefix(header.Get("Ratelimit"), `"requests";r=9`) {
			t.Errorf("RateLimit headers: %v", header)
		}
	}
	if status, header, _ := h.ask("/v1/authz?service=claude", "X-Api-Key", "cr_"+strings.Repeat("0", 64), "Authorization", "Bearer "+secret); status != 401 || header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("x-api-key comes before Authorization: %d", status)
	}
	if status, _, _ := h.ask("/v1/authz/v1/messages?service=claude", "X-Keyledger-Service", "gemini", "X-Api-Key", secret); status != 403 {
		t.Errorf("a client's own query named the service: %d", status)
	}
	for _, c := range []struct {
		path, patch string
		status      int
		code        string
	}{
		{"/v1/authz", "", 403, "SERVICE_NOT_PERMITTED"},
		{"/v1/authz?service=claude&lease=3600", "", 200, ""},
		{"/v1/authz?service=claude", "", 200, ""}, // takes no slot
		{"/v1/authz?service=claude&lease=60", "", 429, "CONCURRENCY_EXCEEDED"},
		{"/v1/authz?service=claude", `{"rateLimitRequests":1}`, 429, "REQUESTS_EXCEEDED"},
		{"/v1/authz?service=claude&deny=403", "", 403, "REQUESTS_EXCEEDED"},
		{"/v1/authz?service=claude", `{"rateLimitRequests":0,"dailyCostLimit":"0.001","estimatePerRequest":"0.002"}`, 402, "DAILY_COST_EXCEEDED"},
		{"/v1/authz?service=claude", `{"dailyCostLimit":0,"enableModelRestriction":true,"allowedModels":["m"]}`, 403, "MODEL_NOT_ALLOWED"},
		{"/v1/authz?service=claude&model=m", "", 200, ""},
		{"/v1/authz?service=claude&lease=4", "", 422, "VALIDATION_FAILED"},
		{"/v1/authz?service=claude", `{"isActive":false}`, 401, "DISABLED"},
	} {
		if c.patch != "" {
			h.want(h.do("PATCH", "/v1/keys/"+id, c.patch), 200)
		}
		status, header, body := h.ask(c.path, "X-Api-Key", secret)
		if status != c.status || c.code != "" && !strings.Contains(body, `"code":"`+c.code+`"`) || strings.Contains(body, secret) {
			t.Errorf("%s %s: %d %s, want %d %s", c.path, c.patch, status, body, c.status, c.code)
		}
		if strings.HasSuffix(c.code, "S_EXCEEDED") && header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", c.code)
		}
		if strings.Contains(c.path, "deny") && header.Get("X-Keyledger-Status") != "429" {
			t.Errorf("the true status: %v", header)
		}
	}
	if status, _, _ := h.ask("/v1/authz"); status != 401 {
		t.Errorf("without a key: %d", status)
	}
	if strings.Contains(h.log.String(), secret) {
		t.Error("the key is in the log")
	}
}

// Guarantee: on a key with a cost limit, a model without a price is refused with a code of
// its own, whoever asks and whether it is named or left out; and a deny list of model names
// bars every spelling under which the model would be priced.
func TestModelsThatPassNoLimit(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{refuse: true})
	_, limited := h.create(map[string]any{"dailyCostLimit": 1})
	_, free := h.create(map[string]any{})
	_, denied := h.create(map[string]any{"enableModelRestriction": true, "restrictedModels": []string{"gemini-2.5-pro", "claude-opus-4-1-20250805"}})
	for _, c := range []struct{ secret, model, code string }{
		{limited, "no-such-model", "MODEL_NOT_PRICED"}, {limited, "", "MODEL_NOT_PRICED"}, {limited, "claude-opus-4-0", "ALLOWED"}, {limited, "models/gemini-2.5-flash-001", "ALLOWED"},
		{free, "no-such-model", "ALLOWED"}, {free, "", "ALLOWED"},
		{denied, "models/gemini-2.5-pro", "MODEL_NOT_ALLOWED"}, {denied, "google/gemini-2.5-pro", "MODEL_NOT_ALLOWED"}, {denied, "anthropic/claude-opus-4-1-20250805", "MODEL_NOT_ALLOWED"},
		{denied, "claude-opus-4-1", "MODEL_NOT_ALLOWED"}, {denied, "claude-opus-4-0", "ALLOWED"}, {denied, "gemini-2.5-flash", "ALLOWED"},
	} {
		ask := map[string]any{"apiKey": c.secret}
		if c.model != "" {
			ask["model"] = c.model
		}
		if a := h.admit(ask); a.text("code") != c.code {
			t.Errorf("%q: %s, want %s", c.model, a.raw, c.code)
		}
		want := map[bool]int{true: 200, false: 403}[c.code == "ALLOWED"]
		if status, _, body := h.ask("/v1/authz?model="+c.model, "X-Api-Key", c.secret); status != want || want == 403 && !strings.Contains(body, c.code) {
			t.Errorf("authz of %q: %d %s, want %s", c.model, status, body, c.code)
		}
	}
	if a := h.admit(map[string]any{"apiKey": limited, "model": "no-such-model", "estimate": map[string]any{"costUsd": "0.01"}}); a.text("code") != "ALLOWED" {
		t.Errorf("with an estimate: %s", a.raw)
	}
}

// Guarantee: no request id is a free pass. What is asked for again after its usage was
// recorded is refused; what ran twice, because it was decided anew, counts twice; and a
// duplicate that names another open admission ends it, so that nothing waits for its lease.
func TestRequestIDsAgain(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, secret := h.create(map[string]any{"concurrencyLimit": 1, "dailyCostLimit": "0.01"})
	ask := map[string]any{"apiKey": secret, "requestId": "r", "leaseSeconds": 3600, "estimate": map[string]any{"costUsd": "0.001"}}
	tokens := func(admission string, n int) map[string]any {
		return map[string]any{"admissionId": admission, "requestId": "r", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": n}}
	}
	first := h.admit(ask).text("admissionId")
	h.want(h.as(h.relay, "DELETE", "/v1/admissions/"+first, nil), 204)
	second := h.admit(ask).text("admissionId")
	if second == "" || second == first {
		t.Fatalf("released and asked for again: %q after %q", second, first)
	}
	for _, run := range []struct {
		event  map[string]any
		status string
	}{
		{tokens(first, 1000), "recorded"}, {tokens(second, 900), "recorded"}, // it ran twice
		{tokens(first, 1000), "duplicate"}, {tokens(second, 900), "duplicate"}, {map[string]any{"keyId": id, "requestId": "r", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 5}}, "duplicate"},
	} {
		if a := h.want(h.record(run.event), 200); a.text("results", 0, "status") != run.status {
			t.Errorf("%v: %s, want %s", run.event, a.raw, run.status)
		}
	}
	if k := h.do("GET", "/v1/keys/"+id, nil); k.text("totalCost") != "0.00475" || k.text("usage", "total", "requests") != "2" || k.text("currentConcurrency") != "0" || k.text("reservedCost") != "0" {
		t.Errorf("the key shows %s", k.raw)
	}
	ask["estimate"] = map[string]any{"costUsd": 1000}
	for range 3 {
		if a := h.admit(ask); a.text("code") != "REQUEST_ALREADY_SETTLED" || a.text("allowed") != "false" || a.get("admissionId") != nil {
			t.Errorf("a settled request asked for again: %s", a.raw)
		}
	}
	// An answer was lost, the relay asked under another id, and settles with the first's.
	open := h.admit(map[string]any{"apiKey": secret, "requestId": "other", "leaseSeconds": 3600}).text("admissionId")
	if a := h.want(h.record(tokens(open, 1000)), 200); a.text("results", 0, "status") != "duplicate" {
		t.Errorf("the same content under another admission: %s", a.raw)
	}
	if a := h.admit(map[string]any{"apiKey": secret, "leaseSeconds": 60}); a.text("code") != "ALLOWED" {
		t.Errorf("the duplicate left its slot behind: %s", a.raw)
	}
	if a := h.want(h.do("GET", "/v1/reports/reconcile", nil), 200); a.text("agrees") != "true" {
		t.Errorf("%s", a.raw)
	}
}

// Guarantee: through authz a client sees what it saw of the original service, as
// measured there, but that cost limits answer 402 and that a refusal consumes
// nothing.
func TestLimitsLikeTheOriginal(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	keys := map[string]map[string]any{
		"plain":                       {},
		"claude code only":            {"enable_client_restriction": true, "allowed_clients": []string{"claude_code"}},
		"any client":                  {"enable_client_restriction": true},
		"unknown client only":         {"enable_client_restriction": true, "allowed_clients": []string{"nope"}},
		"two at once":                 {"concurrency_limit": 2},
		"two requests":                {"rate_limit_window": 5, "rate_limit_requests": 2, "token_limit": 0},
		"thousand tokens":             {"rate_limit_window": 5, "token_limit": 1000},
		"no window":                   {"token_limit": 1, "rate_limit_requests": 1},
		"a dollar fifty a day":        {"daily_cost_limit": "1.5"},
		"a dollar a day, one request": {"daily_cost_limit": 1, "rate_limit_window": 5, "rate_limit_requests": 1, "token_limit": 0},
	}
	ids, secrets := map[string]uuid.UUID{}, map[string]string{}
	for name, fields := range keys {
		ids[name], secrets[name] = pgtest.Key(t, h.db, pgtest.KeyRow{Name: name, Fields: fields})
	}
	spend := func(key string, tokens int) { // gpt-4o, $2.50 a million
		h.want(h.record(map[string]any{"keyId": ids[key], "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": tokens}}), 200)
	}
	lease := func() { h.admit(map[string]any{"apiKey": secrets["two at once"]}) }
	before := map[string]func(){
		"concurrency exceeded":   func() { lease(); lease() },
		"token window, at limit": func() { spend("thousand tokens", 1000) },
		"daily cost below limit": func() { spend("a dollar fifty a day", 400_000) },
		"daily cost at limit":    func() { spend("a dollar fifty a day", 200_000) },
		"daily-cost rejection consumes a rate-limit request (#1)": func() { spend("a dollar a day, one request", 800_000) },
	}
	var facts []struct {
		Case, Key, Query, Code string
		Headers                map[string]string
		Status                 int
		RetryAfterSeconds      int
	}
	readFile(t, "testdata/original_limits.json", &facts)
	for _, f := range facts {
		if prepare := before[f.Case]; prepare != nil {
			prepare()
			delete(before, f.Case)
		}
		query := strings.ReplaceAll(f.Query, "SECRET", secrets[f.Key])
		if f.Key == "two at once" {
			query = "?lease=60"
		}
		var headers []string
		for name, value := range f.Headers {
			headers = append(headers, name, strings.ReplaceAll(value, "SECRET", secrets[f.Key]))
		}
		want := f.Status
		if strings.HasSuffix(f.Code, "COST_EXCEEDED") {
			want = 402
		}
		status, header, body := h.ask("/v1/authz"+query, headers...)
		if status != want || f.Status != 200 && !strings.Contains(body, `"code":"`+f.Code+`"`) {
			t.Errorf("%s: %d %s, want %d %s", f.Case, status, body, want, f.Code)
		}
		if f.RetryAfterSeconds > 0 && header.Get("Retry-After") != fmt.Sprint(f.RetryAfterSeconds) {
			t.Errorf("%s: retry after %s, want %d", f.Case, header.Get("Retry-After"), f.RetryAfterSeconds)
		}
	}
	if len(before) > 0 {
		t.Errorf("cases that are not among the facts: %v", before)
	}
	if k := h.do("GET", "/v1/keys/"+ids["two at once"].String(), nil); k.text("currentConcurrency") != "2" {
		t.Errorf("a refusal changed the slots held: %s", k.text("currentConcurrency"))
	}
}
