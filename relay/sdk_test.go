package relay_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// outcome is what an SDK made of one call.
type outcome struct {
	OK      any    `json:"ok"`
	Error   string `json:"error"` // the SDK's class
	Status  int    `json:"status"`
	Type    string `json:"type"`
	Code    any    `json:"code"`
	Message string `json:"message"`
	Millis  int64  `json:"ms"`
}

// Guarantee: the official SDKs of Anthropic, OpenAI and Google work through the relay with
// nothing but another base URL and key: answers, streams, errors of their own classes for
// each kind of refusal, at which they neither hammer nor sleep, a retry where the relay asks
// for one, and an abort in mid-stream; and each call that got anything is in the ledger once.
func TestSDKs(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	good, goodSecret := h.key(nil)
	_, denied := h.key(key.Columns{"permissions": []string{"bedrock"}})
	spent, spentSecret := h.key(key.Columns{"total_cost_limit": 1})
	pgtest.Exec(t, h.db, "UPDATE key_counters SET cost = 2 WHERE key_id = $1", spent)

	secrets := map[string]string{"GOOD": goodSecret, "SPENT": spentSecret, "DENIED": denied, "WRONG": "cr_" + strings.Repeat("0", 64)}
	for _, provider := range []string{"claude", "chat", "responses", "gemini"} {
		_, secrets["SLOT_"+provider] = h.key(key.Columns{"concurrency_limit": 1})
	}
	results := runSDKs(t, h.url, secrets)
	text := strings.Repeat("word ", 5)
	expect := func(name string, want any) {
		t.Helper()
		if got := results[name]; got.OK != want || got.Error != "" {
			t.Errorf("%s: %+v, want %v", name, got, want)
		}
	}
	for _, p := range []struct {
		name                 string
		denied, spent, wrong int
		deniedClass, spentIs string
		wrongClass           string
	}{
		{"claude", 403, 402, 401, "PermissionDeniedError", "billing_error", "AuthenticationError"},
		{"chat", 403, 429, 401, "PermissionDeniedError", "insufficient_quota", "AuthenticationError"},
		{"responses", 403, 429, 401, "PermissionDeniedError", "insufficient_quota", "AuthenticationError"},
		{"gemini", 403, 402, 401, "ApiError", "RESOURCE_EXHAUSTED", "ApiError"},
	} {
		expect(p.name+" plain", text)
		for _, slot := range []string{" slot 1", " slot 2"} {
			if got := results[p.name+slot]; got.Error != "" {
				t.Errorf("%s%s: %+v", p.name, slot, got)
			}
		}
		if max(results[p.name+" slot 1"].Millis, results[p.name+" slot 2"].Millis) < 900 {
			t.Errorf("%s: neither of two requests for one slot waited: %+v %+v", p.name, results[p.name+" slot 1"], results[p.name+" slot 2"])
		}
		if got := results[p.name+" abort"]; got.Error != "" && !strings.Contains(got.Error+got.Message, "bort") {
			t.Errorf("%s abort: %+v", p.name, got)
		}
		for _, stream := range []string{"", "stream "} {
			for kind, want := range map[string]struct {
				status int
				class  string
			}{"DENIED": {p.denied, p.deniedClass}, "WRONG": {p.wrong, p.wrongClass}, "SPENT": {p.spent, ""}} {
				got := results[p.name+" "+stream+kind]
				if got.Status != want.status || want.class != "" && got.Error != want.class || got.Millis > 3000 {
					t.Errorf("%s %s%s: %+v, want %+v at once", p.name, stream, kind, got, want)
				}
				if said := got.Message + got.Type; kind == "SPENT" && !strings.Contains(said, p.spentIs) && got.Code != p.spentIs {
					t.Errorf("%s %s%s: %+v does not say %s", p.name, stream, kind, got, p.spentIs)
				}
			}
		}
	}
	expect("claude stream", text+"5")
	expect("chat stream", text)
	expect("chat usage", "5")
	expect("responses stream", text)
	expect("gemini stream", text)
	expect("models", "mock-model")
	expect("count", float64(100))
	expect("embeddings", float64(1))
	// Four plain ones and four streams, one with its usage, four aborts, and the embeddings.
	aborted := 0
	for _, r := range h.ledger(good, 14) {
		if r.output >= 30 {
			aborted++
		}
	}
	if aborted != 4 {
		t.Errorf("%d of 4 aborted streams were read to their usage", aborted)
	}
}

// runSDKs installs the SDKs and runs the script with them.
func runSDKs(t *testing.T, relay string, keys map[string]string) (results map[string]outcome) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "sdk.mjs"} {
		raw, err := os.ReadFile(filepath.Join("testdata", "sdk", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	install := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	run := exec.Command("node", "sdk.mjs")
	run.Dir = dir
	run.Env = append(os.Environ(), "RELAY="+relay)
	for name, secret := range keys {
		run.Env = append(run.Env, name+"="+secret)
	}
	out, err := run.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, out)
	}
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return results
}
