-- +goose Up

ALTER TABLE api_keys
    ADD COLUMN restricted_model_names text[] NOT NULL DEFAULT '{}',
    ADD COLUMN allowed_model_names    text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN api_keys.restricted_model_names IS 'restricted_models as they are compared: normalised and folded. Written with restricted_models.';
COMMENT ON COLUMN api_keys.allowed_model_names IS 'allowed_models as they are compared: normalised and folded. Written with allowed_models.';

CREATE TABLE admissions (
    id               uuid           PRIMARY KEY,
    key_id           uuid           NOT NULL,
    request_id       text,
    service          text,
    model            text,
    admitted_at      timestamptz    NOT NULL,
    lease_expires_at timestamptz,
    reserved_until   timestamptz    NOT NULL,
    reserved_tokens  bigint         NOT NULL,
    reserved_cost    numeric(38,12) NOT NULL,
    is_open          boolean        NOT NULL DEFAULT true,
    ended_by         text           CHECK (ended_by IN ('settled', 'released', 'expired')),
    ended_at         timestamptz
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX admissions_request ON admissions (key_id, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX admissions_open ON admissions (key_id) WHERE is_open;
CREATE INDEX admissions_overdue ON admissions (reserved_until) WHERE is_open;
CREATE INDEX admissions_admitted ON admissions USING brin (admitted_at);
COMMENT ON TABLE  admissions IS 'Requests that were let through. The unexpired leases and reservations of the open ones are the only truth about concurrency and reserved amounts: no counter can leak. Remembered for the deduplication horizon.';
COMMENT ON COLUMN admissions.id IS 'Identity of the admission; a UUIDv7.';
COMMENT ON COLUMN admissions.key_id IS 'The key; an anonymous id after a purge.';
COMMENT ON COLUMN admissions.request_id IS 'Caller''s id of the request; the same one gives the same admission.';
COMMENT ON COLUMN admissions.service IS 'Service asked for; null: not told.';
COMMENT ON COLUMN admissions.model IS 'Model asked for, as received; null: not told.';
COMMENT ON COLUMN admissions.admitted_at IS 'When it was let through.';
COMMENT ON COLUMN admissions.lease_expires_at IS 'End of its slot of concurrency; null: it takes none.';
COMMENT ON COLUMN admissions.reserved_until IS 'End of its reservation, if it is not settled or released before.';
COMMENT ON COLUMN admissions.reserved_tokens IS 'Tokens reserved for it.';
COMMENT ON COLUMN admissions.reserved_cost IS 'USD reserved for it.';
COMMENT ON COLUMN admissions.is_open IS 'Neither settled nor released nor found expired: its lease and reservation count while their time lasts.';
COMMENT ON COLUMN admissions.ended_by IS 'How it ended: settled by usage, released, or expired; null: open.';
COMMENT ON COLUMN admissions.ended_at IS 'When it ended; null: open.';

CREATE TABLE admission_refusals (
    key_id  uuid    NOT NULL,
    day     date    NOT NULL,
    code    text    NOT NULL,
    let_through boolean NOT NULL,
    refusals bigint NOT NULL,
    PRIMARY KEY (key_id, day, code, let_through)
);
COMMENT ON TABLE  admission_refusals IS 'How often each key was refused, by reason and day. Written in groups, apart from the refusals themselves, so the newest few seconds may be missing.';
COMMENT ON COLUMN admission_refusals.key_id IS 'The key.';
COMMENT ON COLUMN admission_refusals.day IS 'Day in the service''s time zone.';
COMMENT ON COLUMN admission_refusals.code IS 'Reason, for example DAILY_COST_EXCEEDED.';
COMMENT ON COLUMN admission_refusals.let_through IS 'True: the key only observes its limits, so the request went on.';
COMMENT ON COLUMN admission_refusals.refusals IS 'Number of requests.';

-- What a batch's earlier requests of one key have taken, and what became of the
-- latest: the state that admit_in_order carries from request to request.
CREATE TYPE admit_state AS (requests bigint, leases bigint, tokens bigint, cost numeric, code text);

-- admit_step decides one request by what is left for it, in the order of the
-- contract. Amounts given as "left" already have the database's state taken off;
-- null means no such limit. A request over a limit of an observing key goes on.
-- +goose StatementBegin
CREATE FUNCTION admit_step(s admit_state, barred text, observes boolean, dry boolean, takes_lease boolean, tokens bigint, cost numeric,
    leases_left bigint, requests_left bigint, tokens_left bigint,
    daily_left numeric, weekly_left numeric, monthly_left numeric, total_left numeric)
RETURNS admit_state LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    spent numeric := s.cost + cost;
BEGIN
    s.code := CASE
        WHEN barred IS NOT NULL THEN barred
        WHEN takes_lease AND leases_left - s.leases <= 0 THEN 'CONCURRENCY_EXCEEDED'
        WHEN requests_left - s.requests <= 0 THEN 'REQUESTS_EXCEEDED'
        WHEN tokens_left - s.tokens <= 0 OR tokens_left - s.tokens - tokens < 0 THEN 'TOKENS_EXCEEDED'
        WHEN daily_left - s.cost <= 0 OR daily_left - spent < 0 THEN 'DAILY_COST_EXCEEDED'
        WHEN weekly_left - s.cost <= 0 OR weekly_left - spent < 0 THEN 'WEEKLY_COST_EXCEEDED'
        WHEN monthly_left - s.cost <= 0 OR monthly_left - spent < 0 THEN 'MONTHLY_COST_EXCEEDED'
        WHEN total_left - s.cost <= 0 OR total_left - spent < 0 THEN 'TOTAL_COST_EXCEEDED'
        ELSE 'ALLOWED'
    END;
    IF barred IS NULL AND NOT dry AND (s.code = 'ALLOWED' OR observes) THEN
        s.requests := s.requests + 1;
        s.leases := s.leases + takes_lease::integer;
        s.tokens := s.tokens + tokens;
        s.cost := spent;
    END IF;
    RETURN s;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION admit_step(admit_state, text, boolean, boolean, boolean, bigint, numeric, bigint, bigint, bigint, numeric, numeric, numeric, numeric) IS 'One request''s decision, given what earlier ones of its batch have taken.';

CREATE AGGREGATE admit_in_order(text, boolean, boolean, boolean, bigint, numeric, bigint, bigint, bigint, numeric, numeric, numeric, numeric) (
    SFUNC = admit_step, STYPE = admit_state, INITCOND = '(0,0,0,0,)'
);
COMMENT ON AGGREGATE admit_in_order(text, boolean, boolean, boolean, bigint, numeric, bigint, bigint, bigint, numeric, numeric, numeric, numeric) IS 'Decides the requests of one key one after another; used as a window function over a batch.';

-- +goose StatementBegin
CREATE FUNCTION admit(ids uuid[], key_ids uuid[], request_ids text[], services text[], models text[], model_names text[], clients text[],
    tokens bigint[], costs numeric[], lease_seconds integer[], unpriced boolean[], dry boolean[],
    default_estimate numeric, reservation_seconds integer, zone text, at timestamptz)
RETURNS TABLE (
    index bigint, code text, let_through boolean, admission_id uuid, repeated boolean, lease_expires_at timestamptz, decided_at timestamptz, retry_at timestamptz,
    concurrency_limit bigint, concurrency_used bigint,
    requests_limit bigint, requests_used bigint, window_end timestamptz,
    tokens_limit bigint, tokens_used bigint, tokens_reserved bigint,
    daily_limit numeric, daily_used numeric, weekly_limit numeric, weekly_used numeric,
    monthly_limit numeric, monthly_used numeric, total_limit numeric, total_used numeric, cost_reserved numeric,
    day_end timestamptz, week_end timestamptz, month_end timestamptz)
LANGUAGE plpgsql VOLATILE ROWS 10 AS $$
#variable_conflict use_column
DECLARE
    instant timestamptz;
    today   date;
BEGIN
    -- First the locks, in id order: whoever decides about a key waits here for
    -- the one before. The statements after it have snapshots of their own and see
    -- what that one has written.
    PERFORM FROM key_counters AS c WHERE c.key_id = ANY (admit.key_ids) ORDER BY c.key_id FOR NO KEY UPDATE;
    instant := coalesce(at, clock_timestamp()); -- after the wait: now() is the transaction's start
    today := (instant AT TIME ZONE zone)::date;

    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT a.*, CASE WHEN a.request_id <> '' THEN row_number() OVER (PARTITION BY a.key_id, a.request_id ORDER BY a.ord) ELSE 1 END AS nth
          FROM ROWS FROM (unnest(admit.ids), unnest(admit.key_ids), unnest(admit.request_ids), unnest(admit.services), unnest(admit.models),
            unnest(admit.model_names), unnest(admit.clients), unnest(admit.tokens), unnest(admit.costs), unnest(admit.lease_seconds),
            unnest(admit.unpriced), unnest(admit.dry)) WITH ORDINALITY
            AS a (id, key_id, request_id, service, model, model_name, clients, tokens, cost, lease_seconds, unpriced, dry, ord)
    ), earlier AS MATERIALIZED (
        SELECT a.ord, e.id, e.lease_expires_at FROM asked AS a JOIN admissions AS e ON e.key_id = a.key_id AND e.request_id = a.request_id
         WHERE a.request_id <> ''
    ), held AS MATERIALIZED (
        SELECT o.key_id,
               count(*) FILTER (WHERE o.lease_expires_at > instant) AS leases,
               array_agg(o.lease_expires_at ORDER BY o.lease_expires_at) FILTER (WHERE o.lease_expires_at > instant) AS lease_ends,
               coalesce(sum(o.reserved_tokens) FILTER (WHERE o.reserved_until > instant), 0)::bigint AS tokens,
               coalesce(sum(o.reserved_cost) FILTER (WHERE o.reserved_until > instant), 0) AS cost,
               min(o.reserved_until) FILTER (WHERE o.reserved_until > instant AND o.reserved_tokens > 0) AS tokens_free,
               min(o.reserved_until) FILTER (WHERE o.reserved_until > instant AND o.reserved_cost > 0) AS cost_free
          FROM admissions AS o WHERE o.is_open AND o.key_id = ANY (admit.key_ids) GROUP BY o.key_id
    ), key AS MATERIALIZED (
        -- Each key's limits and what is used of them. A limit that is not set is
        -- null, and its use is not even read.
        SELECT k.*,
               k.enforcement = 'observe' AS observes,
               nullif(k.concurrency_limit, 0)::bigint AS leases_max, coalesce(h.leases, 0) AS leases, h.lease_ends,
               w.window_open, w.window_end, CASE WHEN w.window_open THEN w.window_end ELSE instant + k.rate_limit_window * interval '1 minute' END AS next_window,
               CASE WHEN k.rate_limit_window > 0 THEN nullif(k.rate_limit_requests, 0) END AS requests_max,
               CASE WHEN w.window_open THEN c.requests ELSE 0 END AS requests,
               CASE WHEN k.rate_limit_window > 0 THEN nullif(k.token_limit, 0) END AS tokens_max,
               CASE WHEN w.window_open THEN c.tokens ELSE 0 END AS used_tokens,
               coalesce(h.tokens, 0) AS held_tokens, h.tokens_free,
               nullif(k.daily_cost_limit, 0) AS daily_max, nullif(k.weekly_cost_limit, 0) AS weekly_max,
               nullif(k.monthly_cost_limit, 0) AS monthly_max, nullif(k.total_cost_limit, 0) AS total_max,
               coalesce(h.cost, 0) AS held_cost, h.cost_free,
               CASE WHEN k.daily_cost_limit > 0 THEN coalesce((SELECT y.cost FROM daily_cost AS y WHERE y.key_id = k.id AND y.day = today), 0) END AS daily,
               CASE WHEN k.weekly_cost_limit > 0 THEN coalesce((SELECT sum(y.cost) FROM daily_cost AS y WHERE y.key_id = k.id
                    AND y.day >= date_trunc('week', today)::date AND y.day < date_trunc('week', today)::date + 7), 0) END AS weekly,
               CASE WHEN k.monthly_cost_limit > 0 THEN coalesce((SELECT sum(y.cost) FROM daily_cost AS y WHERE y.key_id = k.id
                    AND y.day >= date_trunc('month', today)::date AND y.day < (date_trunc('month', today) + interval '1 month')::date), 0) END AS monthly,
               CASE WHEN k.total_cost_limit > 0 THEN (SELECT t.cost FROM key_totals AS t WHERE t.key_id = k.id) END AS total
          FROM api_keys AS k
          JOIN key_counters AS c ON c.key_id = k.id
          LEFT JOIN held AS h ON h.key_id = k.id
          CROSS JOIN LATERAL (
            SELECT coalesce(k.rate_limit_window > 0 AND instant < c.window_start + k.rate_limit_window * interval '1 minute', false) AS window_open,
                   c.window_start + k.rate_limit_window * interval '1 minute' AS window_end) AS w
         WHERE k.id = ANY (admit.key_ids)
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
               instant + min(d.lease_seconds) FILTER (WHERE d.lease_seconds > 0 AND (d.state).code = 'ALLOWED') OVER (PARTITION BY d.key_id) * interval '1 second' AS first_lease_end
          FROM decided AS d LEFT JOIN key AS k ON k.id = d.key_id
    ), admitted AS (
        INSERT INTO admissions (id, key_id, request_id, service, model, admitted_at, lease_expires_at, reserved_until, reserved_tokens, reserved_cost)
        SELECT o.id, o.key_id, nullif(o.request_id, ''), nullif(o.service, ''), nullif(o.model, ''), instant,
               CASE WHEN o.lease_seconds > 0 THEN instant + make_interval(secs => o.lease_seconds) END,
               instant + make_interval(secs => greatest(reservation_seconds, o.lease_seconds)), o.tokens, o.cost
          FROM outcome AS o WHERE o.passed AND NOT o.dry
    ), counted AS (
        UPDATE key_counters AS c
           SET window_start = CASE WHEN k.window_open THEN c.window_start ELSE instant END,
               requests = CASE WHEN k.window_open THEN c.requests ELSE 0 END + n.requests,
               tokens = CASE WHEN k.window_open THEN c.tokens ELSE 0 END
          FROM (SELECT o.key_id, count(*) AS requests FROM outcome AS o WHERE o.passed AND NOT o.dry GROUP BY o.key_id) AS n
          JOIN key AS k ON k.id = n.key_id AND k.rate_limit_window > 0
         WHERE c.key_id = n.key_id
    )
    SELECT a.ord - 1,
           coalesce(o.code, 'ALLOWED'),
           coalesce(o.passed AND o.code <> 'ALLOWED', false),
           CASE WHEN e.id IS NOT NULL AND o.code = 'ALLOWED' THEN e.id WHEN o.passed AND NOT o.dry THEN o.id END,
           e.id IS NOT NULL OR a.nth > 1,
           CASE WHEN e.id IS NOT NULL AND o.code = 'ALLOWED' THEN e.lease_expires_at WHEN o.passed AND NOT o.dry AND o.lease_seconds > 0 THEN instant + make_interval(secs => o.lease_seconds) END,
           instant,
           CASE o.code
               WHEN 'CONCURRENCY_EXCEEDED' THEN coalesce(k.lease_ends[k.leases - k.leases_max + 1], o.first_lease_end)
               WHEN 'REQUESTS_EXCEEDED' THEN k.next_window
               WHEN 'TOKENS_EXCEEDED' THEN CASE WHEN o.tokens > k.tokens_max THEN NULL
                    WHEN k.used_tokens >= k.tokens_max OR k.used_tokens + o.tokens > k.tokens_max THEN k.next_window
                    ELSE least(k.tokens_free, k.next_window) END
               WHEN 'DAILY_COST_EXCEEDED' THEN cost_free_at(k.daily_max, k.daily, o.cost, k.cost_free, (today + 1)::timestamp AT TIME ZONE zone)
               WHEN 'WEEKLY_COST_EXCEEDED' THEN cost_free_at(k.weekly_max, k.weekly, o.cost, k.cost_free, (date_trunc('week', today)::date + 7)::timestamp AT TIME ZONE zone)
               WHEN 'MONTHLY_COST_EXCEEDED' THEN cost_free_at(k.monthly_max, k.monthly, o.cost, k.cost_free, (date_trunc('month', today) + interval '1 month')::date::timestamp AT TIME ZONE zone)
               WHEN 'TOTAL_COST_EXCEEDED' THEN cost_free_at(k.total_max, k.total, o.cost, k.cost_free, NULL)
           END,
           k.leases_max, k.leases + (o.state).leases,
           k.requests_max, k.requests + (o.state).requests,
           CASE WHEN k.window_open THEN k.window_end WHEN o.passed AND NOT o.dry AND k.rate_limit_window > 0 THEN instant + k.rate_limit_window * interval '1 minute' END,
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
COMMENT ON FUNCTION admit(uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], numeric[], integer[], boolean[], boolean[], numeric, integer, text, timestamptz) IS 'Decides a batch of requests, in order, and writes the admissions of those let through: exact under any concurrency, since whoever decides about a key holds its key_counters row.';

