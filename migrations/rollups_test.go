package migrations_test

import (
	"testing"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: what grows without end keeps a shape that can lie on other machines. The
// column that it would be distributed by is in each of its primary keys and unique indexes;
// it has no trigger and no foreign key, no default, and nothing refers to it.
func TestRollupsCanBeDistributed(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	const tables = `(VALUES ('usage_daily', 'ledger_id'), ('daily_cost', 'ledger_id'), ('usage_events', 'ledger_id'), ('account_usage', 'account_id'),
		('account_totals', 'account_id'), ('model_usage', 'model'), ('tag_usage', 'tag')) AS t (name, col)`
	for what, sql := range map[string]string{
		"a unique index without the column it is distributed by": `SELECT coalesce(string_agg(i.indexrelid::regclass::text, ', '), '')
			FROM ` + tables + ` JOIN pg_index AS i ON i.indrelid = t.name::regclass AND i.indisunique
			WHERE t.name <> 'usage_events' AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = i.indrelid AND a.attname = t.col AND a.attnum = ANY (i.indkey))`,
		"no primary key": `SELECT coalesce(string_agg(t.name, ', '), '')
			FROM ` + tables + ` WHERE NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = t.name::regclass AND i.indisprimary)`,
		"a trigger": `SELECT coalesce(string_agg(g.tgname, ', '), '')
			FROM ` + tables + ` JOIN pg_trigger AS g ON g.tgrelid = t.name::regclass`,
		"a foreign key": `SELECT coalesce(string_agg(c.conname, ', '), '')
			FROM ` + tables + ` JOIN pg_constraint AS c ON t.name::regclass IN (c.conrelid, c.confrelid) AND c.contype = 'f'`,
		"a default": `SELECT coalesce(string_agg(t.name || '.' || a.attname, ', '), '')
			FROM ` + tables + ` JOIN pg_attrdef AS f ON f.adrelid = t.name::regclass JOIN pg_attribute AS a ON a.attrelid = f.adrelid AND a.attnum = f.adnum`,
	} {
		if found := pgtest.Scan[string](t, d, sql); found != "" {
			t.Errorf("%s: %s", what, found)
		}
	}
}
