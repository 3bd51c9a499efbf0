package db_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// planned are the statements of the hot path, with the most buffers that each may touch a
// row of its input. Those that must run before another in its transaction stand before it.
var planned = []struct {
	name    string
	buffers float64
	ask     func(q *db.Queries, b batch) error
}{
	{"SecretFind", 8, func(q *db.Queries, b batch) error {
		_, err := q.SecretFind(context.Background(), db.SecretFindParams{Hashes: b.hashes, Questions: make([]int64, len(b.hashes)), RowLimit: int32(len(b.hashes))})
		return err
	}},
	{"CountersLock", 8, func(q *db.Queries, b batch) error { return q.CountersLock(context.Background(), b.keys) }},
	{"Admit", 90, func(q *db.Queries, b batch) error {
		_, err := q.Admit(context.Background(), b.admit())
		return err
	}},
	{"AdmissionKeys", 6, func(q *db.Queries, b batch) error {
		_, err := q.AdmissionKeys(context.Background(), b.admissions)
		return err
	}},
	{"LeasesChange", 60, func(q *db.Queries, b batch) error {
		seconds := make([]int32, len(b.admissions)) // every second one ends
		for i := range seconds {
			seconds[i] = int32(i%2) * 60
		}
		_, err := q.LeasesChange(context.Background(), db.LeasesChangeParams{IDs: b.admissions, LeaseSeconds: seconds, ReservationSeconds: 3600})
		return err
	}},
	{"LedgerLock", 8, func(q *db.Queries, b batch) error { return q.LedgerLock(context.Background(), b.keys) }},
	{"LedgerAppend", 140, func(q *db.Queries, b batch) error {
		_, err := q.LedgerAppend(context.Background(), b.usage())
		return err
	}},
	{"AdmissionEnds", 200, func(q *db.Queries, b batch) error {
		_, err := q.AdmissionEnds(context.Background(), db.AdmissionEndsParams{KeyID: b.keys[0], Now: time.Now()})
		return err
	}},
}

// batch is what a batch of requests names.
type batch struct {
	keys, admissions []uuid.UUID
	hashes           [][]byte
}

const batchSize = 64

func (b batch) admit() (p db.AdmitParams) {
	p = db.AdmitParams{DefaultEstimate: decimal.Zero, ReservationSeconds: 3600, Timezone: "UTC"}
	for i, key := range b.keys {
		p.IDs, p.KeyIDs, p.RequestIDs = append(p.IDs, uuid.New()), append(p.KeyIDs, key), append(p.RequestIDs, fmt.Sprintf("q%d", i))
		p.Services, p.Models, p.ModelNames = append(p.Services, "claude"), append(p.Models, "m"), append(p.ModelNames, "m")
		p.DeniedNames, p.Clients, p.Tokens = append(p.DeniedNames, "m"), append(p.Clients, ""), append(p.Tokens, 10)
		p.Costs, p.LeaseSeconds = append(p.Costs, "0.01"), append(p.LeaseSeconds, 60)
		p.Unpriced, p.Dry = append(p.Unpriced, false), append(p.Dry, false)
	}
	return p
}

func (b batch) usage() (p db.LedgerAppendParams) {
	p = db.LedgerAppendParams{Timezone: "UTC"}
	for i, key := range b.keys {
		p.EventIDs, p.Kinds, p.KeyIDs = append(p.EventIDs, uuid.New()), append(p.Kinds, "usage"), append(p.KeyIDs, key)
		p.DedupKeys, p.AccountIDs = append(p.DedupKeys, fmt.Sprintf("r:u%d", i)), append(p.AccountIDs, fmt.Sprintf("account-%d", i%5))
		p.Models, p.ModelsReceived, p.RequestIDs = append(p.Models, "m"), append(p.ModelsReceived, "m"), append(p.RequestIDs, fmt.Sprintf("u%d", i))
		p.OccurredAts, p.Requests = append(p.OccurredAts, time.Now()), append(p.Requests, 1)
		p.InputTokens, p.OutputTokens = append(p.InputTokens, 10), append(p.OutputTokens, 1)
		p.CacheCreateTokens, p.CacheReadTokens = append(p.CacheCreateTokens, 0), append(p.CacheReadTokens, 0)
		p.Ephemeral1hTokens, p.Estimated, p.Vias = append(p.Ephemeral1hTokens, 0), append(p.Estimated, false), append(p.Vias, "")
		p.LedgerIDs, p.TagSets = append(p.LedgerIDs, uuid.Nil), append(p.TagSets, uuid.Nil)
		p.Costs, p.Priced, p.Fingerprints = append(p.Costs, "0.01"), append(p.Priced, true), append(p.Fingerprints, int64(i))
		p.Adjusts, p.Reasons = append(p.Adjusts, uuid.Nil), append(p.Reasons, "")
		p.AdmissionIDs, p.Units = append(p.AdmissionIDs, b.admissions[i]), append(p.Units, int64(i))
	}
	return p
}

