-- name: CountersLock :exec
-- Locks the counters of keys in id order, until the transaction ends: whoever decides
-- about a key waits here for the one before. Unknown keys have none.
SELECT 1
  FROM (SELECT DISTINCT u.id FROM ROWS FROM (unnest(@key_ids::uuid[])) AS u (id) ORDER BY u.id) AS k
 CROSS JOIN LATERAL (
       SELECT c.key_id FROM key_counters AS c WHERE c.key_id = k.id FOR NO KEY UPDATE
 ) AS c;

-- name: Admit :many
-- Decides a batch of requests in order and writes the admissions of those let
-- through. It must follow CountersLock in the same transaction: the statement's own
-- snapshot then sees what the holder before has written, so that limits hold exactly
-- over all replicas and under any concurrency. No two requests of a batch may share
-- key and request id.
--
-- Going in, a cost of -1 is "no estimate", 0 lease seconds "no lease", and
-- denied_names are names of the model separated by U+001F; coming out, -1 and the empty
-- text are "no such limit", the zero id and the year 1 "none". Amounts go as text:
-- most of them nobody reads.
--
-- The plan cannot depend on statistics: what was asked is materialised first, and
-- each key's rows are looked up from it one by one, each by the one index that fits.
WITH clock AS MATERIALIZED (
    -- After the wait for the locks: now() is the transaction's start.
    SELECT coalesce(sqlc.narg('now')::timestamptz, clock_timestamp()) AS instant
), today AS MATERIALIZED (
    SELECT c.instant,
           d.day,
           date_trunc('week', d.day)::date AS week,
           date_trunc('month', d.day)::date AS month,
           day_start(d.day + 1, @timezone::text) AS day_end,
           day_start(date_trunc('week', d.day)::date + 7, @timezone::text) AS week_end,
           day_start((date_trunc('month', d.day) + interval '1 month')::date, @timezone::text) AS month_end
      FROM clock AS c
     CROSS JOIN LATERAL (SELECT (c.instant AT TIME ZONE @timezone::text)::date AS day) AS d
), asked AS MATERIALIZED (
    SELECT a.*
      FROM ROWS FROM (
           unnest(@ids::uuid[]), unnest(@key_ids::uuid[]), unnest(@request_ids::text[]),
           unnest(@services::text[]), unnest(@models::text[]), unnest(@model_names::text[]),
           unnest(@denied_names::text[]), unnest(@clients::text[]), unnest(@tokens::bigint[]),
           unnest(CAST(@costs::text[] AS numeric[])), unnest(@lease_seconds::integer[]),
           unnest(@unpriced::boolean[]), unnest(@dry::boolean[])
      ) WITH ORDINALITY AS a (
           id, key_id, request_id, service, model, model_name, denied_names, clients, tokens, cost,
           lease_seconds, unpriced, dry, ord)
), key AS MATERIALIZED (
    -- Each key's limits and what is used of them. A limit that is not set is null.
    SELECT k.id, k.ledger_id, k.deleted_at, k.is_active, k.expires_at, k.permissions,
           k.enable_model_restriction, k.restricted_model_names, k.allowed_model_names,
           k.enable_client_restriction, k.allowed_clients, k.estimate_per_request,
           k.enforcement = 'observe' AS observes,
           nullif(k.concurrency_limit, 0)::bigint AS leases_max,
           h.leases,
           k.rate_limit_window > 0 AS windowed,
           w.window_open,
           CASE WHEN w.window_open THEN c.window_start ELSE t.instant END AS window_start,
           CASE WHEN w.window_open THEN c.window_start ELSE t.instant END
               + k.rate_limit_window * interval '1 minute' AS window_end,
           CASE WHEN k.rate_limit_window > 0 THEN nullif(k.rate_limit_requests, 0) END AS requests_max,
           CASE WHEN w.window_open THEN c.window_requests ELSE 0 END AS requests,
           CASE WHEN k.rate_limit_window > 0 THEN nullif(k.token_limit, 0) END AS tokens_max,
           CASE WHEN w.window_open THEN c.window_tokens ELSE 0 END AS used_tokens,
           r.tokens AS held_tokens,
           r.cost AS held_cost,
           nullif(k.daily_cost_limit, 0) AS daily_max,
           nullif(k.weekly_cost_limit, 0) AS weekly_max,
           nullif(k.monthly_cost_limit, 0) AS monthly_max,
           nullif(k.total_cost_limit, 0) AS total_max,
           -- A period that is not the present one counts as 0; a stored one may be later than
           -- the clock's, where that went back.
           CASE WHEN k.daily_cost_limit > 0
                THEN CASE WHEN c.day >= t.day THEN c.day_cost ELSE 0 END END AS daily,
           CASE WHEN k.weekly_cost_limit > 0
                THEN CASE WHEN c.week >= t.week THEN c.week_cost ELSE 0 END END AS weekly,
           CASE WHEN k.monthly_cost_limit > 0
                THEN CASE WHEN c.month >= t.month THEN c.month_cost ELSE 0 END END AS monthly,
           CASE WHEN k.total_cost_limit > 0 THEN c.cost END AS total
      FROM (SELECT DISTINCT a.key_id FROM asked AS a) AS d
     CROSS JOIN today AS t
     CROSS JOIN LATERAL (SELECT x.* FROM api_keys AS x WHERE x.id = d.key_id LIMIT 1) AS k
     CROSS JOIN LATERAL (SELECT x.* FROM key_counters AS x WHERE x.key_id = d.key_id LIMIT 1) AS c
     CROSS JOIN LATERAL (
           SELECT count(*) AS leases
             FROM admissions AS o
            WHERE o.is_open AND o.key_id = d.key_id AND o.lease_expires_at > t.instant AND k.concurrency_limit > 0
     ) AS h
     CROSS JOIN LATERAL (
           SELECT coalesce(sum(o.reserved_tokens), 0)::bigint AS tokens,
                  coalesce(sum(o.reserved_cost), 0) AS cost
             FROM admissions AS o
            WHERE o.reserves AND o.key_id = d.key_id AND o.reserved_until > t.instant
     ) AS r
     CROSS JOIN LATERAL (
           SELECT coalesce(
                  k.rate_limit_window > 0
                  AND t.instant < c.window_start + k.rate_limit_window * interval '1 minute', false) AS window_open
     ) AS w
), earlier AS MATERIALIZED (
    -- What became of the request id before: its current admission, and whether usage
    -- was recorded under it.
    SELECT a.ord, e.id, e.lease_expires_at,
           coalesce(e.is_open AND e.lease_expires_at > t.instant, false) AS lives,
           coalesce(e.ended_by = 'settled', false) OR coalesce(g.recorded, false) AS settled
      FROM asked AS a
     CROSS JOIN today AS t
      JOIN key AS k ON k.id = a.key_id
      LEFT JOIN LATERAL (
           SELECT o.id, o.lease_expires_at, o.is_open, o.ended_by
             FROM admissions AS o
            WHERE o.key_id = a.key_id AND o.request_id = a.request_id AND o.is_current
            LIMIT 1
      ) AS e ON true
      LEFT JOIN LATERAL (
           SELECT true AS recorded
             FROM usage_dedup AS d
            WHERE d.ledger_id = k.ledger_id AND d.dedup_key = 'r:' || a.request_id
            LIMIT 1
      ) AS g ON true
     WHERE a.request_id <> ''
), weighed AS MATERIALIZED (
    SELECT a.*, e.id AS earlier_id,
           coalesce(e.lives, false) AS again,
           e.settled,
           coalesce(k.daily_max, k.weekly_max, k.monthly_max, k.total_max) IS NOT NULL AS has_cost_limit,
           CASE WHEN a.cost >= 0 THEN a.cost
                WHEN coalesce(k.daily_max, k.weekly_max, k.monthly_max, k.total_max) IS NULL THEN 0
                ELSE coalesce(k.estimate_per_request, @default_estimate::numeric) END AS weight
      FROM asked AS a
      LEFT JOIN earlier AS e ON e.ord = a.ord
      LEFT JOIN key AS k ON k.id = a.key_id
), judged AS MATERIALIZED (
    SELECT w.*,
           CASE WHEN k.id IS NULL OR k.deleted_at IS NOT NULL THEN 'NOT_FOUND'
                WHEN NOT k.is_active THEN 'DISABLED'
                WHEN t.instant > k.expires_at THEN 'EXPIRED'
                WHEN w.settled THEN 'REQUEST_ALREADY_SETTLED'
                WHEN NOT k.permissions && ARRAY['all', w.service] THEN 'SERVICE_NOT_PERMITTED'
                WHEN k.enable_model_restriction
                     AND cardinality(k.restricted_model_names) > 0
                     AND (w.model_name = ''
                          OR k.restricted_model_names && string_to_array(w.denied_names, U&'\001F'))
                              THEN 'MODEL_NOT_ALLOWED'
                WHEN k.enable_model_restriction
                     AND cardinality(k.allowed_model_names) > 0
                     AND w.model_name <> ALL (k.allowed_model_names) THEN 'MODEL_NOT_ALLOWED'
                WHEN k.enable_client_restriction
                     AND cardinality(k.allowed_clients) > 0
                     AND NOT k.allowed_clients && string_to_array(w.clients, ',') THEN 'CLIENT_NOT_ALLOWED'
                WHEN w.unpriced AND w.has_cost_limit AND w.weight <= 0 THEN 'MODEL_NOT_PRICED'
           END AS barred
      FROM weighed AS w
     CROSS JOIN today AS t
      LEFT JOIN key AS k ON k.id = w.key_id
), decided AS MATERIALIZED (
    SELECT j.*, k.window_open, k.windowed, k.observes,
           admit_in_order(
               j.barred, coalesce(k.observes, false), j.dry OR j.again, j.lease_seconds > 0, j.tokens, j.weight,
               k.leases_max - k.leases, k.requests_max - k.requests, k.tokens_max - k.used_tokens - k.held_tokens,
               k.daily_max - k.daily - k.held_cost, k.weekly_max - k.weekly - k.held_cost,
               k.monthly_max - k.monthly - k.held_cost, k.total_max - k.total - k.held_cost
           ) OVER (PARTITION BY j.key_id ORDER BY j.ord) AS state
      FROM judged AS j
      LEFT JOIN key AS k ON k.id = j.key_id
), outcome AS MATERIALIZED (
    -- A request whose admission is open and alive takes nothing again, and no limit
    -- refuses it; what the key may do at all is asked anew.
    SELECT d.*,
           CASE WHEN d.again THEN coalesce(d.barred, 'ALLOWED') ELSE (d.state).code END AS code,
           NOT d.again AND d.barred IS NULL AND ((d.state).code = 'ALLOWED' OR d.observes) AS passed
      FROM decided AS d
), superseded AS (
    -- The request is decided anew: its earlier admission keeps its reservation, and
    -- gives up the id.
    UPDATE admissions AS a SET is_current = false
      FROM (SELECT o.earlier_id AS id FROM outcome AS o
             WHERE o.passed = true AND o.dry = false AND o.earlier_id IS NOT NULL AND o.again = false) AS s
     WHERE a.id = s.id
    RETURNING a.id
), admitted AS (
    INSERT INTO admissions (
           id, key_id, request_id, service, model, admitted_at, lease_expires_at, reserved_until,
           reserved_tokens, reserved_cost)
    SELECT o.id, o.key_id, nullif(o.request_id, ''), nullif(o.service, ''), nullif(o.model, ''), t.instant,
           CASE WHEN o.lease_seconds > 0 THEN t.instant + make_interval(secs => o.lease_seconds) END,
           t.instant + make_interval(secs => greatest(@reservation_seconds::integer, o.lease_seconds)),
           o.tokens, o.weight
      FROM outcome AS o
     CROSS JOIN today AS t
     WHERE o.passed AND NOT o.dry
       AND (SELECT count(*) FROM superseded) >= 0 -- after them: they hold the ids
), counted AS (
    -- An upsert, though the row exists and is locked: no plan finds it otherwise than
    -- by the primary key.
    INSERT INTO key_counters AS c (key_id, window_start, window_requests, window_tokens)
    SELECT k.id, k.window_start, k.requests + n.requests, k.used_tokens
      FROM (SELECT o.key_id, count(*) AS requests FROM outcome AS o
             WHERE o.passed AND NOT o.dry AND o.windowed GROUP BY o.key_id) AS n
      JOIN key AS k ON k.id = n.key_id
    ON CONFLICT (key_id) DO UPDATE SET
           window_start = excluded.window_start,
           window_requests = excluded.window_requests,
           window_tokens = excluded.window_tokens
)
SELECT (o.ord - 1)::bigint AS index,
       o.code::text AS code,
       (o.passed AND o.code <> 'ALLOWED')::boolean AS let_through,
       coalesce(a.id, '00000000-0000-0000-0000-000000000000')::uuid AS admission_id,
       o.again::boolean AS repeated,
       coalesce(a.lease_expires_at, '0001-01-01T00:00:00Z')::timestamptz AS lease_expires_at,
       t.instant::timestamptz AS decided_at,
       o.weight::text AS cost_asked,
       coalesce(k.expires_at, '0001-01-01T00:00:00Z')::timestamptz AS key_expires_at,
       coalesce(k.leases_max, -1)::bigint AS concurrency_limit,
       coalesce(k.leases + (o.state).leases, 0)::bigint AS concurrency_used,
       coalesce(k.requests_max, -1)::bigint AS requests_limit,
       coalesce(k.requests + (o.state).requests, 0)::bigint AS requests_used,
       coalesce(CASE WHEN k.window_open OR k.windowed AND (o.state).requests > 0 THEN k.window_end END,
                '0001-01-01T00:00:00Z')::timestamptz AS window_end,
       coalesce(k.tokens_max, -1)::bigint AS tokens_limit,
       coalesce(k.used_tokens, 0)::bigint AS tokens_used,
       coalesce(k.held_tokens + (o.state).tokens, 0)::bigint AS tokens_reserved,
       coalesce(k.daily_max::text, '')::text AS daily_limit,
       coalesce(k.daily::text, '')::text AS daily_used,
       coalesce(k.weekly_max::text, '')::text AS weekly_limit,
       coalesce(k.weekly::text, '')::text AS weekly_used,
       coalesce(k.monthly_max::text, '')::text AS monthly_limit,
       coalesce(k.monthly::text, '')::text AS monthly_used,
       coalesce(k.total_max::text, '')::text AS total_limit,
       coalesce(k.total::text, '')::text AS total_used,
       coalesce((k.held_cost + (o.state).cost)::text, '0')::text AS cost_reserved,
       t.day_end::timestamptz AS day_end,
       t.week_end::timestamptz AS week_end,
       t.month_end::timestamptz AS month_end
  FROM outcome AS o
 CROSS JOIN today AS t
  LEFT JOIN key AS k ON k.id = o.key_id
  LEFT JOIN earlier AS e ON e.ord = o.ord
 CROSS JOIN LATERAL (
       SELECT CASE WHEN o.again AND o.code = 'ALLOWED' THEN e.id
                   WHEN o.passed AND NOT o.dry THEN o.id END AS id,
              CASE WHEN o.again AND o.code = 'ALLOWED' THEN e.lease_expires_at
                   WHEN o.passed AND NOT o.dry AND o.lease_seconds > 0
                   THEN t.instant + make_interval(secs => o.lease_seconds) END AS lease_expires_at
 ) AS a
 ORDER BY o.ord;

