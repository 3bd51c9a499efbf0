-- +goose Up

-- The ledger is the truth; everything here is derived from it, by one background pass, the
-- roll-up. No statement that a request waits for writes or locks these tables, so they may
-- grow without end and lie on other machines: the column that they would be distributed
-- by (ledger_id, account_id, model or tag) is the first of each primary key, and they have
-- no trigger, no foreign key and no default.
--
-- Readers use the views at the end of this file, which add what the roll-up has not added
-- yet, and so are exact at any moment.

-- Each ledger row carries the number of the chunk that was open when it was written. The
-- writer holds the advisory lock of chunks shared meanwhile; the roll-up takes it alone for
-- an instant to open the next chunk, and then knows that whoever wrote the one before has
-- ended. A chunk is added in ranges of ledger ids, each in a transaction with its mark.
CREATE TABLE rollup_state (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    open_chunk     bigint      NOT NULL,
    opened_at      timestamptz NOT NULL,
    mark_chunk     bigint      NOT NULL,
    mark_ledger_id uuid        NOT NULL,
    tail_since     timestamptz NOT NULL
);
COMMENT ON TABLE  rollup_state IS 'One row: how far the roll-up has come. The rollups hold every ledger row whose (chunk, ledger_id) is not after (mark_chunk, mark_ledger_id); the other rows are the tail.';
COMMENT ON COLUMN rollup_state.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN rollup_state.open_chunk IS 'The chunk that new ledger rows belong to.';
COMMENT ON COLUMN rollup_state.opened_at IS 'When it was opened. No row of it was received earlier.';
COMMENT ON COLUMN rollup_state.mark_chunk IS 'The first chunk that the rollups do not hold whole: readers of the tail begin there.';
COMMENT ON COLUMN rollup_state.mark_ledger_id IS 'The last ledger id of that chunk whose rows the rollups hold; the zero id: they hold none of it.';
COMMENT ON COLUMN rollup_state.tail_since IS 'No row of the tail was received earlier, so readers pass over older partitions.';
INSERT INTO rollup_state (open_chunk, opened_at, mark_chunk, mark_ledger_id, tail_since)
VALUES (1, now(), 1, '00000000-0000-0000-0000-000000000000', now());

-- On one PostgreSQL a step of the roll-up is committed or it is not. keyledger scale-out makes this
-- function end what several servers have not ended together.
CREATE FUNCTION rollup_settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
END $$;
COMMENT ON FUNCTION rollup_settle() IS 'Ends steps of the roll-up that were broken off while several servers committed them; on one PostgreSQL there are none.';

CREATE TABLE usage_daily (
    ledger_id           uuid           NOT NULL,
    day                 date           NOT NULL,
    model               text           NOT NULL,
    tag_set             uuid           NOT NULL,
    requests            bigint         NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cache_create_tokens bigint         NOT NULL,
    cache_read_tokens   bigint         NOT NULL,
    ephemeral_1h_tokens bigint         NOT NULL,
    cost                numeric(38,12) NOT NULL,
    PRIMARY KEY (ledger_id, day, model, tag_set)
) WITH (fillfactor = 80);
COMMENT ON TABLE  usage_daily IS 'Rollup: what each key used of each model on each day, under each set of tags that it had. Kept for ever.';
COMMENT ON COLUMN usage_daily.ledger_id IS 'The key, by the id that the ledger has for it.';
COMMENT ON COLUMN usage_daily.day IS 'Day in the service''s time zone.';
COMMENT ON COLUMN usage_daily.model IS 'Model, normalised.';
COMMENT ON COLUMN usage_daily.tag_set IS 'The tags that the key had when it was recorded, by their id in tag_sets; the zero id: none.';

