package main_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/browser"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// console is the real binary with a browser before it, signed in as admin unless a test signs in
// itself.
type console struct {
	*browser.Page

	t     *testing.T
	base  string
	admin string
	env   []string
	dbURL string
}

// openConsole starts the service and a browser, which is not signed in.
func openConsole(t *testing.T, more ...string) *console {
	t.Helper()
	c := &console{t: t, dbURL: pgtest.URL(t)}
	_, c.env = serve(t, c.dbURL, more...)
	c.base = strings.TrimPrefix(c.env[0], "KEYLEDGER_URL=")
	c.admin = strings.TrimPrefix(c.env[1], "KEYLEDGER_TOKEN=")
	c.Page = browser.Open(t, c.base)
	return c
}

// signIn signs in with an access token, in English.
func (c *console) signIn(token string) {
	c.t.Helper()
	c.Go("/")
	c.Wait(`document.querySelector("h1")`)
	browser.Eval[bool](c.Page, `localStorage.setItem("keyledger.language", "en") ?? true`)
	c.Reload()
	c.Fill("Access token", token)
	c.Click("Sign in")
	c.See("Overview")
}

// ask sends a request to the API as admin, and fails the test unless it is granted.
func (c *console) ask(method, path string, body any) map[string]any {
	c.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	if body == nil {
		raw = nil
	}
	req, err := http.NewRequest(method, c.base+path, strings.NewReader(string(raw)))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.admin)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer map[string]any
	_ = json.NewDecoder(resp.Body).Decode(&answer) // a 204 has none
	if resp.StatusCode >= http.StatusMultipleChoices {
		c.t.Fatalf("%s %s: %d %v", method, path, resp.StatusCode, answer)
	}
	return answer
}

