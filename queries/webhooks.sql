-- name: WebhookLock :exec
-- Lets one webhook at a time be made, to the end of the transaction.
SELECT pg_advisory_xact_lock(hashtext('keyledger.webhooks'));

-- name: WebhookCreate :one
-- Stores a webhook, unless there are row_limit already: then there is no row. WebhookLock comes
-- before it in the same transaction, so that it counts what others have made.
INSERT INTO webhooks (id, url, format, events, secret, created_by)
SELECT @id, @url, @format, @events::text[], @secret, @created_by
 WHERE (SELECT count(*) FROM webhooks) < @row_limit::bigint
RETURNING *;

-- name: WebhookList :many
-- All webhooks, oldest first, each with what it is still to be told, what was given up, and
-- when it was last told something.
SELECT sqlc.embed(w),
       d.pending,
       d.dead,
       d.delivered_at
  FROM webhooks AS w
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE x.state = 'pending') AS pending,
              count(*) FILTER (WHERE x.state = 'dead') AS dead,
              coalesce(max(x.ended_at) FILTER (WHERE x.state = 'delivered'),
                  '0001-01-01T00:00:00Z')::timestamptz AS delivered_at
         FROM webhook_deliveries AS x
        WHERE x.webhook_id = w.id
 ) AS d
 WHERE sqlc.narg('id')::uuid IS NULL OR w.id = sqlc.narg('id')::uuid
 ORDER BY w.created_at, w.id;

-- name: WebhookActive :one
-- Whether a webhook is on; no row when there is none.
SELECT w.is_active FROM webhooks AS w WHERE w.id = @id;

-- name: WebhookUpdate :execrows
-- Changes what is given of a webhook; 0 rows when there is none. What it is still to be told
-- is tried at once.
WITH hurried AS (
    UPDATE webhook_deliveries AS d SET next_at = now()
     WHERE d.webhook_id = @id AND d.state = 'pending' AND d.next_at > now()
)
UPDATE webhooks AS w SET
       url = coalesce(sqlc.narg('url')::text, w.url),
       format = coalesce(sqlc.narg('format')::text, w.format),
       events = coalesce(sqlc.narg('events')::text[], w.events),
       secret = coalesce(sqlc.narg('secret')::bytea, w.secret),
       is_active = coalesce(sqlc.narg('is_active')::boolean, w.is_active),
       disabled_for = CASE WHEN sqlc.narg('is_active')::boolean THEN '' ELSE w.disabled_for END,
       not_before = now(), updated_at = now()
 WHERE w.id = @id;

-- name: WebhookDelete :execrows
-- Removes a webhook with all it was told; 0 rows when there is none.
DELETE FROM webhooks AS w WHERE w.id = @id;

-- name: WebhookDisable :exec
-- Switches a webhook off because of what its receiver said, unless it has another by now.
UPDATE webhooks AS w SET is_active = false, disabled_for = @reason, updated_at = now()
 WHERE w.id = @id AND w.url = @url;

-- name: WebhookPause :exec
-- Lets nothing be sent to a webhook for so many seconds.
UPDATE webhooks AS w SET not_before = now() + make_interval(secs => @seconds::float8) WHERE w.id = @id;

-- name: WebhookSecrets :many
-- The sealed secrets of all webhooks.
SELECT w.id, w.secret FROM webhooks AS w ORDER BY w.id;

-- name: WebhookReseal :exec
-- Puts a newly sealed form of a webhook's secret in the place of the one it was made from.
UPDATE webhooks AS w SET secret = @sealed WHERE w.id = @id AND w.secret = @before;

-- name: WebhookTest :one
-- Writes an event for one webhook alone, whatever it asks for; no row when there is none.
INSERT INTO webhook_events (type, at, webhook_id, data)
SELECT 'webhook.test', now(), w.id, jsonb_build_object('webhookId', w.id) FROM webhooks AS w WHERE w.id = @id
RETURNING id;

-- name: DeliveryList :many
-- A page of what a webhook was told or is still to be told, newest event first, after the
-- row that a cursor names; of one state, or of all.
SELECT sqlc.embed(d), e.type, e.at, e.key_id
  FROM webhook_deliveries AS d
  JOIN webhook_events AS e ON e.id = d.event_id
 WHERE d.webhook_id = @webhook_id
   AND (sqlc.narg('state')::text IS NULL OR d.state = sqlc.narg('state')::text)
   AND (sqlc.narg('before_id')::uuid IS NULL
        OR (e.at, d.event_id) < (sqlc.narg('before_at')::timestamptz, sqlc.narg('before_id')::uuid))
 ORDER BY e.at DESC, d.event_id DESC
 LIMIT @row_limit;

