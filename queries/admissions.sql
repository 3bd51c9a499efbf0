-- name: Admit :many
-- Decides a batch of requests in order and writes the admissions of those let
-- through, exactly, over all replicas and under any concurrency: see the function
-- admit_group in migrations. Going in, a cost of -1 is "no estimate" and 0 lease seconds
-- "no lease"; coming out, -1 and the empty text are "no such limit", the zero id and
-- the year 1 "none". Amounts go as text: most of them nobody reads.
SELECT r.index::bigint AS index, r.code::text AS code, r.let_through::boolean AS let_through,
       coalesce(r.admission_id, '00000000-0000-0000-0000-000000000000')::uuid AS admission_id, r.repeated::boolean AS repeated,
       coalesce(r.lease_expires_at, '0001-01-01T00:00:00Z')::timestamptz AS lease_expires_at,
       r.decided_at::timestamptz AS decided_at,
       r.cost_asked::text AS cost_asked, coalesce(r.key_expires_at, '0001-01-01T00:00:00Z')::timestamptz AS key_expires_at,
       coalesce(r.concurrency_limit, -1)::bigint AS concurrency_limit, coalesce(r.concurrency_used, 0)::bigint AS concurrency_used,
       coalesce(r.requests_limit, -1)::bigint AS requests_limit, coalesce(r.requests_used, 0)::bigint AS requests_used,
       coalesce(r.window_end, '0001-01-01T00:00:00Z')::timestamptz AS window_end,
       coalesce(r.tokens_limit, -1)::bigint AS tokens_limit, coalesce(r.tokens_used, 0)::bigint AS tokens_used, coalesce(r.tokens_reserved, 0)::bigint AS tokens_reserved,
       coalesce(r.daily_limit::text, '')::text AS daily_limit, coalesce(r.daily_used::text, '')::text AS daily_used,
       coalesce(r.weekly_limit::text, '')::text AS weekly_limit, coalesce(r.weekly_used::text, '')::text AS weekly_used,
       coalesce(r.monthly_limit::text, '')::text AS monthly_limit, coalesce(r.monthly_used::text, '')::text AS monthly_used,
       coalesce(r.total_limit::text, '')::text AS total_limit, coalesce(r.total_used::text, '')::text AS total_used,
       coalesce(r.cost_reserved::text, '0')::text AS cost_reserved,
       r.day_end::timestamptz AS day_end, r.week_end::timestamptz AS week_end, r.month_end::timestamptz AS month_end
  FROM admit_group(@ids::uuid[], @key_ids::uuid[], @request_ids::text[], @services::text[], @models::text[], @model_names::text[], @clients::text[],
       @tokens::bigint[], CAST(@costs::text[] AS numeric[]), @lease_seconds::integer[], @unpriced::boolean[], @dry::boolean[],
       @default_estimate::numeric, @reservation_seconds::integer, @zone::text, sqlc.narg('at')::timestamptz) AS r;

-- name: CountersHeld :many
-- Which keys' counters another transaction has locked at this moment. It waits for
-- nobody, and lets go of what it could lock at once.
WITH free AS MATERIALIZED (
    SELECT c.key_id FROM key_counters AS c WHERE c.key_id = ANY(@key_ids::uuid[]) FOR NO KEY UPDATE SKIP LOCKED
)
SELECT c.key_id FROM key_counters AS c
 WHERE c.key_id = ANY(@key_ids::uuid[]) AND NOT EXISTS (SELECT FROM free AS f WHERE f.key_id = c.key_id);

-- name: AdmissionFrees :many
-- For refused requests, when each limit that stands in their way frees enough at
-- the earliest, if nothing happens but the passing of time: leases and
-- reservations end, and a period's use counts no more once it is over. Asked in
-- the transaction of the decision, so that it sees what that has just written.
-- Parallel arrays, one element a limit: measure is leases, tokens or cost; a limit
-- that never frees enough has no row. 9999-12-31 is a period that never ends.
WITH asked AS (
    SELECT a.* FROM ROWS FROM (unnest(@key_ids::uuid[]), unnest(@measures::text[]), unnest(@most::numeric[]), unnest(@used::numeric[]),
        unnest(@asks::numeric[]), unnest(@period_ends::timestamptz[])) WITH ORDINALITY AS a (key_id, measure, most, used, ask, period_end, ord)
), held AS MATERIALIZED (
    SELECT o.key_id, 'leases' AS measure, o.lease_expires_at AS ends_at, 1::numeric AS amount FROM admissions AS o
     WHERE o.is_open AND o.key_id = ANY(@key_ids::uuid[]) AND o.lease_expires_at > @at::timestamptz
    UNION ALL
    SELECT o.key_id, 'tokens', o.reserved_until, o.reserved_tokens::numeric FROM admissions AS o
     WHERE o.is_open AND o.key_id = ANY(@key_ids::uuid[]) AND o.reserved_until > @at::timestamptz AND o.reserved_tokens > 0
    UNION ALL
    SELECT o.key_id, 'cost', o.reserved_until, o.reserved_cost FROM admissions AS o
     WHERE o.is_open AND o.key_id = ANY(@key_ids::uuid[]) AND o.reserved_until > @at::timestamptz AND o.reserved_cost > 0
), falling AS MATERIALIZED (
    -- What is still held from each end on.
    SELECT h.key_id, h.measure, h.ends_at AS since,
           sum(h.amount) OVER (PARTITION BY h.key_id, h.measure) - sum(h.amount) OVER (PARTITION BY h.key_id, h.measure ORDER BY h.ends_at) AS amount
      FROM held AS h
    UNION ALL
    SELECT a.key_id, a.measure, @at::timestamptz, coalesce((SELECT sum(h.amount) FROM held AS h WHERE h.key_id = a.key_id AND h.measure = a.measure), 0)
      FROM (SELECT DISTINCT d.key_id, d.measure FROM asked AS d) AS a
), frees AS (
    SELECT a.ord, min(CASE
               WHEN f.amount <= a.most - a.used - a.ask AND f.amount < a.most - a.used THEN f.since
               WHEN f.amount <= a.most - a.ask AND f.amount < a.most AND a.period_end < '9999-12-31' THEN greatest(f.since, a.period_end)
           END) AS at
      FROM asked AS a JOIN falling AS f ON f.key_id = a.key_id AND f.measure = a.measure
     GROUP BY a.ord
)
SELECT (f.ord - 1)::bigint AS index, f.at::timestamptz AS at FROM frees AS f WHERE f.at IS NOT NULL;

