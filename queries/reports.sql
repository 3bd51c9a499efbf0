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
-- time against the rollups of days. Usage is written with all its rollups in one
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
)
SELECT c.rollup::text AS rollup, c.key_id::uuid AS key_id, c.account_id::text AS account_id, coalesce(c.day::text, '')::text AS day, c.model::text AS model, c.columns::text AS columns,
       c.summed_requests::bigint AS summed_requests, c.summed_tokens::bigint AS summed_tokens, c.summed_cost::numeric AS summed_cost,
       c.stored_requests::bigint AS stored_requests, c.stored_tokens::bigint AS stored_tokens, c.stored_cost::numeric AS stored_cost
  FROM compared AS c WHERE c.columns <> ''
 ORDER BY c.rollup, c.key_id, c.account_id, c.day, c.model
 LIMIT @row_limit;
