-- name: WebhookCreate :one
-- Stores a webhook, unless there are row_limit already: then there is no row. Of several
-- at once one is made at a time.
WITH alone AS MATERIALIZED (
    SELECT pg_advisory_xact_lock(hashtext('keyledger.webhooks')) AS held
)
INSERT INTO webhooks (id, url, format, events, secret, created_by)
SELECT @id, @url, @format, @events::text[], @secret, @created_by FROM alone
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

-- name: WebhookUpdate :execrows
-- Changes what is given of a webhook; 0 rows when there is none. Switched on again, it is
-- tried at once with what it is still to be told.
UPDATE webhooks AS w SET
       url = coalesce(sqlc.narg('url')::text, w.url),
       format = coalesce(sqlc.narg('format')::text, w.format),
       events = coalesce(sqlc.narg('events')::text[], w.events),
       secret = coalesce(sqlc.narg('secret')::bytea, w.secret),
       is_active = coalesce(sqlc.narg('is_active')::boolean, w.is_active),
       disabled_for = CASE WHEN sqlc.narg('is_active')::boolean THEN '' ELSE w.disabled_for END,
       updated_at = now()
 WHERE w.id = @id;

-- name: WebhookDelete :execrows
-- Removes a webhook with all it was told; 0 rows when there is none.
DELETE FROM webhooks AS w WHERE w.id = @id;

-- name: WebhookDisable :exec
-- Switches a webhook off because of what its receiver said.
UPDATE webhooks AS w SET is_active = false, disabled_for = @reason, updated_at = now() WHERE w.id = @id;

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
 WHERE w.is_active
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
-- How many deliveries to active webhooks wait, how long the oldest has, in seconds, and how
-- many were given up.
SELECT count(*) FILTER (WHERE d.state = 'pending') AS pending,
       coalesce(extract(epoch FROM now() - min(d.created_at) FILTER (WHERE d.state = 'pending')), 0)::float8
           AS oldest_seconds,
       count(*) FILTER (WHERE d.state = 'dead') AS dead
  FROM webhook_deliveries AS d
  JOIN webhooks AS w ON w.id = d.webhook_id AND w.is_active
 WHERE d.state <> 'delivered';

-- name: AlertsWanted :one
-- Which of the events that passes find some webhook asks for.
SELECT coalesce(bool_or('key.limit_reached' = ANY (w.events)), false)::boolean AS limits,
       coalesce(bool_or('key.expiring' = ANY (w.events)), false)::boolean AS expiry,
       coalesce(bool_or('model.unpriced' = ANY (w.events)), false)::boolean AS unpriced
  FROM webhooks AS w
 WHERE w.is_active;

-- name: AlertBegin :many
-- Takes the pass that looks for what webhooks are told of, to the end of the transaction: how
-- far it has come, and the chunk that is open. No row: another replica is at it.
SELECT a.chunk, a.looked_at, r.open_chunk,
       coalesce(sqlc.narg('now')::timestamptz, now())::timestamptz AS now,
       (a.looked_at < coalesce(sqlc.narg('now')::timestamptz, now()) - interval '10 minutes')::boolean AS stale
  FROM alert_state AS a
 CROSS JOIN rollup_state AS r
   FOR UPDATE OF a SKIP LOCKED;

-- name: AlertEnd :exec
-- Notes how far the pass has come.
UPDATE alert_state SET chunk = @chunk, looked_at = @looked_at;

