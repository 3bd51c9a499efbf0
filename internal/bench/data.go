package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/report"
	"github.com/keyledger/keyledger/migrations"
)

// stand is a database with keys and history in it.
type stand struct {
	name string
	url  string
	db   *db.DB
	keys int

	population population // whom loads are of
}

// secretOf is the text of key i of every stand.
func secretOf(i int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "bench key %d", i))
	return "cr_" + hex.EncodeToString(sum[:])
}

// idOf is the id of key i of every stand; as random as ids are.
func idOf(i int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "bench key %d", i))
}

// limits are those of the keys of a bench: of requests, tokens and a day's cost, asked
// at every request and never reached.
var limits = key.Columns{"rate_limit_window": 60, "rate_limit_requests": int64(1) << 50, "token_limit": int64(1) << 50,
	"daily_cost_limit": "1000000000"}

// fill makes a stand: so many keys, and so many ledger rows over a year with every
// rollup they moved.
func (b *bench) fill(ctx context.Context, name string, keys, ledger int) (*stand, error) {
	if err := b.cluster.EnsureDatabase(ctx, name); err != nil {
		return nil, err
	}
	return b.fillAt(ctx, name, b.cluster.URL(name), keys, ledger)
}

// fillAt fills an empty database.
func (b *bench) fillAt(ctx context.Context, name, dbURL string, keys, ledger int) (*stand, error) {
	b.sayf("filling a database with %d keys and %d ledger rows", keys, ledger)
	s := &stand{name: name, url: dbURL, keys: keys, population: even(keys)}
	m, err := migrations.Open(s.url)
	if err != nil {
		return nil, err
	}
	_, err = m.Up(ctx)
	_ = m.Close()
	if err != nil {
		return nil, err
	}
	// Filled past the triggers: they write audit rows and announce changes.
	loading, err := url.Parse(s.url)
	if err != nil {
		return nil, fmt.Errorf("not the URL of a database: %w", err)
	}
	settings := loading.Query()
	settings.Set("session_replication_role", "replica")
	settings.Set("synchronous_commit", "off")
	loading.RawQuery = settings.Encode()
	loader, err := db.Open(ctx, loading.String(), 2)
	if err != nil {
		return nil, err
	}
	defer loader.Close()
	if err := fillKeys(ctx, loader, keys); err != nil {
		return nil, err
	}
	if err := loader.Exec(ctx, `INSERT INTO tag_sets (id, tags) SELECT DISTINCT ON (tag_set) tag_set, tags FROM api_keys WHERE tags <> '{}'`); err != nil {
		return nil, err
	}
	if err := fillLedger(ctx, loader, keys, ledger); err != nil {
		return nil, err
	}
	const every = `UPDATE api_keys SET concurrency_limit = 1000000000, weekly_cost_limit = 1000000000, monthly_cost_limit = 1000000000, total_cost_limit = 1000000000 WHERE id = $1`
	if err := loader.Exec(ctx, every, idOf(hotKey)); err != nil {
		return nil, err
	}
	if s.db, err = db.Open(ctx, s.url, 4); err != nil {
		return nil, err
	}
	b.stands = append(b.stands, s)
	return s, nil
}

func fillKeys(ctx context.Context, d *db.DB, keys int) error {
	columns, wrong := key.ForCreate(field.Object{}, key.Rules{}, false)
	if wrong != nil {
		return fmt.Errorf("defaults of a key: %v", wrong)
	}
	for name, value := range limits {
		columns[name] = value
	}
	h := key.Hasher{Prefixes: []string{"cr_"}, Peppers: []key.Pepper{{ID: "bench", Secret: []byte(pepper)}}}
	const batch = 5000
	for first := 0; first < keys; first += batch {
		columns["tags"] = []string{"bench", fmt.Sprintf("team-%d", first/batch%20)}
		fields, err := columns.JSON()
		if err != nil {
			return err
		}
		p := db.KeyCreateParams{PepperID: "bench", CreatedBy: "bench", Fields: fields}
		for i := first; i < min(first+batch, keys); i++ {
			text := secretOf(i)
			p.KeyIDs = append(p.KeyIDs, idOf(i))
			p.Names = append(p.Names, fmt.Sprintf("team-%03d key %07d", i%997, i))
			p.Hashes = append(p.Hashes, h.Current(text).Hash)
			p.Hints = append(p.Hints, h.Hint(text))
		}
		if err := d.KeyCreate(ctx, p); err != nil {
			return fmt.Errorf("creating keys: %w", err)
		}
	}
	return nil
}

