package pgtest

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/key"
)

// Hasher hashes keys in tests: the prefix cr_, one pepper, and the legacy pepper
// of the original service's recorded facts.
func Hasher() *key.Hasher {
	return &key.Hasher{
		Prefixes: []string{"cr_"},
		Peppers:  []key.Pepper{{ID: "test", Secret: []byte("a pepper of thirty-two bytes....")}},
		Legacy:   "oracle-encryption-key-32-chars!!",
	}
}

// KeyRow is a key to be put into the database as it is, past all rules. What is
// left zero is a new, active key without limits.
type KeyRow struct {
	Name      string
	Secret    string // key text; empty: a new one
	Legacy    bool   // stored as the original service hashed it
	Fields    key.Columns
	CreatedAt time.Time // zero: now
}

// Key stores a key and returns its id and key text.
func Key(t testing.TB, d *db.DB, row KeyRow) (uuid.UUID, string) {
	t.Helper()
	ctx := context.Background()
	h := Hasher()
	if row.Name == "" {
		row.Name = "key"
	}
	if row.Secret == "" {
		row.Secret = h.Issue()
	}
	columns, wrong := key.ForCreate(field.Object{}, key.Rules{DefaultTokenLimit: 1000000}, false)
	if wrong != nil {
		t.Fatalf("defaults of a key: %v", wrong)
	}
	for column, value := range row.Fields {
		columns[column] = value
	}
	raw, err := columns.JSON()
	if err != nil {
		t.Fatal(err)
	}
	stored := h.Current(row.Secret)
	if row.Legacy {
		stored = key.Candidate{Hash: key.LegacyHash(row.Secret, h.Legacy), Scheme: key.SchemeLegacy, PepperID: key.LegacyPepperID}
	}
	id := uuid.New()
	err = d.KeyCreate(ctx, db.KeyCreateParams{KeyIDs: []uuid.UUID{id}, Names: []string{row.Name}, Hashes: [][]byte{stored.Hash},
		Hints: []string{h.Hint(row.Secret)}, PepperID: stored.PepperID, CreatedBy: "test", Fields: raw})
	if err != nil {
		t.Fatalf("storing a key: %v", err)
	}
	Exec(t, d, "UPDATE api_key_secrets SET scheme = $2 WHERE key_id = $1", id, stored.Scheme)
	if !row.CreatedAt.IsZero() {
		Exec(t, d, "UPDATE api_keys SET created_at = $2 WHERE id = $1", id, row.CreatedAt)
	}
	return id, row.Secret
}

// Exec runs a statement.
func Exec(t testing.TB, d *db.DB, sql string, args ...any) {
	t.Helper()
	if err := d.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Scan reads one value.
func Scan[T any](t testing.TB, d *db.DB, sql string, args ...any) (value T) {
	t.Helper()
	if err := d.Scan(context.Background(), sql, args, &value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// Age makes ledger rows that the rollups hold look as if they had been received when they
// occurred.
func Age(t testing.TB, d *db.DB) {
	t.Helper()
	Exec(t, d, `UPDATE usage_events AS e SET received_at = e.occurred_at
		 WHERE (e.chunk, e.ledger_id) <= (SELECT s.mark_chunk, s.mark_ledger_id FROM rollup_state AS s)`)
}

// Archive moves ledger rows received on days before the day before yesterday, of those that the
// rollups hold and that have partitions, to the archive, each day as a partition of its own. It
// returns how many days it moved.
func Archive(t testing.TB, d *db.DB) (days int) {
	t.Helper()
	const due = `SELECT coalesce(min(to_char(p.first_day, 'YYYYMMDD')), '') FROM ledger_partitions() AS p, rollup_state AS s
		 WHERE p.of_table = 'usage_events' AND p.next_day < least(s.tail_since AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC')::date - 1`
	for ; ; days++ {
		day := Scan[string](t, d, due)
		if day == "" {
			return days
		}
		Exec(t, d, fmt.Sprintf(`DO $$ BEGIN
			PERFORM archive_partitions(count(*) + 1) FROM pg_inherits AS i WHERE i.inhparent = 'usage_archive'::regclass;
			EXECUTE format('CREATE TABLE usage_archive_%[1]s PARTITION OF usage_archive FOR VALUES FROM (%%L) TO (%%L)', '%[1]s'::timestamp AT TIME ZONE 'UTC', ('%[1]s'::timestamp + interval '1 day') AT TIME ZONE 'UTC');
			INSERT INTO usage_archive TABLE usage_events_%[1]s;
			DROP TABLE usage_events_%[1]s;
			UPDATE archive_state SET archived_until = greatest(archived_until, ('%[1]s'::timestamp + interval '1 day') AT TIME ZONE 'UTC');
		END $$`, day))
	}
}

// Hold runs a statement in a transaction and keeps its locks, as a forgotten psql
// would, until release is called or the test ends.
func Hold(t testing.TB, url, sql string, args ...any) (release func()) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatalf("connecting to hold locks: %v", err)
	}
	tx, err := conn.Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, sql, args...)
	}
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	release = sync.OnceFunc(func() { _ = conn.Close(ctx) })
	t.Cleanup(release)
	return release
}

// Fill stores keys with usage on each of so many days up to today, straight in the tables.
func Fill(t testing.TB, d *db.DB, keys, days int) {
	t.Helper()
	Exec(t, d, `INSERT INTO api_keys (id, name, description, token_limit, rate_limit_window, rate_limit_requests, concurrency_limit,
			daily_cost_limit, weekly_cost_limit, monthly_cost_limit, total_cost_limit, permissions, enable_model_restriction, restricted_models, allowed_models,
			enable_client_restriction, allowed_clients, enforcement, tags, is_active, created_by, created_at)
		SELECT gen_random_uuid(), 'key ' || n, '', 0, 0, 0, 0, 0, 0, 0, 0, '{all}', false, '{}', '{}', false, '{}', 'enforce', '{}', true, 'test',
			now() - n * interval '1 minute' FROM generate_series(1, $1::int) AS n`, keys)
	for _, sql := range []string{
		`INSERT INTO api_key_secrets SELECT sha256(id::text::bytea), id, 'hmac-sha256', 'test', 'cr_' || left(id::text, 4) || '...' FROM api_keys`,
		`INSERT INTO key_counters (key_id) SELECT id FROM api_keys`,
		`INSERT INTO usage_daily SELECT ledger_id, current_date - n, 'gpt-4o', tag_set, 10, 1000, 100, 0, 0, 0, (hashtext(id::text) & 1023) / 1000.0 FROM api_keys, generate_series(0, ` + strconv.Itoa(days-1) + `) AS n`,
		`INSERT INTO model_usage (day, model, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost)
			SELECT day, model, sum(requests), sum(input_tokens), sum(output_tokens), 0, 0, 0, sum(cost) FROM stored_usage_daily GROUP BY day, model`,
		`UPDATE key_counters AS c SET day = current_date, day_cost = s.cost / 10, month = date_trunc('month', current_date), month_cost = s.cost, requests = s.requests, input_tokens = s.input, output_tokens = s.output, cost = s.cost, last_used_at = now() - (hashtext(c.key_id::text) & 65535) * interval '1 second'
			FROM (SELECT k.id, sum(u.requests) AS requests, sum(u.input_tokens) AS input, sum(u.output_tokens) AS output, sum(u.cost) AS cost FROM stored_usage_daily AS u JOIN api_keys AS k ON k.ledger_id = u.ledger_id GROUP BY k.id) AS s WHERE s.id = c.key_id`,
		`ANALYZE`,
	} {
		Exec(t, d, sql)
	}
}
