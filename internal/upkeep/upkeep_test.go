package upkeep_test

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/upkeep"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Guarantee: of keys past their end each is disabled, audited and announced
// once, however many replicas run the pass at once; others are left alone, and
// one that ends at this very instant is still valid.
func TestKeys(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	url := pgtest.URL(t)
	d := pgtest.Open(t, url)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 1200 {
		pgtest.Key(t, d, pgtest.KeyRow{Fields: key.Columns{"expires_at": now.Add(-time.Second)}})
	}
	for _, fields := range []key.Columns{{"expires_at": now}, {"expires_at": now.Add(time.Second)}, {}, {"expires_at": now.Add(-time.Hour), "is_active": false}} {
		pgtest.Key(t, d, pgtest.KeyRow{Fields: fields})
	}
	pgtest.Exec(t, d, "UPDATE api_keys SET deleted_at = now() WHERE id = (SELECT id FROM api_keys WHERE expires_at < $1 AND is_active LIMIT 1)", now)
	pgtest.Exec(t, d, "DELETE FROM audit_log")
	var announced, disabled atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		passes := upkeep.New(upkeep.Options{DB: pgtest.Open(t, url), Log: slog.New(slog.DiscardHandler), Expired: func() { announced.Add(1) }})
		group.Go(func() {
			n, err := passes.Keys(ctx, db.Actor{Name: "system"}, &now)
			if err != nil {
				t.Error(err)
			}
			disabled.Add(int64(n))
		})
	}
	group.Wait()
	audited := pgtest.Scan[int64](t, d, "SELECT count(DISTINCT target_id) FROM audit_log WHERE action = 'key.expire' AND actor = 'system'")
	rows := pgtest.Scan[int64](t, d, "SELECT count(*) FROM audit_log")
	if disabled.Load() != 1199 || announced.Load() != 1199 || audited != 1199 || rows != 1199 {
		t.Errorf("disabled %d, announced %d, audited %d in %d rows, want 1199", disabled.Load(), announced.Load(), audited, rows)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM api_keys WHERE is_active AND deleted_at IS NULL"); n != 3 {
		t.Errorf("%d keys are still active, want 3", n)
	}
}

// Guarantee: partitions are there from yesterday to a week ahead, ledger rows
// past retention go while rollups stay, and what is remembered no longer is
// removed; doing it again, also at once, changes nothing.
func TestTidy(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	url := pgtest.URL(t)
	d := pgtest.Open(t, url)
	passes := upkeep.New(upkeep.Options{DB: d, Log: slog.New(slog.DiscardHandler), RetentionDays: 3, DedupHorizon: time.Hour})
	pgtest.Exec(t, d, "SELECT make_ledger_partitions(current_date - 10, current_date - 5)")
	pgtest.Exec(t, d, `INSERT INTO usage_events SELECT gen_random_uuid(), now() - n * interval '1 day', 'usage', $1, 0, NULL, 'm', 'm', NULL, now(), current_date, $1, 1, 1, 1, 0, 0, 0, 1, true, false, NULL, NULL
		FROM generate_series(0, 12) AS n`, uuid.New())
	pgtest.Exec(t, d, `INSERT INTO usage_daily SELECT $1, current_date - n, 'm', $1, 1, 1, 1, 0, 0, 0, 1 FROM generate_series(0, 12) AS n`, uuid.New())
	pgtest.Exec(t, d, `INSERT INTO usage_dedup SELECT $1, n::text, gen_random_uuid(), NULL, 'm', 0, true, 0, now() - n * interval '1 minute' FROM generate_series(1, 2500) AS n`, uuid.New())
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if err := passes.Tidy(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_events"); n != 4 {
		t.Errorf("%d ledger rows are left, want those of today and three days before", n)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_daily"); n != 13 {
		t.Errorf("%d rollup rows are left, want all 13", n)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_dedup"); n > 60 || n < 58 {
		t.Errorf("%d request ids are remembered, want those of an hour", n)
	}
	last := pgtest.Scan[bool](t, d, "SELECT to_regclass('usage_events_' || to_char((now() AT TIME ZONE 'UTC')::date + 7, 'YYYYMMDD')) IS NOT NULL")
	if !last {
		t.Error("the partition a week ahead is missing")
	}
}