-- name: AlertLimits :execrows
-- Writes an event for each share of a limit that a key has reached and that was not told
-- before in this period. It looks at the keys that were admitted or used since the pass
-- before, or at everything. Events and alerts are written together, so that nothing is told
-- twice, by whatever replica. Counters are taken with the period that they belong to, so
-- that what was reached just before midnight is told after it; older periods are history.
WITH clock AS MATERIALIZED (
    SELECT t.now, (t.now AT TIME ZONE @timezone::text)::date AS day
      FROM (SELECT coalesce(sqlc.narg('now')::timestamptz, now()) AS now) AS t
), touched AS MATERIALIZED (
    SELECT k.id FROM api_keys AS k WHERE @everything::boolean
    UNION
    SELECT k.id
      FROM (SELECT DISTINCT e.ledger_id
              FROM usage_events AS e
             WHERE NOT @everything AND e.chunk >= @chunk::bigint AND e.received_at >= @since::timestamptz) AS u
      JOIN api_keys AS k ON k.ledger_id = u.ledger_id
    UNION
    SELECT a.key_id FROM admissions AS a WHERE NOT @everything AND a.admitted_at >= @since::timestamptz
), measured AS MATERIALIZED (
    SELECT k.id, k.name, k.tags, k.enforcement, k.alert_at,
           m.name::text AS limit_name, m.used::numeric AS used, m.most::numeric AS most, m.period::text AS period,
           m.resets_at::timestamptz AS resets_at
      FROM touched AS t
     CROSS JOIN clock AS n
      JOIN api_keys AS k ON k.id = t.id AND k.deleted_at IS NULL AND k.alert_at <> '{}'
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
            k.rate_limit_requests::numeric, c.window_start::text, w.ends),
           ('tokens', CASE WHEN w.ends > n.now - interval '1 day' THEN c.window_tokens END,
            k.token_limit, c.window_start::text, w.ends),
           ('concurrency', h.live, k.concurrency_limit, n.day::text, NULL),
           ('dailyCost', CASE WHEN c.day >= n.day - 1 THEN c.day_cost END,
            k.daily_cost_limit, c.day::text, day_start(c.day + 1, @timezone)),
           ('weeklyCost', CASE WHEN c.week >= n.day - 7 THEN c.week_cost END,
            k.weekly_cost_limit, c.week::text, day_start(c.week + 7, @timezone)),
           ('monthlyCost', CASE WHEN c.month >= n.day - 31 THEN c.month_cost END,
            k.monthly_cost_limit, c.month::text, day_start((c.month + interval '1 month')::date, @timezone)),
           ('totalCost', c.cost, k.total_cost_limit, trim_scale(k.total_cost_limit)::text, NULL)
     ) AS m (name, used, most, period, resets_at)
     WHERE m.most > 0 AND m.used > 0
), reached AS MATERIALIZED (
    SELECT m.*, a.threshold
      FROM measured AS m
     CROSS JOIN LATERAL unnest(m.alert_at) AS a (threshold)
     WHERE m.used * 100 >= m.most * a.threshold
), told AS (
    INSERT INTO alerts (subject, kind, threshold, period, at)
    SELECT r.id::text, r.limit_name, r.threshold, r.period, n.now
      FROM reached AS r
     CROSS JOIN clock AS n
     ORDER BY r.id, r.limit_name, r.threshold
    ON CONFLICT DO NOTHING
    RETURNING subject, kind, threshold, period
)
INSERT INTO webhook_events (type, at, key_id, data)
SELECT 'key.limit_reached', n.now, r.id, jsonb_strip_nulls(jsonb_build_object(
       'keyId', r.id, 'name', r.name, 'tags', to_jsonb(r.tags), 'limit', r.limit_name, 'threshold', r.threshold,
       'percent', floor(r.used * 100 / r.most), 'used', trim_scale(r.used), 'most', trim_scale(r.most),
       'enforcement', r.enforcement, 'resetsAt', r.resets_at))
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
      JOIN api_keys AS k ON k.is_active AND k.deleted_at IS NULL
          AND k.expires_at >= n.now AND k.expires_at <= n.now + interval '365 days'
     CROSS JOIN LATERAL unnest(k.alert_expiry_days) AS d (days)
     WHERE k.expires_at <= n.now + d.days * interval '1 day'
), told AS (
    INSERT INTO alerts (subject, kind, threshold, period, at)
    SELECT d.id::text, 'expiry', d.days, d.expires_at::text, n.now
      FROM due AS d
     CROSS JOIN clock AS n
     ORDER BY d.id, d.days
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
-- Writes an event for each model that was used without a price since the pass before, once a
-- day of the service's time zone.
WITH clock AS MATERIALIZED (
    SELECT t.now, (t.now AT TIME ZONE @timezone::text)::date AS day
      FROM (SELECT coalesce(sqlc.narg('now')::timestamptz, now()) AS now) AS t
), found AS MATERIALIZED (
    SELECT e.model, count(*) AS requests
      FROM usage_events AS e
     WHERE NOT e.priced AND e.kind = 'usage' AND e.chunk >= @chunk::bigint AND e.received_at >= @since::timestamptz
     GROUP BY e.model
), told AS (
    INSERT INTO alerts (subject, kind, threshold, period, at)
    SELECT f.model, 'unpriced', 0, n.day::text, n.now
      FROM found AS f
     CROSS JOIN clock AS n
     ORDER BY f.model
    ON CONFLICT DO NOTHING
    RETURNING subject
)
INSERT INTO webhook_events (type, at, data)
SELECT 'model.unpriced', n.now, jsonb_build_object('model', f.model, 'day', n.day, 'requests', f.requests)
  FROM found AS f
 CROSS JOIN clock AS n
  JOIN told AS t ON t.subject = f.model
 ORDER BY f.model;

-- name: WebhookPrune :execrows
-- Forgets up to a thousand events, with their deliveries, from before 30 days ago.
DELETE FROM webhook_events AS e
 WHERE e.id IN (
    SELECT o.id FROM webhook_events AS o
     WHERE o.at < coalesce(sqlc.narg('now')::timestamptz, now()) - interval '30 days'
     LIMIT 1000);

-- name: AlertPrune :execrows
-- Forgets up to a thousand alerts of periods that are long over. Those of totals and of ends
-- stay: their period may still last.
DELETE FROM alerts AS a
 WHERE (a.subject, a.kind, a.threshold, a.period) IN (
    SELECT o.subject, o.kind, o.threshold, o.period FROM alerts AS o
     WHERE o.at < coalesce(sqlc.narg('now')::timestamptz, now()) - interval '400 days'
       AND o.kind NOT IN ('totalCost', 'expiry')
     LIMIT 1000);
