-- +goose Up

-- Reports over many keys and months would read every row of usage_daily. Days that are
-- over are added up once, by model and by tag, and reports read these sums. What is
-- recorded for such a day later is noted in usage_late
-- by the statement that records it, and added to the sums in the background; until then
-- reports count it from there. So they are exact at any moment, and nothing that is
-- recorded waits for them.

CREATE TABLE closing_days (
    only_row      boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    closing_until date        NOT NULL,
    not_before    timestamptz NOT NULL
);
COMMENT ON TABLE  closing_days IS 'One row: until which day what is recorded is also noted in usage_late. Changed only under a lock of the table, so that whoever records has either ended before or sees it.';
COMMENT ON COLUMN closing_days.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN closing_days.closing_until IS 'Last such day, in the service''s time zone.';
COMMENT ON COLUMN closing_days.not_before IS 'No day is closed earlier: replicas of the release before, which note nothing, are to be replaced by then.';
INSERT INTO closing_days (closing_until, not_before) SELECT '-infinity', CASE WHEN EXISTS (SELECT FROM usage_daily) THEN now() + interval '1 hour' ELSE '-infinity' END;

CREATE TABLE closed_days (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    closed_until date    NOT NULL
);
COMMENT ON TABLE  closed_days IS 'One row: until which day usage_closed holds the sums of usage_daily.';
COMMENT ON COLUMN closed_days.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN closed_days.closed_until IS 'Last such day, in the service''s time zone.';
INSERT INTO closed_days (closed_until) VALUES ('-infinity');

CREATE TABLE usage_closed (
    scope               text           NOT NULL CHECK (scope IN ('all', 'tag')),
    tag                 text           NOT NULL,
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
    PRIMARY KEY (scope, tag, day, model)
);
COMMENT ON TABLE  usage_closed IS 'Rollup: what was used of each model on each closed day, by all keys (scope all) and by the keys with each tag (scope tag). Derived from usage_daily and usage_late by close_days.';
COMMENT ON COLUMN usage_closed.scope IS 'all: every key, counted once. tag: the keys that have this tag now; a key with two counts under both.';
COMMENT ON COLUMN usage_closed.tag IS 'For scope tag, the tag; empty: keys without any, and purged ones.';

CREATE TABLE usage_late (
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
    cost                numeric(38,12) NOT NULL
);
COMMENT ON TABLE  usage_late IS 'What was recorded for days that are closed or being closed: in usage_daily already, and not yet in usage_closed.';
COMMENT ON COLUMN usage_late.key_id IS 'The key; an anonymous id after a purge.';

CREATE FUNCTION tags_or_none(tags text[]) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN tags <> '{}' THEN tags ELSE ARRAY[''] END $$;
COMMENT ON FUNCTION tags_or_none(text[]) IS 'The tags that a key counts under: its own, or the empty one where it has none or is purged.';

-- Exact at any moment: closed days from their sums and what came late, the others from
-- usage_daily.
CREATE VIEW model_days AS
SELECT c.day, c.model, c.requests, c.input_tokens, c.output_tokens, c.cache_create_tokens, c.cache_read_tokens, c.ephemeral_5m_tokens, c.ephemeral_1h_tokens, c.cost
  FROM usage_closed AS c WHERE c.scope = 'all'
UNION ALL
SELECT l.day, l.model, l.requests, l.input_tokens, l.output_tokens, l.cache_create_tokens, l.cache_read_tokens, l.ephemeral_5m_tokens, l.ephemeral_1h_tokens, l.cost
  FROM usage_late AS l WHERE l.day <= (SELECT d.closed_until FROM closed_days AS d)
UNION ALL
SELECT u.day, u.model, u.requests, u.input_tokens, u.output_tokens, u.cache_create_tokens, u.cache_read_tokens, u.ephemeral_5m_tokens, u.ephemeral_1h_tokens, u.cost
  FROM usage_daily AS u WHERE u.day > (SELECT d.closed_until FROM closed_days AS d);
COMMENT ON VIEW model_days IS 'What all keys used of each model on each day, in rows to be added up.';

CREATE VIEW tag_days AS
SELECT c.tag, c.day, c.model, c.requests, c.input_tokens, c.output_tokens, c.cache_create_tokens, c.cache_read_tokens, c.ephemeral_5m_tokens, c.ephemeral_1h_tokens, c.cost
  FROM usage_closed AS c WHERE c.scope = 'tag'
UNION ALL
SELECT t.tag, l.day, l.model, l.requests, l.input_tokens, l.output_tokens, l.cache_create_tokens, l.cache_read_tokens, l.ephemeral_5m_tokens, l.ephemeral_1h_tokens, l.cost
  FROM usage_late AS l
  LEFT JOIN api_keys AS k ON k.id = l.key_id
  CROSS JOIN LATERAL unnest(tags_or_none(k.tags)) AS t (tag)
 WHERE l.day <= (SELECT d.closed_until FROM closed_days AS d)
