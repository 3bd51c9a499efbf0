package importer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/coalesce"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/importer"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/keys"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/report"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/internal/verify"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var ctx = context.Background()

// startRedis starts a Redis of the test's own on a socket.
func startRedis(t *testing.T) (*redis.Client, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis") // a short name: sockets allow no more
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "redis.sock")
	cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatalf("redis-server: %v (make test installs it)", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("redis-server did not start")
		}
	}
	r := redis.NewClient(&redis.Options{Network: "unix", Addr: socket})
	t.Cleanup(func() { _ = r.Close() })
	return r, "unix://" + socket
}

func newImporter(t *testing.T, d *db.DB, zone string) *importer.Importer {
	t.Helper()
	return importer.New(options(t, d, zone))
}

// options are those of an importer into a database whose days are parted in zone.
func options(t *testing.T, d *db.DB, zone string) importer.Options {
	t.Helper()
	prices := price.New(d, cache.Deaf)
	if _, err := prices.PutBuiltin(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SettingAgree(ctx, db.SettingAgreeParams{Name: "timezone", Value: zone}); err != nil {
		t.Fatal(err)
	}
	return importer.Options{DB: d, Prices: prices, Usage: usage.New(usage.Options{Fast: d, Patient: d, Prices: prices, Timezone: zone, Writers: coalesce.NewWriters(1)}),
		Rules: key.Rules{Services: []string{"claude", "gemini", "openai", "bedrock"}, Clients: []string{"claude_code", "gemini_cli"}, Comparable: price.Comparable, Denied: price.Denied}}
}

// bring imports and returns the steps as text, one a line.
func bring(t *testing.T, im *importer.Importer, s importer.Source) string {
	t.Helper()
	var text strings.Builder
	if err := im.Import(ctx, s, func(step importer.Step) {
		fmt.Fprintf(&text, "%s: %s %s %d %d %s %s\n", step.Action, step.Subject, step.Why, step.Requests, step.Tokens, step.Cost, strings.Join(step.Notes, ", "))
	}); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// shared reads a file of recorded data of the original.
func shared(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "import", name))
	if err != nil {
		t.Skipf("the recorded data of the original is not beside this repository: %v", err)
	}
	return raw
}

