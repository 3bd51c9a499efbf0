package db_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// ear is a listener with what it heard.
type ear struct {
	*db.Listener

	mu     sync.Mutex
	heard  []string
	resets atomic.Int64
}

func listen(t *testing.T, d *db.DB, listenURL string) *ear {
	t.Helper()
	e := &ear{Listener: db.NewListener(listenURL, d, slog.New(slog.DiscardHandler), func(time.Duration) {})}
	changed := func(kind, id string) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.heard = append(e.heard, kind+" "+id)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { e.Run(ctx, changed, func() { e.resets.Add(1) }); close(done) }()
	t.Cleanup(func() { stop(); <-done })
	return e
}

// within waits until something holds, and tells how long that took.
func within(t *testing.T, most time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !holds() {
		if time.Since(start) > most {
			t.Fatalf("after %s still not: %s", most, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(start)
}

// Guarantee: whatever changes a key, a secret, a token or a price is heard of by its
// id once it is committed, and nothing of what is rolled back; what keys use is not
// announced.
func TestChangesAreHeard(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	d := pgtest.Open(t, dbURL)
	e := listen(t, d, dbURL)
	within(t, 5*time.Second, "live", e.Live)
	id, _ := pgtest.Key(t, d, pgtest.KeyRow{})
	const token = "INSERT INTO access_tokens (id, name, role, hash, hint) VALUES ('00000000-0000-0000-0000-0000000000aa', 't', 'admin', sha256('h'), 'h')"
	for _, c := range []struct{ sql, want string }{
		{"UPDATE api_keys SET is_active = false", "key " + id.String()},
		{"UPDATE api_key_secrets SET expires_at = now()", "key " + id.String()},
		{"UPDATE key_counters SET requests = 1; INSERT INTO ledger_holders VALUES (gen_random_uuid())", ""},
		{"BEGIN; UPDATE api_keys SET is_active = true; ROLLBACK", ""},
		{token, "token 00000000-0000-0000-0000-0000000000aa"},
		{"UPDATE access_tokens SET revoked_at = now()", "token 00000000-0000-0000-0000-0000000000aa"},
		{"UPDATE price_revision SET revision = revision + 1", "prices"},
		{"DELETE FROM api_keys", "key " + id.String()},
	} {
		e.mu.Lock()
		e.heard = nil
		e.mu.Unlock()
		for _, sql := range strings.Split(c.sql, "; ") {
			if strings.HasPrefix(c.sql, "BEGIN") {
				sql = "DO $$ BEGIN UPDATE api_keys SET is_active = true; RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END $$"
			}
			pgtest.Exec(t, d, sql)
		}
		pgtest.Exec(t, d, "NOTIFY keyledger, 'end'")
		var heard string
		within(t, 5*time.Second, "heard of the end", func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			heard = strings.Join(e.heard, ",")
			return strings.HasSuffix(heard, "end ")
		})
		if c.want == "" && heard != "end " || c.want != "" && !strings.HasPrefix(heard, c.want) {
			t.Errorf("%s: heard %q, want %q", c.sql, heard, c.want)
		}
	}
}

// Guarantee: a listener whose connection is cut is not live from that moment, and
// live again by itself, after a reset.
func TestCut(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	d := pgtest.Open(t, dbURL)
	e := listen(t, d, dbURL)
	within(t, 5*time.Second, "live", e.Live)
	resets := e.resets.Load()
	pgtest.Exec(t, d, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyledger listener' AND datname = current_database()")
	within(t, 200*time.Millisecond, "deaf", func() bool { return !e.Live() || e.resets.Load() > resets })
	within(t, 5*time.Second, "live after a reset", func() bool { return e.Live() && e.resets.Load() > resets })
}

// Guarantee: a connection on which LISTEN succeeds and nothing is heard, as through
// PgBouncer in transaction mode, is never trusted.
func TestDeaf(t *testing.T) {
	t.Parallel()
	e := listen(t, pgtest.New(t), pgtest.URL(t)) // another database: another channel
	for range 30 {
		time.Sleep(100 * time.Millisecond)
		if e.Live() {
			t.Fatal("live, though it cannot hear")
		}
	}
}

// Guarantee: a half-open connection, on which nothing comes and nothing breaks, is
// trusted for less than a second.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	through := newProxy(t, dbURL)
	e := listen(t, pgtest.Open(t, dbURL), through.url)
	within(t, 5*time.Second, "live", e.Live)
	through.silent.Store(true)
	if took := within(t, 2*time.Second, "deaf", func() bool { return !e.Live() }); took > time.Second {
		t.Errorf("trusted for %s", took)
	}
	through.silent.Store(false)
	within(t, 10*time.Second, "live", e.Live)
	if now, live := e.Clock(); !live || time.Since(now).Abs() > time.Second {
		t.Errorf("the clock says %s", now)
	}
}

// Guarantee: when the pool comes to reach another server than the one that is
// listened to, as after a failover that left the old primary up, the listener is
// trusted for less than a second and a half, and not again.
func TestFailover(t *testing.T) {
	t.Parallel()
	old, fresh := pgtest.URL(t), pgtest.URL(t)
	through := newProxy(t, old)
	pool := pgtest.Open(t, through.url)
	e := listen(t, pool, old)
	within(t, 5*time.Second, "live", e.Live)
	through.database.Store(new(databaseOf(t, fresh)))
	pgtest.Exec(t, pgtest.Open(t, fresh), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyledger' AND datname = $1", databaseOf(t, old))
	within(t, 5*time.Second, "on the other server", func() bool {
		var name string
		return pool.Scan(context.Background(), "SELECT current_database()", nil, &name) == nil && name == databaseOf(t, fresh)
	})
	within(t, 1500*time.Millisecond, "deaf", func() bool { return !e.Live() })
	for range 30 {
		time.Sleep(100 * time.Millisecond)
		if e.Live() {
			t.Fatal("live, though what is committed through the pool is told elsewhere")
		}
	}
}

func databaseOf(t *testing.T, dbURL string) string {
	t.Helper()
	u, err := url.Parse(dbURL)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

// proxy passes a PostgreSQL socket on, or swallows what comes. New connections go to
// another database once one is named.
type proxy struct {
	url      string
	silent   atomic.Bool
	database atomic.Pointer[string]
}

// redirect puts another database's name into a start-up message.
// Source: https://www.postgresql.org/docs/current/protocol-message-formats.html
func (p *proxy) redirect(near, far net.Conn) error {
	name := p.database.Load()
	if name == nil {
		return nil
	}
	message := make([]byte, 10<<10)
	n, err := near.Read(message)
	if err != nil {
		return err
	}
	before, after, found := bytes.Cut(message[4:n], []byte("database\x00"))
	_, after, _ = bytes.Cut(after, []byte{0})
	if !found {
		return errors.New("no start-up message")
	}
	out := slices.Concat(make([]byte, 4), before, []byte("database\x00"+*name+"\x00"), after)
	binary.BigEndian.PutUint32(out, uint32(len(out)))
	_, err = far.Write(out)
	return err
}

func newProxy(t *testing.T, dbURL string) *proxy {
	t.Helper()
	u, err := url.Parse(dbURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	name := ".s.PGSQL." + q.Get("port")
	if q.Get("port") == "" {
		name = ".s.PGSQL.5432"
	}
	to := filepath.Join(q.Get("host"), name)
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	q.Set("host", dir)
	u.RawQuery = q.Encode()
	p := &proxy{url: u.String()}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			if err := p.redirect(near, far); err != nil {
				_, _ = near.Close(), far.Close()
				continue
			}
			go p.pass(near, far)
			go p.pass(far, near)
		}
	}()
	return p
}

func (p *proxy) pass(from, to net.Conn) {
	defer func() { _ = from.Close(); _ = to.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		for p.silent.Load() {
			time.Sleep(time.Millisecond)
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