// keysOf is the SQL of n keys from the first on, each with a secret, a day's usage and
// three open admissions.
const keysOf = `
SET session_replication_role = replica;
INSERT INTO api_keys (id, ledger_id, name, description, token_limit, rate_limit_window, rate_limit_requests, concurrency_limit, daily_cost_limit, weekly_cost_limit,
       monthly_cost_limit, total_cost_limit, permissions, enable_model_restriction, restricted_models, allowed_models, enable_client_restriction,
       allowed_clients, enforcement, tags, is_active, created_by)
SELECT md5('k' || n)::uuid, md5('l' || n)::uuid, 'key ' || n, '', 1000000, 60, 100000, 100, 100, 100, 100, 100, '{all}', false, '{}', '{}', false, '{}', 'enforce', '{}', true, 'test'
  FROM generate_series(%[1]d, %[2]d) AS n;
INSERT INTO api_key_secrets (hash, key_id, scheme, pepper_id, hint) SELECT sha256(('k' || n)::bytea), md5('k' || n)::uuid, 'hmac-sha256', 'p', 'h' FROM generate_series(%[1]d, %[2]d) AS n;
INSERT INTO key_counters (key_id) SELECT md5('k' || n)::uuid FROM generate_series(%[1]d, %[2]d) AS n;
INSERT INTO admissions (id, key_id, request_id, admitted_at, lease_expires_at, reserved_until, reserved_tokens, reserved_cost)
SELECT md5('a' || n || '-' || i)::uuid, md5('k' || n)::uuid, 'a' || i, now(), now() + interval '5 minutes', now() + interval '1 hour', 1, 0.01
  FROM generate_series(%[1]d, %[2]d) AS n, generate_series(1, 3) AS i;
INSERT INTO usage_dedup (ledger_id, dedup_key, event_id, model, cost, priced, fingerprint, received_at)
SELECT md5('l' || n)::uuid, 'r:old', gen_random_uuid(), 'm', 0, true, 0, now() FROM generate_series(%[1]d, %[2]d) AS n;
RESET session_replication_role`

// Guarantee: the plan of each statement of the hot path is the same whatever the state of
// the tables and their statistics: on a new database, on one just filled, on one that was
// analysed while it was empty, and on a large one; and what a row costs does not grow
// with the tables.
func TestHotStatementsHaveOnePlan(t *testing.T) {
	t.Parallel()
	shapes := map[string]string{}
	for _, state := range []struct {
		name string
		sql  []string
	}{
		{"100 000 rows, analysed", []string{fmt.Sprintf(keysOf, 1, 100_000), "ANALYZE"}},
		{"empty, never analysed", nil},
		{"500 rows, never analysed", []string{fmt.Sprintf(keysOf, 1, 500)}},
		{"10 000 rows, never analysed", []string{fmt.Sprintf(keysOf, 1, 10_000)}},
		{"analysed while empty, then 10 000 rows", []string{"ANALYZE", fmt.Sprintf(keysOf, 1, 10_000)}},
		{"analysed with 500 rows, then 10 000 more", []string{fmt.Sprintf(keysOf, 1, 500), "ANALYZE", fmt.Sprintf(keysOf, 501, 10_500)}},
	} {
		dbURL := pgtest.URL(t)
		d := pgtest.Open(t, dbURL)
		for _, sql := range state.sql {
			pgtest.Exec(t, d, sql)
		}
		b := batchOf(t, d)
		conn := hotConn(t, dbURL)
		for i, s := range planned {
			shape, buffers := explain(t, conn, fmt.Sprintf("s%d", i), func(q *db.Queries) error { return s.ask(q, b) })
			if first, known := shapes[s.name]; !known {
				shapes[s.name] = shape
				if strings.Contains(shape, "Seq Scan") {
					t.Errorf("%s reads a whole table:\n%s", s.name, shape)
				}
			} else if shape != first {
				t.Errorf("%s, %s: the plan is\n%s\nand was\n%s", s.name, state.name, shape, first)
			}
			rows := 1.0
			if s.name != "AdmissionEnds" {
				rows = batchSize
			}
			if each := float64(buffers) / rows; each > s.buffers {
				t.Errorf("%s, %s: %.1f buffers a row, at most %.0f are fair", s.name, state.name, each, s.buffers)
			}
		}
	}
}