UNION ALL
SELECT t.tag, u.day, u.model, u.requests, u.input_tokens, u.output_tokens, u.cache_create_tokens, u.cache_read_tokens, u.ephemeral_5m_tokens, u.ephemeral_1h_tokens, u.cost
  FROM usage_daily AS u
  LEFT JOIN api_keys AS k ON k.id = u.key_id
  CROSS JOIN LATERAL unnest(tags_or_none(k.tags)) AS t (tag)
 WHERE u.day > (SELECT d.closed_until FROM closed_days AS d);
COMMENT ON VIEW tag_days IS 'What the keys with each tag used of each model on each day, in rows to be added up; the empty tag is that of keys without any. A key with two tags is under both.';

-- +goose StatementBegin
DO $$
DECLARE
    rollup  text;
    measure record;
BEGIN
    FOREACH rollup IN ARRAY ARRAY['usage_closed', 'usage_late', 'model_days', 'tag_days'] LOOP
        FOR measure IN SELECT a.attname, col_description(a.attrelid, a.attnum) AS meaning FROM pg_attribute AS a
                        WHERE a.attrelid = 'usage_daily'::regclass AND a.attnum > 1 AND NOT a.attisdropped
        LOOP
            EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', rollup, measure.attname, measure.meaning);
        END LOOP;
    END LOOP;
END $$;
-- +goose StatementEnd
COMMENT ON COLUMN tag_days.tag IS 'A tag that the keys have now; empty: none.';

-- +goose StatementBegin
CREATE FUNCTION advance_closing(until date) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('lock_timeout', '50ms', true);
    LOCK TABLE closing_days IN ACCESS EXCLUSIVE MODE;
    UPDATE closing_days SET closing_until = until WHERE closing_until < until AND not_before <= now();
    RETURN FOUND;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION advance_closing(date) IS 'Has what is recorded for days up to this one noted in usage_late from now on; false: it is so already, or too early. Ask ClosingDue first. Once it has committed, close_days may follow: who recorded without a note has ended, since the table was locked. Gives up after 50 ms rather than make usage wait.';

