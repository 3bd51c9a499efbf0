package main_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// binary is the real program, built once.
var binary string

func TestMain(m *testing.M) {
	if given := os.Getenv(relayEnv); given != "" {
		relay(strings.Fields(given))
		return
	}
	dir, err := os.MkdirTemp("", "keyledger-e2e-")
	if err != nil {
		panic(err)
	}
	_ = os.Chmod(dir, 0o755) // other users run it too
	binary = filepath.Join(dir, "keyledger")
	build := []string{"build", "-o", binary}
	switch fault := os.Getenv("KEYLEDGER_TEST_FAULT"); fault {
	case "":
	case "ack-before-commit": // what tests of lost usage must find
		build = append(build, "-tags", "keyledger_ack_early")
	default:
		panic("KEYLEDGER_TEST_FAULT is ack-before-commit or nothing, not " + fault)
	}
	if out, err := exec.Command("go", append(build, ".")...).CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building the binary: %v\n%s", err, out))
	}
	defer func() { _ = os.RemoveAll(dir) }()
	pgtest.Main(m)
}

// result is how a command ended.
type result struct {
	code        int
	out, errors string
}

// execute runs the binary to its end with an environment of its own.
func execute(t *testing.T, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	var out, errors bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errors
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errors.String()}
}

// process is the binary running.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	out *output
	end chan struct{}
}

// output gathers what a process prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func launch(t *testing.T, as *syscall.Credential, env []string, args ...string) *process {
	t.Helper()
	return launchOther(t, binary, as, env, args...)
}

// launchOther launches another binary.
func launchOther(t *testing.T, binary string, as *syscall.Credential, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary, args...), out: &output{}, end: make(chan struct{})}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	p.cmd.Dir = "/"
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.end)
	}()
	t.Cleanup(func() { p.stop(syscall.SIGTERM) })
	return p
}

// stop sends a signal and waits for the end.
func (p *process) stop(s syscall.Signal) {
	p.t.Helper()
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.end:
	case <-time.After(40 * time.Second):
		_ = p.cmd.Process.Kill()
		p.t.Errorf("the process did not end on %v:\n%s", s, p.out)
	}
}

// wait waits until the process has printed something that matches, and returns
// the first group.
func (p *process) wait(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if m := re.FindStringSubmatch(p.out.String()); m != nil {
			return m[len(m)-1]
		}
		select {
		case <-p.end:
			p.t.Fatalf("the process ended before it printed %q:\n%s", pattern, p.out)
		default:
		}
	}
	p.t.Fatalf("the process did not print %q:\n%s", pattern, p.out)
	return ""
}

// ports are those that freePort gives, each once: below the range that systems take the ports
// of connections and of listeners on port 0 from, so that nobody else gets one meanwhile.
var ports atomic.Int64

func init() { ports.Store(rand.Int64N(portRange)) } //nolint:gochecknoinits // where two runs are unlikely to meet

const (
	firstPort = 12000
	portRange = 20000
)

// freePort is an address that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	for range portRange {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+ports.Add(1)%portRange)
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

const bootstrap = "an-operators-own-first-token-of-40-chars"

var peppers = "KEYLEDGER_PEPPERS=p1:c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI="

// serve starts `keyledger serve` on a database and returns the environment for
// commands that speak to it.
func serve(t *testing.T, dbURL string, more ...string) (*process, []string) {
	t.Helper()
	addr := freePort(t)
	p := launch(t, nil, append([]string{"DATABASE_URL=" + dbURL, peppers, "KEYLEDGER_ADDR=" + addr, "KEYLEDGER_METRICS_ADDR=off", "KEYLEDGER_AUTHZ_ADDR=off",
		"KEYLEDGER_BOOTSTRAP_TOKEN=" + bootstrap, "KEYLEDGER_LOG_LEVEL=debug"}, more...), "serve")
	p.wait(`msg":"serving"`)
	return p, []string{"KEYLEDGER_URL=http://" + addr, "KEYLEDGER_TOKEN=" + bootstrap, "DATABASE_URL=" + dbURL}
}

// walkThrough runs the walk-through of a document as it stands, but for what replaced says, in
// an empty folder with the binary where the document has it.
func walkThrough(t *testing.T, file string, env []string, replaced ...string) (out string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", file))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)<!-- walk-through -->\n```sh\n(.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatalf("%s has no walk-through", file)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(binary, filepath.Join(dir, "bin", "keyledger")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", strings.NewReplacer(replaced...).Replace(string(m[1])))
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	raw, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the walk-through failed: %v\n%s", err, raw)
	}
	return string(raw)
}

