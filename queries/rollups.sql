-- name: RollupTurn :one
-- Whether it is this session's turn, until its transaction ends, to change the rollups or
-- their state: one at a time, over all replicas. It waits for nobody.
SELECT pg_try_advisory_xact_lock(hashtext('keyledger.rollup'))::boolean AS turn;

-- name: RollupAlone :exec
-- Waits for those who read rollups that are stored elsewhere (keyledger scale-out), where no snapshot
-- of this server reaches, and keeps others from it until the transaction ends. Where rollups are
-- tables of this server, no reader has this lock. It gives up after a second, since other readers wait
-- behind it.
SELECT set_config('lock_timeout', '1s', true), pg_advisory_xact_lock(hashtext('keyledger.step'));

-- name: RollupSettle :exec
-- Ends steps that were broken off while several servers committed them. It waits for a step that is under way,
-- so not after RollupHold, for which that step may wait.
SELECT rollup_settle();

-- name: RollupHold :exec
-- Keeps the roll-up from taking a step (RollupAlone) until RollupRelease, or until the session ends.
SELECT pg_advisory_lock_shared(hashtext('keyledger.step'));

-- name: RollupRelease :exec
-- Lets the roll-up go on.
SELECT pg_advisory_unlock_shared(hashtext('keyledger.step'));

-- name: RollupState :one
-- How far the roll-up has come.
SELECT s.open_chunk, s.opened_at, s.mark_chunk, s.mark_ledger_id, s.tail_since FROM rollup_state AS s;

-- name: ChunkUsed :one
-- Whether a chunk has any row.
SELECT EXISTS (
       SELECT 1 FROM usage_events AS e WHERE e.chunk = @chunk AND e.received_at >= @since::timestamptz
)::boolean AS used;

-- name: ChunkWait :exec
-- Bounds how long ChunkLock may wait. Usage waits behind it.
SELECT set_config('lock_timeout', '50ms', true);

-- name: ChunkLock :exec
-- Waits for those who write with the open chunk, and keeps others from it until the
-- transaction ends.
SELECT pg_advisory_xact_lock(hashtext('keyledger.chunk'));

-- name: ChunkSeal :many
-- Opens the next chunk, if this one is still open. After ChunkLock in the same transaction:
-- once that has committed, no row is added to the chunk.
UPDATE rollup_state AS s SET
       open_chunk = s.open_chunk + 1,
       opened_at = greatest(clock_timestamp(), s.opened_at)
 WHERE s.open_chunk = @chunk
RETURNING s.open_chunk;

-- name: PartCount :one
-- How many rows a part of the ledger has. A part is what lies after one (chunk, ledger_id)
-- and not after another, of some days, in the partitions since an instant.
SELECT count(*) FROM ledger AS e
 WHERE e.received_at >= @since::timestamptz
   AND e.chunk BETWEEN @after_chunk::bigint AND @until_chunk::bigint
   AND (e.chunk, e.ledger_id) > (@after_chunk, @after_ledger_id::uuid)
   AND (e.chunk, e.ledger_id) <= (@until_chunk, @until_ledger_id::uuid)
   AND e.day BETWEEN @from_day::date AND @to_day::date;

-- name: RollKeys :exec
-- Adds a part of the ledger to usage_daily. As each statement that begins with Roll, it is
-- exact if the transaction also moves the mark from one end of the part to the other.
INSERT INTO usage_daily AS t (
       ledger_id, day, model, tag_set, requests, input_tokens, output_tokens,
       cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost)
