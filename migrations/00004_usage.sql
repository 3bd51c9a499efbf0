-- +goose Up

-- The ledger. Partitioned by UTC day of receipt, so that retention drops whole
-- days; the default partition takes what no day's partition was made for, so
-- that an insert never fails for want of one.
CREATE TABLE usage_events (
    event_id            uuid           NOT NULL,
    received_at         timestamptz    NOT NULL,
    kind                text           NOT NULL CHECK (kind IN ('usage', 'adjustment', 'opening')),
    key_id              uuid           NOT NULL,
    account_id          text,
    model               text           NOT NULL,
    model_received      text           NOT NULL,
    request_id          text,
    occurred_at         timestamptz    NOT NULL,
    day                 date           NOT NULL,
    requests            bigint         NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cache_create_tokens bigint         NOT NULL,
    cache_read_tokens   bigint         NOT NULL,
    ephemeral_5m_tokens bigint         NOT NULL,
    ephemeral_1h_tokens bigint         NOT NULL,
    cost                numeric(38,12) NOT NULL,
    priced              boolean        NOT NULL,
    adjusts             uuid,
    reason              text,
    PRIMARY KEY (event_id, received_at)
) PARTITION BY RANGE (received_at);
CREATE TABLE usage_events_default PARTITION OF usage_events DEFAULT;
CREATE INDEX usage_events_key ON usage_events (key_id, event_id);
CREATE INDEX usage_events_unpriced ON usage_events (model) WHERE NOT priced;
COMMENT ON TABLE  usage_events IS 'The ledger: one row for each thing that moved a rollup, appended once and never edited. Partitioned by UTC day of receipt.';
COMMENT ON COLUMN usage_events.event_id IS 'Identity of the event; a UUIDv7, so ids sort by time of receipt.';
COMMENT ON COLUMN usage_events.received_at IS 'When the service recorded it.';
COMMENT ON COLUMN usage_events.kind IS 'usage: a request. adjustment: takes a usage row back or corrects it. opening: totals brought from another system.';
COMMENT ON COLUMN usage_events.key_id IS 'The key that used it; an anonymous id after the key was purged.';
COMMENT ON COLUMN usage_events.account_id IS 'Upstream account that served it; null: not told.';
COMMENT ON COLUMN usage_events.model IS 'Model, normalised: what rollups group by.';
COMMENT ON COLUMN usage_events.model_received IS 'Model as received, trimmed: what was priced.';
COMMENT ON COLUMN usage_events.request_id IS 'Caller''s id of the request; deduplicates within a key.';
COMMENT ON COLUMN usage_events.occurred_at IS 'When the request happened; rollups and prices go by it.';
COMMENT ON COLUMN usage_events.day IS 'Day of occurred_at in the service''s time zone.';
COMMENT ON COLUMN usage_events.requests IS 'Requests it counts for: 1 for usage, -1 for one taken back, 0 for a correction of cost.';
COMMENT ON COLUMN usage_events.input_tokens IS 'Input tokens, not counting those read from or written to cache.';
COMMENT ON COLUMN usage_events.output_tokens IS 'Output tokens.';
COMMENT ON COLUMN usage_events.cache_create_tokens IS 'Tokens written to cache, both lifetimes.';
COMMENT ON COLUMN usage_events.cache_read_tokens IS 'Tokens read from cache.';
COMMENT ON COLUMN usage_events.ephemeral_5m_tokens IS 'Part of cache_create_tokens written for 5 minutes.';
COMMENT ON COLUMN usage_events.ephemeral_1h_tokens IS 'Part of cache_create_tokens written for 1 hour.';
COMMENT ON COLUMN usage_events.cost IS 'USD.';
COMMENT ON COLUMN usage_events.priced IS 'False: no price was known, so cost is 0.';
COMMENT ON COLUMN usage_events.adjusts IS 'For an adjustment, the event it takes back or corrects.';
COMMENT ON COLUMN usage_events.reason IS 'For an adjustment, why.';