// Guarantee: README's walk-through, pasted as it stands, does what it says.
func TestReadme(t *testing.T) {
	t.Parallel()
	_, env := serve(t, pgtest.URL(t))
	out := walkThrough(t, "README.md", env)
	rest := out
	for _, want := range []string{`"code":"VALID"`, "recorded", "$0.016092", "duplicate", "3070", "$0.016092", "DAILY_COST_EXCEEDED", "expired", `"code":"EXPIRED"`, "1 keys disabled", `"isActive": false`, "deleted alice-", `restored "alice-`} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("%q is not where it should be in:\n%s", want, out)
		}
		rest = after
	}
}

// Guarantee: dev works with no set-up, shows its token once, keeps its data over
// a stop and over kill -9 of itself, leaves no orphan, and refuses a directory
// in use: as the user that runs the tests and, where that is root, as an
// ordinary one.
func TestDev(t *testing.T) {
	t.Parallel()
	users := map[string]*syscall.Credential{"as this user": nil}
	if os.Geteuid() == 0 {
		users["as an ordinary user"] = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	for name, as := range users {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := openDir(t, as)
			env := []string{"HOME=" + dir}
			args := []string{"dev", "--addr", freePort(t), "--data-dir", filepath.Join(dir, "data")}
			p := launch(t, as, env, args...)
			url, token := p.wait(`KEYLEDGER_URL=(\S+)`), p.wait(`KEYLEDGER_TOKEN=(\S+)`)
			p.wait("msg=serving")
			curl := p.wait(`(curl -s [^\n]*)`)
			if out, err := exec.Command("bash", "-c", curl).CombinedOutput(); err != nil || !strings.Contains(string(out), `"apiKey":"cr_`) {
				t.Fatalf("the printed curl: %v\n%s", err, out)
			}
			if second := launchAndFail(t, as, env, "dev", "--addr", freePort(t), "--data-dir", filepath.Join(dir, "data")); !strings.Contains(second, "in use by another keyledger") {
				t.Errorf("a second dev on the directory says: %s", second)
			}
			if taken := launchAndFail(t, as, env, "dev", "--addr", args[2], "--data-dir", filepath.Join(dir, "other")); !strings.Contains(taken, "--addr") {
				t.Errorf("a taken port: %s", taken)
			}
			p.stop(syscall.SIGINT)
			p = launch(t, as, env, args...)
			p.wait("msg=serving")
			if strings.Contains(p.out.String(), token) || !strings.Contains(p.out.String(), "shown at the first start") {
				t.Errorf("the second start says: %s", p.out)
			}
			remote := []string{"KEYLEDGER_URL=" + url, "KEYLEDGER_TOKEN=" + token}
			if r := execute(t, remote, "keys", "show", "first"); r.code != 0 {
				t.Errorf("after a stop: %+v", r)
			}
			pid := postmaster(t, dir)
			p.stop(syscall.SIGKILL)
			for deadline := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("PostgreSQL outlived its killed parent")
				}
			}
			p = launch(t, as, env, args...)
			p.wait("msg=serving")
			if r := execute(t, remote, "keys", "show", "first"); r.code != 0 {
				t.Errorf("after kill -9: %+v", r)
			}
			_ = syscall.Kill(postmaster(t, dir), syscall.SIGKILL)
			p.wait("PostgreSQL ended unexpectedly")
			<-p.end
			if p.cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("exit code %d after PostgreSQL was killed", p.cmd.ProcessState.ExitCode())
			}
		})
	}
}

