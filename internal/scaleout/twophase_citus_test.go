//go:build citus

package scaleout_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/scaleout"
)

// Guarantee: the coordinator may die between the two phases of a commit, after it has committed itself
// and before it has, in a step of the roll-up and when a month becomes the archive's. Whoever reads then
// gets the right sum or is told to read again, never another sum; the service ends what was broken off,
// and in the end nothing is missing and nothing is there twice.
func TestBetweenThePhases(t *testing.T) {
	nodes := pgtest.CitusNodes()
	// Otherwise Citus itself might end the commit before anybody has read.
	for _, node := range nodes {
		configure(t, node, "citus.recover_2pc_interval", "-1")
	}
	for _, c := range []struct {
		name  string
		waits string // the server whose commit, or first phase, waits until the coordinator is killed
		done  bool   // what was broken off is to be there in the end
	}{
		{"committed here alone", nodes[0], true},
		{"committed nowhere", nodes[len(nodes)-1], false},
	} {
		t.Run("a step of the roll-up, "+c.name, func(t *testing.T) {
			h := newHouse(t)
			h.record(t, h.db, 12)
			step := func() error { _, err := h.roll.Step(h.ctx); return err }
			if err := step(); err != nil { // the chunk is sealed, which no worker hears of
				t.Fatal(err)
			}
			h.killBetween(c.waits, step)
			h.readable("SELECT sum(requests) FROM key_days", 12, c.done)
			h.settles()
			if in := h.count("SELECT coalesce(sum(requests), 0) FROM stored_usage_daily"); (in == 12) != c.done {
				t.Errorf("the rollup has %d requests of 12", in)
			}
			h.record(t, h.db, 3)
			if _, err := h.roll.Roll(h.ctx); err != nil {
				t.Fatal(err)
			}
			if in := h.count("SELECT sum(requests) FROM stored_usage_daily"); in != 15 {
				t.Errorf("the rollup has %d requests of 15", in)
			}
			agrees(t, h.db)
		})
		t.Run("a month to the archive, "+c.name, func(t *testing.T) {
			h := newHouse(t)
			month := time.Now().UTC().AddDate(0, -3, 0)
			first := time.Date(month.Year(), month.Month(), 1, 0, 0, 0, 0, time.UTC)
			pgtest.Exec(t, h.db, "SELECT make_ledger_partitions($1::date, $1::date + 40)", first)
			h.record(t, h.db, 40)
			if _, err := h.roll.Roll(h.ctx); err != nil {
				t.Fatal(err)
			}
			pgtest.Exec(t, h.db, `UPDATE usage_events AS e SET received_at = $1::timestamptz + x.n * interval '1 day'
				  FROM (SELECT u.event_id, row_number() OVER () - 1 AS n FROM usage_events AS u) AS x WHERE x.event_id = e.event_id`, first)
			pgtest.Exec(t, h.db, "SELECT archive_begin($1::date)", first)
			pgtest.Exec(t, h.db, "SELECT archive_day(d::date) FROM generate_series($1::date, $1::date + interval '1 month - 1 day', interval '1 day') AS d", first)
			move := func() error { return h.db.Exec(h.ctx, "SELECT archive_month($1::date)", first) }
			h.killBetween(c.waits, move)
			h.readable("SELECT count(*) FROM ledger", 40, c.done)
			h.settles()
			if in := h.count("SELECT count(*) FROM stored_usage_archive"); in > 0 != c.done {
				t.Errorf("the archive has %d rows", in)
			}
			if !c.done {
				if err := move(); err != nil {
					t.Fatal(err)
				}
			}
			if in := h.count("SELECT count(*) FROM stored_usage_archive"); in < 28 || in > 31 {
				t.Errorf("the archive has %d rows of a month", in)
			}
			if all := h.count("SELECT count(*) FROM ledger"); all != 40 {
				t.Errorf("the ledger has %d rows of 40", all)
			}
		})
	}
}