-- name: DeliveryAgain :execrows
-- Asks for a delivery once more, from now on, whatever became of it; 0 rows when there is
-- none.
UPDATE webhook_deliveries AS d
   SET state = 'pending', attempts = 0, created_at = now(), next_at = now(), ended_at = NULL
 WHERE d.webhook_id = @webhook_id AND d.event_id = @event_id;

-- name: WebhooksDue :many
-- The webhooks that there is something to be sent to now.
SELECT w.id
  FROM webhooks AS w
 WHERE w.is_active AND w.not_before <= now()
   AND EXISTS (SELECT 1 FROM webhook_deliveries AS d
                WHERE d.webhook_id = w.id AND d.state = 'pending' AND d.next_at <= now());

-- name: DeliveryClaim :many
-- Takes the delivery of a webhook that has been due longest, for so many seconds: no other
-- replica takes it before they are over. No row: nothing is due.
WITH due AS MATERIALIZED (
    SELECT d.webhook_id, d.event_id
      FROM webhook_deliveries AS d
     WHERE d.webhook_id = @webhook_id AND d.state = 'pending' AND d.next_at <= now()
     ORDER BY d.next_at, d.created_at
     LIMIT 1
       FOR UPDATE SKIP LOCKED
)
UPDATE webhook_deliveries AS d
   SET attempts = d.attempts + 1, next_at = now() + make_interval(secs => @seconds::integer)
  FROM due AS t
  JOIN webhooks AS w ON w.id = t.webhook_id
  JOIN webhook_events AS e ON e.id = t.event_id
 WHERE d.webhook_id = t.webhook_id AND d.event_id = t.event_id AND w.is_active
RETURNING sqlc.embed(e), w.url, w.format, w.secret, d.attempts,
       extract(epoch FROM now() - d.created_at)::float8 AS age_seconds;

-- name: DeliveryDone :exec
-- Notes that the receiver has taken a delivery.
UPDATE webhook_deliveries AS d
   SET state = 'delivered', ended_at = now(), last_status = @status, last_error = ''
 WHERE d.webhook_id = @webhook_id AND d.event_id = @event_id AND d.state = 'pending';

-- name: DeliveryFailed :exec
-- Notes why a try failed, and that the next one comes so many seconds later; or, of a
-- negative number, that there is none.
UPDATE webhook_deliveries AS d
   SET state = CASE WHEN @retry_seconds::float8 < 0 THEN 'dead' ELSE 'pending' END,
       next_at = now() + greatest(@retry_seconds::float8, 0) * interval '1 second',
       ended_at = CASE WHEN @retry_seconds::float8 < 0 THEN now() END,
       last_status = @status, last_error = @error
 WHERE d.webhook_id = @webhook_id AND d.event_id = @event_id AND d.state = 'pending';

-- name: DeliveriesPending :one
-- How many deliveries to active webhooks wait, and how long the oldest has, in seconds.
SELECT count(*) AS pending,
       coalesce(extract(epoch FROM now() - min(d.created_at)), 0)::float8 AS oldest_seconds
  FROM webhook_deliveries AS d
  JOIN webhooks AS w ON w.id = d.webhook_id AND w.is_active
 WHERE d.state = 'pending';

-- name: AlertsWanted :one
-- Which of the events that passes find some webhook asks for.
SELECT coalesce(bool_or('key.limit_reached' = ANY (w.events)), false)::boolean AS limits,
       coalesce(bool_or('key.expiring' = ANY (w.events)), false)::boolean AS expiry,
       coalesce(bool_or('model.unpriced' = ANY (w.events)), false)::boolean AS unpriced,
       coalesce(bool_or('usage.recorded' = ANY (w.events)), false)::boolean AS usage
  FROM webhooks AS w
 WHERE w.is_active;