// demo fills the service with what a team behind a relay looks like after a month: keys of
// every kind, a month of usage, live admissions, refusals, a model without a price.
func (c *console) demo() (alice, secret string) {
	c.t.Helper()
	type fields = map[string]any
	day := func(n int) string {
		return time.Now().Add(time.Duration(n) * 24 * time.Hour).UTC().Format(time.RFC3339)
	}
	keys := []fields{
		{"name": "alice", "description": "Claude Code on her laptop", "dailyCostLimit": 5, "monthlyCostLimit": 100, "rateLimitWindow": 60, "rateLimitRequests": 200, "tokenLimit": 5000000, "concurrencyLimit": 4, "tags": []string{"platform"}, "permissions": []string{"claude"}},
		{"name": "bob", "dailyCostLimit": 5, "tags": []string{"platform"}},
		{"name": "checkout-service", "description": "Production", "monthlyCostLimit": 400, "concurrencyLimit": 20, "tags": []string{"payments", "production"}},
		{"name": "support-bot", "description": "Answers tickets", "weeklyCostLimit": 60, "dailyCostLimit": 12, "tags": []string{"support", "production"}},
		{"name": "data-science", "totalCostLimit": 250, "tags": []string{"research"}, "enforcement": "observe"},
		{"name": "intern-2026", "dailyCostLimit": 1, "expiresAt": day(6), "tags": []string{"platform"}},
		{"name": "hackathon", "expiresAt": day(-3), "tags": []string{"research"}},
		{"name": "contractor", "isActive": false},
		{"name": "<img src=x onerror=alert(1)>", "description": "<script>alert(1)</script>", "tags": []string{"<b>bold</b>"}},
		{"name": "ci-pipeline", "rateLimitWindow": 15, "rateLimitRequests": 50, "expiresAt": day(21), "tags": []string{"platform"}},
		{"name": "编程助手", "description": "中文团队", "dailyCostLimit": 8, "tags": []string{"研发"}},
	}
	c.ask("POST", "/v1/webhooks", fields{"url": "https://hooks.example.com/team", "format": "slack", "events": []string{"key.limit_reached", "key.expiring"}})
	models := []string{"claude-sonnet-4-20250514", "claude-opus-4-20250514", "gpt-4o", "gemini-2.5-pro", "in-house-7b"}
	accounts := []string{"claude-main", "claude-backup", "openai-team", "gemini-team"}
	// The same every time.
	chance := rand.New(rand.NewPCG(1, 2))
	for i, f := range keys {
		made := c.ask("POST", "/v1/keys", f)
		id := made["id"].(string)
		if i == 0 {
			alice, secret = id, made["apiKey"].(string)
		}
		if i > 5 && i != 9 && i != 10 {
			continue
		}
		var events []fields
		for d := range 30 {
			for range 1 + chance.IntN(8) {
				m := chance.IntN(len(models) - 1)
				if chance.IntN(60) == 0 {
					m = len(models) - 1
				}
				at := time.Now().Add(-time.Duration(d)*24*time.Hour - time.Duration(chance.IntN(600))*time.Second).UTC()
				events = append(events, fields{"keyId": id, "requestId": fmt.Sprintf("r-%d", len(events)), "model": models[m], "accountId": accounts[min(m, 3)], "occurredAt": at.Format(time.RFC3339),
					"usage": fields{"input_tokens": 2000 + chance.IntN(60000), "output_tokens": 200 + chance.IntN(6000), "cache_read_input_tokens": chance.IntN(90000)}})
			}
		}
		slices.Reverse(events) // the oldest first, as they came
		c.ask("POST", "/v1/usage", fields{"events": events})
	}
	for i := range 3 {
		c.ask("POST", "/v1/admissions", fields{"apiKey": secret, "requestId": fmt.Sprintf("live-%d", i), "service": "claude", "model": models[0], "estimate": fields{"costUsd": 0.11}, "leaseSeconds": 3600})
	}
	for range 4 {
		c.ask("POST", "/v1/admissions", fields{"apiKey": secret, "service": "claude", "model": models[0], "estimate": fields{"costUsd": 6}})
	}
	c.ask("POST", "/v1/admissions", fields{"apiKey": secret, "service": "openai", "model": "gpt-4o"})
	c.ask("PATCH", "/v1/keys/"+alice, fields{"description": "Claude Code on her new laptop"})
	c.ask("POST", "/v1/keys/"+alice+"/rotate", fields{"graceSeconds": 604800})
	return alice, secret
}

// axe is the accessibility checker; it is installed with the console's other tools.
func axe(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../../web/node_modules/axe-core/axe.min.js")
	if err != nil {
		t.Fatalf("%v: make web installs it", err)
	}
	return string(raw)
}

// accessible fails the test for every finding of axe by the rules of WCAG 2.2 A and AA.
func (c *console) accessible(what string) {
	c.t.Helper()
	if !browser.Eval[bool](c.Page, `"axe" in window`) {
		browser.Eval[bool](c.Page, axe(c.t)+"\n;true")
	}
	found := browser.Eval[[]string](c.Page, `axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }).then((r) =>
		r.violations.flatMap((v) => v.nodes.map((n) => v.impact + " " + v.id + ": " + n.target.join(" ") + ": " + n.failureSummary.replace(/\s+/g, " "))))`)
	for _, finding := range found {
		c.t.Errorf("%s: %s", what, finding)
	}
}

// shot keeps a picture of the page where KEYLEDGER_TEST_SCREENSHOTS says, or nowhere.
func (c *console) shot(name string) {
	c.t.Helper()
	dir := os.Getenv("KEYLEDGER_TEST_SCREENSHOTS")
	if dir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name+".webp"), c.Shot(), 0o600); err != nil {
		c.t.Error(err)
	}
}

