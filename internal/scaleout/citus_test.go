//go:build citus

package scaleout_test

import (
	"context"
	"fmt"
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
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/report"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/scaleout"
	"github.com/keyledger/keyledger/internal/usage"
)

// holder is a key, and the id that the ledger has for it.
type holder struct{ key, ledger uuid.UUID }

func makeHolder(t *testing.T, d *db.DB) holder {
	t.Helper()
	id, _ := pgtest.Key(t, d, pgtest.KeyRow{})
	return holder{id, pgtest.Scan[uuid.UUID](t, d, "SELECT ledger_id FROM api_keys WHERE id = $1", id)}
}

// record puts so many requests of a key into the ledger, as a writer does: it keeps the chunk open.
func (h holder) record(t *testing.T, d *db.DB, n int) {
	t.Helper()
	pgtest.Exec(t, d, fmt.Sprintf(`BEGIN;
		SELECT pg_advisory_xact_lock_shared(hashtext('keyledger.chunk'));
		INSERT INTO usage_events (event_id, received_at, kind, ledger_id, chunk, account_id, model, model_received, occurred_at, day, tag_set, requests,
			input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost, priced, estimated)
		SELECT gen_random_uuid(), clock_timestamp(), 'usage', '%s', s.open_chunk, 'a', 'm', 'm', now(), current_date, '00000000-0000-0000-0000-000000000000', 1, 1, 1, 0, 0, 0, 0.5, true, false
		  FROM rollup_state AS s, generate_series(1, %d);
		COMMIT`, h.ledger, n))
}