-- cost_free_at is the instant from which a request refused by a cost limit could
-- pass if nothing else happens: when the period ends, or, if only reservations
-- stand in the way, when the first of them does.
-- +goose StatementBegin
CREATE FUNCTION cost_free_at(most numeric, used numeric, cost numeric, reservation_end timestamptz, period_end timestamptz)
RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN cost > most THEN NULL
                WHEN used >= most OR used + cost > most THEN period_end
                ELSE least(reservation_end, period_end) END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION cost_free_at(numeric, numeric, numeric, timestamptz, timestamptz) IS 'When a request refused by a cost limit could pass at the earliest; null: never by waiting.';

-- +goose StatementBegin
CREATE FUNCTION renew_lease(id uuid, lease_seconds integer, reservation_seconds integer, at timestamptz)
RETURNS TABLE (renewed boolean, lease_expires_at timestamptz) LANGUAGE plpgsql VOLATILE ROWS 1 AS $$
#variable_conflict use_column
DECLARE
    instant timestamptz;
BEGIN
    PERFORM FROM key_counters AS c WHERE c.key_id = (SELECT a.key_id FROM admissions AS a WHERE a.id = renew_lease.id) FOR NO KEY UPDATE;
    instant := coalesce(at, clock_timestamp());
    RETURN QUERY
    WITH longer AS (
        UPDATE admissions AS a
           SET lease_expires_at = greatest(a.lease_expires_at, instant + make_interval(secs => lease_seconds)),
               reserved_until = greatest(a.reserved_until, instant + make_interval(secs => greatest(reservation_seconds, lease_seconds)))
         WHERE a.id = renew_lease.id AND a.is_open AND a.lease_expires_at > instant
        RETURNING a.lease_expires_at
    )
    SELECT l.lease_expires_at IS NOT NULL, coalesce(l.lease_expires_at, a.lease_expires_at)
      FROM admissions AS a LEFT JOIN longer AS l ON true
     WHERE a.id = renew_lease.id;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION renew_lease(uuid, integer, integer, timestamptz) IS 'Extends a live lease and its reservation. It takes the same lock as admit, so that a slot is never counted as free and kept at once; a lease that is over stays over.';

-- +goose Down
DROP FUNCTION renew_lease(uuid, integer, integer, timestamptz);
DROP FUNCTION admit(uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], numeric[], integer[], boolean[], boolean[], numeric, integer, text, timestamptz);
DROP FUNCTION cost_free_at(numeric, numeric, numeric, timestamptz, timestamptz);
DROP AGGREGATE admit_in_order(text, boolean, boolean, boolean, bigint, numeric, bigint, bigint, bigint, numeric, numeric, numeric, numeric);
DROP FUNCTION admit_step(admit_state, text, boolean, boolean, boolean, bigint, numeric, bigint, bigint, bigint, numeric, numeric, numeric, numeric);
DROP TYPE admit_state;
DROP TABLE admissions, admission_refusals;
ALTER TABLE api_keys DROP COLUMN restricted_model_names, DROP COLUMN allowed_model_names;
