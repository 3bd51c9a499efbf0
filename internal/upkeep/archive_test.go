package upkeep_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/keys"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/upkeep"
)

// archived is a database with ledger rows of three keys on each of so many days up to today, which
// the rollups hold, and passes that archive what is older than two days.
func archived(t *testing.T, days int) (url string, d *db.DB, passes *upkeep.Passes, ids []uuid.UUID) {
	t.Helper()
	url = pgtest.URL(t)
	d = pgtest.Open(t, url)
	passes = upkeep.New(upkeep.Options{DB: d, Slow: d, Log: slog.New(slog.DiscardHandler), RetentionDays: 30, ArchiveDays: 2, DedupHorizon: time.Hour})
	pgtest.Exec(t, d, "SELECT make_ledger_partitions((now() AT TIME ZONE 'UTC')::date - $1::integer, (now() AT TIME ZONE 'UTC')::date)", days/2)
	for range 3 {
		id, _ := pgtest.Key(t, d, pgtest.KeyRow{})
		ids = append(ids, id)
		pgtest.Exec(t, d, `INSERT INTO usage_events SELECT gen_random_uuid(), now(), 'usage', k.ledger_id, s.open_chunk, NULL, 'm', 'm', 'secret ' || n, now() - n * interval '1 day',
				(now() AT TIME ZONE 'UTC')::date - n, '00000000-0000-0000-0000-000000000000', 1, 1, 1, 0, 0, 0, 1, true, false, NULL, NULL, NULL
			FROM generate_series(0, $1::integer - 1) AS n, api_keys AS k, rollup_state AS s WHERE k.id = $2::uuid`, days, id)
		pgtest.Exec(t, d, "UPDATE key_counters SET requests = $1::bigint, input_tokens = $1::bigint, output_tokens = $1::bigint, cost = $1::bigint WHERE key_id = $2", days, id)
	}
	if _, err := rollup.New(d, "UTC").Roll(context.Background()); err != nil {
		t.Fatal(err)
	}
	pgtest.Age(t, d)
	return url, d, passes, ids
}

func archive(t *testing.T, passes *upkeep.Passes) int {
	t.Helper()
	days, err := passes.Archive(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return days
}

// inLedger are the rows of the whole ledger, and those of them that are in usage_events.
func inLedger(t *testing.T, d *db.DB) (rows, hot int) {
	t.Helper()
	return pgtest.Scan[int](t, d, "SELECT count(*) FROM ledger"), pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_events")
}

// Guarantee: each day that is old enough is moved once and whole, those without a partition too,
// whoever else archives at the same time, and its partition goes; what is retained no longer goes
// from the archive as well, by the day, and a month that is over with its partition.
func TestArchive(t *testing.T) {
	t.Parallel()
	_, d, passes, _ := archived(t, 70)
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() { archive(t, passes) })
	}
	group.Wait()
	if more := archive(t, passes); more > 67 { // what the others left while one had its turn
		t.Errorf("%d days were archived", more)
	}
	if rows, hot := inLedger(t, d); rows != 210 || hot != 9 {
		t.Errorf("the ledger has %d rows, %d of them of the last days; want 210 and 9", rows, hot)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(DISTINCT event_id) FROM ledger"); n != 210 {
		t.Errorf("%d of 210 rows are there once", n)
	}
	if oldest := pgtest.Scan[int](t, d, "SELECT (now() AT TIME ZONE 'UTC')::date - ledger_first_day()"); oldest != 2 {
		t.Errorf("the first partition is of %d days ago, want 2", oldest)
	}
	if days := archive(t, passes); days != 0 {
		t.Errorf("done again, %d days were archived", days)
	}
	months := func() int {
		return pgtest.Scan[int](t, d, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'usage_archive'::regclass")
	}
	before := months()
	if err := passes.Tidy(context.Background()); err != nil {
		t.Fatal(err)
	}
	if rows, _ := inLedger(t, d); rows != 31*3 {
		t.Errorf("%d rows are left of 30 days and today, want 93", rows)
	}
	if after := months(); after >= before {
		t.Errorf("%d months were dropped of %d", before-after, before)
	}
	if since := pgtest.Scan[int](t, d, "SELECT (now() AT TIME ZONE 'UTC')::date - ledger_whole_since('UTC')"); since != 30 {
		t.Errorf("the ledger is whole since %d days ago, want 30", since)
	}
}