// agrees proves the rollups against the ledger. The counters of keys know nothing of these events.
func agrees(t *testing.T, d *db.DB) {
	t.Helper()
	found, err := report.New(d, "UTC").Reconcile(context.Background(), time.Now().AddDate(0, 0, -2), time.Now().AddDate(0, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range found.Differences {
		if one.Rollup != "key_counters" {
			t.Errorf("sums disagree: %+v", one)
		}
	}
}

// shape is what the schema says of the tables that move.
func shape(t *testing.T, d *db.DB) string {
	t.Helper()
	return pgtest.Scan[string](t, d, `SELECT string_agg(x.line, E'\n' ORDER BY x.line) FROM (
		SELECT c.relname || ' ' || coalesce(obj_description(c.oid), '') AS line FROM pg_class AS c WHERE c.relname ~ '^(usage_daily|daily_cost|usage_archive|usage_archiving|stored_.*)$'
		UNION ALL SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || a.attnotnull || coalesce(col_description(c.oid, a.attnum), '')
		  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped WHERE c.relname ~ '^(usage_daily|daily_cost|usage_archive|usage_archiving|stored_.*)$'
		UNION ALL SELECT c.relname || ' ' || c.relowner::regrole || ' ' || coalesce(c.relacl::text, '') || coalesce(c.reloptions::text, '')
		  FROM pg_class AS c WHERE c.relkind IN ('r', 'p') AND c.relname ~ '^(usage_daily|daily_cost|usage_archiv)'
		UNION ALL SELECT c.relname || ' ' || pg_get_viewdef(c.oid) FROM pg_class AS c WHERE c.relname ~ '^stored_'
		UNION ALL SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p WHERE p.proname IN ('of_key', 'rollup_settle', 'archive_partitions')
		UNION ALL SELECT i.tablename || ' ' || i.indexdef FROM pg_indexes AS i WHERE i.tablename ~ '^(usage_daily|daily_cost|usage_archiv)') AS x`)
}

// Guarantee: rollups and archive go to the workers and come back beside writers, the roll-up and
// readers: no sum is ever wrong, a second apply has nothing to do, what was broken off goes on, and what
// comes back has the columns, indexes and comments that it went with.
func TestApplyAndBack(t *testing.T) {
	ctx := context.Background()
	d := pgtest.New(t)
	s := scaleout.New(d, scaleout.Options{Shards: 4})
	quiet := func(scaleout.Step, time.Duration) {}
	if err := s.Undo(ctx, quiet); err != nil { // pgtest has scaled it out
		t.Fatal(err)
	}
	pgtest.Exec(t, d, "GRANT SELECT ON usage_daily TO keyledger_reader")
	pgtest.Exec(t, d, "CREATE TABLE usage_archive_202001 PARTITION OF usage_archive FOR VALUES FROM ('2020-01-01Z') TO ('2020-02-01Z')")
	pgtest.Exec(t, d, "SELECT explain_ledger_partition('usage_archive_202001', 'Of a month.')")
	before := shape(t, d)
	if strings.Contains(before, "scale_out") {
		t.Errorf("undone, it is\n%s", before)
	}
	holders := []holder{makeHolder(t, d), makeHolder(t, d)}
	stop, failed := make(chan struct{}), atomic.Int64{}
	var all sync.WaitGroup
	var recorded atomic.Int64
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				holders[1].record(t, d, 3)
				holders[0].record(t, d, 3)
				recorded.Add(3)
			}
		}
	})
	all.Go(func() {
		roll := rollup.New(d, "UTC")
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				if _, err := roll.Roll(ctx); err != nil {
					if !db.Stuck(err) { // the tables are moving
						t.Errorf("rolling up: %v", err)
					}
				}
			}
		}
	})
	var read atomic.Int64
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			least := recorded.Load()
			models, err := db.Steady(ctx, d, func(q *db.Queries) ([]db.KeyUsageModelsRow, error) { return q.KeyUsageModels(ctx, holders[0].key) })
			if err != nil { // told, and to be tried again
				failed.Add(1)
				t.Logf("to be tried again: %v", err)
				continue
			}
			read.Add(1)
			sum := int64(0)
			for _, one := range models {
				sum += one.Requests
			}
			if most := recorded.Load() + 3; sum < least || sum > most {
				t.Errorf("%d requests were read of %d to %d", sum, least, most)
			}
		}
	})
	var snapshots atomic.Int64
	all.Go(func() { // as reports read: on a snapshot that may be older than what has come back
		for {
			select {
			case <-stop:
				return
			default:
			}
			var sum, least, most int64
			err := d.Snapshot(ctx, func(r *db.Reader) error {
				least = recorded.Load()
				if _, err := r.Now(ctx); err != nil {
					return err
				}
				most = recorded.Load() + 3
				time.Sleep(300 * time.Millisecond)
				models, err := r.KeyUsageModels(ctx, holders[0].key)
				sum = 0
				for _, one := range models {
					sum += one.Requests
				}
				return err
			})
			if err != nil {
				failed.Add(1)
				t.Logf("a snapshot, to be tried again: %v", err)
				continue
			}
			snapshots.Add(1)
			if sum < least || sum > most {
				t.Errorf("%d requests were read of a snapshot with %d to %d", sum, least, most)
			}
		}
	})
	for round := range 2 {
		var steps []string
		if err := s.Apply(ctx, func(step scaleout.Step, _ time.Duration) { steps = append(steps, step.Name) }); err != nil {
			t.Fatal(err)
		}
		if len(steps) < 5 {
			t.Errorf("apply did %v", steps)
		}
		if err := s.Apply(ctx, func(step scaleout.Step, _ time.Duration) {
			t.Errorf("applied again, it did %s", step.Name)
		}); err != nil {
			t.Fatal(err)
		}
		st, err := s.Status(ctx)
		if err != nil || st.Workers == 0 || !st.Whole {
			t.Fatalf("status: %+v, %v", st, err)
		}
		for _, table := range st.Tables {
			if !table.Distributed || table.Shards != 4 {
				t.Errorf("scaled out: %+v", table)
			}
		}
		time.Sleep(2 * time.Second)
		if round == 0 { // broken off: half of it comes back, and all of it goes again
			pgtest.Exec(t, d, "CREATE OR REPLACE VIEW stored_daily_cost AS SELECT t.ledger_id, t.day, t.cost FROM daily_cost AS t")
			if st, err := s.Status(ctx); err != nil || st.Whole {
				t.Errorf("in part: %+v, %v", st, err)
			}
			if err := s.Apply(ctx, quiet); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Undo(ctx, quiet); err != nil {
			t.Fatal(err)
		}
		if after := shape(t, d); after != before {
			t.Errorf("come back, it is\n%s\nand was\n%s", after, before)
		}
	}
	close(stop)
	all.Wait()
	agrees(t, d)
	if read.Load() < 20 || snapshots.Load() < 5 {
		t.Errorf("only %d sums were read, and %d times it was to be tried again", read.Load(), failed.Load())
	}
	t.Logf("%d requests, %d sums and %d snapshots read, %d to be tried again", recorded.Load(), read.Load(), snapshots.Load(), failed.Load())
}