-- name: AlertBegin :many
-- Takes a pass, to the end of the transaction: how far it has come, and the chunk that is open
-- now. No row: another replica is at it.
SELECT a.chunk, a.opened_at, a.looked_at,
       r.open_chunk, r.opened_at AS open_since,
       coalesce(sqlc.narg('now')::timestamptz, now())::timestamptz AS now,
       (a.looked_at < coalesce(sqlc.narg('now')::timestamptz, now()) - interval '10 minutes')::boolean AS stale
  FROM alert_state AS a
 CROSS JOIN rollup_state AS r
 WHERE a.kind = @kind
   FOR UPDATE OF a SKIP LOCKED;

-- name: AlertEnd :exec
-- Notes how far a pass has come.
UPDATE alert_state SET chunk = @chunk, opened_at = @opened_at, looked_at = @looked_at WHERE kind = @kind;

-- name: AlertTouched :many
-- The keys that may have reached a limit since a pass looked last: those that were used, admitted
-- or changed since. No ledger row of the chunk that was open then was received before opened_at.
SELECT k.id
  FROM (SELECT DISTINCT e.ledger_id
          FROM usage_events AS e
         WHERE e.chunk >= @chunk::bigint AND e.received_at >= @opened_at::timestamptz) AS u
  JOIN api_keys AS k ON k.ledger_id = u.ledger_id
UNION
SELECT a.key_id FROM admissions AS a WHERE a.admitted_at >= @since::timestamptz
UNION
SELECT k.id FROM api_keys AS k WHERE k.updated_at >= @since::timestamptz;

-- name: AlertKeys :many
-- Ids of keys in order, after one, at most so many.
SELECT k.id FROM api_keys AS k WHERE k.id > @after_id::uuid ORDER BY k.id LIMIT @row_limit;

-- name: AlertLimits :execrows
-- Writes an event for each share of a limit that a key has reached and that was not told
-- before in this period. Events and alerts are written together, so that nothing is told
-- twice, by whatever replica. Keys that somebody changes or purges at this moment are passed
-- over: once changed they are touched. Counters are taken with the period that they belong to,
-- which may have ended since; what the next period's first use has overwritten is not seen.
WITH clock AS MATERIALIZED (
    SELECT t.now, (t.now AT TIME ZONE @timezone::text)::date AS day
      FROM (SELECT coalesce(sqlc.narg('now')::timestamptz, now()) AS now) AS t
), key AS MATERIALIZED (
    SELECT x.*
      FROM api_keys AS x
     WHERE x.id = ANY(@key_ids::uuid[]) AND x.deleted_at IS NULL AND x.alert_at <> '{}'
     ORDER BY x.id
       FOR KEY SHARE SKIP LOCKED
), measured AS MATERIALIZED (
    SELECT k.id, k.name, k.tags, k.enforcement, k.alert_at, w.ends AS window_ends, c.day, c.week, c.month,
           m.name::text AS limit_name, m.used::numeric AS used, m.most::numeric AS most, m.period::text AS period
      FROM key AS k
     CROSS JOIN clock AS n
      JOIN key_counters AS c ON c.key_id = k.id
     CROSS JOIN LATERAL (
           SELECT CASE WHEN k.rate_limit_window > 0
                       THEN c.window_start + k.rate_limit_window * interval '1 minute' END AS ends
     ) AS w
     CROSS JOIN LATERAL (
           SELECT CASE WHEN k.concurrency_limit = 0 THEN 0
                       WHEN EXISTS (SELECT 1 FROM admission_refusals AS r
                                     WHERE r.ledger_id = k.ledger_id AND r.day = n.day
                                       AND r.code = 'CONCURRENCY_EXCEEDED') THEN k.concurrency_limit
                       ELSE (SELECT count(*) FROM admissions AS o
                              WHERE o.is_open AND o.key_id = k.id AND o.lease_expires_at > n.now) END AS live
     ) AS h
     CROSS JOIN LATERAL (VALUES
           ('requests', CASE WHEN w.ends > n.now - interval '1 day' THEN c.window_requests END::numeric,
            k.rate_limit_requests::numeric, c.window_start::text),
           ('tokens', CASE WHEN w.ends > n.now - interval '1 day' THEN c.window_tokens END,
            k.token_limit, c.window_start::text),
           ('concurrency', h.live, k.concurrency_limit, n.day::text),
           ('dailyCost', CASE WHEN c.day >= n.day - 1 THEN c.day_cost END, k.daily_cost_limit, c.day::text),
           ('weeklyCost', CASE WHEN c.week >= n.day - 7 THEN c.week_cost END, k.weekly_cost_limit, c.week::text),
           ('monthlyCost', CASE WHEN c.month >= n.day - 31 THEN c.month_cost END, k.monthly_cost_limit, c.month::text),
           ('totalCost', c.cost, k.total_cost_limit, trim_scale(k.total_cost_limit)::text)
     ) AS m (name, used, most, period)
     WHERE m.most > 0 AND m.used > 0
), reached AS MATERIALIZED (
    SELECT m.*, a.threshold
      FROM measured AS m
     CROSS JOIN LATERAL (SELECT DISTINCT u.threshold FROM unnest(m.alert_at) AS u (threshold)) AS a
     WHERE m.used * 100 >= m.most * a.threshold
), told AS (
    INSERT INTO alerts (subject, kind, threshold, period, at)
    SELECT r.id::text, r.limit_name, r.threshold, r.period, n.now
      FROM reached AS r
     CROSS JOIN clock AS n
     ORDER BY r.id::text, r.limit_name, r.threshold
    ON CONFLICT DO NOTHING
    RETURNING subject, kind, threshold, period
)
INSERT INTO webhook_events (type, at, key_id, data)
SELECT 'key.limit_reached', n.now, r.id, jsonb_strip_nulls(jsonb_build_object(
       'keyId', r.id, 'name', r.name, 'tags', to_jsonb(r.tags), 'limit', r.limit_name, 'threshold', r.threshold,
       'percent', floor(r.used * 100 / r.most), 'used', trim_scale(r.used), 'most', trim_scale(r.most),
       'enforcement', r.enforcement,
       'resetsAt', CASE r.limit_name
           WHEN 'requests' THEN r.window_ends
           WHEN 'tokens' THEN r.window_ends
           WHEN 'dailyCost' THEN day_start(r.day + 1, @timezone)
           WHEN 'weeklyCost' THEN day_start(r.week + 7, @timezone)
           WHEN 'monthlyCost' THEN day_start((r.month + interval '1 month')::date, @timezone)
       END))
  FROM reached AS r
 CROSS JOIN clock AS n
  JOIN told AS t ON t.subject = r.id::text AND t.kind = r.limit_name
      AND t.threshold = r.threshold AND t.period = r.period
 ORDER BY r.id, r.limit_name, r.threshold;

