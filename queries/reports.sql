-- name: ReconcileRange :one
-- The days, of those asked for, whose every event must still be in the ledger, with
-- the number of its rows. from_day after to_day: there is none.
WITH days AS MATERIALIZED ( -- worked out once, not for each row
    SELECT greatest(@from_day::date, ledger_whole_since(@timezone::text)) AS from_day,
           least(@to_day::date, (now() AT TIME ZONE @timezone::text)::date) AS to_day
)
SELECT d.from_day::date AS from_day,
       d.to_day::date AS to_day,
       (SELECT count(*)
          FROM ledger AS e
         WHERE e.day BETWEEN d.from_day AND d.to_day
           AND e.received_at >= (d.from_day::timestamp - interval '2 days') AT TIME ZONE (@timezone::text)
       )::bigint AS ledger_rows
  FROM days AS d;

-- name: Reconcile :many
-- Sums that are not what they should be, in one snapshot. Rollups by key and by account are
-- held against the ledger rows of these days (which must be whole: see ReconcileRange) that
-- the roll-up has added; every other rollup against those two, over all time; and the
-- counters of keys against rollups and tail. columns names what differs. Whatever is
-- recorded or rolled up meanwhile, only what was falsified differs.
--
-- Each rollup is compared by itself, by a join on its own narrow key, and only rows that
-- differ go on: sorted together, rows of all of them took minutes. Seven sums are one array.
WITH ledger AS MATERIALIZED (
    SELECT e.ledger_id, e.account_id, e.day, e.model, e.tag_set,
           sum(e.requests) AS requests,
           sum(e.input_tokens) AS input_tokens,
           sum(e.output_tokens) AS output_tokens,
           sum(e.cache_create_tokens) AS cache_create_tokens,
           sum(e.cache_read_tokens) AS cache_read_tokens,
           sum(e.ephemeral_1h_tokens) AS ephemeral_1h_tokens,
           sum(e.cost) AS cost
      FROM ledger_rolled AS e
     WHERE e.day BETWEEN @from_day::date AND @to_day::date
       AND e.received_at >= (CAST(@from_day::date AS timestamp) - interval '2 days') AT TIME ZONE (@timezone::text)
     GROUP BY e.ledger_id, e.account_id, e.day, e.model, e.tag_set
), by_set AS MATERIALIZED ( -- what usage by model and by tag are sums of
    SELECT x.tag_set, x.day, x.model,
           sum(x.requests) AS requests,
           sum(x.input_tokens) AS input_tokens,
           sum(x.output_tokens) AS output_tokens,
           sum(x.cache_create_tokens) AS cache_create_tokens,
           sum(x.cache_read_tokens) AS cache_read_tokens,
           sum(x.ephemeral_1h_tokens) AS ephemeral_1h_tokens,
           sum(x.cost) AS cost
      FROM stored_usage_daily AS x
     GROUP BY x.tag_set, x.day, x.model
), period AS MATERIALIZED ( -- the day, week and month that the counters of each key are of
    SELECT k.ledger_id, p.name::text AS name, p.first::date AS first, p.next::date AS next, p.cost::numeric AS cost
      FROM key_counters AS c
      JOIN api_keys AS k ON k.id = c.key_id
     CROSS JOIN LATERAL (VALUES
           ('day', c.day, c.day + 1, c.day_cost),
           ('week', c.week, c.week + 7, c.week_cost),
           ('month', c.month, (c.month + interval '1 month')::date, c.month_cost)
     ) AS p (name, first, next, cost)
), held AS (
    SELECT 'usage_daily' AS rollup, '' AS period, coalesce(a.ledger_id, b.ledger_id) AS ledger_id,
           '' AS account_id, '' AS tag,
           coalesce(a.day, b.day) AS day, coalesce(a.model, b.model) AS model,
           a.sums AS summed, b.sums AS stored
      FROM (
           SELECT x.ledger_id, x.day, x.model, x.tag_set,
                  ARRAY[sum(x.requests), sum(x.input_tokens), sum(x.output_tokens), sum(x.cache_create_tokens),
                      sum(x.cache_read_tokens), sum(x.ephemeral_1h_tokens), sum(x.cost)] AS sums
             FROM ledger AS x
            GROUP BY x.ledger_id, x.day, x.model, x.tag_set
      ) AS a
      FULL JOIN (
           SELECT x.ledger_id, x.day, x.model, x.tag_set,
                  ARRAY[x.requests, x.input_tokens, x.output_tokens, x.cache_create_tokens,
                      x.cache_read_tokens, x.ephemeral_1h_tokens, x.cost]::numeric[] AS sums
             FROM stored_usage_daily AS x
            WHERE x.day BETWEEN @from_day AND @to_day
      ) AS b USING (ledger_id, day, model, tag_set)
    UNION ALL
    SELECT 'account_usage', '', NULL, coalesce(a.account_id, b.account_id), '',
           coalesce(a.day, b.day), coalesce(a.model, b.model), a.sums, b.sums
      FROM (
           SELECT x.account_id, x.day, x.model,
                  ARRAY[sum(x.requests), sum(x.input_tokens), sum(x.output_tokens), sum(x.cache_create_tokens),
                      sum(x.cache_read_tokens), sum(x.ephemeral_1h_tokens), sum(x.cost)] AS sums
             FROM ledger AS x
            WHERE x.account_id IS NOT NULL
            GROUP BY x.account_id, x.day, x.model
      ) AS a
      FULL JOIN (
           SELECT x.account_id, x.day, x.model,
                  ARRAY[x.requests, x.input_tokens, x.output_tokens, x.cache_create_tokens,
                      x.cache_read_tokens, x.ephemeral_1h_tokens, x.cost]::numeric[] AS sums
             FROM account_usage AS x
            WHERE x.day BETWEEN @from_day AND @to_day
      ) AS b USING (account_id, day, model)
    UNION ALL
    SELECT 'account_totals', '', NULL, coalesce(a.account_id, b.account_id), '', NULL, '', a.sums, b.sums
      FROM (
           SELECT x.account_id,
                  ARRAY[sum(x.requests), sum(x.input_tokens), sum(x.output_tokens), sum(x.cache_create_tokens),
                      sum(x.cache_read_tokens), sum(x.ephemeral_1h_tokens), sum(x.cost)] AS sums
             FROM account_usage AS x
            GROUP BY x.account_id
      ) AS a
      FULL JOIN (
           SELECT x.account_id,
                  ARRAY[x.requests, x.input_tokens, x.output_tokens, x.cache_create_tokens,
                      x.cache_read_tokens, x.ephemeral_1h_tokens, x.cost]::numeric[] AS sums
             FROM account_totals AS x
      ) AS b USING (account_id)
    UNION ALL
    SELECT 'model_usage', '', NULL, '', '', coalesce(a.day, b.day), coalesce(a.model, b.model), a.sums, b.sums
      FROM (
           SELECT x.day, x.model,
                  ARRAY[sum(x.requests), sum(x.input_tokens), sum(x.output_tokens), sum(x.cache_create_tokens),
                      sum(x.cache_read_tokens), sum(x.ephemeral_1h_tokens), sum(x.cost)] AS sums
             FROM by_set AS x
            GROUP BY x.day, x.model
      ) AS a
      FULL JOIN (
           SELECT x.day, x.model,
                  ARRAY[x.requests, x.input_tokens, x.output_tokens, x.cache_create_tokens,
                      x.cache_read_tokens, x.ephemeral_1h_tokens, x.cost]::numeric[] AS sums
             FROM model_usage AS x
      ) AS b USING (day, model)
    UNION ALL
    SELECT 'tag_usage', '', NULL, '', coalesce(a.tag, b.tag),
           coalesce(a.day, b.day), coalesce(a.model, b.model), a.sums, b.sums
      FROM (
           SELECT g.tag, x.day, x.model,
                  ARRAY[sum(x.requests), sum(x.input_tokens), sum(x.output_tokens), sum(x.cache_create_tokens),
                      sum(x.cache_read_tokens), sum(x.ephemeral_1h_tokens), sum(x.cost)] AS sums
             FROM by_set AS x
             LEFT JOIN tag_sets AS s ON s.id = x.tag_set
            CROSS JOIN LATERAL unnest(coalesce(s.tags, '{""}')) AS g (tag)
            GROUP BY g.tag, x.day, x.model
      ) AS a
      FULL JOIN (
           SELECT x.tag, x.day, x.model,
                  ARRAY[x.requests, x.input_tokens, x.output_tokens, x.cache_create_tokens,
                      x.cache_read_tokens, x.ephemeral_1h_tokens, x.cost]::numeric[] AS sums
             FROM tag_usage AS x
      ) AS b USING (tag, day, model)
    UNION ALL
    SELECT 'daily_cost', '', coalesce(a.ledger_id, b.ledger_id), '', '', coalesce(a.day, b.day), '',
           ARRAY[0, 0, 0, 0, 0, 0, coalesce(a.cost, 0)], ARRAY[0, 0, 0, 0, 0, 0, coalesce(b.cost, 0)]
      FROM (
           SELECT x.ledger_id, x.day, sum(x.cost) AS cost FROM stored_usage_daily AS x GROUP BY x.ledger_id, x.day
      ) AS a
      FULL JOIN stored_daily_cost AS b USING (ledger_id, day)
    UNION ALL
    SELECT 'key_counters', '', k.ledger_id, '', '', NULL, '', a.sums,
           ARRAY[c.requests, c.input_tokens, c.output_tokens, c.cache_create_tokens,
               c.cache_read_tokens, c.ephemeral_1h_tokens, c.cost]::numeric[]
      FROM key_counters AS c
      JOIN api_keys AS k ON k.id = c.key_id
      LEFT JOIN (
           SELECT x.ledger_id,
                  ARRAY[sum(x.requests), sum(x.input_tokens), sum(x.output_tokens), sum(x.cache_create_tokens),
                      sum(x.cache_read_tokens), sum(x.ephemeral_1h_tokens), sum(x.cost)] AS sums
             FROM key_days AS x
            GROUP BY x.ledger_id
      ) AS a ON a.ledger_id = k.ledger_id
    UNION ALL
    SELECT 'key_counters', p.name, p.ledger_id, '', '', p.first, '',
           ARRAY[0, 0, 0, 0, 0, 0, coalesce(a.cost, 0)], ARRAY[0, 0, 0, 0, 0, 0, p.cost]
      FROM period AS p
      LEFT JOIN (
           SELECT q.ledger_id, q.name, sum(x.cost) AS cost
             FROM period AS q
             JOIN cost_days AS x ON x.ledger_id = q.ledger_id AND x.day >= q.first AND x.day < q.next
            GROUP BY q.ledger_id, q.name
      ) AS a ON a.ledger_id = p.ledger_id AND a.name = p.name
), differing AS (
    SELECT h.rollup, h.period, h.ledger_id, h.account_id, h.tag, h.day, h.model,
           coalesce(h.summed, '{0,0,0,0,0,0,0}') AS summed,
           coalesce(h.stored, '{0,0,0,0,0,0,0}') AS stored
      FROM held AS h
     WHERE coalesce(h.summed, '{0,0,0,0,0,0,0}') <> coalesce(h.stored, '{0,0,0,0,0,0,0}')
)
SELECT h.rollup::text AS rollup,
       h.tag::text AS tag,
       coalesce(k.id, h.ledger_id, '00000000-0000-0000-0000-000000000000')::uuid AS key_id,
       h.account_id::text AS account_id,
       coalesce(h.day::text, '')::text AS day,
       h.model::text AS model,
       concat_ws(', ',
           CASE WHEN h.summed[1] <> h.stored[1] THEN 'requests' END,
           CASE WHEN h.summed[2] <> h.stored[2] THEN 'input_tokens' END,
           CASE WHEN h.summed[3] <> h.stored[3] THEN 'output_tokens' END,
           CASE WHEN h.summed[4] <> h.stored[4] THEN 'cache_create_tokens' END,
           CASE WHEN h.summed[5] <> h.stored[5] THEN 'cache_read_tokens' END,
           CASE WHEN h.summed[6] <> h.stored[6] THEN 'ephemeral_1h_tokens' END,
           CASE WHEN h.summed[7] <> h.stored[7] THEN concat_ws('_', nullif(h.period, ''), 'cost') END
       )::text AS columns,
       h.summed[1]::bigint AS summed_requests,
       (h.summed[2] + h.summed[3] + h.summed[4] + h.summed[5])::bigint AS summed_tokens,
       h.summed[7]::numeric AS summed_cost,
       h.stored[1]::bigint AS stored_requests,
       (h.stored[2] + h.stored[3] + h.stored[4] + h.stored[5])::bigint AS stored_tokens,
       h.stored[7]::numeric AS stored_cost
  FROM differing AS h
  LEFT JOIN api_keys AS k ON k.ledger_id = h.ledger_id
 ORDER BY h.rollup, h.ledger_id, h.account_id, h.tag, h.day, h.model
 LIMIT @row_limit;