// Guarantee: undo brings back what a worker has prepared and not committed, too, or nothing.
func TestUndoBetweenThePhases(t *testing.T) {
	nodes := pgtest.CitusNodes()
	for _, node := range nodes {
		configure(t, node, "citus.recover_2pc_interval", "-1")
	}
	h := newHouse(t)
	h.record(t, h.db, 12)
	step := func() error { _, err := h.roll.Step(h.ctx); return err }
	if err := step(); err != nil {
		t.Fatal(err)
	}
	h.killBetween(nodes[0], step)
	if err := scaleout.New(h.db, scaleout.Options{}).Undo(h.ctx, func(scaleout.Step, time.Duration) {}); err != nil {
		t.Fatal(err)
	}
	if in := h.count("SELECT coalesce(sum(requests), 0) FROM usage_daily"); in != 12 {
		t.Errorf("%d requests of 12 came back", in)
	}
	agrees(t, h.db)
}

// house is a scaled out database with one key.
type house struct {
	holder
	*testing.T
	ctx  context.Context
	db   *db.DB
	roll *rollup.Rollup
}

func newHouse(t *testing.T) *house {
	d := pgtest.New(t)
	return &house{holder: makeHolder(t, d), T: t, ctx: context.Background(), db: d, roll: rollup.New(d, "UTC")}
}

// killBetween lets the commits of a server wait for a standby that does not exist, runs a step, and kills the
// coordinator once the step waits there. The server flushes its log before it waits: what it was to write is written.
func (h *house) killBetween(waits string, step func() error) {
	h.Helper()
	back := configure(h.T, waits, "synchronous_standby_names", "nobody")
	ended := make(chan error, 1)
	go func() { ended <- step() }()
	database := pgtest.Scan[string](h.T, h.db, "SELECT current_database()")
	nodes := pgtest.CitusNodes()
	held := fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = '%s'", database)
	prepared := fmt.Sprintf("SELECT count(*) FROM pg_prepared_xacts WHERE database = '%s'", database)
	h.until(func() bool { return ask(waits, held) > 0 && ask(nodes[1], prepared) > 0 })
	if !pgtest.KillServer(nodes[0], "backend_type = 'checkpointer'") {
		h.Fatal("the coordinator was not killed")
	}
	if err := <-ended; err == nil {
		h.Error("the step was acknowledged")
	}
	h.until(func() bool { return h.db.Ping(h.ctx) == nil })
	back()
	if ask(nodes[1], prepared) == 0 {
		h.Error("nothing is half committed: this test shows nothing")
	}
}

// readable reads a number as psql would: right, or refused where the worker has not committed.
func (h *house) readable(sql string, want int64, refused bool) {
	h.Helper()
	var got int64
	err := h.db.Scan(h.ctx, sql, nil, &got)
	if told := err != nil && strings.Contains(err.Error(), "run it again"); told != refused || !told && (err != nil || got != want) {
		h.Errorf("between the phases %s: %d, %v; want %d, refused: %v", sql, got, err, want, refused)
	}
	if got, err = db.Steady(h.ctx, h.db, func(*db.Queries) (n int64, err error) { return n, h.db.Scan(h.ctx, sql, nil, &n) }); err != nil || got != want {
		h.Errorf("as the service reads, %s: %d, %v; want %d", sql, got, err, want)
	}
}

// settles ends what was broken off, as each step of the roll-up begins.
func (h *house) settles() {
	h.Helper()
	pgtest.Exec(h.T, h.db, "SELECT rollup_settle()")
}

func (h *house) count(sql string) int64 {
	h.Helper()
	return pgtest.Scan[int64](h.T, h.db, sql)
}

func (h *house) until(done func() bool) {
	h.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatal("it did not come to it within 30 s")
		}
	}
}

// configure changes a setting of a server, until back is called or the test ends.
func configure(t *testing.T, url, name, value string) (back func()) {
	t.Helper()
	set := func(sql string) error {
		d, err := db.Open(context.Background(), url, 1)
		if err != nil {
			return err
		}
		defer d.Close()
		return errors.Join(d.Exec(context.Background(), sql), d.Exec(context.Background(), "SELECT pg_reload_conf()"))
	}
	if err := set(fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value)); err != nil {
		t.Fatal(err)
	}
	back = func() {
		var err error
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if err = set("ALTER SYSTEM RESET " + name); err == nil {
				return
			}
		}
		t.Errorf("setting %s back: %v", name, err)
	}
	t.Cleanup(back)
	return back
}

// ask reads a number from a server, -1: it does not answer.
func ask(url, sql string) (n int64) {
	d, err := db.Open(context.Background(), url, 1)
	if err != nil {
		return -1
	}
	defer d.Close()
	if err := d.Scan(context.Background(), sql, nil, &n); err != nil {
		return -1
	}
	return n
}
