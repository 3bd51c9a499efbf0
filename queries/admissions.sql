-- name: Admit :many
-- Decides a batch of requests in order and writes the admissions of those let
-- through, exactly, over all replicas and under any concurrency: see the function
-- admit in migrations. Going in, a cost of -1 is "no estimate" and 0 lease seconds
-- "no lease"; coming out, -1 is "no such limit", the zero id and the year 1 "none".
SELECT r.index::bigint AS index, r.code::text AS code, r.let_through::boolean AS let_through,
       coalesce(r.admission_id, '00000000-0000-0000-0000-000000000000')::uuid AS admission_id, r.repeated::boolean AS repeated,
       coalesce(r.lease_expires_at, '0001-01-01T00:00:00Z')::timestamptz AS lease_expires_at,
       r.decided_at::timestamptz AS decided_at, coalesce(r.retry_at, '0001-01-01T00:00:00Z')::timestamptz AS retry_at,
       coalesce(r.concurrency_limit, -1)::bigint AS concurrency_limit, coalesce(r.concurrency_used, 0)::bigint AS concurrency_used,
       coalesce(r.requests_limit, -1)::bigint AS requests_limit, coalesce(r.requests_used, 0)::bigint AS requests_used,
       coalesce(r.window_end, '0001-01-01T00:00:00Z')::timestamptz AS window_end,
       coalesce(r.tokens_limit, -1)::bigint AS tokens_limit, coalesce(r.tokens_used, 0)::bigint AS tokens_used, coalesce(r.tokens_reserved, 0)::bigint AS tokens_reserved,
       coalesce(r.daily_limit, -1)::numeric AS daily_limit, coalesce(r.daily_used, 0)::numeric AS daily_used,
       coalesce(r.weekly_limit, -1)::numeric AS weekly_limit, coalesce(r.weekly_used, 0)::numeric AS weekly_used,
       coalesce(r.monthly_limit, -1)::numeric AS monthly_limit, coalesce(r.monthly_used, 0)::numeric AS monthly_used,
       coalesce(r.total_limit, -1)::numeric AS total_limit, coalesce(r.total_used, 0)::numeric AS total_used,
       coalesce(r.cost_reserved, 0)::numeric AS cost_reserved,
       r.day_end::timestamptz AS day_end, r.week_end::timestamptz AS week_end, r.month_end::timestamptz AS month_end
  FROM admit(@ids::uuid[], @key_ids::uuid[], @request_ids::text[], @services::text[], @models::text[], @model_names::text[], @clients::text[],
       @tokens::bigint[], @costs::numeric[], @lease_seconds::integer[], @unpriced::boolean[], @dry::boolean[],
       @default_estimate::numeric, @reservation_seconds::integer, @zone::text, sqlc.narg('at')::timestamptz) AS r;

-- name: AdmissionRelease :execrows
-- Ends an admission that is not to be settled: its slot and its reservation are
-- free at once. Doing it twice, or after its settlement, changes nothing; 0 rows
-- only when there is no such admission.
UPDATE admissions
   SET is_open = false, ended_by = coalesce(ended_by, 'released'), ended_at = coalesce(ended_at, now())
 WHERE id = @id;

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
-- Closes up to a thousand admissions whose lease and reservation are both over,
-- so that the open ones stay few. They can still be settled.
UPDATE admissions AS a SET is_open = false, ended_by = 'expired', ended_at = now()
 WHERE a.id IN (
    SELECT o.id FROM admissions AS o
     WHERE o.is_open AND o.reserved_until < coalesce(sqlc.narg('at')::timestamptz, now())
       AND coalesce(o.lease_expires_at, '-infinity') < coalesce(sqlc.narg('at')::timestamptz, now())
     LIMIT 1000 FOR UPDATE SKIP LOCKED);

-- name: AdmissionPrune :execrows
-- Forgets up to a thousand ended admissions from before the deduplication horizon.
DELETE FROM admissions AS a
 WHERE a.id IN (
    SELECT o.id FROM admissions AS o
     WHERE NOT o.is_open AND o.admitted_at < coalesce(sqlc.narg('at')::timestamptz, now()) - make_interval(secs => @horizon_seconds::integer)
     LIMIT 1000);

-- name: RefusalsAdd :exec
-- Adds counts of refusals, from parallel arrays of distinct (key, code, let
-- through), to the day that it is in the service's time zone.
INSERT INTO admission_refusals AS t (key_id, day, code, let_through, refusals)
SELECT r.key_id, (now() AT TIME ZONE @timezone::text)::date, r.code, r.let_through, r.refusals
  FROM ROWS FROM (unnest(@key_ids::uuid[]), unnest(@codes::text[]), unnest(@let_through::boolean[]), unnest(@refusals::bigint[])) AS r (key_id, code, let_through, refusals)
 ORDER BY r.key_id, r.code, r.let_through
ON CONFLICT (key_id, day, code, let_through) DO UPDATE SET refusals = t.refusals + excluded.refusals;
