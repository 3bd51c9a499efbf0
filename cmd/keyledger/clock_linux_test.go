package main_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgdev"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// faketime is the library, of Linux alone, that gives PostgreSQL another clock than the machine's.
func faketime(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("libfaketime is missing (make test installs it)")
	return ""
}

// Guarantee: when PostgreSQL's clock steps forward or back, under load, users are served all the
// same; no event is lost, none counts twice, no limit is passed, and every sum is that of the ledger.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	dir := openDir(t, nil)
	clock := filepath.Join(dir, "clock")
	step := func(to string) func() {
		return func() {
			// Renamed into its place, so that nobody reads a file that is not written yet.
			if err := errors.Join(os.WriteFile(clock+".new", []byte(to+"\n"), 0o644), os.Rename(clock+".new", clock)); err != nil {
				t.Fatal(err)
			}
		}
	}
	step("+0")()
	cluster, err := pgdev.Start(context.Background(), pgdev.Options{Dir: filepath.Join(dir, "pg"),
		Env: []string{"LD_PRELOAD=" + faketime(t), "FAKETIME_TIMESTAMP_FILE=" + clock, "FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Stop() })
	if err := cluster.EnsureDatabase(context.Background(), "keyledger"); err != nil {
		t.Fatal(err)
	}
	dbURL := cluster.URL("keyledger")
	if r := execute(t, []string{"DATABASE_URL=" + dbURL}, "migrate", "up"); r.code != 0 {
		t.Fatal(r)
	}
	_, env := serve(t, dbURL, "KEYLEDGER_ROLLUP_INTERVAL=1s")
	m := newTeam(t, strings.TrimPrefix(env[0], "KEYLEDGER_URL="))
	m.begin(8)
	time.Sleep(300 * time.Millisecond)
	d := pgtest.Open(t, dbURL)
	away := func() time.Duration {
		clock := pgtest.Scan[time.Time](t, d, "SELECT clock_timestamp()")
		return time.Until(clock)
	}
	inTurn(t, []func(){
		func() {
			m.fault("the clock steps half an hour forward", time.Second, step("+1800"), step("+1800"))
			if far := away(); far < 29*time.Minute {
				t.Errorf("PostgreSQL's clock is %s ahead: the test proves nothing", far)
			}
		},
		func() { m.fault("the clock steps an hour back", time.Second, step("-1800"), step("-1800")) },
		func() { m.fault("the clock goes to and fro", time.Second, step("+600"), step("+0")) },
	})
	m.end()
	m.proves(dbURL)
}
