-- +goose Up

-- The ledger. Partitioned by UTC day of receipt, so that retention drops whole
-- days; the default partition takes what no day's partition was made for, so
-- that an insert never fails for want of one.
CREATE TABLE usage_events (
    event_id            uuid           NOT NULL,
    received_at         timestamptz    NOT NULL,
    kind                text           NOT NULL CHECK (kind IN ('usage', 'adjustment', 'opening')),
    ledger_id           uuid           NOT NULL,
    chunk               bigint         NOT NULL,
    account_id          text,
    model               text           NOT NULL,
    model_received      text           NOT NULL,
    request_id          text,
    occurred_at         timestamptz    NOT NULL,
    day                 date           NOT NULL,
    tag_set             uuid           NOT NULL,
    requests            bigint         NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cache_create_tokens bigint         NOT NULL,
    cache_read_tokens   bigint         NOT NULL,
    ephemeral_1h_tokens bigint         NOT NULL,
    cost                numeric(38,12) NOT NULL,
    priced              boolean        NOT NULL,
    estimated           boolean        NOT NULL,
    via                 text,
    adjusts             uuid,
    reason              text,
    PRIMARY KEY (event_id, received_at)
) PARTITION BY RANGE (received_at);
CREATE TABLE usage_events_default PARTITION OF usage_events DEFAULT;
-- What the roll-up has not added yet of a key, and a key's events, newest first.
CREATE INDEX usage_events_key ON usage_events (ledger_id, chunk, event_id);
-- What the roll-up has to add, and what readers add themselves. New rows go to its end.
CREATE INDEX usage_events_chunk ON usage_events (chunk);
CREATE INDEX usage_events_unpriced ON usage_events (model) WHERE NOT priced;
COMMENT ON TABLE  usage_events IS 'The ledger: the truth that all sums are derived from. One row for each event, appended once; a purge takes the free text out of a key''s rows, and nothing else is ever changed. Partitioned by UTC day of receipt.';
COMMENT ON COLUMN usage_events.event_id IS 'Identity of the event; a UUIDv7, so ids sort by time of receipt.';
COMMENT ON COLUMN usage_events.received_at IS 'When the service recorded it, by the database''s clock; never before its chunk was opened.';
COMMENT ON COLUMN usage_events.kind IS 'usage: a request. adjustment: takes a usage row back or corrects it. opening: totals brought from another system.';
COMMENT ON COLUMN usage_events.ledger_id IS 'The key that used it, as api_keys.ledger_id connects them; a purge deletes that connection.';
COMMENT ON COLUMN usage_events.chunk IS 'Number of the chunk that was open when the row was written: see rollup_state.';
COMMENT ON COLUMN usage_events.account_id IS 'Upstream account that served it; null: not told.';
COMMENT ON COLUMN usage_events.model IS 'Model, normalised: what rollups group by.';
COMMENT ON COLUMN usage_events.model_received IS 'Model as received, trimmed: what was priced.';
COMMENT ON COLUMN usage_events.request_id IS 'Caller''s id of the request; deduplicates within a key.';
COMMENT ON COLUMN usage_events.occurred_at IS 'When the request happened, never after it was received; rollups and prices go by it.';
COMMENT ON COLUMN usage_events.day IS 'Day of occurred_at in the service''s time zone.';
COMMENT ON COLUMN usage_events.tag_set IS 'The tags that the key had when this was recorded, by their id in tag_sets; an adjustment carries those of the event it adjusts. The zero id: none.';
COMMENT ON COLUMN usage_events.requests IS 'Requests it counts for: 1 for usage, -1 for one taken back, 0 for a correction of cost.';
COMMENT ON COLUMN usage_events.input_tokens IS 'Input tokens, not counting those read from or written to cache.';
COMMENT ON COLUMN usage_events.output_tokens IS 'Output tokens.';
COMMENT ON COLUMN usage_events.cache_create_tokens IS 'Tokens written to cache, both lifetimes.';
COMMENT ON COLUMN usage_events.cache_read_tokens IS 'Tokens read from cache.';
COMMENT ON COLUMN usage_events.ephemeral_1h_tokens IS 'Part of cache_create_tokens written for 1 hour; the rest was written for 5 minutes.';
COMMENT ON COLUMN usage_events.cost IS 'USD.';
COMMENT ON COLUMN usage_events.priced IS 'False: no price was known, so cost is 0.';
COMMENT ON COLUMN usage_events.estimated IS 'True: the caller had to estimate the usage.';
COMMENT ON COLUMN usage_events.via IS 'What brought it, where that was neither POST /v1/usage nor the relay: otlp, litellm, envoy. Null for an adjustment.';
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
    PERFORM set_config('lock_timeout', '50ms', true); -- usage waits behind it
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
COMMENT ON FUNCTION make_ledger_partitions(date, date) IS 'Makes the ledger partitions of these UTC days, both included, where they are missing; returns how many. Gives up after 50 ms of waiting for a lock. Safe to run at once from many sessions.';