-- +goose StatementBegin
CREATE FUNCTION close_days() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    before date;
    until  date;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('close_days')) THEN
        RETURN 0;
    END IF;
    SELECT d.closed_until, g.closing_until INTO before, until FROM closed_days AS d, closing_days AS g;
    IF before = '-infinity' AND until > before THEN
        SELECT coalesce(min(u.day) - 1, until) INTO before FROM usage_daily AS u;
    END IF;
    IF until > before THEN -- a month at a time: whoever changes tags waits for it
        until := least(until, before + 31);
    END IF;
    -- One statement, so one snapshot: what is late is in it if and only if it is in
    -- usage_daily too.
    WITH late AS (
        DELETE FROM usage_late AS l WHERE l.day <= until RETURNING l.*
    ), moved AS MATERIALIZED (
        SELECT u.key_id, u.day, u.model, u.requests, u.input_tokens, u.output_tokens, u.cache_create_tokens, u.cache_read_tokens, u.ephemeral_5m_tokens, u.ephemeral_1h_tokens, u.cost FROM usage_daily AS u WHERE u.day > before AND u.day <= until
        UNION ALL
        SELECT l.key_id, l.day, l.model, l.requests, l.input_tokens, l.output_tokens, l.cache_create_tokens, l.cache_read_tokens, l.ephemeral_5m_tokens, l.ephemeral_1h_tokens, l.cost FROM late AS l WHERE l.day <= before
    ), added AS (
        SELECT 'all' AS scope, '' AS tag, m.day, m.model, sum(m.requests)::bigint AS requests, sum(m.input_tokens)::bigint AS input_tokens, sum(m.output_tokens)::bigint AS output_tokens, sum(m.cache_create_tokens)::bigint AS cache_create_tokens, sum(m.cache_read_tokens)::bigint AS cache_read_tokens, sum(m.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens, sum(m.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens, sum(m.cost) AS cost FROM moved AS m GROUP BY m.day, m.model
        UNION ALL
        SELECT 'tag', t.tag, m.day, m.model, sum(m.requests)::bigint AS requests, sum(m.input_tokens)::bigint AS input_tokens, sum(m.output_tokens)::bigint AS output_tokens, sum(m.cache_create_tokens)::bigint AS cache_create_tokens, sum(m.cache_read_tokens)::bigint AS cache_read_tokens, sum(m.ephemeral_5m_tokens)::bigint AS ephemeral_5m_tokens, sum(m.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens, sum(m.cost) AS cost
          FROM moved AS m
          LEFT JOIN api_keys AS k ON k.id = m.key_id
          CROSS JOIN LATERAL unnest(tags_or_none(k.tags)) AS t (tag)
         GROUP BY t.tag, m.day, m.model
    )
    INSERT INTO usage_closed AS c (scope, tag, day, model, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_5m_tokens, ephemeral_1h_tokens, cost)
    SELECT a.scope, a.tag, a.day, a.model, a.requests, a.input_tokens, a.output_tokens, a.cache_create_tokens, a.cache_read_tokens, a.ephemeral_5m_tokens, a.ephemeral_1h_tokens, a.cost FROM added AS a ORDER BY a.scope, a.tag, a.day, a.model
    ON CONFLICT (scope, tag, day, model) DO UPDATE SET requests = c.requests + excluded.requests, input_tokens = c.input_tokens + excluded.input_tokens, output_tokens = c.output_tokens + excluded.output_tokens, cache_create_tokens = c.cache_create_tokens + excluded.cache_create_tokens, cache_read_tokens = c.cache_read_tokens + excluded.cache_read_tokens, ephemeral_5m_tokens = c.ephemeral_5m_tokens + excluded.ephemeral_5m_tokens, ephemeral_1h_tokens = c.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens, cost = c.cost + excluded.cost;
    UPDATE closed_days SET closed_until = until WHERE closed_until < until;
    RETURN CASE WHEN until > before THEN until - before ELSE 0 END;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION close_days() IS 'Adds up to 31 of the days up to closing_until, and what came late for earlier ones, to usage_closed; returns how many days it closed, 0 when none is left. Needs READ COMMITTED. One at a time: it does nothing while another runs, or while tags of keys change.';

-- +goose StatementBegin
CREATE FUNCTION reopen_days() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('close_days'));
    UPDATE closed_days SET closed_until = '-infinity';
    DELETE FROM usage_closed;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION reopen_days() IS 'Forgets the sums of closed days, which are made anew from usage_daily in the background: for when reconcile says that usage_closed differs.';

-- +goose StatementBegin
CREATE FUNCTION retag_closed(moves jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('close_days'));
    INSERT INTO usage_closed AS c (scope, tag, day, model, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_5m_tokens, ephemeral_1h_tokens, cost)
    SELECT 'tag', s.tag, h.day, h.model, sum(s.sign * h.requests), sum(s.sign * h.input_tokens), sum(s.sign * h.output_tokens), sum(s.sign * h.cache_create_tokens), sum(s.sign * h.cache_read_tokens), sum(s.sign * h.ephemeral_5m_tokens), sum(s.sign * h.ephemeral_1h_tokens), sum(s.sign * h.cost)
      FROM closed_days AS d
      CROSS JOIN jsonb_to_recordset(moves) AS m (id uuid, before text[], after text[])
      CROSS JOIN LATERAL (
          SELECT t.tag, -1 AS sign FROM unnest(m.before) AS t (tag) WHERE t.tag <> ALL (m.after)
          UNION ALL
          SELECT t.tag, 1 FROM unnest(m.after) AS t (tag) WHERE t.tag <> ALL (m.before)
      ) AS s
      CROSS JOIN LATERAL (
          SELECT u.day, u.model, u.requests, u.input_tokens, u.output_tokens, u.cache_create_tokens, u.cache_read_tokens, u.ephemeral_5m_tokens, u.ephemeral_1h_tokens, u.cost FROM usage_daily AS u WHERE u.key_id = m.id AND u.day <= d.closed_until
          UNION ALL
          SELECT l.day, l.model, -l.requests, -l.input_tokens, -l.output_tokens, -l.cache_create_tokens, -l.cache_read_tokens, -l.ephemeral_5m_tokens, -l.ephemeral_1h_tokens, -l.cost FROM usage_late AS l WHERE l.key_id = m.id AND l.day <= d.closed_until
      ) AS h
     GROUP BY s.tag, h.day, h.model
     ORDER BY s.tag, h.day, h.model
    ON CONFLICT (scope, tag, day, model) DO UPDATE SET requests = c.requests + excluded.requests, input_tokens = c.input_tokens + excluded.input_tokens, output_tokens = c.output_tokens + excluded.output_tokens, cache_create_tokens = c.cache_create_tokens + excluded.cache_create_tokens, cache_read_tokens = c.cache_read_tokens + excluded.cache_read_tokens, ephemeral_5m_tokens = c.ephemeral_5m_tokens + excluded.ephemeral_5m_tokens, ephemeral_1h_tokens = c.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens, cost = c.cost + excluded.cost;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION retag_closed(jsonb) IS 'Moves what keys used on closed days from the tags they had to those they have now: a list of objects with id, before and after, of which none is empty.';

-- +goose StatementBegin
CREATE FUNCTION retag() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moves jsonb;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        SELECT jsonb_agg(jsonb_build_object('id', n.id, 'before', tags_or_none(o.tags),
                                            'after', tags_or_none(n.tags))) INTO moves
          FROM old_keys AS o JOIN new_keys AS n ON n.id = o.id WHERE n.tags <> o.tags;
    ELSE
        SELECT jsonb_agg(jsonb_build_object('id', o.id, 'before', o.tags, 'after', ARRAY[''])) INTO moves
          FROM old_keys AS o WHERE o.tags <> '{}';
    END IF;
    IF moves IS NOT NULL THEN
        PERFORM retag_closed(moves);
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION retag() IS 'Trigger: keeps usage_closed right when the tags of keys change.';
CREATE TRIGGER api_keys_retag_update AFTER UPDATE ON api_keys REFERENCING OLD TABLE AS old_keys NEW TABLE AS new_keys FOR EACH STATEMENT EXECUTE FUNCTION retag();
CREATE TRIGGER api_keys_retag_delete AFTER DELETE ON api_keys REFERENCING OLD TABLE AS old_keys FOR EACH STATEMENT EXECUTE FUNCTION retag();

-- How far back the ledger is whole is what retention has left of it: all, as long as
-- nothing was dropped. What was dropped before this migration is not known, so for a
-- ledger in use it counts from the first partition there is.
INSERT INTO service_settings (name, value)
SELECT 'ledger_since', min(to_date(right(c.relname, 8), 'YYYYMMDD'))::text
  FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'usage_events'::regclass AND c.relname ~ '^usage_events_[0-9]{8}$' AND EXISTS (SELECT FROM usage_daily)
HAVING count(*) > 0;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION make_ledger_partitions(first_day date, last_day date) RETURNS integer LANGUAGE plpgsql AS $$
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

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION drop_ledger_partitions(before_day date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    part    record;
    dropped integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', '50ms', true); -- usage waits behind it
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
    IF dropped > 0 OR FOUND THEN
        INSERT INTO service_settings AS s (name, value) VALUES ('ledger_since', before_day::text)
        ON CONFLICT (name) DO UPDATE SET value = greatest(s.value, excluded.value);
    END IF;
    RETURN dropped;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION drop_ledger_partitions(date) IS 'Drops the ledger partitions of UTC days before this one, and notes that in service_settings; returns how many. Rollups stay.';

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION ledger_whole_since(zone text) RETURNS date LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN ((k.first::timestamp AT TIME ZONE zone - interval '5 minutes') AT TIME ZONE 'UTC')::date >= k.first THEN k.first ELSE k.first + 1 END
      FROM (SELECT coalesce((SELECT s.value::date FROM service_settings AS s WHERE s.name = 'ledger_since'), '0001-01-02') AS first) AS k
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION ledger_whole_since(text) IS 'The first day, in a time zone, whose every event must still be in the ledger: retention has left all that was received since five minutes before it began.';

-- +goose Down
DROP TRIGGER api_keys_retag_delete ON api_keys;
DROP TRIGGER api_keys_retag_update ON api_keys;
DROP FUNCTION retag();
DROP FUNCTION retag_closed(jsonb);
DROP FUNCTION reopen_days();
DROP FUNCTION close_days();
DROP FUNCTION advance_closing(date);
DROP VIEW tag_days, model_days;
DROP FUNCTION tags_or_none(text[]);
DROP TABLE usage_late, usage_closed, closed_days, closing_days;
DELETE FROM service_settings WHERE name = 'ledger_since';
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION drop_ledger_partitions(before_day date) RETURNS integer LANGUAGE plpgsql AS $$
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
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION ledger_whole_since(zone text) RETURNS date LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN ((k.first::timestamp AT TIME ZONE zone - interval '5 minutes') AT TIME ZONE 'UTC')::date >= k.first THEN k.first ELSE k.first + 1 END
      FROM (SELECT coalesce(min(to_date(right(c.relname, 8), 'YYYYMMDD')), '9999-12-30') AS first FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'usage_events'::regclass AND c.relname ~ '^usage_events_[0-9]{8}$') AS k
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION ledger_whole_since(text) IS 'The first day, in a time zone, whose every event must still be in the ledger: it was received no earlier than five minutes before the day began, and retention has left all since.';
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION make_ledger_partitions(first_day date, last_day date) RETURNS integer LANGUAGE plpgsql AS $$
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