CREATE TABLE account_usage (
    account_id          text           NOT NULL,
    day                 date           NOT NULL,
    model               text           NOT NULL,
    requests            bigint         NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cache_create_tokens bigint         NOT NULL,
    cache_read_tokens   bigint         NOT NULL,
    ephemeral_1h_tokens bigint         NOT NULL,
    cost                numeric(38,12) NOT NULL,
    PRIMARY KEY (account_id, day, model)
) WITH (fillfactor = 80);
COMMENT ON TABLE  account_usage IS 'Rollup: what each upstream account served of each model on each day. Kept for ever.';
COMMENT ON COLUMN account_usage.account_id IS 'Upstream account, as events name it.';
COMMENT ON COLUMN account_usage.day IS 'Day in the service''s time zone.';
COMMENT ON COLUMN account_usage.model IS 'Model, normalised.';

CREATE TABLE account_totals (
    account_id          text           NOT NULL,
    requests            bigint         NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cache_create_tokens bigint         NOT NULL,
    cache_read_tokens   bigint         NOT NULL,
    ephemeral_1h_tokens bigint         NOT NULL,
    cost                numeric(38,12) NOT NULL,
    first_used_at       timestamptz    NOT NULL,
    last_used_at        timestamptz    NOT NULL,
    PRIMARY KEY (account_id)
) WITH (fillfactor = 50);
COMMENT ON TABLE  account_totals IS 'Rollup: sums of all time of each upstream account, with its first and last use.';
COMMENT ON COLUMN account_totals.account_id IS 'Upstream account, as events name it.';
COMMENT ON COLUMN account_totals.first_used_at IS 'Earliest occurred_at: the age of an account runs from it.';
COMMENT ON COLUMN account_totals.last_used_at IS 'Latest occurred_at.';

CREATE TABLE daily_cost (
    ledger_id           uuid           NOT NULL,
    day                 date           NOT NULL,
    cost                numeric(38,12) NOT NULL,
    PRIMARY KEY (ledger_id, day)
) WITH (fillfactor = 50);
COMMENT ON TABLE  daily_cost IS 'Rollup: what each key cost on each day, all models.';
COMMENT ON COLUMN daily_cost.ledger_id IS 'The key, by the id that the ledger has for it.';
COMMENT ON COLUMN daily_cost.day IS 'Day in the service''s time zone.';
COMMENT ON COLUMN daily_cost.cost IS 'USD.';

CREATE TABLE model_usage (
    model               text           NOT NULL,
    day                 date           NOT NULL,
    requests            bigint         NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cache_create_tokens bigint         NOT NULL,
    cache_read_tokens   bigint         NOT NULL,
    ephemeral_1h_tokens bigint         NOT NULL,
    cost                numeric(38,12) NOT NULL,
    PRIMARY KEY (model, day)
) WITH (fillfactor = 80);
COMMENT ON TABLE  model_usage IS 'Rollup: what all keys used of each model on each day.';
COMMENT ON COLUMN model_usage.model IS 'Model, normalised.';
COMMENT ON COLUMN model_usage.day IS 'Day in the service''s time zone.';

CREATE TABLE tag_usage (
    tag                 text           NOT NULL,
    day                 date           NOT NULL,
    model               text           NOT NULL,
    requests            bigint         NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cache_create_tokens bigint         NOT NULL,
    cache_read_tokens   bigint         NOT NULL,
    ephemeral_1h_tokens bigint         NOT NULL,
    cost                numeric(38,12) NOT NULL,
    PRIMARY KEY (tag, day, model)
) WITH (fillfactor = 80);
COMMENT ON TABLE  tag_usage IS 'Rollup: what was used of each model on each day under each tag. Usage under two tags counts under both.';
COMMENT ON COLUMN tag_usage.tag IS 'A tag that the key had when it was recorded; empty: it had none.';
COMMENT ON COLUMN tag_usage.day IS 'Day in the service''s time zone.';
COMMENT ON COLUMN tag_usage.model IS 'Model, normalised.';

