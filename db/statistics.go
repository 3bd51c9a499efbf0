package db

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// outgrown finds the tables that statements of the hot path read and that have at least
// twice the pages, and ten more, that they had when they were last analysed.
const outgrown = `
SELECT c.relname
  FROM pg_class AS c
 WHERE c.oid IN ('api_keys'::regclass, 'api_key_secrets'::regclass, 'key_counters'::regclass,
       'admissions'::regclass, 'usage_dedup'::regclass, 'usage_daily'::regclass, 'daily_cost'::regclass,
       'account_usage'::regclass, 'model_usage'::regclass, 'tag_usage'::regclass)
   AND pg_relation_size(c.oid) / current_setting('block_size')::integer >= 2 * c.relpages + 10
   AND pg_try_advisory_xact_lock(hashtext('keyledger.statistics'))`

// RefreshStatistics analyses tables that have outgrown their statistics and returns their
// names. Autovacuum would do so too, up to a minute later: until then every
// connection would keep the plans that it made for a table of a few rows. One replica
// does it at a time; a table that somebody else is analysing is passed over.
func (d *DB) RefreshStatistics(ctx context.Context) (tables []string, err error) {
	err = d.InTx(ctx, func(q *Queries) error {
		rows, err := q.db.Query(ctx, outgrown)
		if err != nil {
			return err
		}
		if tables, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(tables) == 0 {
			return err
		}
		_, err = q.db.Exec(ctx, "ANALYZE (SKIP_LOCKED) "+strings.Join(tables, ", "))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("refreshing statistics: %w", err)
	}
	return tables, nil
}

// unsummarized lets the indexes of usage_daily by day and of the ledger by chunk know of the
// pages that came since autovacuum was there.
const unsummarized = `
SELECT brin_summarize_new_values(c.oid)
  FROM pg_class AS c
 WHERE c.oid = 'usage_daily_day'::regclass
    OR c.oid IN (SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = 'usage_events_chunk'::regclass)`

// RefreshSummaries brings the indexes up to date that hold a summary of each range of pages.
// Pages that they do not know of are read each time. Autovacuum does so too; where it is at
// work just now, it is left to it.
func (d *DB) RefreshSummaries(ctx context.Context) error {
	if _, err := d.pool.Exec(ctx, unsummarized); err != nil && !Stuck(err) {
		return fmt.Errorf("summarizing indexes: %w", err)
	}
	return nil
}
