-- name: ReconcileRange :one
-- The days, of those asked for, whose every event must still be in the ledger, with
-- the number of its rows. from_day after to_day: there is none.
WITH days AS MATERIALIZED ( -- worked out once, not for each row
    SELECT greatest(@from_day::date, ledger_whole_since(@zone::text)) AS from_day,
           least(@to_day::date, ((now() AT TIME ZONE @zone::text) + interval '5 minutes')::date) AS to_day
)
SELECT d.from_day::date AS from_day, d.to_day::date AS to_day,
       (SELECT count(*) FROM usage_events AS e WHERE e.day BETWEEN d.from_day AND d.to_day
           AND e.received_at >= d.from_day::timestamp AT TIME ZONE (@zone::text) - interval '2 days')::bigint AS ledger_rows
  FROM days AS d;

-- name: Reconcile :many
-- Rollups that are not the sum they should be, in one snapshot: those of days against
-- the ledger of these days (which must be whole: see ReconcileRange), totals of all
-- time and closed days against the rollups of days. Usage is written with all its rollups in one
-- transaction, so that under any load only a row that was falsified differs. columns
-- names what differs in it.
WITH ledger AS MATERIALIZED (
    SELECT e.key_id, e.account_id, e.day, e.model, sum(e.requests) AS requests, sum(e.input_tokens) AS input_tokens, sum(e.output_tokens) AS output_tokens, sum(e.cache_create_tokens) AS cache_create_tokens, sum(e.cache_read_tokens) AS cache_read_tokens, sum(e.ephemeral_5m_tokens) AS ephemeral_5m_tokens, sum(e.ephemeral_1h_tokens) AS ephemeral_1h_tokens, sum(e.cost) AS cost
      FROM usage_events AS e
     WHERE e.day BETWEEN @from_day::date AND @to_day::date AND e.received_at >= (CAST(@from_day::date AS timestamp) AT TIME ZONE (@zone::text)) - interval '2 days'
     GROUP BY e.key_id, e.account_id, e.day, e.model
), compared AS (
    SELECT 'usage_daily' AS rollup, coalesce(l.key_id, t.key_id) AS key_id, '' AS account_id, coalesce(l.day, t.day) AS day, coalesce(l.model, t.model) AS model,
           concat_ws(', ', CASE WHEN coalesce(l.requests, 0) <> coalesce(t.requests, 0) THEN 'requests' END, CASE WHEN coalesce(l.input_tokens, 0) <> coalesce(t.input_tokens, 0) THEN 'input_tokens' END, CASE WHEN coalesce(l.output_tokens, 0) <> coalesce(t.output_tokens, 0) THEN 'output_tokens' END, CASE WHEN coalesce(l.cache_create_tokens, 0) <> coalesce(t.cache_create_tokens, 0) THEN 'cache_create_tokens' END, CASE WHEN coalesce(l.cache_read_tokens, 0) <> coalesce(t.cache_read_tokens, 0) THEN 'cache_read_tokens' END, CASE WHEN coalesce(l.ephemeral_5m_tokens, 0) <> coalesce(t.ephemeral_5m_tokens, 0) THEN 'ephemeral_5m_tokens' END, CASE WHEN coalesce(l.ephemeral_1h_tokens, 0) <> coalesce(t.ephemeral_1h_tokens, 0) THEN 'ephemeral_1h_tokens' END, CASE WHEN coalesce(l.cost, 0) <> coalesce(t.cost, 0) THEN 'cost' END) AS columns,
           coalesce(l.requests, 0) AS summed_requests, coalesce(l.input_tokens + l.output_tokens + l.cache_create_tokens + l.cache_read_tokens, 0) AS summed_tokens, coalesce(l.cost, 0) AS summed_cost,
           coalesce(t.requests, 0) AS stored_requests, coalesce(t.input_tokens + t.output_tokens + t.cache_create_tokens + t.cache_read_tokens, 0) AS stored_tokens, coalesce(t.cost, 0) AS stored_cost
      FROM (SELECT e.key_id, e.day, e.model, sum(e.requests) AS requests, sum(e.input_tokens) AS input_tokens, sum(e.output_tokens) AS output_tokens, sum(e.cache_create_tokens) AS cache_create_tokens, sum(e.cache_read_tokens) AS cache_read_tokens, sum(e.ephemeral_5m_tokens) AS ephemeral_5m_tokens, sum(e.ephemeral_1h_tokens) AS ephemeral_1h_tokens, sum(e.cost) AS cost FROM ledger AS e GROUP BY e.key_id, e.day, e.model) AS l
      FULL JOIN (SELECT * FROM usage_daily AS u WHERE u.day BETWEEN @from_day::date AND @to_day::date) AS t ON t.key_id = l.key_id AND t.day = l.day AND t.model = l.model
    UNION ALL
    SELECT 'account_usage' AS rollup, '00000000-0000-0000-0000-000000000000'::uuid AS key_id, coalesce(l.account_id, t.account_id) AS account_id, coalesce(l.day, t.day) AS day, coalesce(l.model, t.model) AS model,
           concat_ws(', ', CASE WHEN coalesce(l.requests, 0) <> coalesce(t.requests, 0) THEN 'requests' END, CASE WHEN coalesce(l.input_tokens, 0) <> coalesce(t.input_tokens, 0) THEN 'input_tokens' END, CASE WHEN coalesce(l.output_tokens, 0) <> coalesce(t.output_tokens, 0) THEN 'output_tokens' END, CASE WHEN coalesce(l.cache_create_tokens, 0) <> coalesce(t.cache_create_tokens, 0) THEN 'cache_create_tokens' END, CASE WHEN coalesce(l.cache_read_tokens, 0) <> coalesce(t.cache_read_tokens, 0) THEN 'cache_read_tokens' END, CASE WHEN coalesce(l.ephemeral_5m_tokens, 0) <> coalesce(t.ephemeral_5m_tokens, 0) THEN 'ephemeral_5m_tokens' END, CASE WHEN coalesce(l.ephemeral_1h_tokens, 0) <> coalesce(t.ephemeral_1h_tokens, 0) THEN 'ephemeral_1h_tokens' END, CASE WHEN coalesce(l.cost, 0) <> coalesce(t.cost, 0) THEN 'cost' END) AS columns,
           coalesce(l.requests, 0) AS summed_requests, coalesce(l.input_tokens + l.output_tokens + l.cache_create_tokens + l.cache_read_tokens, 0) AS summed_tokens, coalesce(l.cost, 0) AS summed_cost,
           coalesce(t.requests, 0) AS stored_requests, coalesce(t.input_tokens + t.output_tokens + t.cache_create_tokens + t.cache_read_tokens, 0) AS stored_tokens, coalesce(t.cost, 0) AS stored_cost
      FROM (SELECT e.account_id, e.day, e.model, sum(e.requests) AS requests, sum(e.input_tokens) AS input_tokens, sum(e.output_tokens) AS output_tokens, sum(e.cache_create_tokens) AS cache_create_tokens, sum(e.cache_read_tokens) AS cache_read_tokens, sum(e.ephemeral_5m_tokens) AS ephemeral_5m_tokens, sum(e.ephemeral_1h_tokens) AS ephemeral_1h_tokens, sum(e.cost) AS cost FROM ledger AS e WHERE e.account_id IS NOT NULL GROUP BY e.account_id, e.day, e.model) AS l
      FULL JOIN (SELECT * FROM account_usage AS u WHERE u.day BETWEEN @from_day::date AND @to_day::date) AS t ON t.account_id = l.account_id AND t.day = l.day AND t.model = l.model
    UNION ALL
    SELECT 'key_totals' AS rollup, coalesce(l.key_id, t.key_id) AS key_id, '' AS account_id, NULL::date AS day, '' AS model,
           concat_ws(', ', CASE WHEN coalesce(l.requests, 0) <> coalesce(t.requests, 0) THEN 'requests' END, CASE WHEN coalesce(l.input_tokens, 0) <> coalesce(t.input_tokens, 0) THEN 'input_tokens' END, CASE WHEN coalesce(l.output_tokens, 0) <> coalesce(t.output_tokens, 0) THEN 'output_tokens' END, CASE WHEN coalesce(l.cache_create_tokens, 0) <> coalesce(t.cache_create_tokens, 0) THEN 'cache_create_tokens' END, CASE WHEN coalesce(l.cache_read_tokens, 0) <> coalesce(t.cache_read_tokens, 0) THEN 'cache_read_tokens' END, CASE WHEN coalesce(l.ephemeral_5m_tokens, 0) <> coalesce(t.ephemeral_5m_tokens, 0) THEN 'ephemeral_5m_tokens' END, CASE WHEN coalesce(l.ephemeral_1h_tokens, 0) <> coalesce(t.ephemeral_1h_tokens, 0) THEN 'ephemeral_1h_tokens' END, CASE WHEN coalesce(l.cost, 0) <> coalesce(t.cost, 0) THEN 'cost' END) AS columns,
           coalesce(l.requests, 0) AS summed_requests, coalesce(l.input_tokens + l.output_tokens + l.cache_create_tokens + l.cache_read_tokens, 0) AS summed_tokens, coalesce(l.cost, 0) AS summed_cost,
           coalesce(t.requests, 0) AS stored_requests, coalesce(t.input_tokens + t.output_tokens + t.cache_create_tokens + t.cache_read_tokens, 0) AS stored_tokens, coalesce(t.cost, 0) AS stored_cost
      FROM (SELECT u.key_id, sum(u.requests) AS requests, sum(u.input_tokens) AS input_tokens, sum(u.output_tokens) AS output_tokens, sum(u.cache_create_tokens) AS cache_create_tokens, sum(u.cache_read_tokens) AS cache_read_tokens, sum(u.ephemeral_5m_tokens) AS ephemeral_5m_tokens, sum(u.ephemeral_1h_tokens) AS ephemeral_1h_tokens, sum(u.cost) AS cost FROM usage_daily AS u GROUP BY u.key_id) AS l
      FULL JOIN (SELECT * FROM key_totals) AS t ON t.key_id = l.key_id
    UNION ALL
    SELECT 'account_totals' AS rollup, '00000000-0000-0000-0000-000000000000'::uuid AS key_id, coalesce(l.account_id, t.account_id) AS account_id, NULL::date AS day, '' AS model,
           concat_ws(', ', CASE WHEN coalesce(l.requests, 0) <> coalesce(t.requests, 0) THEN 'requests' END, CASE WHEN coalesce(l.input_tokens, 0) <> coalesce(t.input_tokens, 0) THEN 'input_tokens' END, CASE WHEN coalesce(l.output_tokens, 0) <> coalesce(t.output_tokens, 0) THEN 'output_tokens' END, CASE WHEN coalesce(l.cache_create_tokens, 0) <> coalesce(t.cache_create_tokens, 0) THEN 'cache_create_tokens' END, CASE WHEN coalesce(l.cache_read_tokens, 0) <> coalesce(t.cache_read_tokens, 0) THEN 'cache_read_tokens' END, CASE WHEN coalesce(l.ephemeral_5m_tokens, 0) <> coalesce(t.ephemeral_5m_tokens, 0) THEN 'ephemeral_5m_tokens' END, CASE WHEN coalesce(l.ephemeral_1h_tokens, 0) <> coalesce(t.ephemeral_1h_tokens, 0) THEN 'ephemeral_1h_tokens' END, CASE WHEN coalesce(l.cost, 0) <> coalesce(t.cost, 0) THEN 'cost' END) AS columns,
           coalesce(l.requests, 0) AS summed_requests, coalesce(l.input_tokens + l.output_tokens + l.cache_create_tokens + l.cache_read_tokens, 0) AS summed_tokens, coalesce(l.cost, 0) AS summed_cost,
           coalesce(t.requests, 0) AS stored_requests, coalesce(t.input_tokens + t.output_tokens + t.cache_create_tokens + t.cache_read_tokens, 0) AS stored_tokens, coalesce(t.cost, 0) AS stored_cost
      FROM (SELECT u.account_id, sum(u.requests) AS requests, sum(u.input_tokens) AS input_tokens, sum(u.output_tokens) AS output_tokens, sum(u.cache_create_tokens) AS cache_create_tokens, sum(u.cache_read_tokens) AS cache_read_tokens, sum(u.ephemeral_5m_tokens) AS ephemeral_5m_tokens, sum(u.ephemeral_1h_tokens) AS ephemeral_1h_tokens, sum(u.cost) AS cost FROM account_usage AS u GROUP BY u.account_id) AS l
      FULL JOIN (SELECT * FROM account_totals) AS t ON t.account_id = l.account_id
    UNION ALL
    SELECT 'daily_cost', coalesce(l.key_id, t.key_id), '', coalesce(l.day, t.day), '',
           concat_ws(', ', CASE WHEN coalesce(l.cost, 0) <> coalesce(t.cost, 0) THEN 'cost' END), 0, 0, coalesce(l.cost, 0), 0, 0, coalesce(t.cost, 0)
      FROM (SELECT u.key_id, u.day, sum(u.cost) AS cost FROM usage_daily AS u WHERE u.day BETWEEN @from_day::date AND @to_day::date GROUP BY u.key_id, u.day) AS l
      FULL JOIN (SELECT * FROM daily_cost AS u WHERE u.day BETWEEN @from_day::date AND @to_day::date) AS t ON t.key_id = l.key_id AND t.day = l.day
), closed AS (
    SELECT 'usage_closed' AS rollup, coalesce(l.scope, t.scope) || ':' || coalesce(l.tag, t.tag) AS tag, coalesce(l.day, t.day) AS day, coalesce(l.model, t.model) AS model,
           concat_ws(', ', CASE WHEN coalesce(l.requests, 0) <> coalesce(t.requests, 0) THEN 'requests' END, CASE WHEN coalesce(l.input_tokens, 0) <> coalesce(t.input_tokens, 0) THEN 'input_tokens' END, CASE WHEN coalesce(l.output_tokens, 0) <> coalesce(t.output_tokens, 0) THEN 'output_tokens' END, CASE WHEN coalesce(l.cache_create_tokens, 0) <> coalesce(t.cache_create_tokens, 0) THEN 'cache_create_tokens' END, CASE WHEN coalesce(l.cache_read_tokens, 0) <> coalesce(t.cache_read_tokens, 0) THEN 'cache_read_tokens' END, CASE WHEN coalesce(l.ephemeral_5m_tokens, 0) <> coalesce(t.ephemeral_5m_tokens, 0) THEN 'ephemeral_5m_tokens' END, CASE WHEN coalesce(l.ephemeral_1h_tokens, 0) <> coalesce(t.ephemeral_1h_tokens, 0) THEN 'ephemeral_1h_tokens' END, CASE WHEN coalesce(l.cost, 0) <> coalesce(t.cost, 0) THEN 'cost' END) AS columns,
           coalesce(l.requests, 0) AS summed_requests, coalesce(l.input_tokens + l.output_tokens + l.cache_create_tokens + l.cache_read_tokens, 0) AS summed_tokens, coalesce(l.cost, 0) AS summed_cost,
           coalesce(t.requests, 0) AS stored_requests, coalesce(t.input_tokens + t.output_tokens + t.cache_create_tokens + t.cache_read_tokens, 0) AS stored_tokens, coalesce(t.cost, 0) AS stored_cost
      FROM (SELECT s.scope, s.tag, u.day, u.model, sum(u.requests) AS requests, sum(u.input_tokens) AS input_tokens, sum(u.output_tokens) AS output_tokens, sum(u.cache_create_tokens) AS cache_create_tokens, sum(u.cache_read_tokens) AS cache_read_tokens, sum(u.ephemeral_5m_tokens) AS ephemeral_5m_tokens, sum(u.ephemeral_1h_tokens) AS ephemeral_1h_tokens, sum(u.cost) AS cost
              FROM usage_daily AS u LEFT JOIN api_keys AS k ON k.id = u.key_id
             CROSS JOIN LATERAL (SELECT 'all' AS scope, '' AS tag UNION ALL SELECT 'tag', g.tag FROM unnest(tags_or_none(k.tags)) AS g (tag)) AS s
             WHERE u.day <= (SELECT d.closed_until FROM closed_days AS d) GROUP BY s.scope, s.tag, u.day, u.model) AS l
      FULL JOIN (SELECT x.scope, x.tag, x.day, x.model, sum(x.requests) AS requests, sum(x.input_tokens) AS input_tokens, sum(x.output_tokens) AS output_tokens, sum(x.cache_create_tokens) AS cache_create_tokens, sum(x.cache_read_tokens) AS cache_read_tokens, sum(x.ephemeral_5m_tokens) AS ephemeral_5m_tokens, sum(x.ephemeral_1h_tokens) AS ephemeral_1h_tokens, sum(x.cost) AS cost
              FROM (SELECT c.* FROM usage_closed AS c
                    UNION ALL
                    SELECT s.scope, s.tag, e.day, e.model, e.requests, e.input_tokens, e.output_tokens, e.cache_create_tokens, e.cache_read_tokens, e.ephemeral_5m_tokens, e.ephemeral_1h_tokens, e.cost FROM usage_late AS e LEFT JOIN api_keys AS k ON k.id = e.key_id
                     CROSS JOIN LATERAL (SELECT 'all' AS scope, '' AS tag UNION ALL SELECT 'tag', g.tag FROM unnest(tags_or_none(k.tags)) AS g (tag)) AS s
                     WHERE e.day <= (SELECT d.closed_until FROM closed_days AS d)) AS x
             GROUP BY x.scope, x.tag, x.day, x.model) AS t ON t.scope = l.scope AND t.tag = l.tag AND t.day = l.day AND t.model = l.model
), found AS (
    SELECT c.rollup, c.key_id, c.account_id, '' AS tag, c.day, c.model, c.columns, c.summed_requests, c.summed_tokens, c.summed_cost, c.stored_requests, c.stored_tokens, c.stored_cost FROM compared AS c
    UNION ALL
    SELECT c.rollup, '00000000-0000-0000-0000-000000000000'::uuid, '', CASE WHEN c.tag LIKE 'tag:%' THEN substr(c.tag, 5) ELSE '' END, c.day, c.model, c.columns, c.summed_requests, c.summed_tokens, c.summed_cost, c.stored_requests, c.stored_tokens, c.stored_cost FROM closed AS c
)
SELECT c.rollup::text AS rollup, c.tag::text AS tag, c.key_id::uuid AS key_id, c.account_id::text AS account_id, coalesce(c.day::text, '')::text AS day, c.model::text AS model, c.columns::text AS columns,
       c.summed_requests::bigint AS summed_requests, c.summed_tokens::bigint AS summed_tokens, c.summed_cost::numeric AS summed_cost,
       c.stored_requests::bigint AS stored_requests, c.stored_tokens::bigint AS stored_tokens, c.stored_cost::numeric AS stored_cost
  FROM found AS c WHERE c.columns <> ''
 ORDER BY c.rollup, c.key_id, c.account_id, c.tag, c.day, c.model
 LIMIT @row_limit;