// Guarantee: what the rollups do not hold yet stays where the roll-up looks for it.
func TestArchiveLeavesTheTail(t *testing.T) {
	t.Parallel()
	_, d, passes, _ := archived(t, 6)
	pgtest.Exec(t, d, "UPDATE rollup_state SET tail_since = now() - interval '4 days'")
	archive(t, passes)
	if first := pgtest.Scan[int](t, d, "SELECT (now() AT TIME ZONE 'UTC')::date - ledger_first_day()"); first != 4 {
		t.Errorf("the first day left is %d days ago, want 4, where the tail begins", first)
	}
}

// Guarantee: while somebody reads the ledger for long, a day waits, and is moved once he is done.
// A snapshot that began before sees each row once, whenever it looks at the ledger.
func TestArchiveBesideASnapshot(t *testing.T) {
	t.Parallel()
	_, d, passes, _ := archived(t, 4)
	begun, look := make(chan struct{}), make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		if err := d.Snapshot(context.Background(), func(r *db.Reader) error {
			if _, err := r.Now(context.Background()); err != nil { // its instant
				return err
			}
			close(begun)
			<-look
			page, err := r.EventList(context.Background(), db.EventListParams{RowLimit: 100})
			if len(page) != 12 {
				t.Errorf("a snapshot sees %d rows of 12", len(page))
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
	<-begun
	group.Go(func() {
		if days := archive(t, passes); days != 1 {
			t.Errorf("%d days were archived, want 1", days)
		}
	})
	time.Sleep(300 * time.Millisecond)
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_archive"); n != 0 {
		t.Errorf("%d rows are in the archive while a snapshot may still look for them elsewhere", n)
	}
	close(look)
	group.Wait()
	if rows, hot := inLedger(t, d); rows != 12 || hot != 9 {
		t.Errorf("the ledger has %d rows, %d of them in usage_events; want 12 and 9", rows, hot)
	}
}

// Guarantee: a purge leaves no text of its key in the archive: not of days that were there, and not
// of a day that is being moved when it comes.
func TestPurgeOfArchived(t *testing.T) {
	t.Parallel()
	url, d, passes, ids := archived(t, 5)
	keeper := keys.New(keys.Options{Changes: d, Reads: d, Hasher: pgtest.Hasher()})
	purge := func(id uuid.UUID) {
		t.Helper()
		if err := keeper.Purge(context.Background(), db.Actor{Name: "test"}, id); err != nil {
			t.Fatal(err)
		}
	}
	texts := func() int { return pgtest.Scan[int](t, d, "SELECT count(*) FROM ledger WHERE request_id IS NOT NULL") }
	release := pgtest.Hold(t, url, "LOCK TABLE usage_events IN ACCESS SHARE MODE") // the copy is made, and waits
	var moving sync.WaitGroup
	moving.Go(func() {
		if days := archive(t, passes); days != 2 {
			t.Errorf("%d days were archived, want 2", days)
		}
	})
	for deadline := time.Now().Add(20 * time.Second); pgtest.Scan[int](t, d, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%archive_ledger_day%' AND wait_event = 'PgSleep' AND datname = current_database()") == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the archive does not wait for the reader")
		}
		time.Sleep(time.Millisecond)
	}
	purge(ids[0])
	release()
	moving.Wait()
	if n := texts(); n != 10 {
		t.Errorf("%d rows have text after the purge of a key in mid-copy, want 10", n)
	}
	purge(ids[1])
	if n := texts(); n != 5 {
		t.Errorf("%d rows have text after the purge of an archived key, want 5", n)
	}
	if rows, _ := inLedger(t, d); rows != 15 {
		t.Errorf("the ledger has %d rows of 15", rows)
	}
	if err := keeper.Purge(context.Background(), db.Actor{Name: "test"}, ids[1]); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("purged twice: %v", err)
	}
}
