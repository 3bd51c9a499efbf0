package rollup_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/keys"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/report"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/usage"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var ctx = context.Background()

var tester = db.Actor{Name: "test"}

// house is a database with a ledger, and all that writes to it.
type house struct {
	*testing.T

	url    string
	db     *db.DB
	prices *price.Store
	record *usage.Recorder
	keeper *keys.Store
	roll   *rollup.Rollup
}

func newHouse(t *testing.T) *house {
	t.Helper()
	url := pgtest.URL(t)
	return at(t, url)
}

// at is the house on a database that is there.
func at(t *testing.T, url string) *house {
	t.Helper()
	d := pgtest.Open(t, url)
	fast, err := db.OpenHot(ctx, url, 8, db.ShortPatience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fast.Close)
	prices := price.New(d, cache.Deaf)
	return &house{T: t, url: url, db: d, prices: prices, roll: rollup.New(d, "UTC"),
		record: usage.New(usage.Options{Fast: fast, Patient: d, Prices: prices, Timezone: "UTC", Writers: coalesce.NewWriters(2)}),
		keeper: keys.New(keys.Options{Changes: d, Reads: d, Hasher: pgtest.Hasher()})}
}

func (h *house) key(tags ...string) uuid.UUID {
	h.Helper()
	if tags == nil {
		tags = []string{}
	}
	id, _ := pgtest.Key(h, h.db, pgtest.KeyRow{Fields: key.Columns{"tags": tags}})
	return id
}

// use records an event of one request.
func (h *house) use(id uuid.UUID) usage.Result {
	h.Helper()
	got, err := h.record.Record(ctx, []usage.Event{{KeyID: id, AccountID: "a", Model: "m", ModelReceived: "m", Counts: usage.Counts{Input: 1}}})
	if err != nil {
		h.Fatal(err)
	}
	return got[0]
}

// agrees proves that every sum is that of the ledger.
func (h *house) agrees() {
	h.Helper()
	found, err := report.New(h.db, "UTC").Reconcile(ctx, time.Now().AddDate(0, 0, -30), time.Now().AddDate(0, 0, 1))
	if err != nil || len(found.Differences) > 0 {
		h.Fatalf("%v, %+v", err, found.Differences)
	}
}

// rollAll rolls up what there is.
func (h *house) rollAll() int64 {
	h.Helper()
	rows, err := h.roll.Roll(ctx)
	if err != nil {
		h.Fatal(err)
	}
	return rows
}

// count is a number that SQL finds.
func (h *house) count(sql string) int64 {
	h.Helper()
	return pgtest.Scan[int64](h, h.db, "SELECT coalesce(("+sql+"), 0)::bigint")
}

// rollups is what all rollups hold, as text.
func (h *house) rollups() string {
	h.Helper()
	var all []string
	for _, table := range []string{"usage_daily", "account_usage", "account_totals", "daily_cost", "model_usage", "tag_usage"} {
		all = append(all, pgtest.Scan[string](h, h.db, "SELECT coalesce(string_agg(x::text, E'\n' ORDER BY x::text), '') FROM "+table+" AS x"))
	}
	return strings.Join(all, "\n--\n")
}