-- name: CountersHeld :many
-- Which keys' counters another transaction has locked at this moment. It waits for
-- nobody, and lets go of what it could lock at once.
WITH free AS MATERIALIZED (
    SELECT c.key_id FROM key_counters AS c WHERE c.key_id = ANY(@key_ids::uuid[]) FOR NO KEY UPDATE SKIP LOCKED
)
SELECT c.key_id FROM key_counters AS c
 WHERE c.key_id = ANY(@key_ids::uuid[]) AND NOT EXISTS (SELECT FROM free AS f WHERE f.key_id = c.key_id);

-- name: AdmissionEnds :many
-- What a key holds at an instant, by when it ends if nothing settles it: live leases,
-- reserved tokens and reserved USD, added up by whole seconds from the instant on,
-- rounded up. At most one row a measure and second, whatever the key holds.
SELECT e.measure::text AS measure,
       e.seconds::bigint AS seconds,
       sum(e.amount)::numeric AS amount
  FROM (
       SELECT 'leases' AS measure, ceil(extract(epoch FROM o.lease_expires_at - @now::timestamptz)) AS seconds,
           1::numeric AS amount
         FROM admissions AS o
        WHERE o.is_open AND o.key_id = @key_id AND o.lease_expires_at > @now::timestamptz
       UNION ALL
       SELECT r.measure, ceil(extract(epoch FROM o.reserved_until - @now::timestamptz)), r.amount
         FROM admissions AS o
        CROSS JOIN LATERAL (VALUES ('tokens', o.reserved_tokens::numeric), ('cost', o.reserved_cost)) 
            AS r (measure, amount)
        WHERE o.reserves AND o.key_id = @key_id AND o.reserved_until > @now::timestamptz AND r.amount > 0
  ) AS e
 GROUP BY e.measure, e.seconds
 ORDER BY e.measure, e.seconds;