-- +goose StatementBegin
CREATE FUNCTION explain_ledger_partition(part regclass, meaning text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    col record;
BEGIN
    EXECUTE format('COMMENT ON TABLE %s IS %L', part, meaning);
    FOR col IN SELECT attname, col_description(attrelid, attnum) AS meaning FROM pg_attribute
                WHERE attrelid = 'usage_events'::regclass AND attnum > 0 AND NOT attisdropped
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', part, col.attname, col.meaning);
    END LOOP;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION explain_ledger_partition(regclass, text) IS 'Gives a ledger partition its comment and the column comments of usage_events, which PostgreSQL does not inherit.';
SELECT explain_ledger_partition('usage_events_default', 'Ledger rows for whose day no partition had been made.');

-- +goose StatementBegin
CREATE FUNCTION make_ledger_partitions(first_day date, last_day date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    d    date;
    made integer := 0;
    part text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('make_ledger_partitions'));
    FOR d IN SELECT generate_series(first_day, last_day, interval '1 day')::date LOOP
        part := 'usage_events_' || to_char(d, 'YYYYMMDD');
        IF to_regclass(part) IS NULL AND NOT EXISTS (
            SELECT FROM usage_events_default AS u
             WHERE u.received_at >= d::timestamp AT TIME ZONE 'UTC'
               AND u.received_at < (d + 1)::timestamp AT TIME ZONE 'UTC'
        ) THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF usage_events FOR VALUES FROM (%L) TO (%L)',
                part, d::timestamp AT TIME ZONE 'UTC', (d + 1)::timestamp AT TIME ZONE 'UTC');
            PERFORM explain_ledger_partition(part::regclass, 'Ledger rows received on ' || d || ' (UTC).');
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION make_ledger_partitions(date, date) IS 'Makes the ledger partitions of these UTC days, both included, where they are missing; returns how many. Safe to run at once from many sessions.';

-- +goose StatementBegin
CREATE FUNCTION drop_ledger_partitions(before_day date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    part    record;
    dropped integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('make_ledger_partitions'));
    FOR part IN
        SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'usage_events'::regclass
           AND c.relname ~ '^usage_events_\d{8}$'
           AND to_date(right(c.relname, 8), 'YYYYMMDD') < before_day
    LOOP
        EXECUTE format('DROP TABLE %I', part.relname);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM usage_events_default AS u WHERE u.received_at < before_day::timestamp AT TIME ZONE 'UTC';
    RETURN dropped;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION drop_ledger_partitions(date) IS 'Drops the ledger partitions of UTC days before this one; returns how many. Rollups stay.';

CREATE TABLE usage_dedup (
    key_id       uuid           NOT NULL,
    dedup_key    text           NOT NULL,
    event_id     uuid           NOT NULL,
    admission_id uuid,
    model        text           NOT NULL,
    cost         numeric(38,12) NOT NULL,
    priced       boolean        NOT NULL,
    fingerprint  bigint         NOT NULL,
    received_at  timestamptz    NOT NULL,
    PRIMARY KEY (key_id, dedup_key)
);
CREATE INDEX usage_dedup_received ON usage_dedup USING brin (received_at);
COMMENT ON TABLE  usage_dedup IS 'The gate before the ledger: an event is recorded only by whoever inserts its row here. Not partitioned, so a repeat is caught across midnight. Pruned after the deduplication horizon.';
COMMENT ON COLUMN usage_dedup.key_id IS 'The key.';
COMMENT ON COLUMN usage_dedup.dedup_key IS '"r:" and the request id, "a:" and the admission''s id, else "e:" and the event id; "v:" and the event taken back for a void.';
COMMENT ON COLUMN usage_dedup.event_id IS 'Ledger row of the first event with this key.';
COMMENT ON COLUMN usage_dedup.admission_id IS 'Admission that the first event settled; null: none.';
COMMENT ON COLUMN usage_dedup.model IS 'Model of the first event, normalised: a duplicate is answered with it.';
COMMENT ON COLUMN usage_dedup.cost IS 'USD of the first event: a duplicate is answered with it.';
COMMENT ON COLUMN usage_dedup.priced IS 'Whether the first event had a price.';
COMMENT ON COLUMN usage_dedup.fingerprint IS 'Hash of the first event''s content: tells a repeat from a conflict.';
COMMENT ON COLUMN usage_dedup.received_at IS 'When the first event was recorded.';

CREATE TABLE usage_daily (
    key_id              uuid           NOT NULL,
    day                 date           NOT NULL,
    model               text           NOT NULL,
    requests            bigint         NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cache_create_tokens bigint         NOT NULL,
    cache_read_tokens   bigint         NOT NULL,
    ephemeral_5m_tokens bigint         NOT NULL,
    ephemeral_1h_tokens bigint         NOT NULL,
    cost                numeric(38,12) NOT NULL,
    PRIMARY KEY (key_id, day, model)
) WITH (fillfactor = 80);
COMMENT ON TABLE  usage_daily IS 'Rollup: what each key used of each model on each day. Written in the transaction of the ledger row, kept for ever.';
COMMENT ON COLUMN usage_daily.key_id IS 'The key; an anonymous id after a purge.';
COMMENT ON COLUMN usage_daily.day IS 'Day in the service''s time zone.';
COMMENT ON COLUMN usage_daily.model IS 'Model, normalised.';

CREATE TABLE account_usage (
    account_id          text           NOT NULL,
    day                 date           NOT NULL,
    model               text           NOT NULL,
    requests            bigint         NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cache_create_tokens bigint         NOT NULL,
    cache_read_tokens   bigint         NOT NULL,
    ephemeral_5m_tokens bigint         NOT NULL,
    ephemeral_1h_tokens bigint         NOT NULL,
    cost                numeric(38,12) NOT NULL,
    PRIMARY KEY (account_id, day, model)
) WITH (fillfactor = 80);
COMMENT ON TABLE  account_usage IS 'Rollup: what each upstream account served of each model on each day. Written in the transaction of the ledger row, kept for ever.';
COMMENT ON COLUMN account_usage.account_id IS 'Upstream account, as events name it.';
COMMENT ON COLUMN account_usage.day IS 'Day in the service''s time zone.';
COMMENT ON COLUMN account_usage.model IS 'Model, normalised.';

