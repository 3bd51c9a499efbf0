package migrations_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/coalesce"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/scaleout"
	"github.com/keyledger/keyledger/internal/usage"
)

// month is a database with a little of everything that reports tell of.
func month(t *testing.T) *db.DB {
	t.Helper()
	ctx := context.Background()
	d := pgtest.New(t)
	prices := price.New(d, cache.Deaf)
	if _, err := prices.PutBuiltin(ctx); err != nil {
		t.Fatal(err)
	}
	alice, _ := pgtest.Key(t, d, pgtest.KeyRow{Name: "alice", Fields: key.Columns{"tags": []string{"team-a", "eu"}, "daily_cost_limit": "0.02", "rate_limit_window": 60, "rate_limit_requests": 3,
		"expires_at": time.Now().Add(72 * time.Hour)}})
	bob, _ := pgtest.Key(t, d, pgtest.KeyRow{Name: "bob", Fields: key.Columns{"tags": []string{"team-a"}, "enforcement": "observe", "concurrency_limit": 1}})
	pgtest.Key(t, d, pgtest.KeyRow{Name: "idle", CreatedAt: time.Now().AddDate(0, -3, 0)})
	r := usage.New(usage.Options{Fast: d, Patient: d, Prices: prices, Timezone: "UTC", Writers: coalesce.NewWriters(1)})
	now := time.Now().UTC()
	event := func(key uuid.UUID, model string, at time.Time) usage.Event {
		return usage.Event{KeyID: key, AccountID: "claude-main", Model: price.Normalize(model), ModelReceived: model, OccurredAt: at,
			Counts: usage.Counts{Input: 1000, Output: 100, CacheRead: 500}}
	}
	results, err := r.Record(ctx, []usage.Event{
		event(alice, "claude-sonnet-4-20250514", now), event(alice, "claude-sonnet-4-20250514", now), event(alice, "gpt-4o", now),
		event(alice, "gpt-4o", now.AddDate(0, -1, -1)), event(bob, "no-such-model", now),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rollup.New(d, "UTC").Roll(ctx); err != nil { // what follows is in the tail
		t.Fatal(err)
	}
	if _, err := r.Void(ctx, db.Actor{Name: "test"}, results[1].EventID, "a test"); err != nil {
		t.Fatal(err)
	}
	refusals := admit.NewRefusals(d, "UTC", nil)
	a := admit.New(admit.Options{Fast: d, Patient: d, Prices: prices, Timezone: "UTC", ReservationTTL: time.Hour, Refusals: refusals,
		Writers: coalesce.NewWriters(1), Log: slog.New(slog.DiscardHandler)})
	for range 4 {
		for _, id := range []uuid.UUID{alice, bob} {
			if _, err := a.Decide(ctx, admit.Request{KeyID: id, LeaseSeconds: 600}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := refusals.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	return d
}

// Guarantee: every question that docs/sql.md answers can be asked by keyledger_reader,
// and finds something in a month with a little of everything. On a database that is scaled out (make
// test-citus) it finds what it finds when everything has come back.
func TestTwentyQuestions(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := month(t)
	text, err := os.ReadFile("../docs/sql.md")
	if err != nil {
		t.Fatal(err)
	}
	asked, answers := 0, map[string]string{}
	for _, m := range regexp.MustCompile("(?s)\n(\\d+)\\. ([^\n]+)\n\n```sql\n(.*?);\n```").FindAllStringSubmatch(string(text), -1) {
		asked++
		answers[m[3]] = pgtest.Scan[string](t, d, fmt.Sprintf(answered, m[3]))
		if answers[m[3]] == "" {
			t.Errorf("%s. %s: no rows", m[1], m[2])
		}
		// A role is of a session, and Exec without arguments runs several statements in one.
		if err := d.Exec(ctx, "SET LOCAL ROLE keyledger_reader; "+m[3]); err != nil {
			t.Errorf("%s. %s, as keyledger_reader: %v", m[1], m[2], err)
		}
	}
	if asked != 20 {
		t.Errorf("docs/sql.md has %d questions that can be run, want 20", asked)
	}
	if len(pgtest.CitusNodes()) == 0 {
		return
	}
	if err := scaleout.New(d, scaleout.Options{}).Undo(ctx, func(scaleout.Step, time.Duration) {}); err != nil {
		t.Fatal(err)
	}
	for question, answer := range answers {
		if here := pgtest.Scan[string](t, d, fmt.Sprintf(answered, question)); here != answer {
			t.Errorf("scaled out, the answer to\n%s\nis\n%s\nand on one server\n%s", question, answer, here)
		}
	}
}

// answered makes one text of all rows of a query.
const answered = `SELECT coalesce(string_agg(a::text, E'\n' ORDER BY a::text), '') FROM (%s) AS a`

// Guarantee: keyledger_reader reads the views and nothing else: no table, no hash.
func TestReaderReadsViewsOnly(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := pgtest.New(t)
	var tables, views []string
	if err := d.Scan(ctx, "SELECT array_agg(c.oid::regclass::text) FILTER (WHERE n.nspname = 'public'), array_agg(c.oid::regclass::text) FILTER (WHERE n.nspname = 'reporting') FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v') AND NOT EXISTS (SELECT 1 FROM pg_depend AS e WHERE e.objid = c.oid AND e.deptype = 'e')", nil, &tables, &views); err != nil {
		t.Fatal(err)
	}
	if len(tables) < 15 || len(views) < 20 {
		t.Fatalf("found %d tables and %d views", len(tables), len(views))
	}
	for _, name := range tables {
		if err := d.Exec(ctx, "SET LOCAL ROLE keyledger_reader; SELECT FROM "+name); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("reading %s: %v, want a refusal", name, err)
		}
	}
	for _, name := range views {
		if err := d.Exec(ctx, "SET LOCAL ROLE keyledger_reader; SELECT FROM "+name); err != nil {
			t.Errorf("reading %s: %v", name, err)
		}
		if err := d.Exec(ctx, "SET LOCAL ROLE keyledger_reader; DELETE FROM "+name); err == nil {
			t.Errorf("deleting from %s was allowed", name)
		}
	}
}

// Guarantee: the views say what the tables hold: sums by key, model, account and in all
// agree, a key with two tags counts under both, a limit's numbers are those of the
// decision, and every view and column that needs one has an explanation.
func TestViewsAgree(t *testing.T) {
	t.Parallel()
	d := month(t)
	for what, c := range map[string]struct{ sql, want string }{
		"sums agree": {`SELECT count(DISTINCT c)::text FROM (SELECT sum(cost_usd) FROM reporting.usage_by_key UNION ALL SELECT sum(cost_usd) FROM reporting.usage_by_key_day
			UNION ALL SELECT sum(cost_usd) FROM reporting.usage_by_key_month UNION ALL SELECT sum(cost_usd) FROM reporting.usage_by_key_model_day UNION ALL SELECT sum(cost_usd) FROM reporting.usage_by_model
			UNION ALL SELECT sum(cost_usd) FROM reporting.usage_by_model_day UNION ALL SELECT sum(cost_usd) FROM reporting.usage_by_model_month UNION ALL SELECT sum(cost_usd) FROM reporting.usage_by_account
			UNION ALL SELECT sum(cost_usd) FROM reporting.usage_by_account_day UNION ALL SELECT sum(cost_usd) FROM reporting.usage_by_account_month UNION ALL SELECT sum(cost_usd) FROM reporting.usage_by_account_model_day
			UNION ALL SELECT sum(cost_usd) FROM reporting.ledger UNION ALL SELECT sum(cost_usd) FROM reporting.keys) AS s (c)`, "1"},
		"tags":                {`SELECT string_agg(tag || ' ' || keys || ' ' || requests, ', ' ORDER BY tag) FROM reporting.usage_by_tag`, "eu 1 3, team-a 2 4"},
		"limits":              {`SELECT string_agg(key_name || ' ' || limit_name || ' ' || trim_scale(limit_value) || ' ' || trim_scale(used) || ' ' || trim_scale(remaining), ', ' ORDER BY key_name, limit_name) FROM reporting.limits`, "alice dailyCost 0.02 0.008775 0.011225, alice requests 3 3 0, alice tokens 1000000 0 1000000, bob concurrency 1 4 0"},
		"nothing unexplained": {`SELECT coalesce(string_agg(c.relname, ', '), '') FROM pg_class AS c WHERE c.relnamespace = 'reporting'::regnamespace AND c.relkind = 'v' AND obj_description(c.oid) IS NULL`, ""},
	} {
		if got := pgtest.Scan[string](t, d, c.sql); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}
