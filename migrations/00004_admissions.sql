-- +goose Up

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
    is_current       boolean        NOT NULL DEFAULT true,
    reserves         boolean        NOT NULL GENERATED ALWAYS
        AS (is_open AND (reserved_tokens > 0 OR reserved_cost > 0)) STORED,
    ended_by         text           CHECK (ended_by IN ('settled', 'released', 'expired')),
    ended_at         timestamptz
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX admissions_request ON admissions (key_id, request_id) WHERE is_current AND request_id IS NOT NULL;
-- A decision adds up leases and reservations by one index each. Neither fits the other's
-- condition, so that no statistics can make the planner take the wrong one.
CREATE INDEX admissions_open ON admissions (key_id) WHERE is_open;
CREATE INDEX admissions_reserved ON admissions (key_id) WHERE reserves;
-- Pages are summarised as they fill: a pass asks for the newest of them every few seconds.
CREATE INDEX admissions_admitted ON admissions USING brin (admitted_at) WITH (autosummarize = on);
COMMENT ON TABLE  admissions IS 'Requests that were let through. The unexpired leases and reservations of the open ones are the only truth about concurrency and reserved amounts: no counter can leak. Remembered for the deduplication horizon.';
COMMENT ON COLUMN admissions.id IS 'Identity of the admission; a UUIDv7.';
COMMENT ON COLUMN admissions.key_id IS 'The key.';
COMMENT ON COLUMN admissions.request_id IS 'Caller''s id of the request; the same one gives the same admission while that is open and its lease lives.';
COMMENT ON COLUMN admissions.service IS 'Service asked for; null: not told.';
COMMENT ON COLUMN admissions.model IS 'Model asked for, as received; null: not told.';
COMMENT ON COLUMN admissions.admitted_at IS 'When it was let through.';
COMMENT ON COLUMN admissions.lease_expires_at IS 'End of its slot of concurrency; null: it takes none.';
COMMENT ON COLUMN admissions.reserved_until IS 'End of its reservation, if it is not settled or released before.';
COMMENT ON COLUMN admissions.reserved_tokens IS 'Tokens reserved for it.';
COMMENT ON COLUMN admissions.reserved_cost IS 'USD reserved for it.';
COMMENT ON COLUMN admissions.is_open IS 'Neither settled nor released nor found expired: its lease and reservation count while their time lasts.';
COMMENT ON COLUMN admissions.is_current IS 'The latest admission of its request id. False: the request was decided anew under a later admission.';
COMMENT ON COLUMN admissions.reserves IS 'Whether it is open and reserves tokens or cost. Computed.';
COMMENT ON COLUMN admissions.ended_by IS 'How it ended: settled by usage, released, or expired; null: open.';
COMMENT ON COLUMN admissions.ended_at IS 'When it ended; null: open.';

CREATE TABLE admission_refusals (
    ledger_id   uuid    NOT NULL,
    day         date    NOT NULL,
    code        text    NOT NULL,
    let_through boolean NOT NULL,
    refusals    bigint  NOT NULL,
    PRIMARY KEY (ledger_id, day, code, let_through)
);
-- What the overview adds up, and what is forgotten after some months.
CREATE INDEX admission_refusals_day ON admission_refusals (day);
COMMENT ON TABLE  admission_refusals IS 'How often each key was refused, by reason and day. Written in groups, apart from the refusals themselves, so the newest few seconds may be missing.';
COMMENT ON COLUMN admission_refusals.ledger_id IS 'The key, by the id that the ledger has for it.';
COMMENT ON COLUMN admission_refusals.day IS 'Day in the service''s time zone.';
COMMENT ON COLUMN admission_refusals.code IS 'Reason, for example DAILY_COST_EXCEEDED.';
COMMENT ON COLUMN admission_refusals.let_through IS 'True: the key only observes its limits, so the request went on.';
COMMENT ON COLUMN admission_refusals.refusals IS 'Number of requests.';

-- day_start is the first instant of a day. AT TIME ZONE alone gives the second of two
-- midnights where clocks are set back across one (Atlantic/Azores, 2026-10-25), so the
-- offset in force three hours earlier is tried too.
CREATE FUNCTION day_start(day date, zone text) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN (b.earlier AT TIME ZONE zone)::date = day THEN least(b.earlier, b.midnight) ELSE b.midnight END
      FROM (SELECT a.midnight,
                   day::timestamp AT TIME ZONE 'UTC'
                       - ((a.before AT TIME ZONE zone) - (a.before AT TIME ZONE 'UTC')) AS earlier
              FROM (SELECT day::timestamp AT TIME ZONE zone AS midnight,
                           (day::timestamp AT TIME ZONE zone) - interval '3 hours' AS before) AS a) AS b
$$;
COMMENT ON FUNCTION day_start(date, text) IS 'The first instant of a day in an IANA time zone, also where midnight comes twice or never.';

-- What a batch's earlier requests of one key have taken, and what became of the
-- latest: the state that admit_in_order carries from request to request.
CREATE TYPE admit_state AS (requests bigint, leases bigint, tokens bigint, cost numeric, code text);

-- admit_step decides one request by what is left for it, in the order of the
-- contract. Amounts given as "left" already have the database's state taken off;
-- null means no such limit. A request over a limit of an observing key goes on.
-- +goose StatementBegin
CREATE FUNCTION admit_step(s admit_state, barred text, observes boolean, dry boolean, takes_lease boolean,
    tokens bigint, cost numeric,
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

CREATE AGGREGATE admit_in_order(text, boolean, boolean, boolean, bigint, numeric, bigint, bigint, bigint, numeric,
    numeric, numeric, numeric) (
    SFUNC = admit_step, STYPE = admit_state, INITCOND = '(0,0,0,0,)'
);
COMMENT ON AGGREGATE admit_in_order(text, boolean, boolean, boolean, bigint, numeric, bigint, bigint, bigint, numeric, numeric, numeric, numeric) IS 'Decides the requests of one key one after another; used as a window function over a batch.';

-- +goose Down
DROP AGGREGATE admit_in_order(text, boolean, boolean, boolean, bigint, numeric, bigint, bigint, bigint, numeric,
    numeric, numeric, numeric);
DROP FUNCTION admit_step(admit_state, text, boolean, boolean, boolean, bigint, numeric, bigint, bigint, bigint,
    numeric, numeric, numeric, numeric);
DROP TYPE admit_state;
DROP TABLE admissions, admission_refusals;
DROP FUNCTION day_start(date, text);
