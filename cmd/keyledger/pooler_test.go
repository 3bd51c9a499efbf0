package main_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// bouncer runs PgBouncer in transaction mode before a database and returns its URL.
func bouncer(t *testing.T, dbURL, ignored string) string {
	t.Helper()
	u, err := url.Parse(dbURL)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	dir, err := os.MkdirTemp("/tmp", "bouncer") // where the user that it runs as may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	q := u.Query()
	config := fmt.Sprintf("[databases]\nthrough = host=%s port=%s user=%s dbname=%s\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port=%d\nauth_type=any\npool_mode=transaction\nunix_socket_dir=\nignore_startup_parameters=%s\n",
		q.Get("host"), q.Get("port"), q.Get("user"), strings.TrimPrefix(u.Path, "/"), port, ignored)
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{file}
	if os.Getuid() == 0 { // it refuses to run as root: the owner of the socket may connect
		info, err := os.Stat(q.Get("host"))
		if err != nil {
			t.Fatal(err)
		}
		owner, err := user.LookupId(fmt.Sprint(info.Sys().(*syscall.Stat_t).Uid))
		if err != nil {
			t.Fatal(err)
		}
		args = append([]string{"-u", owner.Username}, args...)
	}
	cmd := exec.Command("pgbouncer", args...)
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting PgBouncer: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if _ = cmd.Wait(); t.Failed() {
			t.Log(out.String())
		}
	})
	eventually(t, "PgBouncer listens", func() bool {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return fmt.Sprintf("postgres://keyledger@127.0.0.1:%d/through?sslmode=disable", port)
}

// Guarantee: behind PgBouncer the service does not start and answer most requests with
// 500: it says in one sentence what to set, whether PgBouncer refuses our settings or drops
// them; and when one is put in later, requests are refused with a reason.
func TestPooler(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	const want = "point it at PostgreSQL itself"
	for _, ignored := range []string{"extra_float_digits", "extra_float_digits,plan_cache_mode,jit,lock_timeout,work_mem,random_page_cost,default_transaction_isolation"} {
		out := execute(t, []string{"DATABASE_URL=" + bouncer(t, dbURL, ignored), "KEYLEDGER_PEPPERS=p:" + strings.Repeat("A", 44)}, "serve")
		if out.code != 1 || strings.Count(out.errors, want) != 1 {
			t.Errorf("ignoring %s: %d %s", ignored, out.code, out.errors)
		}
		if _, err := db.Open(context.Background(), bouncer(t, dbURL, ignored), 1); err == nil || db.Fault(err).Code != fault.Unavailable {
			t.Errorf("a new connection: %v", err)
		}
	}
}