-- Old months of the ledger (KEYLEDGER_ARCHIVE_AFTER_DAYS): one partition each, in place of one a day.
-- Nothing that a request waits for reads or writes it.
--
-- A month is copied first, a day at a time, to a partition of usage_archiving, which no reader looks
-- at. Once every transaction has ended that began before the copy was there, one short transaction
-- makes that partition the archive's and drops those of the days. So whatever a reader's
-- snapshot is, and whenever it takes its locks, it finds each row in one place: what
-- changes hands are tables, which are seen as they are now, and not rows.
CREATE TABLE usage_archive (
    LIKE usage_events INCLUDING CONSTRAINTS,
    PRIMARY KEY (event_id, ledger_id, received_at)
) PARTITION BY RANGE (received_at);
CREATE INDEX usage_archive_key ON usage_archive (ledger_id, chunk, event_id);
CREATE INDEX usage_archive_unpriced ON usage_archive (model) WHERE NOT priced;
SELECT explain_ledger_partition('usage_archive',
    'Ledger rows of old months, moved here whole. Partitioned by UTC month of receipt.');

CREATE TABLE usage_archiving (
    LIKE usage_archive INCLUDING CONSTRAINTS INCLUDING INDEXES
) PARTITION BY RANGE (received_at);
SELECT explain_ledger_partition('usage_archiving',
    'Copies of ledger rows, of a month that is on its way to the archive: no part of the ledger yet.');

-- Written by the transaction that makes a month the archive's.
CREATE TABLE archive_state (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    archived_until timestamptz NOT NULL
);
COMMENT ON TABLE  archive_state IS 'One row: how far the ledger has moved to the archive.';
COMMENT ON COLUMN archive_state.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN archive_state.archived_until IS 'No row of the archive was received then or later; -infinity: nothing has been archived.';
INSERT INTO archive_state (archived_until) VALUES ('-infinity');

