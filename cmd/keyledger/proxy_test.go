package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// proxies are the set-ups of docs/integrations, each with the command that runs
// its files in a directory. Their fixed ports are replaced by free ones.
var proxies = map[string]struct {
	files   []string
	wrap    string // %s is the main file's text
	command []string
}{
	"nginx": {[]string{"nginx.conf"}, "daemon off; error_log stderr; pid nginx.pid; events {} http { access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5; %s }",
		[]string{"nginx", "-p", "DIR", "-c", "nginx.conf"}},
	"caddy":   {[]string{"Caddyfile"}, "{\n\tadmin off\n}\n%s", []string{"caddy", "run", "--adapter", "caddyfile", "--config", "Caddyfile"}},
	"haproxy": {[]string{"haproxy.cfg", "keyledger.lua"}, "%s", []string{"haproxy", "-db", "-f", "haproxy.cfg"}},
}

// Guarantee: behind the real nginx, Caddy and HAProxy, with the files of
// docs/integrations as they stand, a relay gets key id and account, and a client
// that is refused gets the true status, Retry-After and RateLimit; a client's own
// headers cannot stand in for keyledger's.
func TestProxies(t *testing.T) {
	t.Parallel()
	for name, proxy := range proxies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			authz := freePort(t)
			_, env := serve(t, pgtest.URL(t), "KEYLEDGER_AUTHZ_ADDR="+authz)
			relay := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = json.NewEncoder(w).Encode(r.Header)
			}))
			t.Cleanup(relay.Close)
			front := freePort(t)
			dir := t.TempDir()
			for i, file := range proxy.files {
				raw, err := os.ReadFile(filepath.Join("../../docs/integrations", file))
				if err != nil {
					t.Fatal(err)
				}
				text := strings.NewReplacer("127.0.0.1:8000", front, "127.0.0.1:8081", authz, "127.0.0.1:9000", strings.TrimPrefix(relay.URL, "http://")).Replace(string(raw))
				if i == 0 {
					text = fmt.Sprintf(proxy.wrap, text)
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			startProxy(t, dir, front, proxy.command)
			tryProxy(t, "http://"+front, env)
		})
	}
}

func startProxy(t *testing.T, dir, front string, command []string) {
	t.Helper()
	args := make([]string, len(command))
	for i, a := range command {
		args[i] = strings.ReplaceAll(a, "DIR", dir)
	}
	cmd := exec.Command(args[0], args[1:]...)
	var out output
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // workers end with their master
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (make test installs it)", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if resp, err := http.Get("http://" + front); err == nil {
			_ = resp.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v did not start: %s", args, out.String())
		}
	}
}

func tryProxy(t *testing.T, front string, env []string) {
	t.Helper()
	create := func(name string, flags ...string) (id, secret string) {
		r := execute(t, env, append([]string{"keys", "create", "--json", "--name", name}, flags...)...)
		var key struct{ ID, APIKey string }
		if err := json.Unmarshal([]byte(r.out), &key); err != nil {
			t.Fatalf("%+v", r)
		}
		return key.ID, key.APIKey
	}
	ask := func(secret string) (*http.Response, string) {
		req, err := http.NewRequest(http.MethodPost, front+"/v1/messages", strings.NewReader(`{"model":"m"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Api-Key", secret)
		req.Header.Set("X-Keyledger-Service", "gemini")
		req.Header.Set("X-Keyledger-Openai-Account-Id", "forged")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	id, secret := create("good", "--window", "60", "--request-limit", "2", "--claude-account", "acct-7", "--permissions", "claude")
	for range 2 {
		resp, body := ask(secret)
		if resp.StatusCode != http.StatusOK || !containsAll(body, `"X-Keyledger-Key-Id":["`+id+`"]`, `"X-Keyledger-Claude-Account-Id":["acct-7"]`, `"X-Keyledger-Admission-Id":["`) || strings.Contains(body, "forged") {
			t.Errorf("let through: %d %s", resp.StatusCode, body)
		}
	}
	_, poor := create("poor", "--daily-cost-limit", "0.001", "--estimate", "1")
	_, other := create("other", "--permissions", "gemini")
	for name, c := range map[string]struct {
		secret string
		status int
		code   string
	}{"window": {secret, 429, "REQUESTS_EXCEEDED"}, "budget": {poor, 402, "DAILY_COST_EXCEEDED"}, "service": {other, 403, "SERVICE_NOT_PERMITTED"}, "unknown": {"cr_0123456789", 401, "NOT_FOUND"}} {
		resp, body := ask(c.secret)
		if resp.StatusCode != c.status || !strings.Contains(body, `"code":"`+c.code+`"`) {
			t.Errorf("%s: %d %s, want %d %s", name, resp.StatusCode, body, c.status, c.code)
		}
		if challenge := resp.Header.Get("WWW-Authenticate"); (challenge != "") != (c.status == http.StatusUnauthorized) {
			t.Errorf("%s: %d with WWW-Authenticate %q", name, resp.StatusCode, challenge)
		}
		if name == "window" && (resp.Header.Get("Retry-After") == "" || !strings.Contains(resp.Header.Get("Ratelimit"), `"requests";r=0`) || resp.Header.Get("Ratelimit-Policy") == "") {
			t.Errorf("%s: %v", name, resp.Header)
		}
	}
}