func openDir(t *testing.T, as *syscall.Credential) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	_ = os.Chmod(dir, 0o755)
	if as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func launchAndFail(t *testing.T, as *syscall.Credential, env []string, args ...string) string {
	t.Helper()
	p := launch(t, as, env, args...)
	select {
	case <-p.end:
	case <-time.After(30 * time.Second):
		t.Fatalf("it should have failed:\n%s", p.out)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	return p.out.String()
}

func postmaster(t *testing.T, dir string) (pid int) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "data", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(raw), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// Guarantee: dev says what to do when PostgreSQL is missing or too old, and
// honours an operator's own first token.
func TestDevSetUp(t *testing.T) {
	t.Parallel()
	dir := openDir(t, nil)
	if out := launchAndFail(t, nil, []string{"KEYLEDGER_PG_BIN=/nowhere"}, "dev", "--addr", freePort(t), "--data-dir", dir); !strings.Contains(out, "Install it with: ") {
		t.Errorf("without PostgreSQL: %s", out)
	}
	old := t.TempDir()
	for name, text := range map[string]string{"postgres": "#!/bin/sh\necho 'postgres (PostgreSQL) 13.4'\n", "initdb": "#!/bin/sh\n"} {
		if err := os.WriteFile(filepath.Join(old, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out := launchAndFail(t, nil, []string{"KEYLEDGER_PG_BIN=" + old}, "dev", "--addr", freePort(t), "--data-dir", dir); !strings.Contains(out, "PostgreSQL 13") || !strings.Contains(out, "needs PostgreSQL 15 or newer") {
		t.Errorf("with an old PostgreSQL: %s", out)
	}
	p := launch(t, nil, []string{"KEYLEDGER_BOOTSTRAP_TOKEN=" + bootstrap}, "dev", "--addr", freePort(t), "--data-dir", dir)
	p.wait("msg=serving")
	if !strings.Contains(p.out.String(), "KEYLEDGER_TOKEN="+bootstrap) {
		t.Errorf("the bootstrap token was not taken: %s", p.out)
	}
}

// Guarantee: serve refuses to start on what would go wrong later, each with what
// to do: a bad configuration (all of it at once), a schema that is behind,
// another time zone, another pepper under a known id.
func TestServeRefuses(t *testing.T) {
	t.Parallel()
	if r := execute(t, []string{"KEYLEDGER_LEASE_TTL=soon", "KEYLEDGER_UNPRICED=maybe"}, "serve"); r.code != 1 || !containsAll(r.errors, "DATABASE_URL", "KEYLEDGER_PEPPERS", "KEYLEDGER_LEASE_TTL", "KEYLEDGER_UNPRICED") {
		t.Errorf("bad configuration: %+v", r)
	}
	base := []string{peppers, "KEYLEDGER_METRICS_ADDR=off", "KEYLEDGER_AUTHZ_ADDR=off", "KEYLEDGER_ADDR=127.0.0.1:0"}
	if r := execute(t, append(base, "DATABASE_URL="+pgtest.EmptyURL(t)), "serve"); r.code != 1 || !strings.Contains(r.errors, "keyledger migrate up") {
		t.Errorf("a schema that is behind: %+v", r)
	}
	if r := execute(t, append(base, "DATABASE_URL=postgres://u:hunter2@127.0.0.1:1/x"), "serve"); r.code != 1 || strings.Contains(r.errors, "hunter2") {
		t.Errorf("no database: %+v", r)
	}
	url := pgtest.URL(t)
	p, _ := serve(t, url, "KEYLEDGER_TIMEZONE=Asia/Kolkata")
	p.stop(syscall.SIGTERM)
	if r := execute(t, append(base, "DATABASE_URL="+url, "KEYLEDGER_TIMEZONE=UTC"), "serve"); r.code != 1 || !containsAll(r.errors, "Asia/Kolkata", "UPDATE service_settings") {
		t.Errorf("another time zone: %+v", r)
	}
	other := "KEYLEDGER_PEPPERS=p1:" + strings.Repeat("QUFB", 12)
	if r := execute(t, []string{other, "KEYLEDGER_ADDR=127.0.0.1:0", "KEYLEDGER_METRICS_ADDR=off", "KEYLEDGER_AUTHZ_ADDR=off", "DATABASE_URL=" + url, "KEYLEDGER_TIMEZONE=Asia/Kolkata"}, "serve"); r.code != 1 || !strings.Contains(r.errors, "pepper p1 is not the one") {
		t.Errorf("another pepper: %+v", r)
	}
}

func containsAll(text string, parts ...string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// Guarantee: while two services run on one database, migrate up from four shells
// at once succeeds in each; on an empty one it is applied once.
func TestMigrateFromFourShells(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	up := func() []result {
		results := make([]result, 4)
		var group sync.WaitGroup
		for i := range results {
			group.Go(func() { results[i] = execute(t, []string{"DATABASE_URL=" + url}, "migrate", "up") })
		}
		group.Wait()
		return results
	}
	if r := execute(t, []string{"DATABASE_URL=" + url}, "migrate", "check"); r.code != 1 || !strings.Contains(r.errors, "migrate up") {
		t.Errorf("check on an empty database: %+v", r)
	}
	applied := 0
	for _, r := range up() {
		if r.code != 0 {
			t.Errorf("migrate up: %+v", r)
		}
		applied += strings.Count(r.out, "applied")
	}
	if r := execute(t, []string{"DATABASE_URL=" + url}, "migrate", "status"); r.code != 0 || strings.Count(r.out, "\n")-1 != applied || strings.Contains(r.out, "pending") {
		t.Errorf("%d migrations were applied; status: %+v", applied, r)
	}
	_, first := serve(t, url)
	_, second := serve(t, url)
	for _, r := range up() {
		if r.code != 0 || !strings.Contains(r.out, "nothing to do") {
			t.Errorf("migrate up beside two services: %+v", r)
		}
	}
	if r := execute(t, first, "keys", "create", "--name", "shared"); r.code != 0 {
		t.Errorf("on the first: %+v", r)
	}
	if r := execute(t, second, "keys", "show", "shared"); r.code != 0 {
		t.Errorf("on the second: %+v", r)
	}
	if r := execute(t, []string{"DATABASE_URL=" + url}, "migrate", "check"); r.code != 0 {
		t.Errorf("check: %+v", r)
	}
}

// Guarantee: exit codes are 0, 1 and 2 as documented, and errors say what to do.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	_, env := serve(t, pgtest.URL(t))
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{0, "Available Commands", []string{"--help"}}, {0, "schema", []string{"version"}}, {0, "complete", []string{"completion", "bash"}},
		{0, "KEYLEDGER_TIMEZONE", []string{"serve", "--help"}},
		{2, "unknown command", []string{"nope"}}, {2, "unknown command", []string{"keys", "nope"}}, {2, "which one", []string{"keys"}},
		{2, "unknown flag", []string{"keys", "list", "--nope"}}, {2, "arg", []string{"keys", "show"}}, {2, "--yes", []string{"keys", "delete", "x", "--purge"}},
		{2, "--expires", []string{"keys", "create", "--name", "x", "--expires", "soon"}}, {2, "--usage", []string{"usage", "record", "--key", "x", "--usage", "{"}},
		{1, "name is required", []string{"keys", "create"}}, {1, "no key has the id or name", []string{"keys", "show", "nobody"}},
		{1, "status must be", []string{"keys", "list", "--status", "nope"}}, {1, "role must be", []string{"tokens", "create", "--name", "x", "--role", "king"}},
		{2, "role", []string{"tokens", "create", "--name", "x"}}, {0, "kl_", []string{"tokens", "create", "--name", "x", "--role", "relay"}},
		{0, "relay", []string{"tokens", "list"}}, {0, "revoked", []string{"tokens", "revoke", "x"}}, {1, "No token", []string{"tokens", "revoke", "nobody"}},
		{1, "no such file", []string{"prices", "import", "/no/such/file"}}, {0, "every model used had a price", []string{"prices", "unpriced"}},
		{0, "claude-sonnet-4-20250514", []string{"prices", "list", "--q", "sonnet"}}, {0, `"data"`, []string{"keys", "list", "--json"}},
	} {
		if r := execute(t, env, c.args...); r.code != c.code || !strings.Contains(r.out+r.errors, c.says) {
			t.Errorf("%v: want %d and %q, got %+v", c.args, c.code, c.says, r)
		}
	}
	if r := execute(t, nil, "keys", "list"); r.code != 1 || !strings.Contains(r.errors, "KEYLEDGER_URL") {
		t.Errorf("without a service: %+v", r)
	}
}

// Guarantee: an issued secret is nowhere but in the answer that issued it, and an upstream's nowhere
// at all: not in a dump of the database, not in the log at debug level, not in any answer or error,
// nor in metrics, traces, the relay's spool or the console.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	relayEnv, relayAddr := mockUpstreams(t)
	traces, private := newCollector(t), freePort(t)
	p, env := serve(t, url, append(relayEnv, "KEYLEDGER_OTLP_ENDPOINT="+traces.URL, "KEYLEDGER_METRICS_ADDR="+private)...)
	base := strings.TrimPrefix(env[0], "KEYLEDGER_URL=")
	var secrets []string
	for i := range 3 {
		r := execute(t, env, "keys", "create", "--name", fmt.Sprint("k", i))
		secrets = append(secrets, strings.TrimSpace(r.out))
	}
	secrets = append(secrets, strings.TrimSpace(execute(t, env, "keys", "rotate", "k0", "--grace", "1h").out))
	token := strings.TrimSpace(execute(t, env, "tokens", "create", "--name", "r", "--role", "relay").out)
	webhook := strings.TrimSpace(execute(t, env, "webhooks", "create", "--url", "http://localhost:1/", "--events", "key.created,key.updated").out)
	for _, args := range [][]string{{"keys", "create", "--name", "told"}, {"webhooks", "list"}} {
		if r := execute(t, env, args...); r.code != 0 {
			t.Fatal(r)
		}
	}
	var answers strings.Builder
	for _, path := range []string{"/v1/messages", "/v1/chat/completions", "/v1beta/models/gemini-2.5-pro:generateContent", "/v1/files"} {
		for _, mock := range []string{"", "401", "500"} {
			req, err := http.NewRequest(http.MethodPost, "http://"+relayAddr+path, strings.NewReader(`{"model":"gpt-4o","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Api-Key", secrets[1])
			if mock != "" {
				req.Header.Set("X-Mock-Status", mock)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			said, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			_, _ = fmt.Fprintln(&answers, resp.Header, string(said))
		}
	}
	for _, secret := range append(secrets, token) {
		for _, request := range []struct{ path, body string }{
			{"/v1/keys/verify", `{"apiKey":"` + secret + `"}`}, {"/v1/keys/verify", `{"apiKey":"` + secret + `","` + secret + `":1}x`},
			{"/v1/keys/verify", `{"apiKey":"` + secret + `"`}, {"/v1/usage", `{"keyId":"` + secret + `","usage":"` + secret + `"}`},
			{"/v1/self?key=" + secret, ""}, {"/v1/keys/" + secret, ""}, {"/v1/keys?q=" + secret, ""}, {"/v1/keys?cursor=" + secret, ""},
		} {
			method, body := "POST", strings.NewReader(request.body)
			if request.body == "" {
				method = "GET"
			}
			for _, auth := range []string{token, secret, ""} {
				_, _ = body.Seek(0, 0)
				req, err := http.NewRequest(method, base+request.path, body)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+auth)
				req.Header.Set("Content-Type", "application/json")
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = fmt.Fprintln(&answers, resp.Header)
				var buf bytes.Buffer
				_, _ = buf.ReadFrom(resp.Body)
				_ = resp.Body.Close()
				answers.WriteString(buf.String())
			}
		}
	}
	_, metrics := get(t, "http://"+private+"/metrics")
	_, page := get(t, base+"/")
	p.stop(syscall.SIGTERM) // what is left of the traces is sent by then
	spool := ""
	for _, setting := range relayEnv {
		if dir, ok := strings.CutPrefix(setting, "KEYLEDGER_SPOOL_DIR="); ok {
			_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
				raw, _ := os.ReadFile(path)
				spool += string(raw)
				return nil
			})
		}
	}
	if spool == "" || traces.raw.Len() == 0 || !strings.Contains(metrics, "keyledger_relay_requests_total") {
		t.Error("there is no spool, no trace or no metric: the test proves nothing of them")
	}
	dump, err := exec.Command(pgtest.Program(t, url, "pg_dump"), "-d", url).Output()
	if err != nil || !strings.Contains(string(dump), "api_key_secrets") {
		t.Fatalf("pg_dump: %v", err)
	}
	for i, secret := range append(secrets, token, bootstrap, strings.Replace(webhook, "whsec_", "...", 1), "   "+upstreamSecret) {
		plain := secret[3:] // the prefix alone is no secret
		for where, text := range map[string]string{"the database": string(dump), "the log": p.out.String(), "an answer": answers.String(),
			"the metrics": metrics, "the traces": traces.raw.String(), "the spool": spool, "the console": page} {
			// A member's name is the caller's own text; it is the one thing echoed.
			text = strings.ReplaceAll(text, `"field":"`+secret+`"`, "")
			if strings.Contains(text, plain) {
				at := strings.Index(text, plain)
				t.Errorf("secret %d is in %s: …%s…", i, where, text[max(0, at-200):min(len(text), at+20)])
			}
		}
	}
	if !strings.Contains(p.out.String(), `"msg":"request"`) {
		t.Error("the log at debug level shows no requests: the test proves nothing")
	}
}

// Guarantee: on SIGTERM requests under way are finished, and the exit code is 0.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	p, env := serve(t, pgtest.URL(t))
	if r := execute(t, env, "keys", "create", "--name", "a"); r.code != 0 {
		t.Fatal(r)
	}
	var lost sync.Map
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 50 {
				r := execute(t, env, "usage", "record", "--key", "a", "--request-id", fmt.Sprint(i, "-", n), "--usage", "{}")
				if r.code != 0 {
					if !strings.Contains(r.errors, "connection refused") && !strings.Contains(r.errors, "EOF") {
						lost.Store(i, r.errors)
					}
					return
				}
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	p.stop(syscall.SIGTERM)
	group.Wait()
	lost.Range(func(_, value any) bool { t.Errorf("a request was cut off: %v", value); return true })
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
}