-- name: ClosingDue :one
-- Whether ClosingAdvance has anything to do.
SELECT EXISTS (SELECT FROM closing_days AS g WHERE g.closing_until < (now() AT TIME ZONE @zone::text)::date - 1 AND g.not_before <= now())::boolean AS due;

-- name: ClosingAdvance :one
-- Has what is recorded for days before today noted as late, once a day; whether it
-- changed anything. Gives up after 50 ms.
SELECT advance_closing(((now() AT TIME ZONE @zone::text)::date - 1))::boolean AS advanced;

-- name: DaysClose :one
-- Adds up the days that ClosingAdvance has set apart, and what came late for earlier
-- ones, and returns how many days it closed. Exact however much is recorded meanwhile.
SELECT close_days()::integer AS closed;

-- name: DaysSummarize :exec
-- Lets the index of usage_daily by day know of what came since autovacuum was there: what
-- it does not know of is read by every report.
SELECT brin_summarize_new_values('usage_daily_day'::regclass);

-- name: ReportSums :many
-- What was used in each period, by model, by account or by tag, in order, after the
-- row that a cursor names; from sums of days, so the number of keys does not matter.
-- source says which: models, accounts or tags. Periods are days, months (2026-11) or
-- all there is (the empty text). A part that is not grouped by is the empty text; so are
-- usage that names no account, and keys without tags. Rows that are all zero are left out.
WITH source AS (
    SELECT m.day, m.model, '' AS account_id, '' AS tag, m.requests, m.input_tokens, m.output_tokens, m.cache_create_tokens, m.cache_read_tokens, m.ephemeral_5m_tokens, m.ephemeral_1h_tokens, m.cost FROM model_days AS m
     WHERE @source::text = 'models' AND m.day BETWEEN @from_day::date AND @to_day::date AND (@model::text = '' OR m.model = @model)
    UNION ALL
    SELECT a.day, a.model, a.account_id, '', a.requests, a.input_tokens, a.output_tokens, a.cache_create_tokens, a.cache_read_tokens, a.ephemeral_5m_tokens, a.ephemeral_1h_tokens, a.cost FROM account_usage AS a
     WHERE @source = 'accounts' AND a.day BETWEEN @from_day AND @to_day AND (@model = '' OR a.model = @model) AND (@account_id::text = '' OR a.account_id = @account_id)
    UNION ALL -- without an account: all there is, less what has one
    SELECT m.day, m.model, '', '', m.requests, m.input_tokens, m.output_tokens, m.cache_create_tokens, m.cache_read_tokens, m.ephemeral_5m_tokens, m.ephemeral_1h_tokens, m.cost FROM model_days AS m
     WHERE @source = 'accounts' AND @account_id = '' AND m.day BETWEEN @from_day AND @to_day AND (@model = '' OR m.model = @model)
    UNION ALL
    SELECT a.day, a.model, '', '', -a.requests, -a.input_tokens, -a.output_tokens, -a.cache_create_tokens, -a.cache_read_tokens, -a.ephemeral_5m_tokens, -a.ephemeral_1h_tokens, -a.cost FROM account_usage AS a
     WHERE @source = 'accounts' AND @account_id = '' AND a.day BETWEEN @from_day AND @to_day AND (@model = '' OR a.model = @model)
    UNION ALL
    SELECT t.day, t.model, '', t.tag, t.requests, t.input_tokens, t.output_tokens, t.cache_create_tokens, t.cache_read_tokens, t.ephemeral_5m_tokens, t.ephemeral_1h_tokens, t.cost FROM tag_days AS t
     WHERE @source = 'tags' AND t.day BETWEEN @from_day AND @to_day AND (@model = '' OR t.model = @model) AND (@tag::text = '' OR t.tag = @tag)
), grouped AS (
    SELECT CASE @granularity::text WHEN 'day' THEN d.day::text WHEN 'month' THEN to_char(d.day, 'YYYY-MM') ELSE '' END AS period,
           CASE WHEN @by_model::boolean THEN d.model ELSE '' END AS model, CASE WHEN @by_account::boolean THEN d.account_id ELSE '' END AS account_id,
           CASE WHEN @by_tag::boolean THEN d.tag ELSE '' END AS tag, sum(d.requests)::bigint AS requests, sum(d.input_tokens)::bigint AS input_tokens, sum(d.output_tokens)::bigint AS output_tokens, sum(d.cache_create_tokens)::bigint AS cache_create_tokens, sum(d.cache_read_tokens)::bigint AS cache_read_tokens, sum(d.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens, sum(d.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens, sum(d.cost)::numeric AS cost
      FROM source AS d GROUP BY 1, 2, 3, 4
)
SELECT '00000000-0000-0000-0000-000000000000'::uuid AS key_id, ''::text AS key_name, g.period::text AS period,
       g.model::text AS model, g.account_id::text AS account_id, g.tag::text AS tag,
       g.requests::bigint AS requests, g.input_tokens::bigint AS input_tokens, g.output_tokens::bigint AS output_tokens, g.cache_create_tokens::bigint AS cache_create_tokens, g.cache_read_tokens::bigint AS cache_read_tokens, g.ephemeral_5m_tokens::bigint AS ephemeral_5m_tokens, g.ephemeral_1h_tokens::bigint AS ephemeral_1h_tokens, g.cost::numeric AS cost
  FROM grouped AS g
 WHERE (@first::boolean OR (g.period, g.model, g.account_id, g.tag) > (@after_period::text, @after_model::text, @after_account_id::text, @after_tag::text))
   AND (g.requests, g.input_tokens, g.output_tokens, g.cache_create_tokens, g.cache_read_tokens, g.cost) <> (0, 0, 0, 0, 0, 0)
 ORDER BY g.period, g.model, g.account_id, g.tag
 LIMIT sqlc.narg('row_limit')::bigint;

-- name: ReportKeys :many
-- What each key used in each period, by model and by tag where that is asked for, in
-- order of the keys' ids, after the row that a cursor names: it reads the rows of as
-- many keys as the page has, and no more. Otherwise as ReportSums. The zero id asks for
-- any key.
SELECT t.key_id::uuid AS key_id, coalesce(k.name, '(purged)')::text AS key_name, x.period::text AS period,
       x.model::text AS model, ''::text AS account_id, g.tag::text AS tag,
       x.requests::bigint AS requests, x.input_tokens::bigint AS input_tokens, x.output_tokens::bigint AS output_tokens, x.cache_create_tokens::bigint AS cache_create_tokens, x.cache_read_tokens::bigint AS cache_read_tokens, x.ephemeral_5m_tokens::bigint AS ephemeral_5m_tokens, x.ephemeral_1h_tokens::bigint AS ephemeral_1h_tokens, x.cost::numeric AS cost
  FROM key_totals AS t
  LEFT JOIN api_keys AS k ON k.id = t.key_id
  CROSS JOIN LATERAL unnest(CASE WHEN @by_tag::boolean THEN tags_or_none(k.tags) ELSE ARRAY[''] END) AS g (tag)
  CROSS JOIN LATERAL (
    SELECT CASE @granularity::text WHEN 'day' THEN d.day::text WHEN 'month' THEN to_char(d.day, 'YYYY-MM') ELSE '' END AS period, CASE WHEN @by_model::boolean THEN d.model ELSE '' END AS model, sum(d.requests)::bigint AS requests, sum(d.input_tokens)::bigint AS input_tokens, sum(d.output_tokens)::bigint AS output_tokens, sum(d.cache_create_tokens)::bigint AS cache_create_tokens, sum(d.cache_read_tokens)::bigint AS cache_read_tokens, sum(d.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens, sum(d.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens, sum(d.cost)::numeric AS cost
      FROM usage_daily AS d
     WHERE d.key_id = t.key_id AND d.day BETWEEN @from_day::date AND @to_day::date AND (@model::text = '' OR d.model = @model)
     GROUP BY 1, 2
  ) AS x
 WHERE (@key_id::uuid = '00000000-0000-0000-0000-000000000000' OR t.key_id = @key_id)
   AND (@tag::text = '' OR @tag = ANY (k.tags) AND g.tag IN ('', @tag))
   AND t.key_id >= @after_key_id::uuid
   AND (@first::boolean OR (t.key_id, x.period, x.model, g.tag) > (@after_key_id, @after_period::text, @after_model::text, @after_tag::text))
   AND (x.requests, x.input_tokens, x.output_tokens, x.cache_create_tokens, x.cache_read_tokens, x.cost) <> (0, 0, 0, 0, 0, 0)
 ORDER BY t.key_id, x.period, x.model, g.tag
 LIMIT sqlc.narg('row_limit')::bigint;

-- name: ReportLedger :many
-- As ReportSums and ReportKeys together, from the ledger itself: for hours, and for
-- accounts of keys, which no sum has. An hour is named by the instant it begins at.
WITH grouped AS (
    SELECT CASE WHEN @by_key::boolean THEN e.key_id ELSE '00000000-0000-0000-0000-000000000000' END AS key_id,
           CASE @granularity::text WHEN 'hour' THEN to_char(date_trunc('hour', e.occurred_at, @zone::text) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
                WHEN 'day' THEN e.day::text WHEN 'month' THEN to_char(e.day, 'YYYY-MM') ELSE '' END AS period,
           CASE WHEN @by_model::boolean THEN e.model ELSE '' END AS model, CASE WHEN @by_account::boolean THEN coalesce(e.account_id, '') ELSE '' END AS account_id,
           t.tag, sum(e.requests)::bigint AS requests, sum(e.input_tokens)::bigint AS input_tokens, sum(e.output_tokens)::bigint AS output_tokens, sum(e.cache_create_tokens)::bigint AS cache_create_tokens, sum(e.cache_read_tokens)::bigint AS cache_read_tokens, sum(e.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens, sum(e.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens, sum(e.cost)::numeric AS cost
      FROM usage_events AS e
      LEFT JOIN api_keys AS k ON k.id = e.key_id
      CROSS JOIN LATERAL unnest(CASE WHEN @by_tag::boolean THEN tags_or_none(k.tags) ELSE ARRAY[''] END) AS t (tag)
     WHERE e.day BETWEEN @from_day::date AND @to_day::date
       AND e.received_at >= (CAST(@from_day::date AS timestamp) AT TIME ZONE (@zone::text)) - interval '2 days'
       AND (@key_id::uuid = '00000000-0000-0000-0000-000000000000' OR e.key_id = @key_id)
       AND (@model::text = '' OR e.model = @model) AND (@account_id::text = '' OR e.account_id = @account_id)
       AND (@tag::text = '' OR @tag = ANY (k.tags) AND t.tag IN ('', @tag))
     GROUP BY 1, 2, 3, 4, 5
)
SELECT g.key_id::uuid AS key_id, (CASE WHEN @by_key::boolean THEN coalesce(k.name, '(purged)') ELSE '' END)::text AS key_name, g.period::text AS period,
       g.model::text AS model, g.account_id::text AS account_id, g.tag::text AS tag,
       g.requests::bigint AS requests, g.input_tokens::bigint AS input_tokens, g.output_tokens::bigint AS output_tokens, g.cache_create_tokens::bigint AS cache_create_tokens, g.cache_read_tokens::bigint AS cache_read_tokens, g.ephemeral_5m_tokens::bigint AS ephemeral_5m_tokens, g.ephemeral_1h_tokens::bigint AS ephemeral_1h_tokens, g.cost::numeric AS cost
  FROM grouped AS g LEFT JOIN api_keys AS k ON k.id = g.key_id
 WHERE (@first::boolean OR (g.key_id, g.period, g.model, g.account_id, g.tag) > (@after_key_id::uuid, @after_period::text, @after_model::text, @after_account_id::text, @after_tag::text))
   AND (g.requests, g.input_tokens, g.output_tokens, g.cache_create_tokens, g.cache_read_tokens, g.cost) <> (0, 0, 0, 0, 0, 0)
 ORDER BY g.key_id, g.period, g.model, g.account_id, g.tag
 LIMIT sqlc.narg('row_limit')::bigint;

-- name: LedgerWhole :one
-- The first day whose every event must still be in the ledger.
SELECT ledger_whole_since(@zone::text)::date AS since;