CREATE TABLE key_totals (
    key_id              uuid           PRIMARY KEY,
    requests            bigint         NOT NULL DEFAULT 0,
    input_tokens        bigint         NOT NULL DEFAULT 0,
    output_tokens       bigint         NOT NULL DEFAULT 0,
    cache_create_tokens bigint         NOT NULL DEFAULT 0,
    cache_read_tokens   bigint         NOT NULL DEFAULT 0,
    ephemeral_5m_tokens bigint         NOT NULL DEFAULT 0,
    ephemeral_1h_tokens bigint         NOT NULL DEFAULT 0,
    cost                numeric(38,12) NOT NULL DEFAULT 0,
    last_used_at        timestamptz,
    CONSTRAINT key_totals_countable CHECK (abs(input_tokens::numeric + output_tokens + cache_create_tokens + cache_read_tokens) <= 9223372036854775807)
) WITH (fillfactor = 50);
COMMENT ON TABLE  key_totals IS 'Rollup: all-time sums and last use of each key. Made with the key; its row is the lock that puts concurrent usage of one key in order.';
COMMENT ON COLUMN key_totals.key_id IS 'The key; an anonymous id after a purge.';
COMMENT ON COLUMN key_totals.last_used_at IS 'Latest occurred_at of its usage; null: never used.';

CREATE TABLE account_totals (
    account_id          text           PRIMARY KEY,
    requests            bigint         NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cache_create_tokens bigint         NOT NULL,
    cache_read_tokens   bigint         NOT NULL,
    ephemeral_5m_tokens bigint         NOT NULL,
    ephemeral_1h_tokens bigint         NOT NULL,
    cost                numeric(38,12) NOT NULL,
    first_used_at       timestamptz    NOT NULL,
    last_used_at        timestamptz    NOT NULL,
    CONSTRAINT account_totals_countable CHECK (abs(input_tokens::numeric + output_tokens + cache_create_tokens + cache_read_tokens) <= 9223372036854775807)
) WITH (fillfactor = 50);
COMMENT ON TABLE  account_totals IS 'Rollup: all-time sums of each upstream account, with its first and last use.';
COMMENT ON COLUMN account_totals.account_id IS 'Upstream account, as events name it.';
COMMENT ON COLUMN account_totals.first_used_at IS 'Earliest occurred_at: an account''s age runs from it.';
COMMENT ON COLUMN account_totals.last_used_at IS 'Latest occurred_at.';

CREATE TABLE daily_cost (
    key_id uuid           NOT NULL,
    day    date           NOT NULL,
    cost   numeric(38,12) NOT NULL,
    PRIMARY KEY (key_id, day)
) WITH (fillfactor = 50);
COMMENT ON TABLE  daily_cost IS 'Rollup: what each key cost on each day, all models: what cost limits of a day, week and month read.';
COMMENT ON COLUMN daily_cost.key_id IS 'The key; an anonymous id after a purge.';
COMMENT ON COLUMN daily_cost.day IS 'Day in the service''s time zone.';
COMMENT ON COLUMN daily_cost.cost IS 'USD.';

-- The measures of the four rollups mean the same everywhere, so their comments
-- are written once.
-- +goose StatementBegin
DO $$
DECLARE
    rollup  text;
    measure record;
BEGIN
    FOREACH rollup IN ARRAY ARRAY['usage_daily', 'account_usage', 'key_totals', 'account_totals'] LOOP
        FOR measure IN SELECT * FROM (VALUES
            ('requests',            'Requests, less those taken back.'),
            ('input_tokens',        'Input tokens, not counting those read from or written to cache.'),
            ('output_tokens',       'Output tokens.'),
            ('cache_create_tokens', 'Tokens written to cache, both lifetimes.'),
            ('cache_read_tokens',   'Tokens read from cache.'),
            ('ephemeral_5m_tokens', 'Part of cache_create_tokens written for 5 minutes.'),
            ('ephemeral_1h_tokens', 'Part of cache_create_tokens written for 1 hour.'),
            ('cost',                'USD.')) AS m (name, meaning)
        LOOP
            EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', rollup, measure.name, measure.meaning);
        END LOOP;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE usage_events, usage_dedup, usage_daily, account_usage, key_totals, account_totals, daily_cost;
DROP FUNCTION make_ledger_partitions(date, date);
DROP FUNCTION drop_ledger_partitions(date);
DROP FUNCTION explain_ledger_partition(regclass, text);
