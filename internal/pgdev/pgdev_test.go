package pgdev_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/internal/pgdev"
)

func dir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("", "kl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(d) })
	if err := os.Chmod(d, 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

func start(t *testing.T, d string) *pgdev.Cluster {
	t.Helper()
	c, err := pgdev.Start(context.Background(), pgdev.Options{Dir: d, Volatile: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	return c
}

// Guarantee: a start that was cut off while it made the data directory is made
// good by the next one, and a directory in use is refused.
func TestHalfMade(t *testing.T) {
	t.Parallel()
	d := dir(t)
	half := filepath.Join(d, "data.new", "base")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	c := start(t, d)
	if err := c.EnsureDatabase(context.Background(), "x"); err != nil {
		t.Error(err)
	}
	if _, err := pgdev.Start(context.Background(), pgdev.Options{Dir: d}); err == nil || !strings.Contains(err.Error(), "in use by another keyledger") {
		t.Errorf("a second start: %v", err)
	}
}

// Guarantee: a path too long for a socket still works.
func TestLongPath(t *testing.T) {
	t.Parallel()
	d := filepath.Join(dir(t), strings.Repeat("long/", 20))
	if err := start(t, d).EnsureDatabase(context.Background(), "x"); err != nil {
		t.Error(err)
	}
}

// Guarantee: data made by a PostgreSQL that is not here is left alone, and the
// error names the version to install; a directory that PostgreSQL's user cannot
// enter is refused with a better one.
func TestRefuses(t *testing.T) {
	t.Parallel()
	d := dir(t)
	if err := os.MkdirAll(filepath.Join(d, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d, "data", "PG_VERSION"), []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pgdev.Start(context.Background(), pgdev.Options{Dir: d}); err == nil || !strings.Contains(err.Error(), "PostgreSQL 99") {
		t.Errorf("another version's data: %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	closed := dir(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := pgdev.Start(context.Background(), pgdev.Options{Dir: filepath.Join(closed, "x")}); err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("a directory that cannot be entered: %v", err)
	}
}