-- A question that PostgreSQL answers while it plans, because the function says that it is immutable:
-- then older partitions of the ledger are not even planned, where 400 of them cost 50 ms. It is
-- not immutable, and need not be: the instant only moves on, and an earlier one leaves nothing
-- out, so a plan that was made with it is right for ever.
CREATE FUNCTION ledger_tail_since() RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT s.tail_since FROM public.rollup_state AS s), '-infinity')
$$;
COMMENT ON FUNCTION ledger_tail_since() IS 'An instant before which no row of the tail was received: rollup_state.tail_since when the statement was planned, or earlier.';

CREATE VIEW ledger_tail AS
SELECT e.*
  FROM usage_events AS e
 WHERE e.received_at >= ledger_tail_since()
   AND e.chunk >= (SELECT s.mark_chunk FROM rollup_state AS s)
   AND (e.chunk, e.ledger_id) > (SELECT s.mark_chunk, s.mark_ledger_id FROM rollup_state AS s);
COMMENT ON VIEW ledger_tail IS 'The ledger rows that the rollups do not hold yet.';

CREATE VIEW ledger_rolled AS
SELECT e.*
  FROM ledger AS e
 WHERE (e.chunk, e.ledger_id) <= (SELECT s.mark_chunk, s.mark_ledger_id FROM rollup_state AS s);
COMMENT ON VIEW ledger_rolled IS 'The ledger rows that the rollups hold, of those that are retained.';

-- Where those two rollups are read that grow with the number of keys. On one PostgreSQL it is the
-- tables; keyledger scale-out makes these views lead to where the tables have gone.
CREATE VIEW stored_usage_daily AS
SELECT t.* FROM usage_daily AS t;
COMMENT ON VIEW stored_usage_daily IS 'usage_daily, wherever it is stored: readers name this view, the roll-up the table.';

CREATE VIEW stored_daily_cost AS
SELECT t.* FROM daily_cost AS t;
COMMENT ON VIEW stored_daily_cost IS 'daily_cost, wherever it is stored: readers name this view, the roll-up the table.';

-- One view for each rollup: the rollup and the tail, in rows to be added up. Where all keys
-- are read, the tail is added up first, so that processors share it and a long one stays
-- bearable. Where one key's rows are read, key_days and cost_days, it is not.
CREATE VIEW key_days AS
SELECT t.ledger_id,
       t.day,
       t.model,
       t.tag_set,
       t.requests,
       t.input_tokens,
       t.output_tokens,
       t.cache_create_tokens,
       t.cache_read_tokens,
       t.ephemeral_1h_tokens,
       t.cost
  FROM stored_usage_daily AS t
UNION ALL
SELECT e.ledger_id,
       e.day,
       e.model,
       e.tag_set,
       e.requests,
       e.input_tokens,
       e.output_tokens,
       e.cache_create_tokens,
       e.cache_read_tokens,
       e.ephemeral_1h_tokens,
       e.cost
  FROM ledger_tail AS e;
COMMENT ON VIEW key_days IS 'usage_daily and the tail: what each key used of each model on each day, in rows to be added up.';

CREATE VIEW account_days AS
SELECT t.account_id,
       t.day,
       t.model,
       t.requests,
       t.input_tokens,
       t.output_tokens,
       t.cache_create_tokens,
       t.cache_read_tokens,
       t.ephemeral_1h_tokens,
       t.cost
  FROM account_usage AS t
UNION ALL
SELECT '',
       t.day,
       t.model,
       t.requests,
       t.input_tokens,
       t.output_tokens,
       t.cache_create_tokens,
       t.cache_read_tokens,
       t.ephemeral_1h_tokens,
       t.cost
  FROM model_usage AS t
UNION ALL
SELECT '',
       t.day,
       t.model,
       -t.requests,
       -t.input_tokens,
       -t.output_tokens,
       -t.cache_create_tokens,
       -t.cache_read_tokens,
       -t.ephemeral_1h_tokens,
       -t.cost
  FROM account_usage AS t