// history fills the ledger with one row for each of its days, keys and models in
// turn, and the rollups from it. The last of the days is yesterday.
var history = []string{
	`SELECT make_ledger_partitions((now() AT TIME ZONE 'UTC')::date - 366, (now() AT TIME ZONE 'UTC')::date)`,
	`CREATE TEMP TABLE numbered AS SELECT row_number() OVER (ORDER BY id) - 1 AS n, ledger_id, tag_set FROM api_keys ORDER BY id LIMIT KEYS`,
	`CREATE UNIQUE INDEX ON numbered (n)`,
	`INSERT INTO usage_events (event_id, received_at, kind, ledger_id, chunk, account_id, model, model_received, request_id, occurred_at, day, tag_set, requests,
		input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost, priced, estimated)
	 SELECT gen_random_uuid(), x.at, 'usage', k.ledger_id, 0, 'account-' || x.g % 20, 'model-' || (x.g / KEYS + x.g) % 12, 'model-' || (x.g / KEYS + x.g) % 12, 'h-' || x.g, x.at,
		x.at::date, k.tag_set, 1, 1000 + x.g % 777, 100 + x.g % 99, 0, 0, 0, (1000 + x.g % 777) * 0.000003 + (100 + x.g % 99) * 0.000015, true, false
	   FROM (SELECT g, ((now() AT TIME ZONE 'UTC')::date - 1 - (g / KEYS % 365)::int)::timestamp AT TIME ZONE 'UTC' + (g % 86400) * interval '1 second' AS at
	           FROM generate_series(0::bigint, ROWS - 1) AS g) AS x
	   JOIN numbered AS k ON k.n = x.g % KEYS`,
	`INSERT INTO usage_daily (ledger_id, day, model, tag_set, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost)
	 SELECT ledger_id, day, model, tag_set, sum(requests), sum(input_tokens), sum(output_tokens), 0, 0, 0, sum(cost) FROM usage_events GROUP BY ledger_id, day, model, tag_set ORDER BY day`,
	`INSERT INTO daily_cost (ledger_id, day, cost) SELECT ledger_id, day, sum(cost) FROM usage_daily GROUP BY ledger_id, day`,
	`INSERT INTO model_usage (model, day, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost) SELECT model, day, sum(requests), sum(input_tokens), sum(output_tokens), 0, 0, 0, sum(cost) FROM usage_daily GROUP BY model, day`,
	`INSERT INTO tag_usage (tag, day, model, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost)
	 SELECT g.tag, day, model, sum(requests), sum(input_tokens), sum(output_tokens), 0, 0, 0, sum(cost) FROM usage_daily JOIN tag_sets AS s ON s.id = tag_set CROSS JOIN unnest(s.tags) AS g (tag) GROUP BY g.tag, day, model`,
	`UPDATE key_counters AS c SET requests = s.requests, input_tokens = s.input_tokens, output_tokens = s.output_tokens, cost = s.cost, last_used_at = s.last
	   FROM (SELECT k.id, sum(e.requests) AS requests, sum(e.input_tokens) AS input_tokens, sum(e.output_tokens) AS output_tokens, sum(e.cost) AS cost, max(e.occurred_at) AS last
	           FROM usage_events AS e JOIN api_keys AS k ON k.ledger_id = e.ledger_id GROUP BY k.id) AS s WHERE c.key_id = s.id`,
	`UPDATE key_counters AS c SET day = t.day, week = date_trunc('week', t.day)::date, month = date_trunc('month', t.day)::date,
		week_cost = s.week, month_cost = s.month
	   FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS day) AS t,
		(SELECT k.id, coalesce(sum(d.cost) FILTER (WHERE d.day >= date_trunc('week', now() AT TIME ZONE 'UTC')), 0) AS week, coalesce(sum(d.cost) FILTER (WHERE d.day >= date_trunc('month', now() AT TIME ZONE 'UTC')), 0) AS month
	           FROM api_keys AS k LEFT JOIN daily_cost AS d ON d.ledger_id = k.ledger_id GROUP BY k.id) AS s WHERE c.key_id = s.id`,
	`INSERT INTO account_usage (account_id, day, model, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost) SELECT account_id, day, model, sum(requests), sum(input_tokens), sum(output_tokens), 0, 0, 0, sum(cost) FROM usage_events GROUP BY account_id, day, model`,
	`INSERT INTO account_totals (account_id, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost, first_used_at, last_used_at) SELECT account_id, sum(requests), sum(input_tokens), sum(output_tokens), 0, 0, 0, sum(cost), min(occurred_at), max(occurred_at) FROM usage_events GROUP BY account_id`,
}

// historyKeys bounds the keys with a history, so that each has days and models.
const historyKeys = 30_000

func fillLedger(ctx context.Context, d *db.DB, keys, ledger int) error {
	if ledger > 0 {
		sql := strings.NewReplacer("KEYS", fmt.Sprint(min(keys, historyKeys, max(1, ledger/20))), "ROWS", fmt.Sprint(ledger))
		if err := d.Exec(ctx, "SET work_mem = '256MB'; SET TimeZone = 'UTC'; "+sql.Replace(strings.Join(history, "; "))); err != nil {
			return fmt.Errorf("filling the ledger: %w", err)
		}
	}
	// A database of a year's rows was vacuumed long before; autovacuum would begin now, under the load.
	for _, statement := range []string{`VACUUM (ANALYZE)`, `CHECKPOINT`} {
		if err := d.Exec(ctx, statement); err != nil {
			return fmt.Errorf("settling: %w", err)
		}
	}
	return nil
}

