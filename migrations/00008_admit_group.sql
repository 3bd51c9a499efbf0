-- +goose Up

-- What a key holds is looked up for each key by itself: a plan that was made while
-- the table was empty, and is kept, would otherwise read all of it. The indexes for
-- that are in migration 10.

-- Decides as admit_batch (migration 6) does. That one stays for the release before.
-- +goose StatementBegin
CREATE FUNCTION admit_group(ids uuid[], key_ids uuid[], request_ids text[], services text[], models text[], model_names text[], clients text[],
    tokens bigint[], costs numeric[], lease_seconds integer[], unpriced boolean[], dry boolean[],
    default_estimate numeric, reservation_seconds integer, zone text, at timestamptz)
RETURNS TABLE (
    index bigint, code text, let_through boolean, admission_id uuid, repeated boolean, lease_expires_at timestamptz, decided_at timestamptz,
    cost_asked numeric, key_expires_at timestamptz,
    concurrency_limit bigint, concurrency_used bigint,
    requests_limit bigint, requests_used bigint, window_end timestamptz,
    tokens_limit bigint, tokens_used bigint, tokens_reserved bigint,
    daily_limit numeric, daily_used numeric, weekly_limit numeric, weekly_used numeric,
    monthly_limit numeric, monthly_used numeric, total_limit numeric, total_used numeric, cost_reserved numeric,
    day_end timestamptz, week_end timestamptz, month_end timestamptz)
LANGUAGE plpgsql VOLATILE ROWS 10 SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    instant timestamptz;
    today   date;