UNION ALL
SELECT coalesce(e.account_id, ''),
       e.day,
       e.model,
       sum(e.requests)::bigint,
       sum(e.input_tokens)::bigint,
       sum(e.output_tokens)::bigint,
       sum(e.cache_create_tokens)::bigint,
       sum(e.cache_read_tokens)::bigint,
       sum(e.ephemeral_1h_tokens)::bigint,
       sum(e.cost)
  FROM ledger_tail AS e
 GROUP BY coalesce(e.account_id, ''), e.day, e.model;
COMMENT ON VIEW account_days IS 'account_usage and the tail: what each account served of each model on each day, in rows to be added up. Under the empty account is what names none: all there is in the rollups, less what has an account.';

CREATE VIEW model_days AS
SELECT t.model,
       t.day,
       t.requests,
       t.input_tokens,
       t.output_tokens,
       t.cache_create_tokens,
       t.cache_read_tokens,
       t.ephemeral_1h_tokens,
       t.cost
  FROM model_usage AS t
UNION ALL
SELECT e.model,
       e.day,
       sum(e.requests)::bigint,
       sum(e.input_tokens)::bigint,
       sum(e.output_tokens)::bigint,
       sum(e.cache_create_tokens)::bigint,
       sum(e.cache_read_tokens)::bigint,
       sum(e.ephemeral_1h_tokens)::bigint,
       sum(e.cost)
  FROM ledger_tail AS e
 GROUP BY e.model, e.day;
COMMENT ON VIEW model_days IS 'model_usage and the tail: what all keys used of each model on each day, in rows to be added up.';

CREATE VIEW tag_days AS
SELECT t.tag,
       t.day,
       t.model,
       t.requests,
       t.input_tokens,
       t.output_tokens,
       t.cache_create_tokens,
       t.cache_read_tokens,
       t.ephemeral_1h_tokens,
       t.cost
  FROM tag_usage AS t
UNION ALL
SELECT NULL,
       t.day,
       t.model,
       t.requests,
       t.input_tokens,
       t.output_tokens,
       t.cache_create_tokens,
       t.cache_read_tokens,
       t.ephemeral_1h_tokens,
       t.cost
  FROM model_usage AS t
