-- name: LedgerAppend :many
-- Records events in the ledger and in every rollup, each unit of them whole or not
-- at all; units are numbered by @units. The only statement that moves a rollup.
--
-- One row comes back for each event: refused (the key is unknown; then nothing of
-- its unit is recorded), recorded (dearer: than was reserved), or neither: a
-- duplicate, whose first answer DedupFind reads (a statement of its own, since
-- this one cannot see a row it has just waited for), or of a refused unit. With it
-- comes the admission that the event settles: the one it names, else the current one
-- of its request id, else the zero id.
--
-- The totals rows of all keys are locked first, in id order, and held to the
-- end of the transaction. Batches that share keys therefore go one after
-- another and cannot deadlock on what belongs to a key; accounts are upserted
-- last, sorted; counters of windows are taken in id order too, as CountersLock does.
-- The gate (usage_dedup) admits each (key, dedup key) once, also within one
-- batch: an event passes if it got all of its own, by request id (or event id)
-- and by admission. An event with an admission settles it: the lease ends and the
-- reservation is freed in the same instant in which its cost counts. What is recorded
-- for a closed day is noted in usage_late, for close_days.
--
-- The plan cannot depend on statistics: rows that exist are looked up one by one from
-- the materialised input, by their primary key, and rollups are upserted, which
-- always goes by theirs.
WITH input AS MATERIALIZED (
    SELECT i.event_id, i.kind, i.key_id, i.dedup_key, i.account_id, i.model, i.model_received, i.request_id,
           i.occurred_at, (i.occurred_at AT TIME ZONE @timezone::text)::date AS day,
           i.requests, i.input_tokens, i.output_tokens, i.cache_create_tokens, i.cache_read_tokens,
           i.ephemeral_5m_tokens, i.ephemeral_1h_tokens, i.cost, i.priced, i.fingerprint, i.adjusts, i.reason,
           coalesce(nullif(i.admission_id, '00000000-0000-0000-0000-000000000000'), c.id) AS admission_id,
           i.unit, i.ord, k.rate_limit_window
      FROM ROWS FROM (
           unnest(@event_ids::uuid[]), unnest(@kinds::text[]), unnest(@key_ids::uuid[]),
           unnest(@dedup_keys::text[]), unnest(@account_ids::text[]), unnest(@models::text[]),
           unnest(@models_received::text[]), unnest(@request_ids::text[]), unnest(@occurred_ats::timestamptz[]),
           unnest(@requests::bigint[]), unnest(@input_tokens::bigint[]), unnest(@output_tokens::bigint[]),
           unnest(@cache_create_tokens::bigint[]), unnest(@cache_read_tokens::bigint[]),
           unnest(@ephemeral_5m_tokens::bigint[]), unnest(@ephemeral_1h_tokens::bigint[]),
           unnest(CAST(@costs::text[] AS numeric[])), unnest(@priced::boolean[]), unnest(@fingerprints::bigint[]),
           unnest(@adjusts::uuid[]), unnest(@reasons::text[]), unnest(@admission_ids::uuid[]), unnest(@units::bigint[])
      ) WITH ORDINALITY AS i (
           event_id, kind, key_id, dedup_key, account_id, model, model_received, request_id, occurred_at, requests,
           input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_5m_tokens,
           ephemeral_1h_tokens, cost, priced, fingerprint, adjusts, reason, admission_id, unit, ord)
      LEFT JOIN LATERAL (
           SELECT o.id
             FROM admissions AS o
            WHERE o.key_id = i.key_id AND o.request_id = i.request_id AND o.is_current
              AND i.kind = 'usage' AND i.request_id <> ''
              AND i.admission_id = '00000000-0000-0000-0000-000000000000'
            LIMIT 1
      ) AS c ON true
      LEFT JOIN LATERAL (SELECT x.rate_limit_window FROM api_keys AS x WHERE x.id = i.key_id LIMIT 1) AS k ON true
), keys AS MATERIALIZED (
    SELECT DISTINCT u.id FROM ROWS FROM (unnest(@key_ids::uuid[])) AS u (id) ORDER BY u.id
), locked AS MATERIALIZED (
    SELECT t.key_id
      FROM keys AS k
     CROSS JOIN LATERAL (
           SELECT x.key_id FROM key_totals AS x WHERE x.key_id = k.id FOR NO KEY UPDATE
     ) AS t
), refused AS MATERIALIZED (
    SELECT i.ord, i.unit
      FROM input AS i
     WHERE i.key_id NOT IN (SELECT l.key_id FROM locked AS l)
        OR i.kind = 'usage' AND i.rate_limit_window IS NULL
), wanted AS MATERIALIZED (
    SELECT i.ord, i.event_id, i.key_id, i.dedup_key AS gate_key, i.model, i.cost, i.priced, i.fingerprint,
           i.admission_id, i.unit
      FROM input AS i
    UNION ALL
    SELECT i.ord, i.event_id, i.key_id, 'a:' || i.admission_id::text, i.model, i.cost, i.priced, i.fingerprint,
           i.admission_id, i.unit
      FROM input AS i
     WHERE i.admission_id IS NOT NULL AND i.dedup_key <> 'a:' || i.admission_id::text
), gate AS (
    INSERT INTO usage_dedup (key_id, dedup_key, event_id, admission_id, model, cost, priced, fingerprint, received_at)
    SELECT w.key_id, w.gate_key, w.event_id, w.admission_id, w.model, w.cost, w.priced, w.fingerprint, now()
      FROM wanted AS w
     WHERE w.unit NOT IN (SELECT r.unit FROM refused AS r)
     ORDER BY w.key_id, w.gate_key, w.ord
    ON CONFLICT (key_id, dedup_key) DO NOTHING
    RETURNING event_id, dedup_key
), fresh AS MATERIALIZED (
    -- In a CASE, each IN is a hash table made once; a join of estimates as small as
    -- these would be a nested loop, and large batches would pay its square.
    SELECT i.*
      FROM input AS i
     WHERE CASE WHEN (i.event_id, i.dedup_key) IN (SELECT g.event_id, g.dedup_key FROM gate AS g)
                THEN i.admission_id IS NULL
                  OR (i.event_id, 'a:' || i.admission_id::text) IN (SELECT g.event_id, g.dedup_key FROM gate AS g) END
), ledger AS (
    INSERT INTO usage_events (
           event_id, received_at, kind, key_id, account_id, model, model_received, request_id, occurred_at, day,
           requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens,
           ephemeral_5m_tokens, ephemeral_1h_tokens, cost, priced, adjusts, reason)
    SELECT f.event_id, now(), f.kind, f.key_id, nullif(f.account_id, ''), f.model, f.model_received,
           nullif(f.request_id, ''), f.occurred_at, f.day,
           f.requests, f.input_tokens, f.output_tokens, f.cache_create_tokens, f.cache_read_tokens,
           f.ephemeral_5m_tokens, f.ephemeral_1h_tokens, f.cost, f.priced,
           nullif(f.adjusts, '00000000-0000-0000-0000-000000000000'), nullif(f.reason, '')
      FROM fresh AS f
), totals AS (
    INSERT INTO key_totals AS t (
           key_id, requests, input_tokens, output_tokens, cache_create_tokens,
           cache_read_tokens, ephemeral_5m_tokens, ephemeral_1h_tokens, cost, last_used_at)
    SELECT f.key_id,
           sum(f.requests)::bigint AS requests,
           sum(f.input_tokens)::bigint AS input_tokens,
           sum(f.output_tokens)::bigint AS output_tokens,
           sum(f.cache_create_tokens)::bigint AS cache_create_tokens,
           sum(f.cache_read_tokens)::bigint AS cache_read_tokens,
           sum(f.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens,
           sum(f.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
           sum(f.cost) AS cost,
           max(f.occurred_at) FILTER (WHERE f.kind = 'usage') AS last_used_at
      FROM fresh AS f
     GROUP BY f.key_id
     ORDER BY f.key_id
    ON CONFLICT (key_id) DO UPDATE SET
           requests = t.requests + excluded.requests,
           input_tokens = t.input_tokens + excluded.input_tokens,
           output_tokens = t.output_tokens + excluded.output_tokens,
           cache_create_tokens = t.cache_create_tokens + excluded.cache_create_tokens,
           cache_read_tokens = t.cache_read_tokens + excluded.cache_read_tokens,
           ephemeral_5m_tokens = t.ephemeral_5m_tokens + excluded.ephemeral_5m_tokens,
           ephemeral_1h_tokens = t.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens,
           cost = t.cost + excluded.cost,
           last_used_at = greatest(t.last_used_at, excluded.last_used_at)
), days AS (
    INSERT INTO daily_cost AS t (key_id, day, cost)
    SELECT f.key_id, f.day, sum(f.cost)
      FROM fresh AS f
     GROUP BY f.key_id, f.day
     ORDER BY f.key_id, f.day
    ON CONFLICT (key_id, day) DO UPDATE SET cost = t.cost + excluded.cost
), models AS (
    INSERT INTO usage_daily AS t (
           key_id, day, model, requests, input_tokens, output_tokens, cache_create_tokens,
           cache_read_tokens, ephemeral_5m_tokens, ephemeral_1h_tokens, cost)
    SELECT f.key_id, f.day, f.model,
           sum(f.requests)::bigint AS requests,
           sum(f.input_tokens)::bigint AS input_tokens,
           sum(f.output_tokens)::bigint AS output_tokens,
           sum(f.cache_create_tokens)::bigint AS cache_create_tokens,
           sum(f.cache_read_tokens)::bigint AS cache_read_tokens,
           sum(f.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens,
           sum(f.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
           sum(f.cost) AS cost
      FROM fresh AS f
     GROUP BY f.key_id, f.day, f.model
     ORDER BY f.key_id, f.day, f.model
    ON CONFLICT (key_id, day, model) DO UPDATE SET
           requests = t.requests + excluded.requests,
           input_tokens = t.input_tokens + excluded.input_tokens,
           output_tokens = t.output_tokens + excluded.output_tokens,
           cache_create_tokens = t.cache_create_tokens + excluded.cache_create_tokens,
           cache_read_tokens = t.cache_read_tokens + excluded.cache_read_tokens,
           ephemeral_5m_tokens = t.ephemeral_5m_tokens + excluded.ephemeral_5m_tokens,
           ephemeral_1h_tokens = t.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens,
           cost = t.cost + excluded.cost
), late AS (
    INSERT INTO usage_late (
           key_id, day, model, requests, input_tokens, output_tokens, cache_create_tokens,
           cache_read_tokens, ephemeral_5m_tokens, ephemeral_1h_tokens, cost)
    SELECT f.key_id, f.day, f.model,
           sum(f.requests)::bigint AS requests,
           sum(f.input_tokens)::bigint AS input_tokens,
           sum(f.output_tokens)::bigint AS output_tokens,
           sum(f.cache_create_tokens)::bigint AS cache_create_tokens,
           sum(f.cache_read_tokens)::bigint AS cache_read_tokens,
           sum(f.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens,
           sum(f.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
           sum(f.cost) AS cost
      FROM fresh AS f
     WHERE f.day <= (SELECT c.closing_until FROM closing_days AS c WHERE c.only_row)
     GROUP BY f.key_id, f.day, f.model
), counters AS MATERIALIZED (
    SELECT c.key_id
      FROM (SELECT DISTINCT i.key_id FROM input AS i WHERE i.rate_limit_window > 0 ORDER BY i.key_id) AS k
     CROSS JOIN LATERAL (
           SELECT x.key_id FROM key_counters AS x WHERE x.key_id = k.key_id FOR NO KEY UPDATE
     ) AS c
), windows AS (
    -- The proposed window_start is the earliest start of a window that is open now.
    INSERT INTO key_counters AS c (key_id, window_start, tokens)
    SELECT f.key_id,
           clock_timestamp() - max(f.rate_limit_window) * interval '1 minute',
           sum(f.input_tokens + f.output_tokens + f.cache_create_tokens + f.cache_read_tokens)::bigint
      FROM fresh AS f
     WHERE f.kind = 'usage' AND f.rate_limit_window > 0
       AND (SELECT count(*) FROM counters) >= 0 -- they are locked first, in order
     GROUP BY f.key_id
    ON CONFLICT (key_id) DO UPDATE SET tokens = c.tokens + excluded.tokens
     WHERE c.window_start > excluded.window_start
), settled AS (
    UPDATE admissions AS a SET is_open = false, ended_by = 'settled', ended_at = now()
      FROM fresh AS f
     WHERE a.id = f.admission_id AND a.key_id = f.key_id AND f.kind = 'usage'
       AND (SELECT count(*) FROM counters) >= 0 -- counters before admissions, as a renewal takes them
    RETURNING f.event_id, f.cost > a.reserved_cost AND a.reserved_cost > 0 AS dearer
), account_days AS (
    INSERT INTO account_usage AS t (
           account_id, day, model, requests, input_tokens, output_tokens, cache_create_tokens,
           cache_read_tokens, ephemeral_5m_tokens, ephemeral_1h_tokens, cost)
    SELECT f.account_id, f.day, f.model,
           sum(f.requests)::bigint AS requests,
           sum(f.input_tokens)::bigint AS input_tokens,
           sum(f.output_tokens)::bigint AS output_tokens,
           sum(f.cache_create_tokens)::bigint AS cache_create_tokens,
           sum(f.cache_read_tokens)::bigint AS cache_read_tokens,
           sum(f.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens,
           sum(f.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
           sum(f.cost) AS cost
      FROM fresh AS f
     WHERE f.account_id <> ''
     GROUP BY f.account_id, f.day, f.model
     ORDER BY f.account_id, f.day, f.model
    ON CONFLICT (account_id, day, model) DO UPDATE SET
           requests = t.requests + excluded.requests,
           input_tokens = t.input_tokens + excluded.input_tokens,
           output_tokens = t.output_tokens + excluded.output_tokens,
           cache_create_tokens = t.cache_create_tokens + excluded.cache_create_tokens,
           cache_read_tokens = t.cache_read_tokens + excluded.cache_read_tokens,
           ephemeral_5m_tokens = t.ephemeral_5m_tokens + excluded.ephemeral_5m_tokens,
           ephemeral_1h_tokens = t.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens,
           cost = t.cost + excluded.cost
), accounts AS (
    INSERT INTO account_totals AS t (
           account_id, requests, input_tokens, output_tokens, cache_create_tokens,
           cache_read_tokens, ephemeral_5m_tokens, ephemeral_1h_tokens, cost,
           first_used_at, last_used_at)
    SELECT f.account_id,
           sum(f.requests)::bigint AS requests,
           sum(f.input_tokens)::bigint AS input_tokens,
           sum(f.output_tokens)::bigint AS output_tokens,
           sum(f.cache_create_tokens)::bigint AS cache_create_tokens,
           sum(f.cache_read_tokens)::bigint AS cache_read_tokens,
           sum(f.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens,
           sum(f.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
           sum(f.cost) AS cost,
           min(f.occurred_at) AS first_used_at,
           max(f.occurred_at) AS last_used_at
      FROM fresh AS f
     WHERE f.account_id <> ''
     GROUP BY f.account_id
     ORDER BY f.account_id
    ON CONFLICT (account_id) DO UPDATE SET
           requests = t.requests + excluded.requests,
           input_tokens = t.input_tokens + excluded.input_tokens,
           output_tokens = t.output_tokens + excluded.output_tokens,
           cache_create_tokens = t.cache_create_tokens + excluded.cache_create_tokens,
           cache_read_tokens = t.cache_read_tokens + excluded.cache_read_tokens,
           ephemeral_5m_tokens = t.ephemeral_5m_tokens + excluded.ephemeral_5m_tokens,
           ephemeral_1h_tokens = t.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens,
           cost = t.cost + excluded.cost,
           first_used_at = least(t.first_used_at, excluded.first_used_at),
           last_used_at = greatest(t.last_used_at, excluded.last_used_at)
)
SELECT (i.ord - 1)::bigint AS index,
       (i.ord IN (SELECT r.ord FROM refused AS r))::boolean AS refused,
       (i.event_id IN (SELECT f.event_id FROM fresh AS f))::boolean AS recorded,
       (i.event_id IN (SELECT s.event_id FROM settled AS s WHERE s.dearer))::boolean AS dearer,
       coalesce(i.admission_id, '00000000-0000-0000-0000-000000000000')::uuid AS admission_id
  FROM input AS i
 ORDER BY i.ord;

-- name: DedupFind :many
-- The first events behind these (key, dedup key) pairs, given as parallel
-- arrays: what duplicates are answered with. The zero id: it named no admission.
SELECT d.key_id, d.dedup_key, d.event_id, d.model, d.cost, d.priced, d.fingerprint,
       coalesce(d.admission_id, '00000000-0000-0000-0000-000000000000')::uuid AS admission_id
  FROM ROWS FROM (unnest(@key_ids::uuid[]), unnest(@dedup_keys::text[])) AS w (key_id, dedup_key)
 CROSS JOIN LATERAL (
       SELECT x.* FROM usage_dedup AS x WHERE x.key_id = w.key_id AND x.dedup_key = w.dedup_key LIMIT 1
 ) AS d;

-- name: DedupForget :exec
-- Removes gates that events hold which were stopped by another gate of theirs:
-- left there, they would stop usage that was never recorded.
DELETE FROM usage_dedup AS d
 USING ROWS FROM (
       unnest(@key_ids::uuid[]), unnest(@dedup_keys::text[]), unnest(@event_ids::uuid[])
 ) AS s (key_id, dedup_key, event_id)
 WHERE d.key_id = s.key_id AND d.dedup_key = s.dedup_key AND d.event_id = s.event_id;

-- name: AdmissionsEnd :exec
-- Ends open admissions whose requests have been settled by another event: neither slot
-- nor reservation of theirs stays behind.
UPDATE admissions AS a SET is_open = false, ended_by = 'settled', ended_at = now()
 WHERE a.id = ANY(@ids::uuid[]) AND a.is_open;

-- name: AdmissionKeys :many
-- The keys of admissions, for events that name only those.
SELECT a.id, a.key_id
  FROM ROWS FROM (unnest(@admission_ids::uuid[])) AS u (id)
 CROSS JOIN LATERAL (SELECT x.id, x.key_id FROM admissions AS x WHERE x.id = u.id LIMIT 1) AS a;

-- name: DedupPrune :execrows
-- Forgets up to a thousand events received before the deduplication horizon.
-- What was voided is remembered as long as its event may be in the ledger.
DELETE FROM usage_dedup AS d
 WHERE (d.key_id, d.dedup_key) IN (
    SELECT o.key_id, o.dedup_key FROM usage_dedup AS o
     WHERE o.received_at < coalesce(sqlc.narg('now')::timestamptz, now()) - make_interval(secs => @horizon_seconds::integer)
       AND (o.dedup_key NOT LIKE 'v:%'
            OR o.received_at < coalesce(sqlc.narg('now')::timestamptz, now()) - make_interval(days => @retention_days::integer))
     LIMIT 1000);

-- name: EventList :many
-- A page of the ledger, newest first (event ids sort by time of receipt), after
-- the event a cursor names. Times bound occurred_at: from included, to not.
SELECT * FROM usage_events AS e
 WHERE (sqlc.narg('key_id')::uuid IS NULL OR e.key_id = sqlc.narg('key_id')::uuid)
   AND (sqlc.narg('account_id')::text IS NULL OR e.account_id = sqlc.narg('account_id')::text)
   AND (sqlc.narg('model')::text IS NULL OR e.model = sqlc.narg('model')::text)
   AND (sqlc.narg('request_id')::text IS NULL OR e.request_id = sqlc.narg('request_id')::text)
   AND (sqlc.narg('kind')::text IS NULL OR e.kind = sqlc.narg('kind')::text)
   AND (sqlc.narg('from')::timestamptz IS NULL OR e.occurred_at >= sqlc.narg('from')::timestamptz)
   AND (sqlc.narg('to')::timestamptz IS NULL OR e.occurred_at < sqlc.narg('to')::timestamptz)
   AND (sqlc.narg('after_id')::uuid IS NULL OR e.event_id < sqlc.narg('after_id')::uuid)
 ORDER BY e.event_id DESC
 LIMIT @row_limit;

-- name: EventFind :one
-- One ledger row, which is never edited, with what its adjustments have made of it:
-- requests (0 once it was taken back), cost, whether it has a price, and how many
-- adjustments there are.
SELECT sqlc.embed(u), (u.requests + coalesce(a.requests, 0))::bigint AS requests_now, (u.cost + coalesce(a.cost, 0))::numeric AS cost_now,
       (u.priced OR coalesce(a.priced, false))::boolean AS priced_now, coalesce(a.adjustments, 0)::bigint AS adjustments
  FROM usage_events AS u
  LEFT JOIN LATERAL (
    SELECT count(*) AS adjustments, sum(x.requests) AS requests, sum(x.cost) AS cost, bool_or(x.priced) AS priced
      FROM usage_events AS x WHERE x.key_id = u.key_id AND x.received_at >= u.received_at AND x.adjusts = u.event_id
  ) AS a ON true
 WHERE u.event_id = @event_id;

-- name: EventsOfDays :many
-- Usage of these days that has not been taken back, with what adjustments have made of its
-- cost and price, to be priced again.
SELECT u.event_id, u.key_id, coalesce(u.account_id, '')::text AS account_id, u.model, u.model_received, u.occurred_at,
       u.input_tokens, u.output_tokens, u.cache_create_tokens, u.cache_read_tokens, u.ephemeral_5m_tokens, u.ephemeral_1h_tokens,
       (u.cost + coalesce(a.cost, 0))::numeric AS cost_now, (u.priced OR coalesce(a.priced, false))::boolean AS priced_now,
       coalesce(a.ids, '{}')::uuid[] AS adjustments
  FROM usage_events AS u
  LEFT JOIN (
    SELECT x.adjusts, sum(x.requests) AS requests, sum(x.cost) AS cost, bool_or(x.priced) AS priced, array_agg(x.event_id) AS ids
      FROM usage_events AS x
     WHERE x.kind = 'adjustment'
       AND x.received_at >= (CAST(@from_day::date AS timestamp) AT TIME ZONE (@zone::text)) - interval '2 days'
     GROUP BY x.adjusts
  ) AS a ON a.adjusts = u.event_id
 WHERE u.kind = 'usage' AND u.day BETWEEN @from_day::date AND @to_day::date
   AND u.received_at >= (CAST(@from_day::date AS timestamp) AT TIME ZONE (@zone::text)) - interval '2 days'
   AND (@model::text = '' OR u.model = @model)
   AND u.requests + coalesce(a.requests, 0) > 0;

-- name: AdjustedBesides :many
-- Which of these keys' events have been adjusted since an instant of the database's clock,
-- but for the adjustments that are known. Asked after LedgerAppend in its transaction,
-- which holds the keys: nobody adjusts them meanwhile.
SELECT DISTINCT x.adjusts::uuid AS event_id
  FROM usage_events AS x
 WHERE x.key_id = ANY(@key_ids::uuid[]) AND x.received_at >= @since::timestamptz
   AND x.kind = 'adjustment' AND x.adjusts = ANY(@event_ids::uuid[])
   AND x.event_id <> ALL(@known::uuid[]);

-- name: KeyNames :many
-- The names of keys; purged ones have no row.
SELECT k.id, k.name FROM api_keys AS k WHERE k.id = ANY(@key_ids::uuid[]);

-- name: KeyUsagePeriods :many
-- What keys used in the day, ISO week and month that an instant falls in, in the
-- service's time zone: at most three rows a key, none for a period without use.
WITH asked AS (
    SELECT (coalesce(sqlc.narg('as_of')::timestamptz, now()) AT TIME ZONE @timezone::text)::date AS day
), period AS (
    SELECT 'daily' AS name, a.day AS first, a.day + 1 AS next FROM asked AS a
    UNION ALL SELECT 'weekly', date_trunc('week', a.day)::date, date_trunc('week', a.day)::date + 7 FROM asked AS a
    UNION ALL SELECT 'monthly', date_trunc('month', a.day)::date, (date_trunc('month', a.day) + interval '1 month')::date FROM asked AS a
)
SELECT u.key_id, p.name::text AS period,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens, sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens, sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       sum(u.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens, sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.cost)::numeric AS cost
  FROM period AS p
  JOIN usage_daily AS u ON u.day >= p.first AND u.day < p.next
 WHERE u.key_id = ANY(@key_ids::uuid[])
 GROUP BY u.key_id, p.name;

-- name: AccountUsagePeriods :many
-- The same for accounts.
WITH asked AS (
    SELECT (coalesce(sqlc.narg('as_of')::timestamptz, now()) AT TIME ZONE @timezone::text)::date AS day
), period AS (
    SELECT 'daily' AS name, a.day AS first, a.day + 1 AS next FROM asked AS a
    UNION ALL SELECT 'weekly', date_trunc('week', a.day)::date, date_trunc('week', a.day)::date + 7 FROM asked AS a
    UNION ALL SELECT 'monthly', date_trunc('month', a.day)::date, (date_trunc('month', a.day) + interval '1 month')::date FROM asked AS a
)
SELECT u.account_id, p.name::text AS period,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens, sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens, sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       sum(u.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens, sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.cost)::numeric AS cost
  FROM period AS p
  JOIN account_usage AS u ON u.day >= p.first AND u.day < p.next
 WHERE u.account_id = ANY(@account_ids::text[])
 GROUP BY u.account_id, p.name;

-- name: KeyUsageModels :many
-- What a key used of each model over all time, dearest first.
SELECT u.model, sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens, sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens, sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       sum(u.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens, sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.cost)::numeric AS cost
  FROM usage_daily AS u WHERE u.key_id = @key_id
 GROUP BY u.model ORDER BY sum(u.cost) DESC, u.model;

-- name: AccountUsageModels :many
-- What an account served of each model over all time, dearest first.
SELECT u.model, sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens, sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens, sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       sum(u.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens, sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.cost)::numeric AS cost
  FROM account_usage AS u WHERE u.account_id = @account_id
 GROUP BY u.model ORDER BY sum(u.cost) DESC, u.model;

-- name: AccountShow :one
-- An account's all-time sums, with the instant they were read at.
SELECT sqlc.embed(t), coalesce(sqlc.narg('as_of')::timestamptz, now())::timestamptz AS as_of
  FROM account_totals AS t WHERE t.account_id = @account_id;

-- name: AccountList :many
-- A page of accounts by the tokens (all four kinds) of the day that an instant
-- falls in, descending, ties by id, after the account a cursor names.
SELECT sqlc.embed(t), coalesce(sqlc.narg('as_of')::timestamptz, now())::timestamptz AS as_of,
       coalesce(d.tokens, 0)::bigint AS day_tokens
  FROM account_totals AS t
  LEFT JOIN (
    SELECT u.account_id, sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS tokens
      FROM account_usage AS u
     WHERE u.day = (coalesce(sqlc.narg('as_of')::timestamptz, now()) AT TIME ZONE @timezone::text)::date
     GROUP BY u.account_id
  ) AS d ON d.account_id = t.account_id
 WHERE sqlc.narg('after_id')::text IS NULL
    OR coalesce(d.tokens, 0) < @after_tokens::bigint
    OR (coalesce(d.tokens, 0) = @after_tokens::bigint AND t.account_id > sqlc.narg('after_id')::text)
 ORDER BY coalesce(d.tokens, 0) DESC, t.account_id
 LIMIT @row_limit;

-- name: LedgerPartitionsMake :one
-- Makes the ledger's partitions from yesterday to two weeks ahead where they are
-- missing, and returns how many it made.
SELECT make_ledger_partitions((now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + 14)::integer AS made;

-- name: LedgerPartitionsDrop :one
-- Drops ledger partitions older than the retention, and returns how many.
SELECT drop_ledger_partitions((now() AT TIME ZONE 'UTC')::date - @days::integer)::integer AS dropped;

-- name: SumsHeld :many
-- Which keys' and accounts' rows of sums another transaction has locked at this
-- moment; those of a key are its totals and its counters. It waits for nobody, and
-- lets go of what it could lock at once. A key comes without an account (the empty
-- text), an account without a key (the zero id).
WITH keys AS MATERIALIZED (
    SELECT t.key_id FROM key_totals AS t WHERE t.key_id = ANY(@key_ids::uuid[]) FOR NO KEY UPDATE SKIP LOCKED
), counters AS MATERIALIZED (
    SELECT c.key_id FROM key_counters AS c WHERE c.key_id = ANY(@key_ids::uuid[]) FOR NO KEY UPDATE SKIP LOCKED
), accounts AS MATERIALIZED (
    SELECT a.account_id FROM account_totals AS a WHERE a.account_id = ANY(@account_ids::text[]) FOR NO KEY UPDATE SKIP LOCKED
)
SELECT t.key_id::uuid AS key_id, ''::text AS account_id FROM key_totals AS t
 WHERE t.key_id = ANY(@key_ids::uuid[])
   AND (NOT EXISTS (SELECT FROM keys AS k WHERE k.key_id = t.key_id) OR NOT EXISTS (SELECT FROM counters AS c WHERE c.key_id = t.key_id))
UNION ALL
SELECT '00000000-0000-0000-0000-000000000000'::uuid, a.account_id FROM account_totals AS a
 WHERE a.account_id = ANY(@account_ids::text[])
   AND NOT EXISTS (SELECT FROM accounts AS f WHERE f.account_id = a.account_id);