BEGIN
    -- First the locks, in id order: whoever decides about a key waits here for
    -- the one before. The statements after it have snapshots of their own and see
    -- what that one has written.
    PERFORM FROM key_counters AS c WHERE c.key_id = ANY (admit_group.key_ids) ORDER BY c.key_id FOR NO KEY UPDATE;
    instant := coalesce(at, clock_timestamp()); -- after the wait: now() is the transaction's start
    today := (instant AT TIME ZONE zone)::date;

    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT a.*, CASE WHEN a.request_id <> '' THEN row_number() OVER (PARTITION BY a.key_id, a.request_id ORDER BY a.ord) ELSE 1 END AS nth
          FROM ROWS FROM (unnest(admit_group.ids), unnest(admit_group.key_ids), unnest(admit_group.request_ids), unnest(admit_group.services), unnest(admit_group.models),
            unnest(admit_group.model_names), unnest(admit_group.clients), unnest(admit_group.tokens), unnest(admit_group.costs), unnest(admit_group.lease_seconds),
            unnest(admit_group.unpriced), unnest(admit_group.dry)) WITH ORDINALITY
            AS a (id, key_id, request_id, service, model, model_name, clients, tokens, cost, lease_seconds, unpriced, dry, ord)
    ), earlier AS MATERIALIZED (
        SELECT a.ord, e.id, e.lease_expires_at
          FROM asked AS a
          CROSS JOIN LATERAL (SELECT o.id, o.lease_expires_at FROM admissions AS o WHERE o.key_id = a.key_id AND o.request_id = a.request_id LIMIT 1) AS e
         WHERE a.request_id <> ''
    ), key AS MATERIALIZED (
        -- Each key's limits and what is used of them. A limit that is not set is
        -- null, and its use is not even read.
        SELECT k.*,
               k.enforcement = 'observe' AS observes,
               nullif(k.concurrency_limit, 0)::bigint AS leases_max, h.leases,
               w.window_open, w.window_end, CASE WHEN w.window_open THEN w.window_end ELSE instant + k.rate_limit_window * interval '1 minute' END AS next_window,
               CASE WHEN k.rate_limit_window > 0 THEN nullif(k.rate_limit_requests, 0) END AS requests_max,
               CASE WHEN w.window_open THEN c.requests ELSE 0 END AS requests,
               CASE WHEN k.rate_limit_window > 0 THEN nullif(k.token_limit, 0) END AS tokens_max,
               CASE WHEN w.window_open THEN c.tokens ELSE 0 END AS used_tokens,
               r.tokens AS held_tokens,
               nullif(k.daily_cost_limit, 0) AS daily_max, nullif(k.weekly_cost_limit, 0) AS weekly_max,
               nullif(k.monthly_cost_limit, 0) AS monthly_max, nullif(k.total_cost_limit, 0) AS total_max,
               r.cost AS held_cost,
               CASE WHEN k.daily_cost_limit > 0 THEN coalesce((SELECT y.cost FROM daily_cost AS y WHERE y.key_id = k.id AND y.day = today), 0) END AS daily,
               CASE WHEN k.weekly_cost_limit > 0 THEN coalesce((SELECT sum(y.cost) FROM daily_cost AS y WHERE y.key_id = k.id
                    AND y.day >= date_trunc('week', today)::date AND y.day < date_trunc('week', today)::date + 7), 0) END AS weekly,
               CASE WHEN k.monthly_cost_limit > 0 THEN coalesce((SELECT sum(y.cost) FROM daily_cost AS y WHERE y.key_id = k.id
                    AND y.day >= date_trunc('month', today)::date AND y.day < (date_trunc('month', today) + interval '1 month')::date), 0) END AS monthly,
               CASE WHEN k.total_cost_limit > 0 THEN (SELECT t.cost FROM key_totals AS t WHERE t.key_id = k.id) END AS total
          FROM api_keys AS k
          JOIN key_counters AS c ON c.key_id = k.id
          CROSS JOIN LATERAL (
            SELECT count(*) AS leases FROM admissions AS o
             WHERE o.is_open AND o.key_id = k.id AND k.concurrency_limit > 0 AND o.lease_expires_at > instant) AS h
          CROSS JOIN LATERAL (
            SELECT coalesce(sum(o.reserved_tokens), 0)::bigint AS tokens, coalesce(sum(o.reserved_cost), 0) AS cost FROM admissions AS o
             WHERE o.is_open AND (o.reserved_tokens > 0 OR o.reserved_cost > 0) AND o.key_id = k.id AND o.reserved_until > instant) AS r
          CROSS JOIN LATERAL (
            SELECT coalesce(k.rate_limit_window > 0 AND instant < c.window_start + k.rate_limit_window * interval '1 minute', false) AS window_open,
                   c.window_start + k.rate_limit_window * interval '1 minute' AS window_end) AS w
         WHERE k.id = ANY (admit_group.key_ids)
    ), weighed AS MATERIALIZED (
        SELECT a.ord, a.id, a.key_id, a.request_id, a.service, a.model, a.tokens, a.lease_seconds, a.dry,
               EXISTS (SELECT FROM earlier AS e WHERE e.ord = a.ord) AS again,
               CASE WHEN a.cost >= 0 THEN a.cost
                    WHEN coalesce(k.daily_max, k.weekly_max, k.monthly_max, k.total_max) IS NULL THEN 0
                    ELSE coalesce(k.estimate_per_request, default_estimate) END AS cost,
               CASE WHEN k.id IS NULL OR k.deleted_at IS NOT NULL THEN 'NOT_FOUND'
                    WHEN NOT k.is_active THEN 'DISABLED'
                    WHEN instant > k.expires_at THEN 'EXPIRED'
                    WHEN NOT k.permissions && ARRAY['all', a.service] THEN 'SERVICE_NOT_PERMITTED'
                    WHEN k.enable_model_restriction AND (
                            cardinality(k.restricted_model_names) > 0 AND (a.model_name = '' OR a.model_name = ANY (k.restricted_model_names))
                         OR cardinality(k.allowed_model_names) > 0 AND a.model_name <> ALL (k.allowed_model_names)) THEN 'MODEL_NOT_ALLOWED'
                    WHEN a.unpriced AND coalesce(k.daily_max, k.weekly_max, k.monthly_max, k.total_max) IS NOT NULL THEN 'MODEL_NOT_ALLOWED'
                    WHEN k.enable_client_restriction AND cardinality(k.allowed_clients) > 0
                         AND NOT k.allowed_clients && string_to_array(a.clients, ',') THEN 'CLIENT_NOT_ALLOWED'
               END AS barred
          FROM asked AS a LEFT JOIN key AS k ON k.id = a.key_id
         WHERE a.nth = 1
    ), decided AS MATERIALIZED (
        SELECT w.*, admit_in_order(w.barred, coalesce(k.observes, false), w.dry OR w.again, w.lease_seconds > 0, w.tokens, w.cost,
                   k.leases_max - k.leases, k.requests_max - k.requests, k.tokens_max - k.used_tokens - k.held_tokens,
                   k.daily_max - k.daily - k.held_cost, k.weekly_max - k.weekly - k.held_cost,
                   k.monthly_max - k.monthly - k.held_cost, k.total_max - k.total - k.held_cost)
               OVER (PARTITION BY w.key_id ORDER BY w.ord) AS state
          FROM weighed AS w LEFT JOIN key AS k ON k.id = w.key_id
    ), outcome AS MATERIALIZED (
        -- A request that was admitted before takes nothing again, and no limit
        -- refuses it; what the key may do at all is asked anew.
        SELECT d.*, CASE WHEN d.again THEN coalesce(d.barred, 'ALLOWED') ELSE (d.state).code END AS code,
               NOT d.again AND d.barred IS NULL AND ((d.state).code = 'ALLOWED' OR k.observes) AS passed,
               k.window_open, k.rate_limit_window > 0 AS windowed
          FROM decided AS d LEFT JOIN key AS k ON k.id = d.key_id
    ), admitted AS (
        INSERT INTO admissions (id, key_id, request_id, service, model, admitted_at, lease_expires_at, reserved_until, reserved_tokens, reserved_cost)
        SELECT o.id, o.key_id, nullif(o.request_id, ''), nullif(o.service, ''), nullif(o.model, ''), instant,
               CASE WHEN o.lease_seconds > 0 THEN instant + make_interval(secs => o.lease_seconds) END,
               instant + make_interval(secs => greatest(reservation_seconds, o.lease_seconds)), o.tokens, o.cost
          FROM outcome AS o WHERE o.passed AND NOT o.dry
    ), counted AS (
        UPDATE key_counters AS c
           SET window_start = CASE WHEN n.window_open THEN c.window_start ELSE instant END,
               requests = CASE WHEN n.window_open THEN c.requests ELSE 0 END + n.requests,
               tokens = CASE WHEN n.window_open THEN c.tokens ELSE 0 END
          FROM (SELECT o.key_id, o.window_open, count(*) AS requests FROM outcome AS o
                 WHERE o.passed AND NOT o.dry AND o.windowed GROUP BY o.key_id, o.window_open) AS n
         WHERE c.key_id = n.key_id
    )
    SELECT a.ord - 1,
           coalesce(o.code, 'ALLOWED'),
           coalesce(o.passed AND o.code <> 'ALLOWED', false),
           CASE WHEN e.id IS NOT NULL AND o.code = 'ALLOWED' THEN e.id WHEN o.passed AND NOT o.dry THEN o.id END,
           e.id IS NOT NULL OR a.nth > 1,
           CASE WHEN e.id IS NOT NULL AND o.code = 'ALLOWED' THEN e.lease_expires_at WHEN o.passed AND NOT o.dry AND o.lease_seconds > 0 THEN instant + make_interval(secs => o.lease_seconds) END,
           instant,
           coalesce(o.cost, 0), k.expires_at,
           k.leases_max, k.leases + (o.state).leases,
           k.requests_max, k.requests + (o.state).requests,
           CASE WHEN k.window_open OR k.rate_limit_window > 0 AND (o.state).requests > 0 THEN k.next_window END,
           k.tokens_max, k.used_tokens, k.held_tokens + (o.state).tokens,
           k.daily_max, k.daily, k.weekly_max, k.weekly, k.monthly_max, k.monthly, k.total_max, k.total, k.held_cost + (o.state).cost,
           (today + 1)::timestamp AT TIME ZONE zone,
           (date_trunc('week', today)::date + 7)::timestamp AT TIME ZONE zone,
           (date_trunc('month', today) + interval '1 month')::date::timestamp AT TIME ZONE zone
      FROM asked AS a
      LEFT JOIN earlier AS e ON e.ord = a.ord
      LEFT JOIN asked AS f ON a.nth > 1 AND f.key_id = a.key_id AND f.request_id = a.request_id AND f.nth = 1
      LEFT JOIN outcome AS o ON o.ord = CASE WHEN a.nth > 1 THEN f.ord ELSE a.ord END
      LEFT JOIN key AS k ON k.id = a.key_id
     ORDER BY a.ord;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION admit_group(uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], numeric[], integer[], boolean[], boolean[], numeric, integer, text, timestamptz) IS 'Decides a batch of requests, in order, and writes the admissions of those let through: exact under any concurrency, since whoever decides about a key holds its key_counters row.';

-- +goose Down
DROP FUNCTION admit_group(uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], numeric[], integer[], boolean[], boolean[], numeric, integer, text, timestamptz);