// pagesOf are all pages of the console, with what each shows once it has its data.
func pagesOf(alice string) []struct{ name, path, shows string } {
	return []struct{ name, path, shows string }{
		{"overview", "/", "claude-sonnet-4-20250514"},
		{"keys", "/keys", "checkout-service"},
		{"key", "/keys/" + alice, "Who changed it"},
		{"key-new", "/keys/new", "Cost limits"},
		{"key-edit", "/keys/" + alice + "/edit", "Cost limits"},
		{"keys-batch", "/keys/batch", "How many"},
		{"accounts", "/accounts", "claude-main"},
		{"account", "/accounts/one?id=claude-main", "Keys bound"},
		{"prices", "/prices", "Used without a price"},
		{"reports", "/reports?groupBy=model", "Total"},
		{"webhooks", "/webhooks", "Slack"},
		{"tokens", "/tokens", "Active"},
		{"relay", "/relay", "Serving"},
		{"audit", "/audit", "key.create"},
		{"health", "/health", "Replicas"},
	}
}

// ready waits until the page has shown its data and drawn its charts.
func (c *console) ready(shows string) {
	c.t.Helper()
	c.See(shows)
	c.Wait(`!document.querySelector(".loading")`)
	c.Wait(`[...document.querySelectorAll(".plot")].every((p) => p.querySelector("canvas"))`)
}

// look is a window and its colours.
type look struct {
	name          string
	width, height int64
	dark          bool
}

var looks = []look{{"1440-light", 1440, 900, false}, {"1440-dark", 1440, 900, true}, {"390-light", 390, 844, false}, {"390-dark", 390, 844, true}}

func (c *console) look(l look) {
	c.t.Helper()
	c.Size(l.width, l.height)
	c.Dark(l.dark)
}

// Guarantee: every page shows its data, on a screen and on a phone, light and dark, in both
// languages, without a finding of axe; nothing is wider than the window; a name that is HTML
// is text everywhere.
func TestConsolePages(t *testing.T) {
	t.Parallel()
	relayEnv, relayAddr := mockUpstreams(t)
	c := openConsole(t, relayEnv...)
	alice, secret := c.demo()
	c.relayed(relayAddr)
	for _, l := range looks {
		c.look(l)
		c.Go("/")
		c.See("Paste an access token")
		c.accessible(l.name + " sign in")
		c.shot("sign-in-" + l.name)
	}
	c.signIn(c.admin)
	for _, look := range looks {
		c.look(look)
		for _, p := range pagesOf(alice) {
			c.Go(p.path)
			c.ready(p.shows)
			c.accessible(look.name + " " + p.name)
			c.shot(p.name + "-" + look.name)
			if wide := browser.Eval[float64](c.Page, `document.documentElement.scrollWidth - innerWidth`); wide > 0 {
				t.Errorf("%s %s is %v pixels wider than its window", look.name, p.name, wide)
			}
			if browser.Eval[bool](c.Page, `[...document.images].some((i) => i.src.endsWith("/x")) || document.querySelector("main b, main script") !== null`) {
				t.Errorf("%s: a name became HTML", p.name)
			}
		}
		c.holder(secret, look.name)
	}
	c.Size(1440, 900)
	c.Dark(false)
	c.Go("/keys")
	c.ready("<img src=x onerror=alert(1)>")
	c.chinese(alice)
}