// Guarantee: each ledger row is added once, in chunks of any number of parts, whatever is
// recorded, taken back, purged, given other tags or rebuilt between any two steps; rolling
// up again changes nothing; and at every step all sums agree.
func TestExactlyOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.roll.InParts(7)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var ids, events []uuid.UUID
	for range 12 {
		ids = append(ids, h.key([][]string{nil, {"a"}, {"a", "b"}}[r.IntN(3)]...))
	}
	pgtest.Exec(t, h.db, "SELECT make_ledger_partitions(current_date - 1, current_date + 1)")
	for range 300 {
		switch what := r.IntN(14); {
		case what < 6:
			for range r.IntN(12) {
				events = append(events, h.use(ids[r.IntN(len(ids))]).EventID)
			}
		case what < 11:
			if _, err := h.roll.Step(ctx); err != nil {
				t.Fatal(err)
			}
		case what == 11 && len(events) > 0:
			if _, err := h.record.Void(ctx, tester, events[r.IntN(len(events))], "test"); err != nil {
				t.Fatal(err)
			}
		case what == 12 && len(ids) > 4:
			if err := h.keeper.Purge(ctx, tester, ids[0]); err != nil {
				t.Fatal(err)
			}
			ids = ids[1:]
		case what == 13:
			pgtest.Exec(t, h.db, "UPDATE api_keys SET tags = $1 WHERE id = $2", [][]string{{}, {"b"}, {"c", "a"}}[r.IntN(3)], ids[r.IntN(len(ids))])
			today := time.Now().UTC().Truncate(24 * time.Hour)
			if err := h.roll.Rebuild(ctx, tester, today.AddDate(0, 0, -1), today); err != nil {
				t.Fatal(err)
			}
		}
		h.agrees()
	}
	h.rollAll()
	before := h.rollups()
	if rows := h.rollAll(); rows != 0 || h.rollups() != before {
		t.Errorf("rolling up again added %d rows", rows)
	}
	h.agrees()
	if n := h.count("SELECT count(*) FROM ledger_tail"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if n := h.count("SELECT count(*) FROM usage_events WHERE chunk >= (SELECT mark_chunk FROM rollup_state)"); n != 0 {
		t.Errorf("readers of the tail pass over %d rows that rollups hold", n)
	}
	if most := h.count("SELECT open_chunk FROM rollup_state"); most < 4 {
		t.Errorf("only %d chunks were sealed", most)
	}
}

// Guarantee: a writer that waits for a key that somebody holds does not hold the roll-up
// up; what it writes afterwards belongs to the chunk that is open then.
func TestWriterWaitsForKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id, other := h.key(), h.key()
	h.use(other)
	release := pgtest.Hold(t, h.url, "SELECT FROM key_counters WHERE key_id = $1 FOR UPDATE", id)
	var writing sync.WaitGroup
	writing.Go(func() { h.use(id) })
	h.waitFor("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'", 1)
	if rows := h.rollAll(); rows != 1 {
		t.Errorf("%d rows were rolled up past a writer that waits, want 1", rows)
	}
	release()
	writing.Wait()
	if n := h.count("SELECT count(*) FROM usage_events WHERE chunk = (SELECT open_chunk FROM rollup_state)"); n != 1 {
		t.Errorf("%d rows are in the open chunk, want that of the writer that waited", n)
	}
	h.agrees()
	if rows := h.rollAll(); rows != 1 {
		t.Errorf("%d rows were rolled up after it, want 1", rows)
	}
	h.agrees()
}

// waitFor waits until SQL counts so many.
func (h *house) waitFor(sql string, n int64) {
	h.Helper()
	for end := time.Now().Add(10 * time.Second); h.count(sql) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("waited in vain: %s", sql)
		}
	}
}

// waitForTurn waits until nobody has a turn at rolling up: a connection that was killed lets
// go a moment after its client knows.
func (h *house) waitForTurn() {
	h.Helper()
	h.waitFor("SELECT count(*) FROM (SELECT pg_try_advisory_xact_lock(hashtext('keyledger.rollup')) AS turn) AS x WHERE x.turn", 1)
}