// Guarantee: text that is taken out of the archive while it comes back is gone from what has come back.
func TestPurgeBesideUndo(t *testing.T) {
	ctx := context.Background()
	url := pgtest.URL(t)
	d := pgtest.Open(t, url)
	h := makeHolder(t, d)
	pgtest.Exec(t, d, "SELECT make_ledger_partitions(current_date - 9, current_date)")
	h.record(t, d, 5)
	if _, err := rollup.New(d, "UTC").Roll(ctx); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, d, "UPDATE usage_events SET request_id = 'secret', occurred_at = now() - interval '8 days'")
	pgtest.Age(t, d)
	if days := pgtest.Archive(t, d); days == 0 {
		t.Fatal("nothing was archived")
	}
	release := pgtest.Hold(t, url, "SELECT count(*) FROM stored_usage_archive") // the copy is made, and waits for this
	undone := make(chan error, 1)
	go func() { undone <- scaleout.New(d, scaleout.Options{}).Undo(ctx, func(scaleout.Step, time.Duration) {}) }()
	time.Sleep(2 * time.Second)
	time.AfterFunc(time.Second, release)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) { // as a caller does who is told to try again
		err := d.Exec(ctx, "UPDATE usage_archive SET request_id = NULL")
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if err := <-undone; err != nil {
		t.Fatal(err)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_archive WHERE request_id IS NOT NULL"); n != 0 {
		t.Errorf("%d rows have their text again", n)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM ledger"); n != 5 {
		t.Errorf("the ledger has %d rows of 5", n)
	}
}