// fill puts a dump (name → type and value) into Redis.
func fill(t *testing.T, r *redis.Client, dump []byte) {
	t.Helper()
	var keys map[string]struct {
		Type  string
		Value json.RawMessage
	}
	if err := json.Unmarshal(dump, &keys); err != nil {
		t.Fatal(err)
	}
	for name, k := range keys {
		var err error
		if k.Type == "hash" {
			var fields map[string]string
			err = json.Unmarshal(k.Value, &fields)
			if err == nil {
				err = r.HSet(ctx, name, fields).Err()
			}
		} else {
			var text string
			err = json.Unmarshal(k.Value, &text)
			if err == nil {
				err = r.Set(ctx, name, text, 0).Err()
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// rolled adds all that was brought to the rollups.
func rolled(t *testing.T, d *db.DB) {
	t.Helper()
	if _, err := rollup.New(d, "UTC").Roll(ctx); err != nil {
		t.Fatal(err)
	}
}

// contents are what an import writes, without ids of its own and times of its run.
func contents(t *testing.T, d *db.DB, alsoAccounts bool) string {
	t.Helper()
	where := map[bool]string{true: "JOIN ledger_keys AS l ON l.ledger_id = x.ledger_id", false: "JOIN api_keys AS l ON l.ledger_id = x.ledger_id"}[alsoAccounts]
	key := map[bool]string{true: "l.key_id", false: "l.id"}[alsoAccounts]
	var all []string
	for _, sql := range []string{
		"SELECT string_agg((to_jsonb(x) - 'updated_at' - 'ledger_id')::text, E'\n' ORDER BY x.id) FROM api_keys AS x",
		"SELECT string_agg((to_jsonb(x) - 'created_at')::text, E'\n' ORDER BY x.hash) FROM api_key_secrets AS x",
		"SELECT string_agg(concat_ws(' ', " + key + ", x.day, x.model, x.requests, x.input_tokens, x.cost), E'\n' ORDER BY " + key + ", x.day, x.model, x.requests, x.cost) FROM key_days AS x " + where,
		"SELECT string_agg(x::text, E'\n' ORDER BY x::text) FROM key_counters AS x",
		"SELECT string_agg(concat_ws(' ', " + key + ", x.day, x.cost), E'\n' ORDER BY " + key + ", x.day, x.cost) FROM cost_days AS x " + where,
		"SELECT string_agg(concat_ws(' ', x.kind, " + key + ", x.model, x.day, x.occurred_at, x.requests, x.input_tokens, x.cost, x.priced), E'\n' ORDER BY " + key + ", x.day, x.model, x.cost, x.requests) FROM usage_events AS x " + where,
	} {
		all = append(all, pgtest.Scan[string](t, d, strings.Replace(sql, "SELECT ", "SELECT coalesce((SELECT ", 1)+"), '')"))
	}
	return strings.Join(all, "\n---\n")
}

func agrees(t *testing.T, d *db.DB, zone string) {
	t.Helper()
	found, err := report.New(d, zone).Reconcile(ctx, time.Now().AddDate(-2, 0, 0), time.Now().AddDate(0, 0, 2))
	if err != nil || len(found.Differences) > 0 {
		t.Errorf("after the import: %v, %+v", err, found.Differences)
	}
}

// Guarantee: the original's recorded export and its recorded Redis come to the same keys,
// the same ledger and the same sums; every total is the source's; both keys verify as
// their state says, with the secrets they have; and done again, nothing changes.
func TestRecorded(t *testing.T) {
	t.Parallel()
	const zone = "Asia/Shanghai"
	export, err := importer.ReadExport(bytes.NewReader(shared(t, "original_export.json")))
	if err != nil {
		t.Fatal(err)
	}
	r, url := startRedis(t)
	fill(t, r, shared(t, "original_redis_dump.json"))
	fromRedis, err := importer.ReadRedis(ctx, url, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	var plain struct {
		EncryptionKey string
		Keys          []struct{ ID, APIKey string }
	}
	if err := json.Unmarshal(shared(t, "original_plain_keys.json"), &plain); err != nil {
		t.Fatal(err)
	}
	var first string
	for _, from := range []importer.Source{export, fromRedis} {
		d := pgtest.New(t)
		o := options(t, d, zone)
		im := importer.New(o)
		o.DryRun = true
		planned := bring(t, importer.New(o), from)
		if n := pgtest.Scan[int](t, d, "SELECT (SELECT count(*) FROM api_keys) + (SELECT count(*) FROM usage_events) + (SELECT count(*) FROM imported_usage)"); n != 0 {
			t.Errorf("a dry run wrote %d rows", n)
		}
		if done := bring(t, im, from); done != planned {
			t.Errorf("planned\n%s\nand did\n%s", planned, done)
		}
		got := contents(t, d, false)
		if first == "" {
			first = got
		} else if got != first {
			t.Errorf("the export gave\n%s\n\nRedis gave\n%s", first, got)
		}
		agrees(t, d, zone)
		whole := contents(t, d, true)
		again := bring(t, im, from)
		if strings.Contains(again, importer.Created) || strings.Contains(again, importer.Added) || contents(t, d, true) != whole {
			t.Errorf("done again:\n%s", again)
		}
		if got := pgtest.Scan[string](t, d, `SELECT string_agg(concat_ws(' ', k.name, t.requests, t.input_tokens, t.output_tokens, t.cache_create_tokens, t.cache_read_tokens, t.ephemeral_1h_tokens, trim_scale(t.cost)), ', ' ORDER BY k.name)
			FROM key_counters AS t JOIN api_keys AS k ON k.id = t.key_id`); got != "alpha 4 460 200 120 1600 80 0.00549, beta 4 40 20 0 0 0 0.000112" {
			t.Errorf("totals: %s", got)
		}
		if got := pgtest.Scan[string](t, d, "SELECT string_agg(day || ' ' || trim_scale(cost), ', ' ORDER BY day) FROM cost_days AS c JOIN api_keys AS k ON k.ledger_id = c.ledger_id WHERE k.name = 'alpha'"); got != "2026-10-16 0.0014445, 2026-11-04 0.0013875, 2026-11-23 0.0013305, 2026-11-24 0.0013275" {
			t.Errorf("days: %s", got)
		}
		hasher := pgtest.Hasher()
		hasher.Legacy = plain.EncryptionKey
		v := verify.New(verify.Options{DB: d, Hasher: hasher, Log: slog.New(slog.DiscardHandler), Changes: cache.Deaf})
		for _, k := range plain.Keys {
			want := map[string]verify.Code{"alpha": verify.Valid, "beta": verify.Disabled}[pgtest.Scan[string](t, d, "SELECT name FROM api_keys WHERE id = $1", k.ID)]
			for range 2 { // hashed as there, and as here
				if got, err := v.Verify(ctx, k.APIKey, nil); err != nil || got.Code != want {
					t.Errorf("key %s verifies as %s, %v; want %s", k.ID, got.Code, err, want)
				}
			}
		}
		if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM api_key_secrets WHERE scheme = 'hmac-sha256' AND hint LIKE 'cr_%...%'"); n != 2 {
			t.Errorf("%d secrets were rehashed and have a hint", n)
		}
		if again := bring(t, im, from); strings.Contains(again, importer.Created) || strings.Contains(again, importer.Refused) {
			t.Errorf("after their first use: %s", again)
		}
	}
	accounts := pgtest.New(t)
	bring(t, newImporter(t, accounts, zone), fromRedis)
	rolled(t, accounts)
	if got := pgtest.Scan[string](t, accounts, "SELECT string_agg(concat_ws(' ', account_id, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, (first_used_at AT TIME ZONE $1)::date), ', ' ORDER BY account_id) FROM account_totals", zone); got != "acct-1 4 460 200 120 1600 2026-10-16, acct-2 4 40 20 0 0 2026-10-16" {
		t.Errorf("accounts: %s", got)
	}
	var rows []string
	if err := report.New(accounts, zone).Usage(ctx, report.Query{From: time.Now().AddDate(-1, 0, 0), To: time.Now().AddDate(0, 0, 2), Granularity: report.Total, By: report.By{Account: true}}, func(time.Time) {}, func(row db.ReportRow) error {
		if row.AccountID != "" || row.Requests != 0 { // cache writes of accounts have no lifetime there, so their costs differ
			rows = append(rows, fmt.Sprint(row.AccountID, " ", row.Requests))
		}
		return nil
	}); err != nil || strings.Join(rows, ", ") != "acct-1 4, acct-2 4" {
		t.Errorf("a report by account: %v %v", rows, err)
	}
}

// original is a source as its Redis would have it.
const original = `{
 "apikey:hash_map": {"type": "hash", "value": {"x": "y"}},
 "apikey:11111111-1111-4111-8111-111111111111": {"type": "hash", "value": {"id": "11111111-1111-4111-8111-111111111111", "name": "old", "apiKey": "HASH1", "tokenLimit": "NaN", "rateLimitWindow": "", "concurrencyLimit": "3.0", "isActive": "true", "permissions": "[\"claude\",\"gemini\"]", "dailyCostLimit": "5e-3", "weeklyOpusCostLimit": "7", "tags": "[\"a\",\"b\"]", "createdAt": "2026-01-20T10:00:00.000Z", "lastUsedAt": "2026-11-20T00:00:00.000Z", "expiresAt": ""}},
 "usage:11111111-1111-4111-8111-111111111111": {"type": "hash", "value": {"totalTokens": "1000", "totalAllTokens": "1000", "totalRequests": "100"}},
 "usage:11111111-1111-4111-8111-111111111111:model:monthly:m:2026-05": {"type": "hash", "value": {"inputTokens": "100", "outputTokens": "50", "requests": "10"}},
 "usage:11111111-1111-4111-8111-111111111111:model:daily:us.anthropic.claude-sonnet-4-20250514-v1:0:2026-11-20": {"type": "hash", "value": {"inputTokens": "7", "outputTokens": "3", "requests": "1", "cacheCreateTokens": "NaN", "cacheReadTokens": ""}},
 "usage:monthly:11111111-1111-4111-8111-111111111111:2026-05": {"type": "hash", "value": {"inputTokens": "110", "outputTokens": "50", "requests": "11"}},
 "usage:hourly:11111111-1111-4111-8111-111111111111:2026-11-20:03": {"type": "hash", "value": {"inputTokens": "999999", "requests": "9"}},
 "usage:cost:monthly:11111111-1111-4111-8111-111111111111:2026-05": {"type": "string", "value": "0.30000000000000004"},
 "usage:cost:daily:11111111-1111-4111-8111-111111111111:2026-11-20": {"type": "string", "value": "1e-7"},
 "usage:cost:total:11111111-1111-4111-8111-111111111111": {"type": "string", "value": "1.5"},
 "apikey:22222222-2222-4222-8222-222222222222": {"type": "hash", "value": {"lastUsedAt": "2026-11-20T00:00:00.000Z"}},
 "usage:33333333-3333-4333-8333-333333333333": {"type": "hash", "value": {"totalInputTokens": "5", "totalRequests": "1"}},
 "apikey:44444444-4444-4444-8444-444444444444": {"type": "hash", "value": {"id": "44444444-4444-4444-8444-444444444444", "name": "blacked out", "apiKey": "[REDACTED]"}},
 "apikey:55555555-5555-4555-8555-555555555555": {"type": "hash", "value": {"id": "55555555-5555-4555-8555-555555555555", "name": "wrong", "apiKey": "HASH2", "permissions": "everything", "allowedClients": "[\"nobody\"]"}},
 "apikey:66666666-6666-4666-8666-666666666666": {"type": "hash", "value": {"id": "66666666-6666-4666-8666-666666666666", "name": "deleted", "apiKey": "HASH3", "isDeleted": "true", "isActive": "false"}},
 "apikey:not-a-uuid": {"type": "hash", "value": {"id": "not-a-uuid", "name": "", "apiKey": "HASH4"}}
}`

func dump() []byte {
	text := original
	for _, n := range []string{"1", "2", "3", "4"} {
		text = strings.ReplaceAll(text, "HASH"+n, strings.Repeat("a"+n, 32))
	}
	return []byte(text)
}

// Guarantee: the traps of the original. What is empty or NaN is left out; doubles become
// decimals once; what has only a total is parted as the original shows it; a month that
// has outlived its days, and a total that has outlived its months, are brought whole;
// hours are not; the rests of keys, blacked-out and unusable ones are refused with the
// reason, and nothing of them is stored; and a name with colons is a name.
func TestTraps(t *testing.T) {
	t.Parallel()
	r, url := startRedis(t)
	fill(t, r, dump())
	source, err := importer.ReadRedis(ctx, url, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	d := pgtest.New(t)
	im := newImporter(t, d, "UTC")
	did := bring(t, im, source)
	for _, want := range []string{
		"gone there: key 22222222-2222-4222-8222-222222222222 its record has no id or no apiKey",
		"gone there: usage of 33333333-3333-4333-8333-333333333333 its key is gone: 1 requests, 5 tokens",
		"refuse: key blacked out (44444444-4444-4444-8444-444444444444) its apiKey is no SHA-256 in hex",
		"refuse: key wrong (55555555-5555-4555-8555-555555555555) allowedClients",
		"create: key old (11111111-1111-4111-8111-111111111111)  100 1000 1.5 weeklyOpusCostLimit (7) has no counterpart here",
		"create: key deleted (66666666-6666-4666-8666-666666666666)",
		"create: key  (not-a-uuid)",
	} {
		if !strings.Contains(did, want) {
			t.Errorf("it did not say %q:\n%s", want, did)
		}
	}
	if got := pgtest.Scan[string](t, d, "SELECT concat_ws(' ', token_limit, rate_limit_window, concurrency_limit, permissions, trim_scale(daily_cost_limit), tags, created_at AT TIME ZONE 'UTC') FROM api_keys WHERE name = 'old'"); got != "0 0 3 {claude,gemini} 0.005 {a,b} 2026-01-20 10:00:00" {
		t.Errorf("the key is %s", got)
	}
	got := pgtest.Scan[string](t, d, `SELECT string_agg(concat_ws(' ', day, model, requests, input_tokens, output_tokens, trim_scale(cost)), '; ' ORDER BY day, model) FROM key_days AS u JOIN api_keys AS k ON k.ledger_id = u.ledger_id WHERE k.name = 'old'`)
	// In all 1000 tokens, 300 of them input as the original shows it; May had 110 and 50, of
	// which 100 and 50 of model m, and cost 0.3, which nobody parts; what is left has no month.
	if want := "2026-01-20 unknown 88 183 647 1.1999999; 2026-05-01 m 10 100 50 0.28125; 2026-05-01 unknown 1 10 0 0.01875; 2026-11-20 claude-sonnet-4-20250514 1 7 3 0.0000001"; got != want {
		t.Errorf("its usage is\n%s, want\n%s", got, want)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM api_keys WHERE name = 'deleted' AND deleted_at IS NOT NULL"); n != 1 {
		t.Error("a deleted key is not deleted")
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM api_keys"); n != 3 {
		t.Errorf("%d keys, want 3", n)
	}
	agrees(t, d, "UTC")
	for name, text := range map[string]string{
		"sanitized": `{"metadata":{"version":"2.0","sanitized":true},"data":{"apiKeys":[]}}`,
		"no JSON":   "a,b,c", "metadata.version": `{"data":{}}`,
	} {
		if _, err := importer.ReadExport(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), strings.Replace(name, "no JSON", "no JSON export", 1)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := importer.ReadRedis(ctx, "http://localhost", func(int) {}); err == nil {
		t.Error("a URL that is none of Redis was taken")
	}
}

// Guarantee: what is changed there after it was brought is told of and not taken over; a
// key that was purged here does not come back, and stops nobody else; usage that no ledger
// could hold is read as none, and a key that the database refuses is refused alone.
func TestChangedSince(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	im := newImporter(t, d, "UTC")
	source := func(fields ...string) (s importer.Source) {
		for i := range 3 {
			id := fmt.Sprintf("aaaaaaaa-aaaa-4aaa-8aaa-%012d", i)
			k := importer.Key{ID: id, Fields: map[string]string{"id": id, "name": fmt.Sprint("k", i), "apiKey": fmt.Sprintf("%064x", i), "createdAt": "2026-01-01T00:00:00Z", "isActive": "true"},
				History: importer.History{Total: importer.Sums{Requests: int64(len(fields) + 1), Counts: usage.Counts{Input: 1}}}}
			for f := 0; f < len(fields); f += 2 {
				k.Fields[fields[f]] = fields[f+1]
			}
			s.Keys = append(s.Keys, k)
		}
		return s
	}
	bring(t, im, source())
	issuer := keys.New(keys.Options{Changes: d, Reads: d, Hasher: pgtest.Hasher()})
	if err := issuer.Purge(ctx, db.Actor{Name: "test"}, uuid.MustParse("aaaaaaaa-aaaa-4aaa-8aaa-000000000000")); err != nil {
		t.Fatal(err)
	}
	did := bring(t, im, source("isActive", "false", "dailyCostLimit", "7"))
	if !strings.Contains(did, "refuse: key k0 (aaaaaaaa-aaaa-4aaa-8aaa-000000000000) it was brought before and purged here since") ||
		strings.Count(did, "is_active is true here and false there: it stays as it is here") != 2 || strings.Count(did, "daily_cost_limit is 0 here and 7 there") != 2 || strings.Count(did, importer.Added) != 2 {
		t.Errorf("it said\n%s", did)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM api_keys WHERE is_active"); n != 2 {
		t.Errorf("%d active keys", n)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM imported_usage WHERE subject LIKE '%aaaaaaaa-aaaa-4aaa-8aaa-000000000000%'"); n != 0 {
		t.Error("a purged key is still named")
	}
	agrees(t, d, "UTC")
	r, url := startRedis(t)
	fill(t, r, []byte(`{"apikey:x": {"type": "hash", "value": {"id": "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb", "name": "x", "apiKey": "`+strings.Repeat("b", 64)+`", "dailyCostLimit": "1e-2000000000", "totalCostLimit": "1e300"}},
		"usage:x:model:daily:m:2026-11-01": {"type": "hash", "value": {"inputTokens": "9223372036854775807", "outputTokens": "1e300", "requests": "1"}},
		"usage:cost:total:x": {"type": "string", "value": "123456789012345678901234567890123456789012345678901234567890"},
		"usage:y": {"type": "string", "value": "of another type"}}`))
	strange, err := importer.ReadRedis(ctx, url, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	if did := bring(t, im, strange); !strings.Contains(did, "create: key x (x)  1 0 0") {
		t.Errorf("it said\n%s", did)
	}
	// An account of Redis that may not read all of it would lose usage in silence.
	if err := r.Do(ctx, "ACL", "SETUSER", "half", "on", ">p", "~*", "+scan", "+hgetall").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := importer.ReadRedis(ctx, strings.Replace(url, "unix://", "unix://half:p@", 1), func(int) {}); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("costs that cannot be read: %v", err)
	}
	if _, err := importer.ReadRedis(ctx, "redis://:secret%zz@localhost", func(int) {}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the password is in %q", err)
	}
}

// Guarantee: a key that is here already, by its id or by its secret, and was not brought
// by an import, is left alone.
func TestHereAlready(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	im := newImporter(t, d, "UTC")
	id, secret := pgtest.Key(t, d, pgtest.KeyRow{Name: "mine", Legacy: true})
	hash := fmt.Sprintf("%x", key.LegacyHash(secret, pgtest.Hasher().Legacy))
	before := contents(t, d, true)
	for id, why := range map[string]string{id.String(): "a key with this id is here already", "77777777-7777-4777-8777-777777777777": "its secret opens another key"} {
		did := bring(t, im, importer.Source{Keys: []importer.Key{{ID: id, Fields: map[string]string{"id": id, "name": "theirs", "apiKey": hash}}}})
		if !strings.HasPrefix(did, importer.Refused) || !strings.Contains(did, why) {
			t.Errorf("%s", did)
		}
	}
	if contents(t, d, true) != before {
		t.Error("something changed")
	}
}

// Guarantee: however often and whenever it is brought while the original goes on, forgets
// its days after a month and keeps its months and totals, what has been brought in the end
// is the original's total, in every kind of token and in requests, also when it was read
// while it counted, days before the total; in cost too, whatever it charges beside what the
// catalogue would; no total ever falls; and the ledger adds up. All this in as few ledger
// rows a transaction as one likes, and never in more.
func TestAgainAndAgain(t *testing.T) {
	d := pgtest.New(t)
	o := options(t, d, "UTC")
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		o.Openings = rapid.IntRange(2, 20).Draw(rt, "openings")
		im := importer.New(o)
		id := fmt.Sprintf("88888888-8888-4888-8888-%012d", n)
		k := importer.Key{ID: id, Fields: map[string]string{"id": id, "name": "k", "apiKey": fmt.Sprintf("%064x", n), "createdAt": "2026-01-05T00:00:00Z"}, History: importer.History{
			Months: map[string]importer.Sums{}, ModelMonths: map[string]map[string]importer.Sums{}, ModelDays: map[string]map[string]importer.Sums{},
			MonthCosts: map[string]decimal.Decimal{}, DayCosts: map[string]decimal.Decimal{}, TotalCost: &decimal.Decimal{}}}
		h := &k.History
		now := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
		last := int64(-1)
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			now = now.AddDate(0, 0, rapid.IntRange(0, 20).Draw(rt, "days"))
			for model := range h.ModelDays { // forgotten after 32 days
				for day := range h.ModelDays[model] {
					if day < now.AddDate(0, 0, -32).Format(time.DateOnly) {
						delete(h.ModelDays[model], day)
					}
				}
			}
			for day := range h.DayCosts { // two days earlier than the days themselves
				if day < now.AddDate(0, 0, -30).Format(time.DateOnly) {
					delete(h.DayCosts, day)
				}
			}
			stale := k
			stale.History.ModelDays, stale.History.ModelMonths, stale.History.Months = copyOf(h.ModelDays), copyOf(h.ModelMonths), maps.Clone(h.Months)
			stale.History.DayCosts, stale.History.MonthCosts = maps.Clone(h.DayCosts), maps.Clone(h.MonthCosts)
			for range rapid.IntRange(0, 3).Draw(rt, "requests") {
				s := importer.Sums{Requests: 1, Counts: usage.Counts{Input: rapid.Int64Range(0, 50).Draw(rt, "in"), CacheRead: rapid.Int64Range(0, 50).Draw(rt, "read")}}
				model, day := rapid.SampledFrom([]string{"m", "gpt-4o"}).Draw(rt, "model"), now.Format(time.DateOnly)
				cost := decimal.New(rapid.Int64Range(0, 1000).Draw(rt, "cost"), -6)
				h.DayCosts[day], h.MonthCosts[day[:7]], *h.TotalCost = h.DayCosts[day].Add(cost), h.MonthCosts[day[:7]].Add(cost), h.TotalCost.Add(cost)
				addTo(h.ModelDays, model, day, s)
				addTo(h.ModelMonths, model, day[:7], s)
				h.Months[day[:7]] = sum(h.Months[day[:7]], s)
				h.Total = sum(h.Total, s)
			}
			if rapid.Bool().Draw(rt, "bring") {
				if rapid.IntRange(0, 3).Draw(rt, "skewed") == 0 {
					stale.History.Total, stale.History.TotalCost = h.Total, h.TotalCost
					bring(t, im, importer.Source{Keys: []importer.Key{stale}})
				} else {
					bring(t, im, importer.Source{Keys: []importer.Key{k}})
				}
				if tokens := pgtest.Scan[int64](t, d, "SELECT input_tokens FROM key_counters WHERE key_id = $1", id); tokens < last {
					rt.Fatalf("%d tokens after %d", tokens, last)
				} else {
					last = tokens
				}
			}
		}
		bring(t, im, importer.Source{Keys: []importer.Key{k}})
		got := pgtest.Scan[string](t, d, "SELECT concat_ws(' ', requests, input_tokens, cache_read_tokens, (SELECT min(d.requests) >= 0 FROM (SELECT sum(u.requests) AS requests FROM key_days AS u JOIN api_keys AS k ON k.ledger_id = u.ledger_id WHERE k.id = t.key_id GROUP BY u.day, u.model) AS d)) FROM key_counters AS t WHERE key_id = $1", id)
		if want := fmt.Sprint(h.Total.Requests, " ", h.Total.Input, " ", h.Total.CacheRead); !strings.HasPrefix(got+" ", want+" ") || strings.HasSuffix(got, "f") {
			rt.Fatalf("brought %s of %s", got, want)
		}
		cost := pgtest.Scan[decimal.Decimal](t, d, "SELECT cost FROM key_counters WHERE key_id = $1", id)
		if off := cost.Sub(*h.TotalCost).Abs(); off.GreaterThan(decimal.New(1, -9)) {
			rt.Fatalf("brought $%s of $%s", cost, h.TotalCost)
		}
		if most := pgtest.Scan[int](t, d, "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM usage_events AS e JOIN api_keys AS k USING (ledger_id) WHERE k.id = $1 GROUP BY e.xmin::text) AS x", id); most > o.Openings {
			rt.Fatalf("a transaction wrote %d ledger rows, %d may", most, o.Openings)
		}
	})
	agrees(t, d, "UTC")
}

func sum(a, b importer.Sums) importer.Sums {
	return importer.Sums{Requests: a.Requests + b.Requests, Counts: usage.Counts{Input: a.Input + b.Input, CacheRead: a.CacheRead + b.CacheRead}}
}

func copyOf(m map[string]map[string]importer.Sums) map[string]map[string]importer.Sums {
	c := map[string]map[string]importer.Sums{}
	for model, periods := range m {
		c[model] = maps.Clone(periods)
	}
	return c
}

func addTo(m map[string]map[string]importer.Sums, model, period string, s importer.Sums) {
	if m[model] == nil {
		m[model] = map[string]importer.Sums{}
	}
	m[model][period] = sum(m[model][period], s)
}

// Guarantee: an import that is broken off goes on where it was, and two at once do what
// one does.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	im := newImporter(t, d, "UTC")
	var s importer.Source
	for i := range 30 {
		id := fmt.Sprintf("99999999-9999-4999-8999-%012d", i)
		k := importer.Key{ID: id, Fields: map[string]string{"id": id, "name": "k", "apiKey": fmt.Sprintf("%064x", i)}, History: importer.History{Total: importer.Sums{Requests: 1, Counts: usage.Counts{Input: 1}}}}
		s.Keys = append(s.Keys, k)
	}
	broken, stop := context.WithCancel(ctx)
	n := 0
	if err := im.Import(broken, s, func(importer.Step) {
		if n++; n == 10 {
			stop()
		}
	}); err == nil {
		t.Fatal("it was not broken off")
	}
	done := make(chan error, 2)
	for range 2 {
		go func() { done <- im.Import(ctx, s, func(importer.Step) {}) }()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := pgtest.Scan[string](t, d, "SELECT count(*) || ' ' || sum(requests) FROM key_counters"); got != "30 30" {
		t.Errorf("keys and requests: %s", got)
	}
}