-- name: ReportSums :many
-- What was used in each period, by model, by account or by tag, in order, after the
-- row that a cursor names; from rollups of days and the tail, so the number of keys does
-- not matter. source says which: models, accounts or tags. Periods are days, months
-- (2026-11) or all there is (the empty text). A part that is not grouped by is the empty
-- text; so are usage that names no account, and usage without tags. Rows that are all zero
-- are left out. Where totals are asked for, one more row comes before the others, marked as
-- such: the sums of all that the report covers, each request once. Rows and totals are one
-- reading of the tail. Of tags, rows are read of some days alone (window_from, window_to), and totals
-- of all.
WITH source AS (
    SELECT m.day, m.model, '' AS account_id, '' AS tag,
           m.requests, m.input_tokens, m.output_tokens, m.cache_create_tokens,
           m.cache_read_tokens, m.ephemeral_1h_tokens, m.cost
      FROM model_days AS m
     WHERE @source::text = 'models' AND m.day BETWEEN @from_day::date AND @to_day::date
       AND (@model::text = '' OR m.model = @model)
    UNION ALL
    SELECT a.day, a.model, a.account_id, '',
           a.requests, a.input_tokens, a.output_tokens, a.cache_create_tokens,
           a.cache_read_tokens, a.ephemeral_1h_tokens, a.cost
      FROM account_days AS a
     WHERE @source = 'accounts' AND a.day BETWEEN @from_day AND @to_day
       AND (@model = '' OR a.model = @model)
       AND (@account_id::text = '' OR a.account_id = @account_id)
    UNION ALL
    SELECT t.day, t.model, '', t.tag,
           t.requests, t.input_tokens, t.output_tokens, t.cache_create_tokens,
           t.cache_read_tokens, t.ephemeral_1h_tokens, t.cost
      FROM tag_days AS t
     WHERE @source = 'tags' AND t.day BETWEEN @from_day AND @to_day
       AND (t.tag IS NULL OR t.day BETWEEN @window_from::date AND @window_to::date)
       AND (@model = '' OR t.model = @model)
       AND (@tag::text = '' OR t.tag = @tag)
), grouped AS MATERIALIZED (
    SELECT CASE @granularity::text
               WHEN 'day' THEN d.day::text
               WHEN 'month' THEN to_char(d.day, 'YYYY-MM')
               ELSE ''
           END AS period,
           CASE WHEN @by_model::boolean THEN d.model ELSE '' END AS model,
           CASE WHEN @by_account::boolean THEN d.account_id ELSE '' END AS account_id,
           CASE WHEN @by_tag::boolean THEN d.tag ELSE '' END AS tag,
           sum(d.requests)::bigint AS requests,
           sum(d.input_tokens)::bigint AS input_tokens,
           sum(d.output_tokens)::bigint AS output_tokens,
           sum(d.cache_create_tokens)::bigint AS cache_create_tokens,
           sum(d.cache_read_tokens)::bigint AS cache_read_tokens,
           sum(d.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
           sum(d.cost)::numeric AS cost
      FROM source AS d
     GROUP BY 1, 2, 3, 4
), page AS (
    SELECT g.*
      FROM grouped AS g
     WHERE g.tag IS NOT NULL
       AND (@first::boolean
            OR (g.period, g.model, g.account_id, g.tag)
             > (@after_period::text, @after_model::text, @after_account_id::text, @after_tag::text))
       AND (g.requests, g.input_tokens, g.output_tokens, g.cache_create_tokens, g.cache_read_tokens, g.cost)
           <> (0, 0, 0, 0, 0, 0)
     ORDER BY g.period, g.model, g.account_id, g.tag
     LIMIT sqlc.narg('row_limit')::bigint
), answer AS (
    SELECT false AS is_total, p.*
      FROM page AS p
    UNION ALL
    SELECT true, '', '', '', '',
           coalesce(sum(g.requests), 0),
           coalesce(sum(g.input_tokens), 0),
           coalesce(sum(g.output_tokens), 0),
           coalesce(sum(g.cache_create_tokens), 0),
           coalesce(sum(g.cache_read_tokens), 0),
           coalesce(sum(g.ephemeral_1h_tokens), 0),
           coalesce(sum(g.cost), 0)
      FROM grouped AS g
     WHERE @totals::boolean AND (g.tag IS NULL OR @source <> 'tags' OR NOT @by_tag OR @tag <> '')
    HAVING @totals
)
SELECT a.is_total::boolean AS is_total,
       '00000000-0000-0000-0000-000000000000'::uuid AS key_id,
       ''::text AS key_name,
       a.period::text AS period,
       a.model::text AS model,
       a.account_id::text AS account_id,
       a.tag::text AS tag,
       a.requests::bigint AS requests,
       a.input_tokens::bigint AS input_tokens,
       a.output_tokens::bigint AS output_tokens,
       a.cache_create_tokens::bigint AS cache_create_tokens,
       a.cache_read_tokens::bigint AS cache_read_tokens,
       a.ephemeral_1h_tokens::bigint AS ephemeral_1h_tokens,
       a.cost::numeric AS cost
  FROM answer AS a
 ORDER BY a.is_total DESC, a.period, a.model, a.account_id, a.tag;

-- name: FirstRolled :one
-- The first of some days of which the rollups have a row; the last of the days, if of none. The tail
-- may have rows of earlier days.
SELECT coalesce(min(m.day), @to_day)::date AS first_day
  FROM model_usage AS m
 WHERE m.day BETWEEN @from_day::date AND @to_day::date;

-- name: TagSetsWith :many
-- The sets that have a tag: all that rows of the statement's snapshot may name, or so many of them.
SELECT s.id FROM tag_sets AS s WHERE @tag::text = ANY (s.tags) LIMIT @row_limit;

-- name: ReportKeys :many
-- What each key used in each period, by model and by tag where that is asked for, in order of the
-- keys' ids, after the row that a cursor names. Keys are read in batches: first_keys, then one part of
-- as many as were read so far, but few_keys at most, then one far_part of them, if that is more. None
-- is read while the page has rows to come of those before it, since a recursive query stops where the
-- LIMIT does: so the statement reads little more than its page has, and still asks for many
-- keys at once, which it must where workers hold their rows. Each batch is sorted, and
-- batches follow each other in order of keys; an ORDER BY over all of them would read them all first. A
-- batch's rows find their key by its place among the others, so they are hashed and not compared with
-- every key. Of one tag, tag_sets are all sets that have it, or null where they are many: PostgreSQL
-- looks for a few known ids in the index, and plans each of many for long. Otherwise as ReportSums. The
-- zero id asks for any key.
WITH RECURSIVE batch AS (
    SELECT b.key_ids, b.key_names, b.ledger_ids, cardinality(b.key_ids) AS keys
      FROM (
           SELECT array_agg(k.key_id) AS key_ids,
                  array_agg(k.key_name) AS key_names,
                  array_agg(k.ledger_id) AS ledger_ids
             FROM (
                  SELECT x.key_id, x.key_name, x.ledger_id
                    FROM ledger_keys AS x
                   WHERE (@key_id::uuid = '00000000-0000-0000-0000-000000000000'::uuid OR x.key_id = @key_id)
                     AND x.key_id >= @after_key_id::uuid
                   ORDER BY x.key_id
                   LIMIT @first_keys::bigint
             ) AS k
      ) AS b
     WHERE b.key_ids IS NOT NULL
    UNION ALL
    SELECT b.key_ids, b.key_names, b.ledger_ids, p.keys + cardinality(b.key_ids)
      FROM batch AS p
     CROSS JOIN LATERAL (
           SELECT array_agg(k.key_id) AS key_ids,
                  array_agg(k.key_name) AS key_names,
                  array_agg(k.ledger_id) AS ledger_ids
             FROM (
                  SELECT x.key_id, x.key_name, x.ledger_id
                    FROM ledger_keys AS x
                   WHERE @key_id = '00000000-0000-0000-0000-000000000000'::uuid
                     AND x.key_id > p.key_ids[cardinality(p.key_ids)]
                   ORDER BY x.key_id
                   LIMIT least(2048, greatest(1, least(p.keys / @part::bigint, @few_keys::bigint),
                                              p.keys / @far_part::bigint))
             ) AS k
      ) AS b
     WHERE b.key_ids IS NOT NULL
)
SELECT false AS is_total,
       b.key_ids[r.place]::uuid AS key_id,
       b.key_names[r.place]::text AS key_name,
       r.period::text AS period,
       r.model::text AS model,
       ''::text AS account_id,
       r.tag::text AS tag,
       r.requests::bigint AS requests,
       r.input_tokens::bigint AS input_tokens,
       r.output_tokens::bigint AS output_tokens,
       r.cache_create_tokens::bigint AS cache_create_tokens,
       r.cache_read_tokens::bigint AS cache_read_tokens,
       r.ephemeral_1h_tokens::bigint AS ephemeral_1h_tokens,
       r.cost::numeric AS cost
  FROM batch AS b
 CROSS JOIN LATERAL (
       SELECT i.place, x.period, x.model, x.tag, x.requests, x.input_tokens, x.output_tokens,
              x.cache_create_tokens, x.cache_read_tokens, x.ephemeral_1h_tokens, x.cost
         FROM generate_series(1, cardinality(b.key_ids)) AS i (place)
         JOIN (
              SELECT d.ledger_id,
                     CASE @granularity::text
                         WHEN 'day' THEN d.day::text
                         WHEN 'month' THEN to_char(d.day, 'YYYY-MM')
                         ELSE ''
                     END AS period,
                     CASE WHEN @by_model::boolean THEN d.model ELSE '' END AS model,
                     g.tag,
                     sum(d.requests)::bigint AS requests,
                     sum(d.input_tokens)::bigint AS input_tokens,
                     sum(d.output_tokens)::bigint AS output_tokens,
                     sum(d.cache_create_tokens)::bigint AS cache_create_tokens,
                     sum(d.cache_read_tokens)::bigint AS cache_read_tokens,
                     sum(d.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
                     sum(d.cost)::numeric AS cost
                FROM key_days AS d
                LEFT JOIN tag_sets AS s ON s.id = d.tag_set AND @by_tag::boolean
               CROSS JOIN LATERAL unnest(
                     CASE WHEN @by_tag THEN coalesce(s.tags, '{""}') ELSE '{""}' END
               ) AS g (tag)
               WHERE d.ledger_id = ANY (b.ledger_ids)
                 AND d.day BETWEEN @from_day::date AND @to_day::date
                 AND (@model::text = '' OR d.model = @model)
                 AND (@tag::text = ''
                      OR g.tag IN ('', @tag)
                      AND (@tag_sets::uuid[] IS NULL OR d.tag_set = ANY (@tag_sets))
                      AND (@tag_sets IS NOT NULL
                           OR d.tag_set = ANY (ARRAY(SELECT y.id FROM tag_sets AS y WHERE @tag = ANY (y.tags)))))
               GROUP BY 1, 2, 3, 4
         ) AS x ON x.ledger_id = b.ledger_ids[i.place]
        WHERE (@first::boolean
               OR (b.key_ids[i.place], x.period, x.model, x.tag)
                > (@after_key_id::uuid, @after_period::text, @after_model::text, @after_tag::text))
          AND (x.requests, x.input_tokens, x.output_tokens, x.cache_create_tokens, x.cache_read_tokens, x.cost)
              <> (0, 0, 0, 0, 0, 0)
        ORDER BY i.place, x.period, x.model, x.tag
  ) AS r
 LIMIT sqlc.narg('row_limit')::bigint;

-- name: ReportLedger :many
-- As ReportSums and ReportKeys together, from the ledger itself: for hours, and for
-- accounts of keys, which no rollup has. An hour is named by the instant it begins at.
-- Rows are added up by quarters of an hour first, which every time zone's hours are made
-- of since 2000, and by sets of tags: what is costly is done once for each of those.
WITH summed AS (
    SELECT CASE WHEN @by_key::boolean THEN e.ledger_id END AS ledger_id,
           CASE WHEN @granularity::text = 'hour' THEN e.quarter END AS quarter,
           CASE WHEN @granularity IN ('day', 'month') THEN e.day END AS day,
           CASE WHEN @by_model::boolean THEN e.model END AS model,
           CASE WHEN @by_account::boolean THEN e.account_id END AS account_id,
           CASE WHEN @by_tag::boolean THEN e.tag_set END AS tag_set,
           sum(e.requests) AS requests,
           sum(e.input_tokens) AS input_tokens,
           sum(e.output_tokens) AS output_tokens,
           sum(e.cache_create_tokens) AS cache_create_tokens,
           sum(e.cache_read_tokens) AS cache_read_tokens,
           sum(e.ephemeral_1h_tokens) AS ephemeral_1h_tokens,
           sum(e.cost) AS cost
      FROM (
           SELECT x.*, date_bin('15 minutes', x.occurred_at, '2000-01-01T00:00:00Z') AS quarter
             FROM ledger AS x
            WHERE x.day BETWEEN @from_day::date AND @to_day::date
              AND x.received_at >= (CAST(@from_day::date AS timestamp) - interval '2 days')
                  AT TIME ZONE (@timezone::text)
              AND (@key_id::uuid = '00000000-0000-0000-0000-000000000000'::uuid
                   OR x.ledger_id = (SELECT k.ledger_id FROM ledger_keys AS k WHERE k.key_id = @key_id))
              AND (@model::text = '' OR x.model = @model)
              AND (@account_id::text = '' OR x.account_id = @account_id)
              AND (@tag::text = ''
                   OR x.tag_set = ANY(ARRAY(SELECT y.id FROM tag_sets AS y WHERE @tag = ANY (y.tags))))
           -- Keeps quarters from being taken for as many as there are instants: rows would be
           -- sorted on disk where workers add them up in memory. Written as 0 it would keep workers
           -- from it, since that is no constant of its type.
           OFFSET '0'::bigint
      ) AS e
     GROUP BY 1, 2, 3, 4, 5, 6
), grouped AS MATERIALIZED (
    SELECT coalesce(e.ledger_id, '00000000-0000-0000-0000-000000000000') AS ledger_id,
           CASE @granularity
               WHEN 'hour' THEN to_char(
                   date_trunc('hour', e.quarter, @timezone) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
               WHEN 'day' THEN e.day::text
               WHEN 'month' THEN to_char(e.day, 'YYYY-MM')
               ELSE ''
           END AS period,
           coalesce(e.model, '') AS model,
           coalesce(e.account_id, '') AS account_id,
           g.tag,
           sum(e.requests)::bigint AS requests,
           sum(e.input_tokens)::bigint AS input_tokens,
           sum(e.output_tokens)::bigint AS output_tokens,
           sum(e.cache_create_tokens)::bigint AS cache_create_tokens,
           sum(e.cache_read_tokens)::bigint AS cache_read_tokens,
           sum(e.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
           sum(e.cost)::numeric AS cost
      FROM summed AS e
      LEFT JOIN tag_sets AS s ON s.id = e.tag_set
     CROSS JOIN LATERAL unnest(
           CASE WHEN @by_tag THEN array_append(coalesce(s.tags, '{""}'), NULL) ELSE '{""}' END
     ) AS g (tag)
     WHERE @tag = '' OR g.tag IN ('', @tag)
     GROUP BY 1, 2, 3, 4, 5
), named AS (
    SELECT g.*,
           (CASE WHEN @by_key THEN coalesce(k.id, g.ledger_id) ELSE g.ledger_id END) AS key_id,
           (CASE WHEN @by_key THEN coalesce(k.name, '(purged)') ELSE '' END) AS key_name
      FROM grouped AS g
      LEFT JOIN api_keys AS k ON k.ledger_id = g.ledger_id
), page AS (
    SELECT g.key_id, g.key_name, g.period, g.model, g.account_id, g.tag,
           g.requests, g.input_tokens, g.output_tokens, g.cache_create_tokens,
           g.cache_read_tokens, g.ephemeral_1h_tokens, g.cost
      FROM named AS g
     WHERE g.tag IS NOT NULL
       AND (@first::boolean
            OR (g.key_id, g.period, g.model, g.account_id, g.tag)
             > (@after_key_id::uuid, @after_period::text, @after_model::text, @after_account_id::text,
                @after_tag::text))
       AND (g.requests, g.input_tokens, g.output_tokens, g.cache_create_tokens, g.cache_read_tokens, g.cost)
           <> (0, 0, 0, 0, 0, 0)
     ORDER BY g.key_id, g.period, g.model, g.account_id, g.tag
     LIMIT sqlc.narg('row_limit')::bigint
), answer AS (
    SELECT false AS is_total, p.*
      FROM page AS p
    UNION ALL
    SELECT true, '00000000-0000-0000-0000-000000000000', '', '', '', '', '',
           coalesce(sum(g.requests), 0),
           coalesce(sum(g.input_tokens), 0),
           coalesce(sum(g.output_tokens), 0),
           coalesce(sum(g.cache_create_tokens), 0),
           coalesce(sum(g.cache_read_tokens), 0),
           coalesce(sum(g.ephemeral_1h_tokens), 0),
           coalesce(sum(g.cost), 0)
      FROM grouped AS g
     WHERE @totals::boolean AND (g.tag IS NULL OR NOT @by_tag OR @tag <> '')
    HAVING @totals
)
SELECT a.is_total::boolean AS is_total,
       a.key_id::uuid AS key_id,
       a.key_name::text AS key_name,
       a.period::text AS period,
       a.model::text AS model,
       a.account_id::text AS account_id,
       a.tag::text AS tag,
       a.requests::bigint AS requests,
       a.input_tokens::bigint AS input_tokens,
       a.output_tokens::bigint AS output_tokens,
       a.cache_create_tokens::bigint AS cache_create_tokens,
       a.cache_read_tokens::bigint AS cache_read_tokens,
       a.ephemeral_1h_tokens::bigint AS ephemeral_1h_tokens,
       a.cost::numeric AS cost
  FROM answer AS a
 ORDER BY a.is_total DESC, a.key_id, a.period, a.model, a.account_id, a.tag;

-- name: ReportFocus :many
-- The rows of reporting.focus of these days, as text; the zero id: of all keys. Nulls are the
-- empty text.
SELECT ARRAY[
           coalesce(f."BilledCost"::text, ''),
           coalesce(f."BillingAccountId"::text, ''),
           coalesce(f."BillingAccountName"::text, ''),
           coalesce(f."BillingCurrency"::text, ''),
           to_char(f."BillingPeriodEnd" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
           to_char(f."BillingPeriodStart" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
           coalesce(f."ChargeCategory"::text, ''),
           coalesce(f."ChargeClass"::text, ''),
           coalesce(f."ChargeDescription"::text, ''),
           to_char(f."ChargePeriodEnd" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
           to_char(f."ChargePeriodStart" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
           coalesce(f."ConsumedQuantity"::text, ''),
           coalesce(f."ConsumedUnit"::text, ''),
           coalesce(f."ContractedCost"::text, ''),
           coalesce(f."ContractedUnitPrice"::text, ''),
           coalesce(f."EffectiveCost"::text, ''),
           coalesce(f."HostProviderName"::text, ''),
           coalesce(f."InvoiceIssuerName"::text, ''),
           coalesce(f."ListCost"::text, ''),
           coalesce(f."ListUnitPrice"::text, ''),
           coalesce(f."PricingCategory"::text, ''),
           coalesce(f."PricingQuantity"::text, ''),
           coalesce(f."PricingUnit"::text, ''),
           coalesce(f."ProviderName"::text, ''),
           coalesce(f."PublisherName"::text, ''),
           coalesce(f."ServiceCategory"::text, ''),
           coalesce(f."ServiceName"::text, ''),
           coalesce(f."ServiceProviderName"::text, ''),
           coalesce(f."ServiceSubcategory"::text, ''),
           coalesce(f."SkuId"::text, ''),
           coalesce(f."SkuMeter"::text, ''),
           coalesce(f."SkuPriceId"::text, ''),
           coalesce(f."SubAccountId"::text, ''),
           coalesce(f."SubAccountName"::text, ''),
           coalesce(f."SubAccountType"::text, ''),
           coalesce(f."Tags"::text, ''),
           coalesce(f."x_Requests"::text, ''),
           coalesce(f."x_InputTokens"::text, ''),
           coalesce(f."x_OutputTokens"::text, ''),
           coalesce(f."x_CacheReadTokens"::text, ''),
           coalesce(f."x_CacheWriteTokens"::text, ''),
           coalesce(f."x_Day"::text, '')
       ]::text[] AS cells
  FROM reporting.focus AS f
 WHERE f."x_Day" BETWEEN @from_day::date AND @to_day::date
   AND (@key_id::uuid = '00000000-0000-0000-0000-000000000000'::uuid OR f."SubAccountId" = @key_id::text)
 ORDER BY f."x_Day", f."SubAccountId", f."SkuId", f."Tags";