-- name: LeasesChange :many
-- Ends admissions that are not to be settled (0 seconds), whose slots and reservations are
-- free at once, and extends live leases with their reservations to so many seconds from
-- now; one row for each, in order. It must follow CountersLock in the same transaction, so
-- that no slot is counted as free and kept at once. An admission that is ended or over
-- stays as it is; one that is both ended and extended here is ended.
WITH asked AS MATERIALIZED (
    SELECT u.ord, u.id, u.seconds
      FROM ROWS FROM (unnest(@ids::uuid[]), unnest(@lease_seconds::integer[])) WITH ORDINALITY AS u (id, seconds, ord)
), each AS MATERIALIZED (
    SELECT u.id, max(u.seconds) AS seconds, min(u.seconds) = 0 AS ends FROM asked AS u GROUP BY u.id
), clock AS MATERIALIZED (
    SELECT coalesce(sqlc.narg('now')::timestamptz, clock_timestamp()) AS instant
), changed AS (
    UPDATE admissions AS a
       SET is_open = NOT u.ends,
           ended_by = CASE WHEN u.ends THEN 'released' END,
           ended_at = CASE WHEN u.ends THEN c.instant END,
           lease_expires_at = CASE WHEN u.ends THEN a.lease_expires_at
               ELSE greatest(a.lease_expires_at, c.instant + make_interval(secs => u.seconds)) END,
           reserved_until = CASE WHEN u.ends THEN a.reserved_until
               ELSE greatest(a.reserved_until, c.instant
                   + make_interval(secs => greatest(@reservation_seconds::integer, u.seconds))) END
      FROM each AS u
     CROSS JOIN clock AS c
     WHERE a.id = u.id AND a.is_open AND (u.ends OR a.lease_expires_at > c.instant)
    RETURNING a.id, a.lease_expires_at, u.ends
)
SELECT coalesce(NOT d.ends, false)::boolean AS live,
       coalesce(d.lease_expires_at, '0001-01-01T00:00:00Z')::timestamptz AS lease_expires_at
  FROM asked AS u
  LEFT JOIN changed AS d ON d.id = u.id
 ORDER BY u.ord;