// Guarantee: tables that have outgrown their statistics are analysed, and a plan that a
// connection made while they were tiny is made anew; others are left alone.
func TestRefreshStatistics(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dbURL := pgtest.URL(t)
	d := pgtest.Open(t, dbURL)
	pgtest.Exec(t, d, fmt.Sprintf(keysOf, 1, 3))
	pgtest.Exec(t, d, "ANALYZE")
	if tables, err := d.RefreshStatistics(ctx); err != nil || len(tables) != 0 {
		t.Errorf("nothing has grown: %v, %v", tables, err)
	}
	b := batchOf(t, d)
	conn := hotConn(t, dbURL)
	ask := func(q *db.Queries) error { return planned[1].ask(q, b) } // CountersLock
	before, _ := explain(t, conn, "tiny", ask)
	pgtest.Exec(t, d, fmt.Sprintf(keysOf, 4, 10_000))
	tables, err := d.RefreshStatistics(ctx)
	if err != nil || !slices.Contains(tables, "api_keys") || !slices.Contains(tables, "key_counters") || !slices.Contains(tables, "admissions") {
		t.Errorf("analysed %v, %v", tables, err)
	}
	after, buffers := explain(t, conn, "tiny", ask)
	if !strings.Contains(after, "key_counters_pkey") || buffers > 8*batchSize {
		t.Errorf("before:\n%s\nafter, %d buffers:\n%s", before, buffers, after)
	}
	if tables, err := d.RefreshStatistics(ctx); err != nil || len(tables) != 0 {
		t.Errorf("analysed again: %v, %v", tables, err)
	}
}

func batchOf(t *testing.T, d *db.DB) (b batch) {
	t.Helper()
	for i := range batchSize {
		b.keys = append(b.keys, pgtest.Scan[uuid.UUID](t, d, fmt.Sprintf("SELECT md5('k%d')::uuid", 1+i*7)))
		b.admissions = append(b.admissions, pgtest.Scan[uuid.UUID](t, d, fmt.Sprintf("SELECT md5('a%d-1')::uuid", 1+i*7)))
		b.hashes = append(b.hashes, pgtest.Scan[[]byte](t, d, fmt.Sprintf("SELECT sha256('k%d'::bytea)", 1+i*7)))
	}
	return b
}

// hotConn is a connection as the pools of the hot path have it.
func hotConn(t *testing.T, dbURL string) *pgx.Conn {
	t.Helper()
	ctx := context.Background()
	hot, err := db.OpenHot(ctx, dbURL, 1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hot.Close)
	conn, err := pgx.ConnectConfig(ctx, hot.ConnConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	return conn
}

// explain runs a query under its generic plan, in a transaction that is rolled back, and
// returns by which indexes it reads, and how many buffers it touched.
func explain(t *testing.T, conn *pgx.Conn, name string, ask func(*db.Queries) error) (shape string, buffers int) {
	t.Helper()
	ctx := context.Background()
	sql, args, err := db.Noted(ask)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE name = $1)", name).Scan(&exists); err != nil {
		t.Fatal(err)
	}
	if !exists {
		if _, err := tx.Exec(ctx, "PREPARE "+name+" AS "+sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	values := make([]string, len(args))
	for i, a := range args {
		values[i] = literal(a)
	}
	execute := name
	if len(values) > 0 {
		execute += "(" + strings.Join(values, ", ") + ")"
	}
	var raw string
	if err := tx.QueryRow(ctx, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE "+execute).Scan(&raw); err != nil {
		t.Fatalf("EXECUTE %s: %v", execute, err)
	}
	var plans []struct{ Plan map[string]any }
	if err := json.Unmarshal([]byte(raw), &plans); err != nil {
		t.Fatal(err)
	}
	var scans []string
	walk(plans[0].Plan, func(node map[string]any) {
		kind, _ := node["Node Type"].(string)
		relation, _ := node["Relation Name"].(string)
		index, _ := node["Index Name"].(string)
		switch {
		case relation == "rollup_state": // has one row
		case index != "":
			scans = append(scans, "by "+index)
		case strings.Contains(kind, "Seq Scan"):
			scans = append(scans, "Seq Scan on "+relation)
		}
	})
	slices.Sort(scans)
	hit, _ := plans[0].Plan["Shared Hit Blocks"].(float64)
	read, _ := plans[0].Plan["Shared Read Blocks"].(float64)
	return strings.Join(scans, "\n"), int(hit + read)
}

func walk(node map[string]any, visit func(map[string]any)) {
	visit(node)
	children, _ := node["Plans"].([]any)
	for _, child := range children {
		walk(child.(map[string]any), visit)
	}
}

// literal is an argument as SQL text.
func literal(v any) string {
	quote := func(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
	text := func(v any) string {
		switch v := v.(type) {
		case []byte:
			return fmt.Sprintf(`\x%x`, v)
		case time.Time:
			return v.Format(time.RFC3339Nano)
		}
		return fmt.Sprint(v)
	}
	r := reflect.ValueOf(v)
	switch {
	case v == nil || r.Kind() == reflect.Pointer && r.IsNil():
		return "NULL"
	case r.Kind() == reflect.Pointer:
		return literal(r.Elem().Interface())
	case r.Kind() == reflect.Slice && r.Type().Elem().Kind() != reflect.Uint8:
		items := make([]string, r.Len())
		for i := range items {
			items[i] = `"` + strings.ReplaceAll(text(r.Index(i).Interface()), `\`, `\\`) + `"`
		}
		return quote("{" + strings.Join(items, ",") + "}")
	}
	return quote(text(v))
}
