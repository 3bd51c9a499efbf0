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
