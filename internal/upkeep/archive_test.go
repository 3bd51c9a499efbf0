package upkeep_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
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
	passes = keeping(d, 400)
	pgtest.Exec(t, d, "SELECT make_ledger_partitions((now() AT TIME ZONE 'UTC')::date - $1::integer, (now() AT TIME ZONE 'UTC')::date)", days)
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

func keeping(d *db.DB, days int32) *upkeep.Passes {
	return upkeep.New(upkeep.Options{DB: d, Slow: d, Log: slog.New(slog.DiscardHandler), RetentionDays: days, ArchiveDays: 2, DedupHorizon: time.Hour})
}

func archive(t *testing.T, passes *upkeep.Passes) int {
	t.Helper()
	months, err := passes.Archive(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return months
}

// inLedger are the rows of the whole ledger, and those of them that are in usage_events.
func inLedger(t *testing.T, d *db.DB) (rows, hot int) {
	t.Helper()
	return pgtest.Scan[int](t, d, "SELECT count(*) FROM ledger"), pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_events")
}

// waitForCopy waits until a month is copied and waits itself, for a transaction of the test.
func waitForCopy(t *testing.T, d *db.DB) {
	t.Helper()
	before := 0
	for deadline := time.Now().Add(20 * time.Second); ; {
		copied := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_archiving")
		if copied > 0 && copied == before {
			return
		}
		if before = copied; time.Now().After(deadline) {
			t.Error("nothing is copied")
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// young are the days that are in no month that is over for two days.
const young = "SELECT (now() AT TIME ZONE 'UTC')::date - date_trunc('month', (now() AT TIME ZONE 'UTC')::date - 2)::date + 1"

// Guarantee: each month that is old enough is moved once and whole, whoever else archives at the
// same time, and its daily partitions go; a month whose last day is past retention goes from the
// archive too, and the ledger is whole from the next one on.
func TestArchive(t *testing.T) {
	t.Parallel()
	const days = 130
	_, d, passes, _ := archived(t, days)
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() { archive(t, passes) })
	}
	group.Wait()
	archive(t, passes) // what the others left while one had its turn
	if rows, hot := inLedger(t, d); rows != 3*days || hot != 3*pgtest.Scan[int](t, d, young) {
		t.Errorf("the ledger has %d rows of %d, %d of them in usage_events", rows, 3*days, hot)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(DISTINCT event_id) FROM ledger"); n != 3*days {
		t.Errorf("%d of %d rows are there once", n, 3*days)
	}
	const months = "SELECT count(*) FROM ledger_partitions() AS p WHERE p.of_table = 'usage_archive'"
	before := pgtest.Scan[int](t, d, months)
	if done := archive(t, passes); done != 0 || before < 3 || pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_archiving") != 0 {
		t.Errorf("done again, %d months were archived; there are %d", done, before)
	}

	if err := keeping(d, 60).Tidy(context.Background()); err != nil {
		t.Fatal(err)
	}
	const first = "SELECT date_trunc('month', (now() AT TIME ZONE 'UTC')::date - 60)::date"
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM ledger WHERE received_at < ("+first+")::timestamp AT TIME ZONE 'UTC'"); n != 0 || pgtest.Scan[int](t, d, months) >= before {
		t.Errorf("%d rows are left of months that are past retention", n)
	}
	if !pgtest.Scan[bool](t, d, "SELECT ledger_whole_since('UTC') = ("+first+")") {
		t.Errorf("the ledger is whole since %v", pgtest.Scan[time.Time](t, d, "SELECT ledger_whole_since('UTC')"))
	}
}