-- name: AdmissionRelease :execrows
-- Ends admissions that are not to be settled: their slots and reservations are
-- free at once. Doing it twice, or after the settlement, changes nothing; 0 rows
-- only when there is none of these admissions. Two batches with admissions in
-- common may deadlock: run it where that is tried again.
UPDATE admissions
   SET is_open = false, ended_by = coalesce(ended_by, 'released'), ended_at = coalesce(ended_at, now())
 WHERE id = ANY(@ids::uuid[]);

-- name: AdmissionRenew :many
-- Extends a live lease and its reservation; a lease that is over stays over. No
-- row when there is no such admission.
SELECT r.renewed::boolean AS renewed, coalesce(r.lease_expires_at, '0001-01-01T00:00:00Z')::timestamptz AS lease_expires_at
  FROM renew_lease(@id::uuid, @lease_seconds::integer, @reservation_seconds::integer, sqlc.narg('at')::timestamptz) AS r;

-- name: AdmissionsLive :many
-- The open admissions of keys whose lease or reservation still counts, oldest
-- first.
SELECT * FROM admissions AS a
 WHERE a.is_open AND a.key_id = ANY(@key_ids::uuid[])
   AND (a.lease_expires_at > coalesce(sqlc.narg('at')::timestamptz, now()) OR a.reserved_until > coalesce(sqlc.narg('at')::timestamptz, now()))
 ORDER BY a.admitted_at, a.id
 LIMIT @row_limit;

-- name: AdmissionsHeld :many
-- What keys hold at this moment: live leases, and reserved tokens and USD.
SELECT a.key_id,
       count(*) FILTER (WHERE a.lease_expires_at > coalesce(sqlc.narg('at')::timestamptz, now())) AS leases,
       coalesce(sum(a.reserved_tokens) FILTER (WHERE a.reserved_until > coalesce(sqlc.narg('at')::timestamptz, now())), 0)::bigint AS tokens,
       coalesce(sum(a.reserved_cost) FILTER (WHERE a.reserved_until > coalesce(sqlc.narg('at')::timestamptz, now())), 0)::numeric AS cost
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
     WHERE o.is_open AND o.reserved_until < coalesce(sqlc.narg('at')::timestamptz, now())
       AND coalesce(o.lease_expires_at, '-infinity') < coalesce(sqlc.narg('at')::timestamptz, now())
     ORDER BY o.key_id
     LIMIT 10000 FOR UPDATE SKIP LOCKED);

-- name: AdmissionPrune :execrows
-- Forgets up to a thousand ended admissions from before the deduplication horizon.
DELETE FROM admissions AS a
 WHERE a.id IN (
    SELECT o.id FROM admissions AS o
     WHERE NOT o.is_open AND o.admitted_at < coalesce(sqlc.narg('at')::timestamptz, now()) - make_interval(secs => @horizon_seconds::integer)
     LIMIT 1000);

-- name: RefusalsAdd :exec
-- Adds counts of refusals, from parallel arrays of distinct (key, code, let
-- through, time), to the days of their times in the service's time zone. Counts of
-- a key that was purged meanwhile are dropped: its row is held, so that no purge
-- falls in between.
WITH known AS MATERIALIZED (
    SELECT k.id FROM api_keys AS k WHERE k.id = ANY(@key_ids::uuid[]) ORDER BY k.id FOR KEY SHARE
)
INSERT INTO admission_refusals AS t (key_id, day, code, let_through, refusals)
SELECT r.key_id, (r.at AT TIME ZONE @timezone::text)::date, r.code, r.let_through, sum(r.refusals)::bigint
  FROM ROWS FROM (unnest(@key_ids::uuid[]), unnest(@codes::text[]), unnest(@let_through::boolean[]), unnest(@ats::timestamptz[]), unnest(@refusals::bigint[]))
       AS r (key_id, code, let_through, at, refusals)
  JOIN known AS k ON k.id = r.key_id
 GROUP BY r.key_id, (r.at AT TIME ZONE @timezone::text)::date, r.code, r.let_through
 ORDER BY r.key_id, (r.at AT TIME ZONE @timezone::text)::date, r.code, r.let_through
ON CONFLICT (key_id, day, code, let_through) DO UPDATE SET refusals = t.refusals + excluded.refusals;

-- name: RefusalsPrune :execrows
-- Forgets up to a thousand counts of refusals from before so many days ago.
DELETE FROM admission_refusals AS r
 WHERE (r.key_id, r.day, r.code, r.let_through) IN (
    SELECT o.key_id, o.day, o.code, o.let_through FROM admission_refusals AS o
     WHERE o.day < coalesce(sqlc.narg('now')::timestamptz, now())::date - @days::integer
     LIMIT 1000);