-- name: AdmissionsLive :many
-- The open admissions of keys whose lease or reservation still counts, oldest
-- first.
SELECT * FROM admissions AS a
 WHERE a.is_open AND a.key_id = ANY(@key_ids::uuid[])
   AND (a.lease_expires_at > coalesce(sqlc.narg('now')::timestamptz, now())
       OR a.reserved_until > coalesce(sqlc.narg('now')::timestamptz, now()))
 ORDER BY a.admitted_at, a.id
 LIMIT @row_limit;

-- name: AdmissionsHeld :many
-- What keys hold at this moment: live leases, and reserved tokens and USD.
SELECT a.key_id,
       count(*) FILTER (WHERE a.lease_expires_at > coalesce(sqlc.narg('now')::timestamptz, now())) AS leases,
       coalesce(sum(a.reserved_tokens)
           FILTER (WHERE a.reserved_until > coalesce(sqlc.narg('now')::timestamptz, now())), 0)::bigint AS tokens,
       coalesce(sum(a.reserved_cost)
           FILTER (WHERE a.reserved_until > coalesce(sqlc.narg('now')::timestamptz, now())), 0)::numeric AS cost
  FROM admissions AS a
 WHERE a.is_open AND a.key_id = ANY(@key_ids::uuid[])
 GROUP BY a.key_id;