// Guarantee: a writer that has written to a chunk and not committed keeps it from being
// sealed; the roll-up gives up soon, and no other writer waits for longer than it tries.
func TestSealWaitsForWriter(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.key()
	h.use(id)
	release := pgtest.Hold(t, h.url, "SELECT pg_advisory_xact_lock_shared(hashtext('keyledger.chunk'))")
	var rolling, writing sync.WaitGroup
	rolling.Go(func() {
		if rows := h.rollAll(); rows != 0 {
			t.Errorf("%d rows were rolled up although their chunk was held", rows)
		}
	})
	var worst atomic.Int64
	ended := make(chan struct{})
	writing.Go(func() {
		for {
			select {
			case <-ended:
				return
			default:
			}
			start := time.Now()
			h.use(id)
			worst.Store(max(worst.Load(), int64(time.Since(start))))
		}
	})
	rolling.Wait()
	close(ended)
	writing.Wait()
	if waited := time.Duration(worst.Load()); waited > 500*time.Millisecond { // 50 ms, on busy machines
		t.Errorf("a writer waited for %s", waited)
	}
	release()
	h.agrees()
	if rows := h.rollAll(); rows == 0 {
		t.Error("nothing was rolled up after the writer had gone")
	}
	h.agrees()
}

// Guarantee: a step that is broken off between any two statements undoes itself: its
// connection is killed while it waits in its middle. Whoever comes next adds each row once.
func TestBrokenOff(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for i := range 20 {
		h.use(h.key(fmt.Sprint(i % 3)))
	}
	for _, table := range []string{"usage_daily", "account_usage", "account_totals", "model_usage", "tag_usage", "daily_cost", "rollup_state"} {
		if _, err := h.roll.Step(ctx); err != nil { // seals, the first time
			t.Fatal(err)
		}
		h.use(h.key("late"))
		before := h.rollups()
		release := pgtest.Hold(t, h.url, "LOCK TABLE "+table+" IN SHARE MODE") // readers pass
		var rolling sync.WaitGroup
		rolling.Go(func() {
			if _, err := h.roll.Step(ctx); err == nil {
				t.Errorf("%s: a step whose connection was killed succeeded", table)
			}
		})
		h.waitFor("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'", 1)
		h.agrees()
		pgtest.Exec(t, h.db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
		rolling.Wait()
		release()
		h.waitForTurn()
		if h.rollups() != before {
			t.Errorf("%s: half a step stayed", table)
		}
		h.agrees()
		if rows := h.rollAll(); rows == 0 {
			t.Errorf("%s: the next one had nothing to do", table)
		}
		h.agrees()
		h.use(h.key("next"))
	}
}

// Guarantee: of several that roll up at once one does, and the others leave it to that one.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for range 30 {
		h.use(h.key())
	}
	var rows atomic.Int64
	var rolling sync.WaitGroup
	for range 4 {
		rolling.Go(func() {
			for range 5 {
				n, err := rollup.New(h.db, "UTC").InParts(4).Roll(ctx)
				if err != nil {
					t.Error(err)
				}
				rows.Add(n)
			}
		})
	}
	rolling.Wait()
	if rows.Load() != 30 {
		t.Errorf("%d rows were added by four at once, want 30", rows.Load())
	}
	h.agrees()
	// Somebody else's turn, for as long as that takes.
	h.use(h.key())
	if _, err := h.roll.Step(ctx); err != nil {
		t.Fatal(err)
	}
	release := pgtest.Hold(t, h.url, "SELECT pg_advisory_xact_lock(hashtext('keyledger.rollup'))")
	if n, err := h.roll.Roll(ctx); n != 0 || err != nil {
		t.Errorf("rolled up %d rows in another's turn, %v", n, err)
	}
	today := time.Now().UTC().Truncate(24 * time.Hour)
	if err := h.roll.Rebuild(ctx, tester, today, today); fault.CodeOf(err) != fault.Unavailable {
		t.Errorf("rebuilding in another's turn: %v", err)
	}
	release()
	h.waitForTurn()
	if n := h.rollAll(); n != 1 {
		t.Errorf("rolled up %d rows after it", n)
	}
}