-- On one PostgreSQL a month is part of the archive or it is not. keyledger scale-out makes this function
-- tell all servers that the archive lies on.
CREATE FUNCTION archive_partitions(partitions bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
END $$;
COMMENT ON FUNCTION archive_partitions(bigint) IS 'Says how many partitions usage_archive will have when this transaction has ended; before it locks any table.';

-- Where the archive is read. On one PostgreSQL it is the table; keyledger scale-out makes it lead to
-- where the table has gone.
CREATE VIEW stored_usage_archive AS
SELECT a.* FROM usage_archive AS a;
COMMENT ON VIEW stored_usage_archive IS 'usage_archive, wherever it is stored: readers name this view, writers the table.';

CREATE VIEW ledger AS
SELECT u.* FROM usage_events AS u
UNION ALL
SELECT a.* FROM stored_usage_archive AS a;
COMMENT ON VIEW ledger IS 'All of the retained ledger: usage_events and usage_archive. Each row is in one of them.';

-- +goose StatementBegin
CREATE FUNCTION ledger_partitions() RETURNS TABLE (name text, of_table text, first_day date, next_day date)
    LANGUAGE sql STABLE AS $$
    SELECT c.relname::text, i.inhparent::regclass::text, p.first_day, p.next_day
      FROM pg_inherits AS i
      JOIN pg_class AS c ON c.oid = i.inhrelid
     CROSS JOIN LATERAL (
           SELECT CASE WHEN c.relname ~ '^usage_events_\d{8}$' THEN to_date(right(c.relname, 8), 'YYYYMMDD')
                       WHEN c.relname ~ '^usage_archive_\d{6}$' THEN to_date(right(c.relname, 6), 'YYYYMM') END,
                  CASE WHEN c.relname ~ '^usage_events_\d{8}$' THEN to_date(right(c.relname, 8), 'YYYYMMDD') + 1
                       WHEN c.relname ~ '^usage_archive_\d{6}$'
                       THEN (to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month')::date END
     ) AS p (first_day, next_day)
     WHERE i.inhparent IN ('usage_events'::regclass, 'usage_archive'::regclass, 'usage_archiving'::regclass)
       AND p.first_day IS NOT NULL
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION ledger_partitions() IS 'The partitions of usage_events, usage_archive and usage_archiving (of_table), but for the default one: the first UTC day that rows of each were received on, and the day after the last.';

CREATE FUNCTION transactions_under_way() RETURNS text[] LANGUAGE sql AS $$
    SELECT coalesce(array_agg(l.virtualtransaction::text), '{}')
      FROM pg_locks AS l
      JOIN pg_stat_activity AS a ON a.pid = l.pid
     WHERE l.locktype = 'virtualxid' AND l.granted AND l.pid <> pg_backend_pid()
       AND a.datid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
$$;
COMMENT ON FUNCTION transactions_under_way() IS 'The transactions that there are in this database at this moment, but for the one that asks.';

-- +goose StatementBegin
CREATE FUNCTION archive_begin(of_day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first timestamptz := date_trunc('month', of_day::timestamp) AT TIME ZONE 'UTC';
    next  timestamptz := (date_trunc('month', of_day::timestamp) + interval '1 month') AT TIME ZONE 'UTC';
    part  text := 'usage_archive_' || to_char(of_day, 'YYYYMM');
BEGIN
    PERFORM set_config('lock_timeout', '50ms', true); -- purges wait behind it
    PERFORM pg_advisory_xact_lock(hashtext('make_ledger_partitions'));
    IF to_regclass(part) IS NOT NULL THEN
        RETURN;
    END IF;
    -- The check says what the bounds say, so that no row is looked at when it is attached elsewhere.
    EXECUTE format('CREATE TABLE %I PARTITION OF usage_archiving (
            CONSTRAINT of_month CHECK (received_at >= %L AND received_at < %L)) FOR VALUES FROM (%2$L) TO (%3$L)',
        part, first, next);
    PERFORM explain_ledger_partition(part::regclass,
        'Ledger rows received in ' || to_char(of_day, 'YYYY-MM') || ' (UTC).');
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION archive_begin(date) IS 'Makes the partition of usage_archiving for the UTC month of a day, unless that month has one or is archived. Gives up after 50 ms of waiting for a lock.';

-- +goose StatementBegin
CREATE FUNCTION archive_day(of_day date) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    first  timestamptz := of_day::timestamp AT TIME ZONE 'UTC';
    next   timestamptz := (of_day + 1)::timestamp AT TIME ZONE 'UTC';
    part   text := 'usage_events_' || to_char(of_day, 'YYYYMMDD');
    copied bigint;
BEGIN
    IF to_regclass(part) IS NULL
       OR EXISTS (SELECT 1 FROM usage_archiving AS a WHERE a.received_at >= first AND a.received_at < next) THEN
        RETURN 0;
    END IF;
    EXECUTE format('INSERT INTO usage_archiving SELECT u.* FROM %I AS u', part);
    GET DIAGNOSTICS copied = ROW_COUNT;
    RETURN copied;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION archive_day(date) IS 'Copies the ledger rows of a UTC day that has a partition to usage_archiving, unless they are there, and returns how many it copied. archive_begin comes first.';

-- +goose StatementBegin
CREATE FUNCTION archive_month(of_day date) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    month     date := date_trunc('month', of_day::timestamp)::date;
    next      date := (date_trunc('month', of_day::timestamp) + interval '1 month')::date;
    new_part  text := 'usage_archive_' || to_char(of_day, 'YYYYMM');
    part      record;
    there     record;
    copied    record;
BEGIN
    IF NOT EXISTS (SELECT FROM ledger_partitions() AS p WHERE p.of_table = 'usage_archiving' AND p.name = new_part) THEN
        RETURN -1;
    END IF;
    -- Keys that were purged while a day of theirs was copied.
    UPDATE usage_archiving AS a SET request_id = NULL, reason = NULL
     WHERE a.ledger_id IN (SELECT h.ledger_id FROM ledger_holders AS h)
       AND (a.request_id IS NOT NULL OR a.reason IS NOT NULL);

    SELECT count(*) AS row_count, sum(u.cost) AS cost INTO there FROM usage_events AS u
     WHERE u.tableoid IN (SELECT to_regclass(p.name) FROM ledger_partitions() AS p WHERE p.of_table = 'usage_events')
       AND u.received_at >= month::timestamp AT TIME ZONE 'UTC' AND u.received_at < next::timestamp AT TIME ZONE 'UTC';
    SELECT count(*) AS row_count, sum(a.cost) AS cost INTO copied FROM usage_archiving AS a
     WHERE a.received_at >= month::timestamp AT TIME ZONE 'UTC' AND a.received_at < next::timestamp AT TIME ZONE 'UTC';
    IF there IS DISTINCT FROM copied THEN
        RAISE 'the copy of % has % rows that cost %, the ledger % that cost %: drop table %, and it is copied anew',
            to_char(month, 'YYYY-MM'), copied.row_count, copied.cost, there.row_count, there.cost, new_part;
    END IF;

    PERFORM set_config('lock_timeout', '50ms', true); -- usage waits behind it
    PERFORM pg_advisory_xact_lock(hashtext('make_ledger_partitions'));
    UPDATE archive_state SET archived_until = greatest(archived_until, next::timestamp AT TIME ZONE 'UTC');
    PERFORM archive_partitions(count(*) + 1) FROM pg_inherits AS i WHERE i.inhparent = 'usage_archive'::regclass;
    LOCK TABLE ONLY usage_events, ONLY usage_archive, ONLY usage_archiving IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('ALTER TABLE usage_archiving DETACH PARTITION %I', new_part);
    EXECUTE format('ALTER TABLE usage_archive ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        new_part, month::timestamp AT TIME ZONE 'UTC', next::timestamp AT TIME ZONE 'UTC');
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT of_month', new_part);
    FOR part IN SELECT p.name FROM ledger_partitions() AS p
                 WHERE p.of_table = 'usage_events' AND p.first_day >= month AND p.next_day <= next LOOP
        EXECUTE format('DROP TABLE %I', part.name);
    END LOOP;
    RETURN copied.row_count;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION archive_month(date) IS 'Makes the copy of a UTC month the archive''s, drops its daily partitions, and returns how many rows there are; -1: there is no copy, as after another has moved it. Every day must have been copied (archive_day), and every transaction have ended that began before. Refuses a copy that has other rows than the ledger. Gives up after 50 ms of waiting for a lock.';

-- +goose StatementBegin
CREATE FUNCTION drop_ledger_partitions(before_day date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    part    record;
    dropped integer := 0;
    until   date := before_day;
    since   date;
BEGIN
    PERFORM set_config('lock_timeout', '50ms', true); -- usage waits behind it
    PERFORM pg_advisory_xact_lock(hashtext('make_ledger_partitions'));
    -- What the rollups do not hold yet stays.
    SELECT least(until, (s.tail_since AT TIME ZONE 'UTC')::date) INTO until FROM rollup_state AS s;
    PERFORM archive_partitions(count(*) FILTER (WHERE p.next_day IS NULL OR p.next_day > until))
       FROM pg_inherits AS i
       JOIN pg_class AS c ON c.oid = i.inhrelid
       LEFT JOIN ledger_partitions() AS p ON p.name = c.relname
      WHERE i.inhparent = 'usage_archive'::regclass
     HAVING count(*) FILTER (WHERE p.next_day <= until) > 0;
    FOR part IN SELECT p.name, p.of_table, p.next_day FROM ledger_partitions() AS p WHERE p.next_day <= until LOOP
        EXECUTE format('DROP TABLE %I', part.name);
        dropped := dropped + 1;
        since := greatest(since, CASE part.of_table WHEN 'usage_events' THEN until
                                                    WHEN 'usage_archive' THEN part.next_day END);
    END LOOP;
    DELETE FROM usage_events_default AS u WHERE u.received_at < until::timestamp AT TIME ZONE 'UTC';
    IF FOUND THEN
        since := until;
    END IF;
    IF since IS NOT NULL THEN
        INSERT INTO service_settings AS s (name, value) VALUES ('ledger_since', since::text)
        ON CONFLICT (name) DO UPDATE SET value = greatest(s.value, excluded.value);
    END IF;
    RETURN dropped;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION drop_ledger_partitions(date) IS 'Drops the partitions of ledger and archive that have nothing but UTC days before this one, but none with rows that the rollups do not hold yet, and notes that in service_settings; returns how many. Rollups stay. Gives up after 50 ms of waiting for a lock.';

CREATE FUNCTION ledger_whole_since(zone text) RETURNS date LANGUAGE sql STABLE AS $$
    SELECT CASE
               WHEN (k.first::timestamp AT TIME ZONE zone AT TIME ZONE 'UTC')::date >= k.first THEN k.first
               ELSE k.first + 1
           END
      FROM (SELECT coalesce((SELECT s.value::date FROM service_settings AS s WHERE s.name = 'ledger_since'),
          '0001-01-02') AS first) AS k
$$;
COMMENT ON FUNCTION ledger_whole_since(text) IS 'The first day, in a time zone, whose every event must still be in the ledger: retention has left all that was received since it began.';

CREATE TABLE usage_dedup (
    ledger_id    uuid           NOT NULL,
    dedup_key    text           NOT NULL,
    event_id     uuid           NOT NULL,
    admission_id uuid,
    model        text           NOT NULL,
    cost         numeric(38,12) NOT NULL,
    priced       boolean        NOT NULL,
    fingerprint  bigint         NOT NULL,
    received_at  timestamptz    NOT NULL,
    PRIMARY KEY (ledger_id, dedup_key)
);
CREATE INDEX usage_dedup_received ON usage_dedup USING brin (received_at);
COMMENT ON TABLE  usage_dedup IS 'The gate before the ledger: an event is recorded only by whoever inserts its row here. Not partitioned, so a repeat is caught across midnight. Pruned after the deduplication horizon.';
COMMENT ON COLUMN usage_dedup.ledger_id IS 'The key, by the id that the ledger has for it.';
COMMENT ON COLUMN usage_dedup.dedup_key IS '"r:" and the request id, "a:" and the admission''s id, else "e:" and the event id; "v:" and the event taken back for a void.';
COMMENT ON COLUMN usage_dedup.event_id IS 'Ledger row of the first event with this key.';
COMMENT ON COLUMN usage_dedup.admission_id IS 'Admission that the first event settled; null: none.';
COMMENT ON COLUMN usage_dedup.model IS 'Model of the first event, normalised: a duplicate is answered with it.';
COMMENT ON COLUMN usage_dedup.cost IS 'USD of the first event: a duplicate is answered with it.';
COMMENT ON COLUMN usage_dedup.priced IS 'Whether the first event had a price.';
COMMENT ON COLUMN usage_dedup.fingerprint IS 'Hash of the first event''s content: tells a repeat from a conflict.';
COMMENT ON COLUMN usage_dedup.received_at IS 'When the first event was recorded.';

-- What has been brought from another system, so that bringing it again adds only what
-- came since.
CREATE TABLE imported_usage (
    source              text           NOT NULL,
    subject             text           NOT NULL,
    model               text           NOT NULL,
    day                 date           NOT NULL,
    grain               text           NOT NULL CHECK (grain IN ('day', 'month', 'all')),
    requests            bigint         NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cache_create_tokens bigint         NOT NULL,
    cache_read_tokens   bigint         NOT NULL,
    ephemeral_1h_tokens bigint         NOT NULL,
    cost                numeric(38,12) NOT NULL,
    PRIMARY KEY (source, subject, model, day, grain)
);
COMMENT ON TABLE  imported_usage IS 'Usage brought from another system, as opening rows of the ledger: what has been brought so far of each key or account, model and day.';
COMMENT ON COLUMN imported_usage.source IS 'The system it came from.';
COMMENT ON COLUMN imported_usage.subject IS '"key:" and the key''s id, or "account:" and the account''s; "purged:" and a hash once the key was purged. A row of the empty model on day 1 says that the subject was brought at all.';
COMMENT ON COLUMN imported_usage.model IS 'Model, normalised; "unknown" for what the source does not part by model.';
COMMENT ON COLUMN imported_usage.day IS 'Day in the service''s time zone: the source''s own day, or the first of what it keeps only by month or in all.';
COMMENT ON COLUMN imported_usage.grain IS 'How finely the source parts it: by day, by month (then on its first day), or only in all.';
COMMENT ON COLUMN imported_usage.requests IS 'Requests.';
COMMENT ON COLUMN imported_usage.input_tokens IS 'Input tokens, not counting those read from or written to cache.';
COMMENT ON COLUMN imported_usage.output_tokens IS 'Output tokens.';
COMMENT ON COLUMN imported_usage.cache_create_tokens IS 'Tokens written to cache, both lifetimes.';
COMMENT ON COLUMN imported_usage.cache_read_tokens IS 'Tokens read from cache.';
COMMENT ON COLUMN imported_usage.ephemeral_1h_tokens IS 'Part of cache_create_tokens written for 1 hour, where the source says so.';
COMMENT ON COLUMN imported_usage.cost IS 'USD: what the source says it cost, else at the prices of the day.';

-- +goose Down
DROP VIEW ledger, stored_usage_archive;
DROP TABLE imported_usage, archive_state, usage_archive, usage_archiving, usage_events, usage_dedup;
DROP FUNCTION make_ledger_partitions(date, date);
DROP FUNCTION drop_ledger_partitions(date);
DROP FUNCTION ledger_partitions();
DROP FUNCTION transactions_under_way();
DROP FUNCTION archive_partitions(bigint);
DROP FUNCTION archive_begin(date);
DROP FUNCTION archive_day(date);
DROP FUNCTION archive_month(date);
DROP FUNCTION ledger_whole_since(text);
DROP FUNCTION explain_ledger_partition(regclass, text);