-- name: AlertExpiring :execrows
-- Writes an event for each number of days before its end that an active key has come to, and
-- that was not told before of this end.
WITH clock AS MATERIALIZED (
    SELECT coalesce(sqlc.narg('now')::timestamptz, now()) AS now
), due AS MATERIALIZED (
    SELECT k.id, k.name, k.tags, k.expires_at, d.days
      FROM clock AS n
     CROSS JOIN LATERAL (
           SELECT x.*
             FROM api_keys AS x
            WHERE x.is_active AND x.deleted_at IS NULL
              AND x.expires_at >= n.now AND x.expires_at <= n.now + interval '365 days'
              AND x.expires_at <= n.now
                  + (SELECT max(u.days) FROM unnest(x.alert_expiry_days) AS u (days)) * interval '1 day'
            ORDER BY x.id
              FOR KEY SHARE SKIP LOCKED
     ) AS k
     CROSS JOIN LATERAL (SELECT DISTINCT u.days FROM unnest(k.alert_expiry_days) AS u (days)) AS d
     WHERE k.expires_at <= n.now + d.days * interval '1 day'
), told AS (
    INSERT INTO alerts (subject, kind, threshold, period, at)
    SELECT d.id::text, 'expiry', d.days, d.expires_at::text, n.now
      FROM due AS d
     CROSS JOIN clock AS n
     ORDER BY d.id::text, d.days
    ON CONFLICT DO NOTHING
    RETURNING subject, threshold, period
)
INSERT INTO webhook_events (type, at, key_id, data)
SELECT 'key.expiring', n.now, d.id, jsonb_build_object(
       'keyId', d.id, 'name', d.name, 'tags', to_jsonb(d.tags), 'days', d.days, 'expiresAt', d.expires_at)
  FROM due AS d
 CROSS JOIN clock AS n
  JOIN told AS t ON t.subject = d.id::text AND t.threshold = d.days AND t.period = d.expires_at::text
 ORDER BY d.expires_at, d.id, d.days DESC;