UNION ALL
SELECT g.tag,
       e.day,
       e.model,
       e.requests,
       e.input_tokens,
       e.output_tokens,
       e.cache_create_tokens,
       e.cache_read_tokens,
       e.ephemeral_1h_tokens,
       e.cost
  FROM (SELECT x.day,
               x.model,
               x.tag_set,
               sum(x.requests)::bigint AS requests,
               sum(x.input_tokens)::bigint AS input_tokens,
               sum(x.output_tokens)::bigint AS output_tokens,
               sum(x.cache_create_tokens)::bigint AS cache_create_tokens,
               sum(x.cache_read_tokens)::bigint AS cache_read_tokens,
               sum(x.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
               sum(x.cost) AS cost
          FROM ledger_tail AS x
         GROUP BY x.day, x.model, x.tag_set) AS e
  LEFT JOIN tag_sets AS s ON s.id = e.tag_set
 CROSS JOIN LATERAL unnest(array_append(coalesce(s.tags, '{""}'), NULL)) AS g (tag);
COMMENT ON VIEW tag_days IS 'tag_usage and the tail: what was used of each model on each day under each tag, in rows to be added up. Usage under two tags is under both; under the null tag is all there is, once.';

CREATE VIEW cost_days AS
SELECT t.ledger_id,
       t.day,
       t.cost
  FROM stored_daily_cost AS t
UNION ALL
SELECT e.ledger_id,
       e.day,
       e.cost
  FROM ledger_tail AS e;
COMMENT ON VIEW cost_days IS 'daily_cost and the tail: what each key cost on each day, in rows to be added up.';

CREATE VIEW account_sums AS
SELECT t.account_id,
       t.requests,
       t.input_tokens,
       t.output_tokens,
       t.cache_create_tokens,
       t.cache_read_tokens,
       t.ephemeral_1h_tokens,
       t.cost,
       t.first_used_at,
       t.last_used_at
  FROM account_totals AS t
UNION ALL
SELECT e.account_id,
       sum(e.requests)::bigint,
       sum(e.input_tokens)::bigint,
       sum(e.output_tokens)::bigint,
       sum(e.cache_create_tokens)::bigint,
       sum(e.cache_read_tokens)::bigint,
       sum(e.ephemeral_1h_tokens)::bigint,
       sum(e.cost),
       min(e.occurred_at),
       max(e.occurred_at)
  FROM ledger_tail AS e
 WHERE e.account_id IS NOT NULL
 GROUP BY e.account_id;
COMMENT ON VIEW account_sums IS 'account_totals and the tail: what each account served over all time, in rows to be added up.';

-- The measures mean the same everywhere, so their comments are written once.
-- +goose StatementBegin
DO $$
DECLARE
    col record;
BEGIN
    FOR col IN SELECT c.oid::regclass AS rollup, a.attname, m.meaning
                 FROM pg_class AS c
                 JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
                 JOIN (VALUES
                     ('ledger_id',           'The key, by the id that the ledger has for it.'),
                     ('account_id',          'Upstream account, as events name it.'),
                     ('model',               'Model, normalised.'),
                     ('tag',                 'A tag that the key had when it was recorded; empty: it had none.'),
                     ('day',                 'Day in the service''s time zone.'),
                     ('tag_set',
                         'The tags that the key had when it was recorded, by their id in tag_sets.'),
                     ('requests',            'Requests, less those taken back.'),
                     ('input_tokens',        'Input tokens, not counting those read from or written to cache.'),
                     ('output_tokens',       'Output tokens.'),
                     ('cache_create_tokens', 'Tokens written to cache, both lifetimes.'),
                     ('cache_read_tokens',   'Tokens read from cache.'),
                     ('ephemeral_1h_tokens',
                         'Part of cache_create_tokens written for 1 hour; the rest was written for 5 minutes.'),
                     ('cost',                'USD.'),
                     ('first_used_at',       'Earliest occurred_at.'),
                     ('last_used_at',        'Latest occurred_at.')
                 ) AS m (name, meaning) ON m.name = a.attname
                WHERE c.oid = ANY ('{usage_daily,account_usage,account_totals,model_usage,tag_usage,
                      stored_usage_daily,stored_daily_cost,
                      key_days,account_days,model_days,tag_days,cost_days,account_sums}'::regclass[])
                  AND col_description(c.oid, a.attnum) IS NULL
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', col.rollup, col.attname, col.meaning);
    END LOOP;
    FOR col IN SELECT a.attname, col_description('usage_events'::regclass, a.attnum) AS meaning
                 FROM pg_attribute AS a
                WHERE a.attrelid = 'usage_events'::regclass AND a.attnum > 0 AND NOT a.attisdropped
    LOOP
        EXECUTE format('COMMENT ON COLUMN stored_usage_archive.%I IS %L', col.attname, col.meaning);
        EXECUTE format('COMMENT ON COLUMN ledger.%I IS %L', col.attname, col.meaning);
        EXECUTE format('COMMENT ON COLUMN ledger_tail.%I IS %L', col.attname, col.meaning);
        EXECUTE format('COMMENT ON COLUMN ledger_rolled.%I IS %L', col.attname, col.meaning);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP VIEW key_days, account_days, model_days, tag_days, cost_days, account_sums,
    stored_usage_daily, stored_daily_cost, ledger_tail, ledger_rolled;
DROP FUNCTION ledger_tail_since();
DROP FUNCTION rollup_settle();
DROP TABLE rollup_state, usage_daily, account_usage, account_totals, daily_cost, model_usage, tag_usage;
