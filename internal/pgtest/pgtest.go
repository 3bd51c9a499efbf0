// Package pgtest gives every test a database of its own: a clone of a migrated
// template, on one private PostgreSQL a test process. Clones and not schemas,
// because NOTIFY channels and advisory locks belong to a database.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/pgdev"
	"github.com/keyledger/keyledger/migrations"
)

const (
	template = "keyledger_template"
	dirName  = "keyledger-test-"
)

var (
	once    sync.Once
	cluster *pgdev.Cluster
	errBoot error
	serial  atomic.Int64
)

// Main runs a package's tests and stops the PostgreSQL they started. A package
// that uses New or URL calls it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if citus != nil {
		if err := citus.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
		}
	}
	if cluster != nil {
		_ = cluster.Stop()
		sweep()
	}
	os.Exit(code)
}

// New is a pool on a fresh, migrated database. It is closed with the test.
func New(t testing.TB) *db.DB {
	t.Helper()
	return Open(t, URL(t))
}

// Open is another pool on a database that URL made: a second replica.
func Open(t testing.TB, url string) *db.DB {
	t.Helper()
	d, err := db.Open(context.Background(), url, 8)
	if err != nil {
		t.Fatalf("opening the test database: %v", err)
	}
	t.Cleanup(d.Close)
	return d
}

// URL is the connection URL of a fresh, migrated database, dropped with the test
// unless that failed: then its URL is logged and it stays as long as the process.
func URL(t testing.TB) string {
	t.Helper()
	return clone(t, template)
}

// EmptyURL is the connection URL of a fresh database with nothing in it.
func EmptyURL(t testing.TB) string {
	t.Helper()
	return clone(t, "template0")
}

func clone(t testing.TB, from string) string {
	t.Helper()
	once.Do(boot)
	if errBoot != nil {
		t.Fatalf("starting PostgreSQL for the tests: %v", errBoot)
	}
	name := fmt.Sprintf("test_%d", serial.Add(1))
	if citus != nil && from == template {
		return citus.clone(t, name)
	}
	admin(t, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s STRATEGY file_copy", name, from))
	url := cluster.URL(name)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the database of this test: %s", url)
			return
		}
		admin(t, fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", name))
	})
	return url
}

func admin(t testing.TB, sql string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, cluster.URL("postgres"))
	if err != nil {
		t.Fatalf("connecting to the test cluster: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// boot starts the cluster and migrates the template.
func boot() {
	ctx := context.Background()
	if url := os.Getenv("KEYLEDGER_TEST_CITUS"); url != "" {
		if citus, errBoot = openCitus(ctx, url); errBoot != nil {
			return
		}
	}
	sweep()
	dir, err := os.MkdirTemp(base(), dirName)
	if err != nil {
		errBoot = err
		return
	}
	if errBoot = os.Chmod(dir, 0o755); errBoot != nil {
		return
	}
	if cluster, errBoot = pgdev.Start(ctx, pgdev.Options{Dir: dir, Volatile: true}); errBoot != nil {
		return
	}
	if errBoot = cluster.EnsureDatabase(ctx, template); errBoot != nil {
		return
	}
	m, err := migrations.Open(cluster.URL(template))
	if err != nil {
		errBoot = err
		return
	}
	_, errBoot = m.Up(ctx)
	_ = m.Close()
}

// base is memory where there is some, since tests need no durability.
func base() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return os.TempDir()
}

// sweep removes the clusters of test processes that are gone: nobody holds their
// lock.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(base(), dirName+"*")) // the pattern is well-formed
	for _, dir := range dirs {
		f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
		if err != nil {
			continue // not ours, or just being made
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(dir)
		}
		_ = f.Close()
	}
}