-- name: AlertUnpriced :execrows
-- Writes an event for each model and day, in the service's time zone, of which usage without a
-- price was recorded since the pass looked last, and that was not told before.
WITH clock AS MATERIALIZED (
    SELECT coalesce(sqlc.narg('now')::timestamptz, now()) AS now
), told AS (
    INSERT INTO alerts (subject, kind, threshold, period, at)
    SELECT f.model, 'unpriced', 0, f.day::text, n.now
      FROM (SELECT DISTINCT e.model, e.day
              FROM usage_events AS e
             WHERE NOT e.priced AND e.kind = 'usage'
               AND e.chunk >= @chunk::bigint AND e.received_at >= @opened_at::timestamptz) AS f
     CROSS JOIN clock AS n
     ORDER BY f.model, f.day
    ON CONFLICT DO NOTHING
    RETURNING subject, period
)
INSERT INTO webhook_events (type, at, data)
SELECT 'model.unpriced', n.now, jsonb_build_object('model', t.subject, 'day', t.period)
  FROM told AS t
 CROSS JOIN clock AS n
 ORDER BY t.subject, t.period;

-- name: AlertRest :exec
-- Notes that nobody asks for what a pass tells: when somebody does, it begins there.
UPDATE alert_state SET chunk = 0 WHERE kind = @kind AND chunk <> 0;

-- name: AlertUsage :execrows
-- Writes events that tell of the ledger rows of a chunk that is sealed, each row in exactly one if
-- the pass moves its mark past the chunk in the same transaction; so many rows an event. Rows of
-- purged keys are left out: a purge waits for it, or it for the purge.
WITH told AS MATERIALIZED (
    SELECT e.* FROM usage_events AS e WHERE e.chunk = @chunk::bigint AND e.received_at >= @opened_at::timestamptz
), key AS MATERIALIZED (
    SELECT k.id, k.ledger_id, k.name
      FROM api_keys AS k
     WHERE k.ledger_id IN (SELECT t.ledger_id FROM told AS t)
     ORDER BY k.id
       FOR KEY SHARE
)
INSERT INTO webhook_events (type, at, data)
SELECT 'usage.recorded', max(r.received_at),
       jsonb_build_object('events', jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
           'id', r.event_id, 'kind', r.kind, 'keyId', r.key_id, 'keyName', r.key_name, 'accountId', r.account_id,
           'model', r.model, 'requestId', r.request_id, 'occurredAt', r.occurred_at, 'requests', r.requests,
           'inputTokens', r.input_tokens, 'outputTokens', r.output_tokens, 'cacheCreateTokens', r.cache_create_tokens,
           'cacheReadTokens', r.cache_read_tokens, 'costUsd', r.cost, 'priced', r.priced, 'estimated', r.estimated,
           'via', r.via)) ORDER BY r.event_id))
  FROM (SELECT e.*, k.id AS key_id, k.name AS key_name,
               (row_number() OVER (ORDER BY e.event_id) - 1) / @per_event::bigint AS part
          FROM told AS e
          JOIN key AS k ON k.ledger_id = e.ledger_id) AS r
 GROUP BY r.part
 ORDER BY r.part;

-- name: WebhookPrune :execrows
-- Forgets up to a thousand events, with their deliveries, from before 30 days ago.
DELETE FROM webhook_events AS e
 WHERE e.id IN (
    SELECT o.id FROM webhook_events AS o
     WHERE o.at < coalesce(sqlc.narg('now')::timestamptz, now()) - interval '30 days'
     LIMIT 1000);

-- name: AlertPrune :execrows
-- Forgets up to a thousand alerts of periods that are long over: of windows and of concurrency
-- after some days, of others after more than a year. Those of totals and of ends stay: their
-- period may still last.
DELETE FROM alerts AS a
 WHERE (a.subject, a.kind, a.threshold, a.period) IN (
    SELECT o.subject, o.kind, o.threshold, o.period FROM alerts AS o
     WHERE o.at < coalesce(sqlc.narg('now')::timestamptz, now()) - interval '3 days'
       AND (o.kind IN ('requests', 'tokens', 'concurrency') AND o.period::timestamptz
                < coalesce(sqlc.narg('now')::timestamptz, now()) - interval '3 days'
            OR o.kind NOT IN ('totalCost', 'expiry')
                AND o.at < coalesce(sqlc.narg('now')::timestamptz, now()) - interval '400 days')
     LIMIT 1000);