// Guarantee: retention drops no ledger row that the rollups do not hold yet.
func TestRetentionWaits(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.key()
	pgtest.Exec(t, h.db, "SELECT make_ledger_partitions(current_date - 10, current_date)")
	h.use(id)
	// As if it had been recorded nine days ago, and nothing rolled up since.
	pgtest.Exec(t, h.db, "UPDATE usage_events SET received_at = received_at - interval '9 days'")
	pgtest.Exec(t, h.db, "UPDATE rollup_state SET tail_since = tail_since - interval '9 days', opened_at = opened_at - interval '9 days'")
	if n := h.count("SELECT drop_ledger_partitions(current_date - 2)"); n != 1 { // that of ten days ago
		t.Errorf("%d partitions were dropped, want 1", n)
	}
	h.agrees()
	if n := h.count("SELECT sum(requests) FROM key_days"); n != 1 {
		t.Errorf("the usage is %d requests after retention", n)
	}
	h.rollAll()
	if n := h.count("SELECT drop_ledger_partitions(current_date - 2)"); n != 7 {
		t.Errorf("%d partitions were dropped after the roll-up, want 7", n)
	}
	if n := h.count("SELECT sum(requests) FROM key_days"); n != 1 {
		t.Errorf("the usage is %d requests after retention and roll-up", n)
	}
}

// Guarantee: a dump that is taken while usage is recorded and rolled up, restored elsewhere,
// agrees with itself, and its roll-up goes on.
func TestDump(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	pgDump := pgtest.Program(t, h.url, "pg_dump")
	h.roll.InParts(5)
	var ids []uuid.UUID
	for range 10 {
		ids = append(ids, h.key("a", "b"))
	}
	ended := make(chan struct{})
	var busy sync.WaitGroup
	for i := range 3 {
		busy.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-ended:
					return
				default:
				}
				if i == 0 {
					if _, err := h.roll.Step(ctx); err != nil {
						t.Error(err)
					}
				} else {
					h.use(ids[n%len(ids)])
				}
			}
		})
	}
	h.waitFor("SELECT count(*) FROM usage_events", 50)
	dump, err := exec.Command(pgDump, "--no-owner", "--no-privileges", "-d", h.url).Output()
	close(ended)
	busy.Wait()
	if err != nil {
		t.Fatal(err)
	}
	c := h.restored(dump)
	rows := c.count("SELECT count(*) FROM usage_events")
	if rows < 50 {
		t.Errorf("the copy has %d ledger rows", rows)
	}
	c.use(ids[0])
	c.rollAll()
	c.agrees()
	if n := c.count("SELECT sum(requests) FROM model_usage"); n != rows+1 {
		t.Errorf("the copy has rolled up %d rows, want %d", n, rows+1)
	}
}

// restored is the house that a dump makes elsewhere.
func (h *house) restored(dump []byte) *house {
	h.Helper()
	url := pgtest.EmptyURL(h)
	psql := exec.Command("psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", url)
	psql.Stdin = bytes.NewReader(dump)
	if out, err := psql.CombinedOutput(); err != nil {
		h.Fatalf("%v\n%s", err, out)
	}
	c := at(h.T, url)
	c.agrees()
	return c
}

// Guarantee: days that the ledger does not hold whole any more are not rebuilt from what is
// left of them, and nothing changes.
func TestRebuildRefuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.use(h.key())
	h.rollAll()
	pgtest.Exec(t, h.db, "INSERT INTO service_settings (name, value) VALUES ('ledger_since', (current_date - 3)::text)")
	before := h.rollups()
	today := time.Now().UTC().Truncate(24 * time.Hour)
	for _, days := range [][2]time.Time{{today.AddDate(0, 0, -4), today}, {today, today.AddDate(0, 0, -1)}} {
		if err := h.roll.Rebuild(ctx, tester, days[0], days[1]); db.Fault(err).Code != fault.Invalid || db.Fault(err).Fields[0].Field != "from" {
			t.Errorf("%v: %v", days, err)
		}
	}
	if h.rollups() != before {
		t.Error("a refused rebuild changed something")
	}
}
