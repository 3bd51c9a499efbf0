package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// litellmProgram calls the adapter as LiteLLM's proxy does, with stand-ins for the two of its
// classes that the adapter uses, and prints what became of each request.
const litellmProgram = `
import asyncio, json, sys, types

class ProxyException(Exception):
    def __init__(self, message, type, param, code, headers=None):
        self.message, self.type, self.param, self.code = message, type, param, code

class UserAPIKeyAuth:
    def __init__(self, **fields):
        self.fields = fields

types_module = types.ModuleType("litellm.proxy._types")
types_module.ProxyException, types_module.UserAPIKeyAuth = ProxyException, UserAPIKeyAuth
for name, module in {"litellm": types.ModuleType("litellm"), "litellm.proxy": types.ModuleType("litellm.proxy"), "litellm.proxy._types": types_module}.items():
    sys.modules[name] = module

import keyledger_auth

class Request:
    def __init__(self, body):
        self.headers, self.body, self.method = {"user-agent": "claude-cli/2.0.0 (external)"}, body, "POST" if body else "GET"
    async def json(self):
        return json.loads(self.body)

async def one(call):
    try:
        auth = await keyledger_auth.user_api_key_auth(Request(call["body"]), call["key"])
        return auth.fields
    except ProxyException as refused:
        return {"code": refused.code, "type": refused.type, "message": refused.message}

async def main():
    print(json.dumps(await asyncio.gather(*[one(call) for call in json.load(sys.stdin)])))

asyncio.run(main())
`

// Guarantee: LiteLLM's proxy lets through what keyledger admits, and tells its client of a
// refusal by its own status; the secret of a key is nowhere in what it keeps; what its callback
// sends settles the admission, and what failed gives its slot back.
func TestLiteLLM(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	_, env := serve(t, url, "KEYLEDGER_LOG_LEVEL=info")
	base := env[0][len("KEYLEDGER_URL="):]
	_, key := post(t, base, "/v1/keys", map[string]any{"name": "alice", "concurrencyLimit": 2, "enableModelRestriction": true, "restrictedModels": []string{"gpt-4o"}})
	_, poor := post(t, base, "/v1/keys", map[string]any{"name": "poor", "dailyCostLimit": "0.01"})
	secret := key["apiKey"].(string)
	dir := t.TempDir()
	adapter, err := os.ReadFile(filepath.Join("..", "..", "adapters", "litellm", "keyledger_auth.py"))
	if err != nil || os.WriteFile(filepath.Join(dir, "keyledger_auth.py"), adapter, 0o600) != nil || os.WriteFile(filepath.Join(dir, "program.py"), []byte(litellmProgram), 0o600) != nil {
		t.Fatal(err)
	}
	ask := func(at, token string, calls ...map[string]any) (answers []map[string]any, raw string) {
		t.Helper()
		in, err := json.Marshal(calls)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("python3", "program.py")
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(in)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "KEYLEDGER_URL=" + at, "KEYLEDGER_TOKEN=" + token, "PYTHONDONTWRITEBYTECODE=1"}
		out, err := cmd.CombinedOutput()
		if err != nil || json.Unmarshal(out, &answers) != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return answers, string(out)
	}
	call := func(key any, body string) map[string]any { return map[string]any{"key": key, "body": body} }

	const haiku = `{"model": "claude-haiku-4-5", "max_tokens": 100, "messages": []}`
	got, raw := ask(base, bootstrap, call(secret, haiku), call("Bearer "+secret, haiku), call(secret, haiku), call(secret, `{"model": "gpt-4o"}`), call("cr_"+strings.Repeat("0", 64), haiku),
		call(poor["apiKey"], `{"model": "claude-haiku-4-5", "max_tokens": 100000}`), call(secret, "no JSON"))
	admitted, refused := []map[string]any{}, map[string]int{}
	for _, one := range got {
		if one["api_key"] == key["id"] && one["key_alias"] == "alice" {
			admitted = append(admitted, one["metadata"].(map[string]any))
			continue
		}
		refused[fmt.Sprint(one["code"], " ", one["type"])]++
	}
	if len(admitted) != 2 || refused["429 concurrency_exceeded"] != 1 || refused["403 model_not_allowed"] != 2 || refused["401 not_found"] != 1 || refused["402 daily_cost_exceeded"] != 1 {
		t.Fatalf("%d admitted, refused %v: %s", len(admitted), refused, raw)
	}
	if strings.Contains(raw, secret) {
		t.Errorf("the secret is in what LiteLLM keeps: %s", raw)
	}

	free, raw := ask(base, bootstrap, call(secret, ""), call("cr_"+strings.Repeat("0", 64), ""), call(secret, `{"model": "gpt-4o-mini,gpt-4o"}`), call(secret, `{"model": "gpt-4o-mini", "fallbacks": ["gpt-4o"]}`))
	if free[0]["api_key"] != key["id"] || free[1]["code"] != 401. || free[2]["code"] != 400. || free[3]["code"] != 400. {
		t.Errorf("%s", raw)
	}

	payload := func(id, status string, tokens int, auth map[string]any) map[string]any {
		return map[string]any{"id": id, "status": status, "model": "claude-haiku-4-5", "prompt_tokens": tokens, "completion_tokens": tokens, "endTime": 1764324002.5,
			"metadata": map[string]any{"user_api_key_hash": key["id"], "user_api_key_auth_metadata": auth}}
	}
	cached := payload("chatcmpl-2", "success", 10, admitted[1])
	cached["cache_hit"] = true
	unknown := payload("chatcmpl-4", "failure", 0, map[string]any{"keyledger_admission_id": "0197c1b2-0000-7000-8000-000000000001"})
	batch := []any{payload("chatcmpl-1", "success", 10, admitted[0]), cached, unknown, payload("chatcmpl-3", "success", 10, admitted[0])}
	for _, want := range []string{"recorded skipped skipped recorded", "duplicate skipped skipped duplicate"} {
		status, answer := post(t, base, "/v1/ingest/litellm", batch)
		results, _ := answer["results"].([]any)
		var got []string
		for _, one := range results {
			got = append(got, one.(map[string]any)["status"].(string))
		}
		if status != http.StatusOK || strings.Join(got, " ") != want {
			t.Fatalf("%d, %v, want %s", status, answer, want)
		}
	}
	if row := read(t, base, "/v1/keys/"+key["id"].(string)); row["currentConcurrency"] != 0. || row["totalCost"] != 0.00012 {
		t.Errorf("%v slots are taken, and it cost %v", row["currentConcurrency"], row["totalCost"])
	}

	for name, one := range map[string]struct{ at, token, says string }{
		"away":        {"http://" + freePort(t), bootstrap, "cannot be asked"},
		"wrong token": {base, "wrong", "KEYLEDGER_TOKEN is not a token of the role relay"},
	} {
		got, raw := ask(one.at, one.token, call(secret, haiku))
		if got[0]["code"] != 503. || !strings.Contains(raw, one.says) {
			t.Errorf("%s: %s", name, raw)
		}
	}
}