SELECT e.ledger_id, e.day, e.model, e.tag_set,
       sum(e.requests)::bigint AS requests,
       sum(e.input_tokens)::bigint AS input_tokens,
       sum(e.output_tokens)::bigint AS output_tokens,
       sum(e.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(e.cache_read_tokens)::bigint AS cache_read_tokens,
       sum(e.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(e.cost)::numeric AS cost
  FROM ledger AS e
 WHERE e.received_at >= @since::timestamptz
   AND e.chunk BETWEEN @after_chunk::bigint AND @until_chunk::bigint
   AND (e.chunk, e.ledger_id) > (@after_chunk, @after_ledger_id::uuid)
   AND (e.chunk, e.ledger_id) <= (@until_chunk, @until_ledger_id::uuid)
   AND e.day BETWEEN @from_day::date AND @to_day::date
 GROUP BY e.ledger_id, e.day, e.model, e.tag_set
 ORDER BY e.ledger_id, e.day, e.model, e.tag_set
ON CONFLICT (ledger_id, day, model, tag_set) DO UPDATE SET
       requests = t.requests + excluded.requests,
       input_tokens = t.input_tokens + excluded.input_tokens,
       output_tokens = t.output_tokens + excluded.output_tokens,
       cache_create_tokens = t.cache_create_tokens + excluded.cache_create_tokens,
       cache_read_tokens = t.cache_read_tokens + excluded.cache_read_tokens,
       ephemeral_1h_tokens = t.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens,
       cost = t.cost + excluded.cost;

-- name: RollShared :exec
-- Adds a part of the ledger to what keys share: account_usage, account_totals, model_usage and tag_usage.
-- The part is read once, into sums by account, day, model and set of tags, and each of them is made from these.
WITH part AS MATERIALIZED (
    SELECT e.account_id, e.day, e.model, e.tag_set,
           sum(e.requests)::bigint AS requests,
           sum(e.input_tokens)::bigint AS input_tokens,
           sum(e.output_tokens)::bigint AS output_tokens,
           sum(e.cache_create_tokens)::bigint AS cache_create_tokens,
           sum(e.cache_read_tokens)::bigint AS cache_read_tokens,
           sum(e.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
           sum(e.cost)::numeric AS cost,
           min(e.occurred_at) AS first_used_at,
           max(e.occurred_at) AS last_used_at
      FROM ledger AS e
     WHERE e.received_at >= @since::timestamptz
       AND e.chunk BETWEEN @after_chunk::bigint AND @until_chunk::bigint
       AND (e.chunk, e.ledger_id) > (@after_chunk, @after_ledger_id::uuid)
       AND (e.chunk, e.ledger_id) <= (@until_chunk, @until_ledger_id::uuid)
       AND e.day BETWEEN @from_day::date AND @to_day::date
     GROUP BY e.account_id, e.day, e.model, e.tag_set
), accounts AS (
    INSERT INTO account_usage AS t (
           account_id, day, model, requests, input_tokens, output_tokens,
           cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost)
    SELECT p.account_id, p.day, p.model,
           sum(p.requests)::bigint, sum(p.input_tokens)::bigint, sum(p.output_tokens)::bigint,
           sum(p.cache_create_tokens)::bigint, sum(p.cache_read_tokens)::bigint,
           sum(p.ephemeral_1h_tokens)::bigint, sum(p.cost)
      FROM part AS p
     WHERE p.account_id IS NOT NULL
     GROUP BY p.account_id, p.day, p.model
     ORDER BY p.account_id, p.day, p.model
    ON CONFLICT (account_id, day, model) DO UPDATE SET
           requests = t.requests + excluded.requests,
           input_tokens = t.input_tokens + excluded.input_tokens,
           output_tokens = t.output_tokens + excluded.output_tokens,
           cache_create_tokens = t.cache_create_tokens + excluded.cache_create_tokens,
           cache_read_tokens = t.cache_read_tokens + excluded.cache_read_tokens,
           ephemeral_1h_tokens = t.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens,
           cost = t.cost + excluded.cost
), totals AS (
    INSERT INTO account_totals AS t (
           account_id, requests, input_tokens, output_tokens,
           cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost, first_used_at, last_used_at)
    SELECT p.account_id,
           sum(p.requests)::bigint, sum(p.input_tokens)::bigint, sum(p.output_tokens)::bigint,
           sum(p.cache_create_tokens)::bigint, sum(p.cache_read_tokens)::bigint,
           sum(p.ephemeral_1h_tokens)::bigint, sum(p.cost),
           min(p.first_used_at), max(p.last_used_at)
      FROM part AS p
     WHERE p.account_id IS NOT NULL
     GROUP BY p.account_id
     ORDER BY p.account_id
    ON CONFLICT (account_id) DO UPDATE SET
           requests = t.requests + excluded.requests,
           input_tokens = t.input_tokens + excluded.input_tokens,
           output_tokens = t.output_tokens + excluded.output_tokens,
           cache_create_tokens = t.cache_create_tokens + excluded.cache_create_tokens,
           cache_read_tokens = t.cache_read_tokens + excluded.cache_read_tokens,
           ephemeral_1h_tokens = t.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens,
           cost = t.cost + excluded.cost,
           first_used_at = least(t.first_used_at, excluded.first_used_at),
           last_used_at = greatest(t.last_used_at, excluded.last_used_at)
), models AS (
    INSERT INTO model_usage AS t (
           model, day, requests, input_tokens, output_tokens,
           cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost)
    SELECT p.model, p.day,
           sum(p.requests)::bigint, sum(p.input_tokens)::bigint, sum(p.output_tokens)::bigint,
           sum(p.cache_create_tokens)::bigint, sum(p.cache_read_tokens)::bigint,
           sum(p.ephemeral_1h_tokens)::bigint, sum(p.cost)
      FROM part AS p
     GROUP BY p.model, p.day
     ORDER BY p.model, p.day
    ON CONFLICT (model, day) DO UPDATE SET
           requests = t.requests + excluded.requests,
           input_tokens = t.input_tokens + excluded.input_tokens,
           output_tokens = t.output_tokens + excluded.output_tokens,
           cache_create_tokens = t.cache_create_tokens + excluded.cache_create_tokens,
           cache_read_tokens = t.cache_read_tokens + excluded.cache_read_tokens,
           ephemeral_1h_tokens = t.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens,
           cost = t.cost + excluded.cost
)
INSERT INTO tag_usage AS t (
       tag, day, model, requests, input_tokens, output_tokens,
       cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost)
SELECT g.tag, p.day, p.model,
       sum(p.requests)::bigint, sum(p.input_tokens)::bigint, sum(p.output_tokens)::bigint,
       sum(p.cache_create_tokens)::bigint, sum(p.cache_read_tokens)::bigint,
       sum(p.ephemeral_1h_tokens)::bigint, sum(p.cost)
  FROM part AS p
  LEFT JOIN tag_sets AS s ON s.id = p.tag_set
 CROSS JOIN LATERAL unnest(coalesce(s.tags, '{""}')) AS g (tag)
 GROUP BY g.tag, p.day, p.model
 ORDER BY g.tag, p.day, p.model
ON CONFLICT (tag, day, model) DO UPDATE SET
       requests = t.requests + excluded.requests,
       input_tokens = t.input_tokens + excluded.input_tokens,
       output_tokens = t.output_tokens + excluded.output_tokens,
       cache_create_tokens = t.cache_create_tokens + excluded.cache_create_tokens,
       cache_read_tokens = t.cache_read_tokens + excluded.cache_read_tokens,
       ephemeral_1h_tokens = t.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens,
       cost = t.cost + excluded.cost;

-- name: RollCosts :exec
-- Adds a part of the ledger to daily_cost.
INSERT INTO daily_cost AS t (ledger_id, day, cost)
SELECT e.ledger_id, e.day, sum(e.cost)
  FROM ledger AS e
 WHERE e.received_at >= @since::timestamptz
   AND e.chunk BETWEEN @after_chunk::bigint AND @until_chunk::bigint
   AND (e.chunk, e.ledger_id) > (@after_chunk, @after_ledger_id::uuid)
   AND (e.chunk, e.ledger_id) <= (@until_chunk, @until_ledger_id::uuid)
   AND e.day BETWEEN @from_day::date AND @to_day::date
 GROUP BY e.ledger_id, e.day
 ORDER BY e.ledger_id, e.day
ON CONFLICT (ledger_id, day) DO UPDATE SET cost = t.cost + excluded.cost;

-- name: RollupMark :exec
-- Moves the mark to the end of a part, and notes since when rows of the tail were received.
UPDATE rollup_state SET
       mark_chunk = @mark_chunk,
       mark_ledger_id = @mark_ledger_id,
       tail_since = @tail_since;

-- name: ForgetKeys :exec
-- Empties usage_daily of some days, to be derived anew from the ledger; so does each statement that
-- begins with Forget with its rollup.
DELETE FROM usage_daily AS t WHERE t.day BETWEEN @from_day::date AND @to_day::date;

-- name: ForgetAccounts :exec
-- Empties account_usage of some days.
DELETE FROM account_usage AS t WHERE t.day BETWEEN @from_day::date AND @to_day::date;

-- name: ForgetModels :exec
-- Empties model_usage of some days.
DELETE FROM model_usage AS t WHERE t.day BETWEEN @from_day::date AND @to_day::date;

-- name: ForgetTags :exec
-- Empties tag_usage of some days.
DELETE FROM tag_usage AS t WHERE t.day BETWEEN @from_day::date AND @to_day::date;

-- name: ForgetCosts :exec
-- Empties daily_cost of some days.
DELETE FROM daily_cost AS t WHERE t.day BETWEEN @from_day::date AND @to_day::date;

-- name: AccountTotalsDerive :exec
-- Makes the sums of account_totals those of account_usage. First and last uses stay.
UPDATE account_totals AS t SET
       requests = coalesce(u.requests, 0),
       input_tokens = coalesce(u.input_tokens, 0),
       output_tokens = coalesce(u.output_tokens, 0),
       cache_create_tokens = coalesce(u.cache_create_tokens, 0),
       cache_read_tokens = coalesce(u.cache_read_tokens, 0),
       ephemeral_1h_tokens = coalesce(u.ephemeral_1h_tokens, 0),
       cost = coalesce(u.cost, 0)
  FROM account_totals AS a
  LEFT JOIN (
       SELECT x.account_id,
              sum(x.requests)::bigint AS requests,
              sum(x.input_tokens)::bigint AS input_tokens,
              sum(x.output_tokens)::bigint AS output_tokens,
              sum(x.cache_create_tokens)::bigint AS cache_create_tokens,
              sum(x.cache_read_tokens)::bigint AS cache_read_tokens,
              sum(x.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
              sum(x.cost)::numeric AS cost
         FROM account_usage AS x
        GROUP BY x.account_id
  ) AS u ON u.account_id = a.account_id
 WHERE a.account_id = t.account_id;

-- name: KeyUsagePeriods :many
-- What keys used in the day, ISO week and month that an instant falls in, in the
-- service's time zone: at most three rows a key, none for a period without use.
WITH asked AS (
    SELECT (coalesce(sqlc.narg('as_of')::timestamptz, now()) AT TIME ZONE @timezone::text)::date AS day
), period AS (
    SELECT 'daily' AS name, a.day AS first, a.day + 1 AS next FROM asked AS a
    UNION ALL
    SELECT 'weekly', date_trunc('week', a.day)::date, date_trunc('week', a.day)::date + 7 FROM asked AS a
    UNION ALL
    SELECT 'monthly', date_trunc('month', a.day)::date, (date_trunc('month', a.day) + interval '1 month')::date
      FROM asked AS a
)
SELECT k.id AS key_id,
       p.name::text AS period,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.cost)::numeric AS cost
  FROM api_keys AS k
 CROSS JOIN period AS p
  JOIN key_days AS u ON u.ledger_id = k.ledger_id AND u.day >= p.first AND u.day < p.next
 WHERE k.id = ANY(@key_ids::uuid[])
   AND u.ledger_id = ANY(ARRAY(SELECT x.ledger_id FROM api_keys AS x WHERE x.id = ANY(@key_ids::uuid[])))
   AND u.day >= (SELECT min(x.first) FROM period AS x)
 GROUP BY k.id, p.name;

-- name: KeyUsageDays :many
-- What a key used on each of so many days up to today, oldest first; none for a day without
-- use.
SELECT u.day,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS tokens,
       sum(u.cost)::numeric AS cost
  FROM key_days AS u
 WHERE u.ledger_id = (SELECT k.ledger_id FROM api_keys AS k WHERE k.id = @key_id)
   AND u.day > (coalesce(sqlc.narg('now')::timestamptz, now()) AT TIME ZONE @timezone::text)::date - @days::integer
 GROUP BY u.day
 ORDER BY u.day;

-- name: TailSize :one
-- How many ledger rows the rollups do not hold yet, counted up to a million, and when the
-- oldest of them was received.
SELECT count(*) AS row_count,
       coalesce(extract(epoch FROM clock_timestamp() - min(t.received_at)), 0)::float8 AS behind_seconds
  FROM (SELECT e.received_at FROM ledger_tail AS e LIMIT 1000000) AS t;

-- name: KeyUsageModels :many
-- What a key used of each model over all time, dearest first.
SELECT u.model,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.cost)::numeric AS cost
  FROM key_days AS u
 WHERE u.ledger_id = (SELECT k.ledger_id FROM api_keys AS k WHERE k.id = @key_id)
 GROUP BY u.model
 ORDER BY sum(u.cost) DESC, u.model;

-- name: AccountUsageModels :many
-- What an account served of each model over all time, dearest first.
SELECT u.model,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.cost)::numeric AS cost
  FROM account_days AS u
 WHERE u.account_id = @account_id
 GROUP BY u.model
 ORDER BY sum(u.cost) DESC, u.model;

-- name: AccountList :many
-- A page of accounts, by the tokens (all four kinds) of the day that an instant falls in,
-- descending, ties by id, after the account a cursor names; or the one account asked for.
-- Each has a row for all time (total), and one for each of the day, ISO week and month in
-- which it was used. The tail is added up once, for all of them.
WITH asked AS (
    SELECT (coalesce(sqlc.narg('as_of')::timestamptz, now()) AT TIME ZONE @timezone::text)::date AS day
), period AS (
    SELECT 'daily' AS name, a.day AS first, a.day + 1 AS next FROM asked AS a
    UNION ALL
    SELECT 'weekly', date_trunc('week', a.day)::date, date_trunc('week', a.day)::date + 7 FROM asked AS a
    UNION ALL
    SELECT 'monthly', date_trunc('month', a.day)::date, (date_trunc('month', a.day) + interval '1 month')::date
      FROM asked AS a
), tail AS MATERIALIZED (
    SELECT e.account_id, e.day,
           sum(e.requests)::bigint AS requests,
           sum(e.input_tokens)::bigint AS input_tokens,
           sum(e.output_tokens)::bigint AS output_tokens,
           sum(e.cache_create_tokens)::bigint AS cache_create_tokens,
           sum(e.cache_read_tokens)::bigint AS cache_read_tokens,
           sum(e.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
           sum(e.cost)::numeric AS cost,
           min(e.occurred_at) AS first_used_at,
           max(e.occurred_at) AS last_used_at
      FROM ledger_tail AS e
     WHERE e.account_id IS NOT NULL
       AND (sqlc.narg('account_id')::text IS NULL OR e.account_id = sqlc.narg('account_id')::text)
     GROUP BY e.account_id, e.day
), total AS MATERIALIZED (
    SELECT x.account_id,
           sum(x.requests)::bigint AS requests,
           sum(x.input_tokens)::bigint AS input_tokens,
           sum(x.output_tokens)::bigint AS output_tokens,
           sum(x.cache_create_tokens)::bigint AS cache_create_tokens,
           sum(x.cache_read_tokens)::bigint AS cache_read_tokens,
           sum(x.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
           sum(x.cost)::numeric AS cost,
           min(x.first_used_at) AS first_used_at,
           max(x.last_used_at) AS last_used_at
      FROM (
           SELECT t.account_id, t.requests, t.input_tokens, t.output_tokens, t.cache_create_tokens,
                  t.cache_read_tokens, t.ephemeral_1h_tokens, t.cost,
                  t.first_used_at, t.last_used_at
             FROM account_totals AS t
            WHERE sqlc.narg('account_id')::text IS NULL OR t.account_id = sqlc.narg('account_id')::text
           UNION ALL
           SELECT t.account_id, t.requests, t.input_tokens, t.output_tokens, t.cache_create_tokens,
                  t.cache_read_tokens, t.ephemeral_1h_tokens, t.cost,
                  t.first_used_at, t.last_used_at
             FROM tail AS t
      ) AS x
     GROUP BY x.account_id
), used AS MATERIALIZED (
    SELECT x.account_id, p.name,
           sum(x.requests)::bigint AS requests,
           sum(x.input_tokens)::bigint AS input_tokens,
           sum(x.output_tokens)::bigint AS output_tokens,
           sum(x.cache_create_tokens)::bigint AS cache_create_tokens,
           sum(x.cache_read_tokens)::bigint AS cache_read_tokens,
           sum(x.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
           sum(x.cost)::numeric AS cost
      FROM (
           SELECT u.account_id, u.day, u.requests, u.input_tokens, u.output_tokens, u.cache_create_tokens,
                  u.cache_read_tokens, u.ephemeral_1h_tokens, u.cost
             FROM account_usage AS u
            WHERE u.day >= (SELECT min(m.first) FROM period AS m)
              AND (sqlc.narg('account_id')::text IS NULL OR u.account_id = sqlc.narg('account_id')::text)
           UNION ALL
           SELECT t.account_id, t.day, t.requests, t.input_tokens, t.output_tokens, t.cache_create_tokens,
                  t.cache_read_tokens, t.ephemeral_1h_tokens, t.cost
             FROM tail AS t
      ) AS x
      JOIN period AS p ON x.day >= p.first AND x.day < p.next
     GROUP BY x.account_id, p.name
), page AS MATERIALIZED (
    SELECT t.account_id,
           coalesce(d.input_tokens + d.output_tokens + d.cache_create_tokens + d.cache_read_tokens, 0) AS day_tokens,
           t.first_used_at,
           t.last_used_at
      FROM total AS t
      LEFT JOIN used AS d ON d.account_id = t.account_id AND d.name = 'daily'
     WHERE sqlc.narg('after_id')::text IS NULL
        OR coalesce(d.input_tokens + d.output_tokens + d.cache_create_tokens + d.cache_read_tokens, 0)
           < @after_tokens::bigint
        OR coalesce(d.input_tokens + d.output_tokens + d.cache_create_tokens + d.cache_read_tokens, 0)
           = @after_tokens::bigint AND t.account_id > sqlc.narg('after_id')::text
     ORDER BY day_tokens DESC, t.account_id
     LIMIT @row_limit
), block AS (
    SELECT t.account_id, 'total' AS name, t.requests, t.input_tokens, t.output_tokens, t.cache_create_tokens,
           t.cache_read_tokens, t.ephemeral_1h_tokens, t.cost
      FROM total AS t
    UNION ALL
    SELECT u.account_id, u.name, u.requests, u.input_tokens, u.output_tokens, u.cache_create_tokens,
           u.cache_read_tokens, u.ephemeral_1h_tokens, u.cost
      FROM used AS u
)
SELECT p.account_id::text AS account_id,
       b.name::text AS period,
       b.requests::bigint AS requests,
       b.input_tokens::bigint AS input_tokens,
       b.output_tokens::bigint AS output_tokens,
       b.cache_create_tokens::bigint AS cache_create_tokens,
       b.cache_read_tokens::bigint AS cache_read_tokens,
       b.ephemeral_1h_tokens::bigint AS ephemeral_1h_tokens,
       b.cost::numeric AS cost,
       p.first_used_at::timestamptz AS first_used_at,
       p.last_used_at::timestamptz AS last_used_at,
       coalesce(sqlc.narg('as_of')::timestamptz, now())::timestamptz AS as_of,
       p.day_tokens::bigint AS day_tokens
  FROM page AS p
  JOIN block AS b ON b.account_id = p.account_id
 ORDER BY p.day_tokens DESC, p.account_id, b.name;