// Guarantee: whoever does not own the tables can neither move them nor bring them back: readers would connect as
// somebody else than the one who may read, and what comes back would be another's.
func TestOwner(t *testing.T) {
	ctx := context.Background()
	d := pgtest.New(t)
	pgtest.Exec(t, d, "ALTER TABLE usage_daily OWNER TO keyledger_reader")
	s := scaleout.New(d, scaleout.Options{})
	quiet := func(step scaleout.Step, _ time.Duration) { t.Errorf("it did %s", step.Name) }
	for name, err := range map[string]error{"apply": s.Apply(ctx, quiet), "undo": s.Undo(ctx, quiet)} {
		if err == nil || !strings.Contains(err.Error(), "belong to keyledger_reader") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Guarantee: what partitions the archive has is seen as it is now, also by a snapshot of before, so that it is told
// of a month that no worker has.
func TestArchiveOfNow(t *testing.T) {
	ctx := context.Background()
	d := pgtest.New(t)
	move := sync.OnceFunc(func() {
		pgtest.Exec(t, d, "CREATE TABLE usage_archive_202001 PARTITION OF usage_archive FOR VALUES FROM ('2020-01-01Z') TO ('2020-02-01Z')")
	})
	err := d.Snapshot(ctx, func(r *db.Reader) error {
		if _, err := r.Now(ctx); err != nil {
			return err
		}
		move()
		_, err := r.EventList(ctx, db.EventListParams{RowLimit: 10})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "run it again") {
		t.Errorf("reading an archive that no worker has: %v", err)
	}
	pgtest.Exec(t, d, "SELECT archive_partitions(1)")
	if _, err := db.Steady(ctx, d, func(q *db.Queries) ([]db.EventListRow, error) {
		return q.EventList(ctx, db.EventListParams{RowLimit: 10})
	}); err != nil {
		t.Error(err)
	}
}

// Guarantee: whoever reads the bill reads rows on workers too, and no table, so no hash.
func TestReader(t *testing.T) {
	ctx := context.Background()
	d := pgtest.New(t)
	makeHolder(t, d).record(t, d, 5)
	if _, err := rollup.New(d, "UTC").Roll(ctx); err != nil {
		t.Fatal(err)
	}
	as := func(sql string) error {
		return d.Exec(ctx, "BEGIN; SET LOCAL ROLE keyledger_reader; "+sql+"; COMMIT")
	}
	if err := as("SELECT 1 / (CASE WHEN sum(requests) = 5 THEN 1 ELSE 0 END) FROM reporting.usage_by_key_day"); err != nil {
		t.Errorf("reading as keyledger_reader: %v", err)
	}
	for _, table := range []string{"usage_daily", "scale_out.usage_daily", "api_key_secrets", "stored_usage_daily"} {
		if err := as(fmt.Sprintf("SELECT count(*) FROM %s", table)); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("keyledger_reader reads %s: %v", table, err)
		}
	}
}

// Guarantee: a step of the roll-up between a reader's snapshot and what he reads on workers is found out, and
// he reads again: with one statement, and with a snapshot that is older than its first look at a rollup.
func TestStepBetween(t *testing.T) {
	ctx := context.Background()
	d := pgtest.New(t)
	h := makeHolder(t, d)
	roll := rollup.New(d, "UTC")
	h.record(t, d, 5)
	if _, err := roll.Roll(ctx); err != nil {
		t.Fatal(err)
	}
	h.record(t, d, 7)
	tries := 0
	err := d.Snapshot(ctx, func(r *db.Reader) error {
		tries++
		if _, err := r.Now(ctx); err != nil { // from here on it sees seven in the tail
			return err
		}
		if tries == 1 {
			if _, err := roll.Roll(ctx); err != nil {
				t.Error(err)
			}
		}
		models, err := r.KeyUsageModels(ctx, h.key)
		if err != nil {
			return err
		}
		if len(models) != 1 || models[0].Requests != 12 {
			t.Errorf("try %d: %+v, want 12 requests", tries, models)
		}
		return nil
	})
	if err != nil || tries != 2 {
		t.Errorf("%d tries, %v", tries, err)
	}
}

// Guarantee: while a worker takes no connections, usage is recorded, and events that are not archived are found and
// taken back; what needs that worker is refused, and is right when it is back. Then events of the
// archive are taken back too, once, and an event that is nowhere is not found, with the plans that the service has.
func TestWithoutAWorker(t *testing.T) {
	ctx := context.Background()
	url := pgtest.URL(t)
	d := pgtest.Open(t, url)
	h := makeHolder(t, d)
	hot, err := db.OpenHot(ctx, url, 2, db.Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hot.Close)
	recorder := usage.New(usage.Options{Fast: hot, Patient: hot, Prices: price.New(d, cache.Deaf), Timezone: "UTC", Writers: coalesce.NewWriters(1)})
	roll := rollup.New(d, "UTC")
	record := func() uuid.UUID {
		t.Helper()
		results, err := recorder.Record(ctx, []usage.Event{{KeyID: h.key, Model: "m", ModelReceived: "m", OccurredAt: time.Now().AddDate(0, 0, -8), Counts: usage.Counts{Input: 5}}})
		if err != nil {
			t.Fatal(err)
		}
		return results[0].EventID
	}
	void := func(id uuid.UUID) {
		t.Helper()
		if _, err := recorder.Void(ctx, db.Actor{Name: "test"}, id, "a test"); err != nil {
			t.Errorf("taking an event back: %v", err)
		}
	}
	find := func(id uuid.UUID) db.EventFindRow {
		t.Helper()
		found, err := db.Steady(ctx, d, func(q *db.Queries) (db.EventFindRow, error) { return q.EventFind(ctx, id) })
		if err != nil {
			t.Errorf("finding an event: %v", err)
		}
		return found
	}
	read := func() (requests int64, err error) {
		models, err := db.Steady(ctx, d, func(q *db.Queries) ([]db.KeyUsageModelsRow, error) { return q.KeyUsageModels(ctx, h.key) })
		for _, one := range models {
			requests += one.Requests
		}
		return requests, err
	}
	pgtest.Exec(t, d, "SELECT make_ledger_partitions(current_date - 9, current_date)")
	old, taken, rolled := record(), record(), record()
	void(taken)
	if _, err := roll.Roll(ctx); err != nil {
		t.Fatal(err)
	}

	database := pgtest.Scan[string](t, d, "SELECT current_database()")
	allow := func(connections bool) {
		t.Helper()
		for _, node := range pgtest.CitusNodes()[1:] {
			w := pgtest.Open(t, node)
			pgtest.Exec(t, w, fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS %t", database, connections))
			pgtest.Exec(t, w, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", database)
		}
	}
	allow(false)
	back := sync.OnceFunc(func() { allow(true) })
	t.Cleanup(back)
	for _, id := range []uuid.UUID{rolled, record()} {
		if found := find(id); found.LedgerRow.InputTokens != 5 || len(found.Adjustments) != 0 {
			t.Errorf("an event that is not archived: %+v", found)
		}
		void(id)
	}
	if requests, err := read(); err == nil {
		t.Errorf("usage of a key is %d without its worker", requests)
	}
	back()
	if requests, err := read(); err != nil || requests != 1 {
		t.Errorf("usage of a key is %d, want 1: %v", requests, err)
	}

	if _, err := roll.Roll(ctx); err != nil {
		t.Error(err)
	}
	pgtest.Age(t, d)
	if days := pgtest.Archive(t, d); days == 0 || pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_events") != 0 {
		t.Errorf("%d days were archived", days)
	}
	void(old)
	void(old)
	void(taken)
	if found := find(old); found.RequestsNow != 0 || len(found.Adjustments) != 1 {
		t.Errorf("an archived event that was taken back twice: %+v", found)
	}
	if found := find(taken); found.RequestsNow != 0 || len(found.Adjustments) != 1 {
		t.Errorf("an archived event with its adjustment: %+v", found)
	}
	if _, err := recorder.Void(ctx, db.Actor{Name: "test"}, uuid.New(), "a test"); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("taking back what there is not: %v", err)
	}
	if requests, err := read(); err != nil || requests != 0 {
		t.Errorf("usage of a key is %d, want 0: %v", requests, err)
	}
}