-- name: AdmissionSweep :execrows
-- Closes up to ten thousand admissions whose lease and reservation are both over, so
-- that the open ones stay few. They can still be settled. The order is that of the
-- index of open admissions: closed ones, most of the table, are not read.
UPDATE admissions AS a SET is_open = false, ended_by = 'expired', ended_at = now()
 WHERE a.id IN (
    SELECT o.id FROM admissions AS o
     WHERE o.is_open AND o.reserved_until < coalesce(sqlc.narg('now')::timestamptz, now())
       AND coalesce(o.lease_expires_at, '-infinity') < coalesce(sqlc.narg('now')::timestamptz, now())
     ORDER BY o.key_id
     LIMIT 10000 FOR UPDATE SKIP LOCKED);

-- name: AdmissionPrune :execrows
-- Forgets up to a thousand ended admissions from before the deduplication horizon.
DELETE FROM admissions AS a
 WHERE a.id IN (
    SELECT o.id FROM admissions AS o
     WHERE NOT o.is_open AND o.admitted_at
           < coalesce(sqlc.narg('now')::timestamptz, now()) - make_interval(secs => @horizon_seconds::integer)
     LIMIT 1000);

-- name: RefusalsAdd :exec
-- Adds counts of refusals, from parallel arrays of distinct (key, code, let
-- through, time), to the days of their times in the service's time zone. Counts of
-- a key that was purged meanwhile are dropped.
WITH known AS MATERIALIZED (
    SELECT k.id, k.ledger_id FROM api_keys AS k WHERE k.id = ANY(@key_ids::uuid[]) ORDER BY k.id FOR KEY SHARE
)
INSERT INTO admission_refusals AS t (ledger_id, day, code, let_through, refusals)
SELECT k.ledger_id, (r.at AT TIME ZONE @timezone::text)::date, r.code, r.let_through, sum(r.refusals)::bigint
  FROM ROWS FROM (
       unnest(@key_ids::uuid[]), unnest(@codes::text[]), unnest(@let_through::boolean[]),
       unnest(@ats::timestamptz[]), unnest(@refusals::bigint[])
  ) AS r (key_id, code, let_through, at, refusals)
  JOIN known AS k ON k.id = r.key_id
 GROUP BY k.ledger_id, (r.at AT TIME ZONE @timezone::text)::date, r.code, r.let_through
 ORDER BY k.ledger_id, (r.at AT TIME ZONE @timezone::text)::date, r.code, r.let_through