// relayed sends requests through the relay: some that are answered, and one that sends its
// account to rest.
func (c *console) relayed(addr string) {
	c.t.Helper()
	secret := c.ask("POST", "/v1/keys", map[string]any{"name": "through-the-relay"})["apiKey"].(string)
	for path, mock := range map[string]map[string]string{
		"/v1/messages":         {"X-Mock-Delay": "30ms"},
		"/v1/chat/completions": {},
		"/v1beta/models/gemini-2.5-pro:generateContent": {"X-Mock-Status": "429", "X-Mock-Retry-After": "3000"},
	} {
		req, err := http.NewRequest(http.MethodPost, "http://"+addr+path, strings.NewReader(`{"model":"gpt-4o","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"contents":[{"parts":[{"text":"hi"}]}]}`))
		if err != nil {
			c.t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+secret)
		for name, value := range mock {
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			c.t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	state := c.ask("GET", "/v1/relay", nil)
	seen := map[string]map[string]any{}
	for _, a := range state["accounts"].([]any) {
		a := a.(map[string]any)
		seen[a["id"].(string)] = a
	}
	resting, serving := seen["gemini-mock"], seen["openai-mock"]
	if resting["resting"] != true || !strings.HasPrefix(resting["reason"].(string), "429 Too Many Requests") || serving["resting"] != false || serving["firstByteMs"].(map[string]any)["of"] != 1.0 {
		c.t.Errorf("the relay is %v", state)
	}
}

// holder looks at a key holder's page.
func (c *console) holder(secret, look string) {
	c.t.Helper()
	c.Go("/me")
	c.See("Paste your API key")
	c.accessible(look + " me, asking")
	c.shot("me-sign-in-" + look)
	c.Fill("API key", secret)
	c.Click("Show")
	c.See("Daily cost")
	c.ready("By model")
	c.accessible(look + " me")
	c.shot("me-" + look)
	if browser.Eval[bool](c.Page, `JSON.stringify({ ...localStorage, ...sessionStorage }).includes("cr_") || document.cookie.includes("cr_") || location.href.includes("cr_")`) {
		c.t.Error("the holder's key was kept")
	}
	c.Click("Forget this key")
	c.See("Paste your API key")
}

// chinese looks at every page in Chinese.
func (c *console) chinese(alice string) {
	c.t.Helper()
	c.Fill("Language", "简体中文")
	c.See("密钥")
	for _, p := range pagesOf(alice) {
		c.Go(p.path)
		c.Wait(`document.documentElement.lang === "zh-CN" && !document.querySelector(".loading")`)
		c.Wait(`/[\u4e00-\u9fff]/.test(document.querySelector("h1").innerText) || location.pathname.startsWith("/keys/") || location.pathname.startsWith("/accounts/")`)
		c.accessible("Chinese " + p.name)
		// What is left in English are names, models, ids and code.
		for _, word := range []string{"Overview", "Access tokens", "Audit trail", "Sign out", "Loading", "requests admitted", "Cost limits", "Danger"} {
			if browser.Eval[bool](c.Page, `document.body.innerText.includes("`+word+`")`) {
				c.t.Errorf("%s in Chinese says %q", p.name, word)
			}
		}
	}
	c.Go("/")
	c.ready("概览")
	c.shot("overview-1440-chinese")
	c.Go("/keys/" + alice)
	c.ready("修改记录")
	c.shot("key-1440-chinese")
}

// Guarantee: the console is served with a policy that allows nothing but its own files, is
// under 150 kB compressed, and its data comes from the public API alone.
func TestConsoleIsSmallAndClosed(t *testing.T) {
	t.Parallel()
	c := openConsole(t)
	resp, err := http.Get(c.base + "/keys/anything")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	policy := resp.Header.Get("Content-Security-Policy")
	if resp.StatusCode != http.StatusOK || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("status %d, policy %q", resp.StatusCode, policy)
	}
	c.demo()
	c.signIn(c.admin)
	c.ready("claude-sonnet-4-20250514")
	bytes := browser.Eval[float64](c.Page, `performance.getEntries().filter((e) => e.name.includes("/assets/") || e.entryType === "navigation").reduce((s, e) => s + e.encodedBodySize, 0)`)
	if bytes < 10_000 || bytes >= 150_000 {
		t.Errorf("the first load is %.0f bytes", bytes)
	}
	for _, request := range c.Requests() {
		path := strings.Fields(request)[1]
		if !strings.HasPrefix(path, "/v1/") && !strings.HasPrefix(path, "/assets/") && !slices.Contains([]string{"/", "/icon.svg"}, path) {
			t.Errorf("the page asked for %s", request)
		}
	}
}
