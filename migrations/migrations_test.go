package migrations_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func open(t *testing.T, url string) *migrations.Migrator {
	t.Helper()
	m, err := migrations.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// schema describes tables, columns, constraints, indexes, functions, triggers and
// comments of a database.
const schema = `SELECT string_agg(line, E'\n' ORDER BY line) FROM (
	SELECT format('column %s.%s %s %s %s %s', c.table_name, c.column_name, c.data_type, c.is_nullable, c.column_default, c.ordinal_position) FROM information_schema.columns AS c WHERE c.table_schema = 'public'
	UNION ALL SELECT format('constraint %s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
	UNION ALL SELECT format('index %s', indexdef) FROM pg_indexes WHERE schemaname = 'public'
	UNION ALL SELECT format('function %s %s', p.oid::regprocedure, md5(prosrc)) FROM pg_proc AS p WHERE pronamespace = 'public'::regnamespace
	UNION ALL SELECT format('trigger %s', pg_get_triggerdef(oid)) FROM pg_trigger WHERE NOT tgisinternal
	UNION ALL SELECT format('comment %s %s %s', objoid::regclass, objsubid, description) FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid::regclass::text !~ '^pg_|information_schema'
) AS x (line)`

// Guarantee: the schema after up, all the way down and up again is the one after
// the first up, and down leaves nothing behind.
func TestUpDownUp(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	url := pgtest.EmptyURL(t)
	m, d := open(t, url), pgtest.Open(t, url)
	up, err := m.Up(ctx)
	if err != nil || int64(len(up)) != migrations.Needed() {
		t.Fatalf("up: %v %v", up, err)
	}
	first := pgtest.Scan[string](t, d, schema)
	for range up {
		if _, err := m.Down(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(pgtest.Scan[string](t, d, schema)) {
		if !strings.Contains(line, "goose_db_version") {
			t.Errorf("down left behind: %s", line)
		}
	}
	if again, err := m.Down(ctx); err != nil || len(again) != 0 {
		t.Errorf("down with nothing applied: %v %v", again, err)
	}
	if _, err := m.Up(ctx); err != nil {
		t.Fatal(err)
	}
	if second := pgtest.Scan[string](t, d, schema); second != first {
		t.Errorf("the schema differs after a round trip:\n%s\n---\n%s", first, second)
	}
}

// Guarantee: a migration does not queue behind a long transaction, holding up all that
// come after it: it gives up, says so, and leaves the schema as it was.
func TestTableInUse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	url := pgtest.URL(t)
	m, d := open(t, url), pgtest.Open(t, url)
	release := pgtest.Hold(t, url, "SELECT FROM usage_daily")
	var before string
	for { // down to the first migration that needs a table in use
		before = pgtest.Scan[string](t, d, schema)
		if _, err := m.Down(ctx); err != nil {
			if !strings.Contains(err.Error(), "a table is in use by a long transaction") {
				t.Error(err)
			}
			break
		}
	}
	at, _, err := m.Versions(ctx)
	if err != nil || at == 0 {
		t.Fatalf("at %d, %v", at, err)
	}
	if after := pgtest.Scan[string](t, d, schema); after != before {
		t.Error("the schema is not as it was")
	}
	release()
	if _, err := m.Up(ctx); err != nil {
		t.Error(err)
	}
}

// Guarantee: of many processes that migrate at once one applies each migration,
// the others wait, and all succeed.
func TestConcurrentUp(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	var mu sync.Mutex
	applied := map[int64]int{}
	var group sync.WaitGroup
	for range 4 {
		m := open(t, url)
		group.Go(func() {
			done, err := m.Up(context.Background())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, step := range done {
				applied[step.Version]++
			}
		})
	}
	group.Wait()
	for v := range migrations.Needed() {
		if applied[v+1] != 1 {
			t.Errorf("migration %d was applied %d times", v+1, applied[v+1])
		}
	}
}

// Guarantee: versions tell a schema that is behind from one that is not, and
// status lists what is pending.
func TestVersions(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	m := open(t, pgtest.EmptyURL(t))
	if current, needed, err := m.Versions(ctx); err != nil || current != 0 || needed != migrations.Needed() {
		t.Errorf("an empty database: %d of %d %v", current, needed, err)
	}
	if _, err := m.Up(ctx); err != nil {
		t.Fatal(err)
	}
	if current, needed, err := m.Versions(ctx); err != nil || current != needed {
		t.Errorf("after up: %d of %d %v", current, needed, err)
	}
	if _, err := m.Down(ctx); err != nil {
		t.Fatal(err)
	}
	steps, err := m.Status(ctx)
	if err != nil || steps[len(steps)-1].Applied != nil || steps[0].Applied == nil {
		t.Errorf("status after one down: %+v %v", steps, err)
	}
}

// Guarantee: every table, column and function explains itself in psql, the
// ledger's partitions too.
func TestComments(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	pgtest.Exec(t, d, "SELECT make_ledger_partitions(current_date, current_date + 1)")
	bare := pgtest.Scan[string](t, d, `SELECT coalesce(string_agg(what, ', '), '') FROM (
		SELECT c.relname || coalesce('.' || a.attname, '') FROM pg_class AS c
		  LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
		   AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)
		UNION ALL SELECT p.proname FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
	) AS x (what)`)
	if bare != "" {
		t.Errorf("without a comment: %s", bare)
	}
}

// Guarantee: a bad URL is refused without a word of it in the error: it may hold
// a password.
func TestBadURL(t *testing.T) {
	t.Parallel()
	if _, err := migrations.Open("postgres://u:hunter2@[bad"); err == nil || strings.Contains(fmt.Sprint(err), "hunter2") {
		t.Errorf("bad URL: %v", err)
	}
}