// proof is what the check at the end found.
type proof struct {
	Stand        string   `json:"database"`
	Acknowledged int64    `json:"acknowledged"` // events that a client was told are recorded
	InLedger     int64    `json:"inLedger"`     // of those
	Altered      int64    `json:"altered"`      // of those, with another key, account, model, count or cost than was sent
	Ledger       int64    `json:"ledger"`       // rows of the bench in the ledger
	Twice        int64    `json:"twice"`        // request ids that stand there more than once
	Differences  []string `json:"differences"`  // rollups that are not the sum of the ledger
}

// prove compares a stand's ledger with what clients were told, and its rollups with
// its ledger, by SQL.
func (s *stand) prove(ctx context.Context, acknowledged []string) (proof, error) {
	p := proof{Stand: s.name, Acknowledged: int64(len(acknowledged))}
	err := s.db.Scan(ctx, `SELECT count(*), coalesce(count(*) - count(DISTINCT request_id), 0) FROM usage_events WHERE request_id LIKE 'b-%'`, nil, &p.Ledger, &p.Twice)
	if err != nil {
		return p, err
	}
	const told = `DROP TABLE IF EXISTS bench_told; CREATE UNLOGGED TABLE bench_told (request_id text, key_id uuid, account_id text, model text, input bigint, output bigint, cached bigint, cost numeric)`
	if err := s.db.Exec(ctx, told); err != nil {
		return p, err
	}
	for chunk := range slices.Chunk(acknowledged, 50_000) {
		if err := s.tell(ctx, chunk); err != nil {
			return p, err
		}
	}
	err = s.db.Scan(ctx, `SELECT count(*), count(*) FILTER (WHERE (e.ledger_id, e.account_id, e.model, e.kind, e.input_tokens, e.output_tokens, e.cache_read_tokens, e.cache_create_tokens, e.cost, e.priced)
			IS DISTINCT FROM (k.ledger_id, t.account_id, t.model, 'usage', t.input, t.output, t.cached, 0::bigint, t.cost, true))
		FROM bench_told AS t JOIN api_keys AS k ON k.id = t.key_id JOIN (SELECT DISTINCT ON (u.request_id) u.* FROM usage_events AS u WHERE u.request_id LIKE 'b-%') AS e ON e.request_id = t.request_id`,
		nil, &p.InLedger, &p.Altered)
	if err != nil {
		return p, err
	}
	now := time.Now().UTC()
	found, err := report.New(s.db, "UTC").Reconcile(ctx, now.AddDate(-2, 0, 0), now)
	for _, d := range found.Differences {
		p.Differences = append(p.Differences, fmt.Sprintf("%s of %s%s %s %s", d.Rollup, d.KeyID, d.AccountID, d.Day, d.Model))
	}
	if err != nil {
		return p, err
	}
	return p, nil
}

// tell puts what clients were told is recorded into a table.
func (s *stand) tell(ctx context.Context, ids []string) error {
	var keys []uuid.UUID
	var accounts, models, costs []string
	var input, output, cached []int64
	for _, id := range ids {
		n, err := strconv.ParseInt(strings.TrimPrefix(id, "b-"), 10, 64)
		if err != nil {
			return fmt.Errorf("an answer with the request id %q, which was not sent", id)
		}
		f := s.population.fact(n)
		keys, accounts, costs = append(keys, idOf(f.key)), append(accounts, f.account), append(costs, f.cost().String())
		models = append(models, f.model.name)
		input, output, cached = append(input, f.input), append(output, f.output), append(cached, f.cached)
	}
	return s.db.Exec(ctx, `INSERT INTO bench_told SELECT t.id, t.key, t.account, t.model, t.input, t.output, t.cached, t.cost FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], CAST($8::text[] AS numeric[])) AS t (id, key, account, model, input, output, cached, cost)`,
		ids, keys, accounts, models, input, output, cached, costs)
}

// wrong says what a proof found against the service; empty: nothing.
func (p proof) wrong() string {
	switch {
	case p.InLedger != p.Acknowledged:
		return fmt.Sprintf("%d of %d acknowledged events are not in the ledger", p.Acknowledged-p.InLedger, p.Acknowledged)
	case p.Altered > 0:
		return fmt.Sprintf("%d events are not in the ledger as they were sent", p.Altered)
	case p.Twice > 0:
		return fmt.Sprintf("%d events are in the ledger more than once", p.Twice)
	case len(p.Differences) > 0:
		return "these are not the sum of the ledger: " + strings.Join(p.Differences, "; ")
	}
	return ""
}
