package main_test

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// upstreamSecret is what the relay shows to the providers.
const upstreamSecret = "sk-upstream-secret-0123456789"

// mockUpstreams starts the stand-in for the providers and returns the environment of a relay
// that forwards to it, with its address.
func mockUpstreams(t *testing.T) (env []string, relayAddr string) {
	t.Helper()
	addr := freePort(t)
	launch(t, nil, nil, "bench", "upstream", "--addr", addr).wait("serving")
	example, err := os.ReadFile("../../docs/examples/mock-upstreams.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "upstreams.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(example), "127.0.0.1:8090", addr)), 0o600); err != nil {
		t.Fatal(err)
	}
	relayAddr = freePort(t)
	return []string{"ANTHROPIC_API_KEY=" + upstreamSecret, "KEYLEDGER_UPSTREAMS_FILE=" + file, "KEYLEDGER_RELAY_ADDR=" + relayAddr, "KEYLEDGER_SPOOL_DIR=" + filepath.Join(dir, "spool")}, relayAddr
}

// Guarantee: the walk-through of docs/relay.md, pasted as it stands, streams an answer by the
// official SDK, and its tokens and cost are in the ledger.
func TestRelayWalkThrough(t *testing.T) {
	t.Parallel()
	relayEnv, addr := mockUpstreams(t)
	p, env := serve(t, pgtest.URL(t), relayEnv...)
	out := walkThrough(t, "docs/relay.md", append(os.Environ(), env...), "127.0.0.1:8082", addr)
	for _, want := range []string{"word word word word word", "output_tokens: 5", "155", "$0.0005385"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	if strings.Contains(p.out.String(), upstreamSecret) {
		t.Error("the account's secret is in the log")
	}
}

// Guarantee: a relay that is killed in the midst of fifty streams settles each of them, once,
// when the next one starts on the same directory; a service that is away meanwhile changes
// nothing; and no reservation is left.
func TestRelayKilled(t *testing.T) {
	t.Parallel()
	const streams = 50
	relayEnv, addr := mockUpstreams(t)
	url := pgtest.URL(t)
	service, env := serve(t, url)
	d := pgtest.Open(t, url)
	secret := strings.TrimSpace(execute(t, env, "keys", "create", "--name", "k", "--total-cost-limit", "100").out)
	token := strings.TrimSpace(execute(t, env, "tokens", "create", "--name", "relay", "--role", "relay").out)
	relayEnv = append(relayEnv, env[0], "KEYLEDGER_TOKEN="+token, "KEYLEDGER_METRICS_ADDR=off", "KEYLEDGER_LOG_LEVEL=debug")
	relay := launch(t, nil, relayEnv, "relay")
	relay.wait(`msg":"relaying"`)

	var all sync.WaitGroup
	var delivered, cut atomic.Int64
	for i := range streams {
		all.Go(func() {
			body := fmt.Sprintf(`{"model":"claude-sonnet-4-20250514","max_tokens":5000,"stream":true,"messages":[{"role":"user","content":"%d"}]}`, i)
			req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/v1/messages", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("X-Api-Key", secret)
			req.Header.Set("X-Mock-Events", "2000")
			req.Header.Set("X-Mock-Gap", "20ms")
			resp, err := hammer.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("a stream was refused: %d", resp.StatusCode)
				return
			}
			lines := bufio.NewScanner(resp.Body)
			for n := 0; lines.Scan(); n++ {
				if n == 12 {
					delivered.Add(1)
				}
			}
			if lines.Err() != nil {
				cut.Add(1)
			}
		})
	}
	eventually(t, "every stream has delivered something", func() bool { return delivered.Load() == streams })
	time.Sleep(1500 * time.Millisecond) // the journal is a second behind at most
	_ = relay.cmd.Process.Kill()
	all.Wait()
	if cut.Load() != streams {
		t.Errorf("%d of %d streams were cut", cut.Load(), streams)
	}
	service.stop(syscall.SIGTERM) // the next relay finds nobody to tell
	next := launch(t, nil, relayEnv, "relay")
	next.wait(`msg":"relaying"`)
	next.wait("waits in the journal")
	again := launch(t, nil, append([]string{peppers, "KEYLEDGER_ADDR=" + strings.TrimPrefix(env[0], "KEYLEDGER_URL=http://"), "KEYLEDGER_METRICS_ADDR=off", "KEYLEDGER_AUTHZ_ADDR=off"}, env[2]), "serve")
	again.wait(`msg":"serving"`)
	eventually(t, "every stream is in the ledger", func() bool {
		return pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_events") >= streams
	})
	time.Sleep(2 * time.Second) // another round of tries
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_events WHERE estimated AND input_tokens = 100 AND output_tokens BETWEEN 20 AND 2000"); n != streams {
		t.Errorf("%d streams are in the ledger as they should be, want %d", n, streams)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_events"); n != streams {
		t.Errorf("the ledger has %d rows, want %d", n, streams)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM admissions WHERE is_open"); n != 0 {
		t.Errorf("%d admissions are still open", n)
	}
}

// Guarantee: what the relay is configured wrongly with is named all at once, with what to
// do, and no secret; it does not start.
func TestRelayRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("accounts:\n - {id: a, service: claude, apiKeyEnv: NONE}\n - {id: a, service: x, apiKeyEnv: SECRET}\n - {id: b, service: openai, apiKeyEnv: SECRET, baseUrl: \"ftp://x\", auth: none}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	unknown := filepath.Join(dir, "unknown.yaml")
	if err := os.WriteFile(unknown, []byte("accounts:\n - {id: a, service: claude, apiKey: sk-secret-in-the-file}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := []string{"KEYLEDGER_URL=http://127.0.0.1:1", "KEYLEDGER_TOKEN=x", "KEYLEDGER_RELAY_ADDR=127.0.0.1:0", "KEYLEDGER_SPOOL_DIR=" + dir, "SECRET=sk-secret"}
	for name, c := range map[string]struct {
		env  []string
		want []string
	}{
		"nothing":              {nil, []string{"KEYLEDGER_URL", "KEYLEDGER_TOKEN", "KEYLEDGER_UPSTREAMS_FILE is required", "KEYLEDGER_SPOOL_DIR is required"}},
		"wrong values":         {append(base, "KEYLEDGER_UPSTREAMS_FILE=x", "KEYLEDGER_RELAY_ON_DISCONNECT=wait", "KEYLEDGER_RELAY_IDLE_TIMEOUT=1ms"), []string{"RELAY_ON_DISCONNECT must be drain or cancel", "RELAY_IDLE_TIMEOUT must be between"}},
		"no file":              {append(base, "KEYLEDGER_UPSTREAMS_FILE="+dir+"/none.yaml"), []string{"KEYLEDGER_UPSTREAMS_FILE", "no such file"}},
		"wrong accounts":       {append(base, "KEYLEDGER_UPSTREAMS_FILE="+bad), []string{"a: the variable NONE", "a: id must be given", "service must be claude, openai or gemini", "b: auth must be", "b: baseUrl"}},
		"a secret in the file": {append(base, "KEYLEDGER_UPSTREAMS_FILE="+unknown), []string{"apiKey"}},
	} {
		r := execute(t, c.env, "relay")
		if r.code != 1 || !containsAll(r.errors, c.want...) || strings.Contains(r.errors, "sk-secret") {
			t.Errorf("%s: %d\n%s\nwant %q", name, r.code, r.errors, c.want)
		}
	}
}