ON CONFLICT (ledger_id, day, code, let_through) DO UPDATE SET refusals = t.refusals + excluded.refusals;

-- name: RefusalsOfKey :many
-- How often a key was refused in so many days up to today, by day and reason.
SELECT r.day, r.code, r.let_through, r.refusals
  FROM admission_refusals AS r
 WHERE r.ledger_id = (SELECT k.ledger_id FROM api_keys AS k WHERE k.id = @key_id)
   AND r.day > (coalesce(sqlc.narg('now')::timestamptz, now()) AT TIME ZONE @timezone::text)::date - @days::integer
 ORDER BY r.day DESC, r.refusals DESC, r.code, r.let_through;

-- name: RefusalsByReason :many
-- How often all keys together were refused on a day and in the seven days up to it, by reason,
-- most first.
SELECT r.code,
       r.let_through,
       coalesce(sum(r.refusals) FILTER (WHERE r.day = @day::date), 0)::bigint AS today,
       sum(r.refusals)::bigint AS week
  FROM admission_refusals AS r
 WHERE r.day > CAST(@day AS date) - 7 AND r.day <= @day::date
 GROUP BY r.code, r.let_through
 ORDER BY sum(r.refusals) DESC, r.code, r.let_through;

-- name: RefusedMost :many
-- The keys that were refused most on a day, at most so many.
SELECT k.id AS key_id, k.name, r.refusals
  FROM (
       SELECT x.ledger_id, sum(x.refusals)::bigint AS refusals
         FROM admission_refusals AS x
        WHERE x.day = @day::date AND NOT x.let_through
        GROUP BY x.ledger_id
  ) AS r
  JOIN api_keys AS k ON k.ledger_id = r.ledger_id
 ORDER BY r.refusals DESC, k.id
 LIMIT @row_limit;

-- name: AdmissionsLiveSum :one
-- What is admitted and not settled, of all keys: live leases, reserved tokens and USD.
SELECT count(*) FILTER (WHERE a.lease_expires_at > now()) AS leases,
       coalesce(sum(a.reserved_tokens) FILTER (WHERE a.reserved_until > now()), 0)::bigint AS tokens,
       coalesce(sum(a.reserved_cost) FILTER (WHERE a.reserved_until > now()), 0)::numeric AS cost
  FROM admissions AS a
 WHERE a.is_open;

-- name: RefusalsPrune :execrows
-- Forgets up to a thousand counts of refusals from before so many days ago.
DELETE FROM admission_refusals AS r
 WHERE (r.ledger_id, r.day, r.code, r.let_through) IN (
    SELECT o.ledger_id, o.day, o.code, o.let_through FROM admission_refusals AS o
     WHERE o.day < coalesce(sqlc.narg('now')::timestamptz, now())::date - @days::integer
     LIMIT 1000);