// Guarantee: what the rollups do not hold yet stays where the roll-up looks for it, and what webhooks
// were not told of where they look; what retention is about to take is not moved first.
func TestArchiveWaits(t *testing.T) {
	t.Parallel()
	_, d, passes, _ := archived(t, 70)
	const lastMonth = "(date_trunc('month', (now() AT TIME ZONE 'UTC')::date - 2) - interval '20 days')"
	pgtest.Exec(t, d, "UPDATE rollup_state SET tail_since = "+lastMonth)
	archive(t, passes)
	before := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_events")
	pgtest.Exec(t, d, "UPDATE rollup_state SET tail_since = now()")
	pgtest.Exec(t, d, "UPDATE alert_state SET chunk = 1, opened_at = "+lastMonth)
	archive(t, passes)
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_events"); n != before || before < 3*20 {
		t.Errorf("%d rows are left of %d that are waited for", n, before)
	}
	pgtest.Exec(t, d, "UPDATE alert_state SET opened_at = now()")
	if archive(t, keeping(d, 20)) != 0 {
		t.Error("a month was moved that retention is to take")
	}
	if archive(t, passes) != 1 {
		t.Error("a month that nobody waits for stayed")
	}
}

// Guarantee: a reader sees each row once, however early its snapshot was taken and however late it
// looks: a month waits until those have ended that began before it was copied. A purge meanwhile
// takes its text out of the copy, and out of what is in the archive already; what it has missed, the
// move finds.
func TestArchiveBesideReadersAndPurges(t *testing.T) {
	t.Parallel()
	_, d, passes, ids := archived(t, 70)
	keeper := keys.New(keys.Options{Changes: d, Reads: d, Hasher: pgtest.Hasher()})
	purge := func(id uuid.UUID) {
		t.Helper()
		if err := keeper.Purge(context.Background(), db.Actor{Name: "test"}, id); err != nil {
			t.Fatal(err)
		}
	}
	gone := pgtest.Scan[string](t, d, "SELECT ledger_id::text FROM api_keys WHERE id = $1", ids[0])
	begun, look := make(chan struct{}), make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		if err := d.Snapshot(context.Background(), func(r *db.Reader) error {
			if _, err := r.Now(context.Background()); err != nil { // its instant
				return err
			}
			close(begun)
			<-look
			page, err := r.EventList(context.Background(), db.EventListParams{RowLimit: 1000})
			if len(page) != 210 {
				t.Errorf("a snapshot sees %d rows of 210", len(page))
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
	<-begun
	moved := make(chan int, 1)
	go func() { moved <- archive(t, passes) }()
	waitForCopy(t, d)
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_archive"); n != 0 {
		t.Errorf("%d rows are in the archive, which a snapshot would look for elsewhere", n)
	}
	purge(ids[0])
	const texts = "SELECT count(*) FROM usage_archiving WHERE ledger_id = $1 AND request_id IS NOT NULL"
	if n := pgtest.Scan[int](t, d, texts, gone); n != 0 {
		t.Errorf("%d copied rows of a purged key have text", n)
	}
	pgtest.Exec(t, d, "UPDATE usage_archiving SET request_id = 'missed' WHERE ledger_id = $1", gone)
	close(look)
	if <-moved == 0 {
		t.Error("nothing was archived")
	}
	group.Wait()
	purge(ids[1])
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM ledger WHERE request_id IS NOT NULL"); n != 70 {
		t.Errorf("%d rows have text after two of three keys were purged, want 70", n)
	}
	if rows, _ := inLedger(t, d); rows != 210 {
		t.Errorf("the ledger has %d rows of 210", rows)
	}
}

// Guarantee: a copy that is not the ledger's is refused, and nothing is dropped for it.
func TestArchiveRefusesAWrongCopy(t *testing.T) {
	t.Parallel()
	url, d, passes, _ := archived(t, 70)
	release := pgtest.Hold(t, url, "SELECT 1")
	failed := make(chan error, 1)
	go func() {
		_, err := passes.Archive(context.Background())
		failed <- err
	}()
	waitForCopy(t, d)
	pgtest.Exec(t, d, "UPDATE usage_archiving SET cost = 2 WHERE event_id = (SELECT event_id FROM usage_archiving LIMIT 1)")
	release()
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "rows that cost") {
		t.Errorf("a falsified copy: %v", err)
	}
	if rows, hot := inLedger(t, d); rows != 210 || hot != 210 {
		t.Errorf("the ledger has %d rows, %d of them in usage_events; want all 210", rows, hot)
	}
}
