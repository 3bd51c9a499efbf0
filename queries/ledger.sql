-- name: LedgerLock :exec
-- Locks the counters of keys in id order, then holds the present chunk open, both until the
-- transaction ends: whoever admits or records for these keys waits here for the one before,
-- and the roll-up for this transaction. The lock of the chunk comes last, so that a wait
-- for a key that somebody holds does not hold up the roll-up. Unknown keys are passed over.
-- It must be a statement of its own: LedgerAppend then sees what the holder before has
-- written, and reads the number of the chunk that is open now.
WITH locked AS MATERIALIZED (
    SELECT c.key_id
      FROM (SELECT DISTINCT u.id FROM ROWS FROM (unnest(@key_ids::uuid[])) AS u (id) ORDER BY u.id) AS k
     CROSS JOIN LATERAL (
           SELECT x.key_id FROM key_counters AS x WHERE x.key_id = k.id FOR NO KEY UPDATE
     ) AS c
)
SELECT pg_advisory_xact_lock_shared(hashtext('keyledger.chunk'))
  FROM (SELECT count(*) FROM locked) AS l;

-- name: LedgerAppend :many
-- Records events: one row of the ledger for each, the sums of its key, and the end of its
-- lease; each unit of events (@units numbers them) whole or not at all. It must follow
-- LedgerLock in the same transaction. Nothing that it writes is shared between keys.
--
-- One row comes back for each event, with its state: unknown (there is no such key), refused
-- (the key of another event of its unit is unknown), recorded (dearer: than was reserved),
-- duplicate (first_* is the event that answers for it, conflict: that one had other
-- content), or again: it repeats an event of this batch that was not recorded itself, and
-- is to be handed in anew.
--
-- Each event is recorded once by two names within its key: its own (request id, else
-- admission, else event id) and the admission that it settles, which is the one that it
-- names, else the current one of its request id. The rows of usage_dedup hold those names;
-- since the counters of its key are locked, the snapshot sees all of them. One exception
-- closes a free pass: an event whose own name is taken, but by usage of another admission
-- and with other content, is a second run, and recorded by its admission alone.
--
-- A duplicate that names another, open admission ends that one too.
--
-- The plan cannot depend on statistics: rows that exist are looked up one by one from
-- the materialised input, by their primary key, and counters are upserted, which
-- always goes by theirs.
WITH clock AS MATERIALIZED (
    -- After the wait for the locks: now() is the start of the transaction. No row is
    -- received before its chunk was opened, and none occurs after it was received.
    SELECT s.open_chunk, c.received, c.instant,
           d.day,
           date_trunc('week', d.day)::date AS week,
           date_trunc('month', d.day)::date AS month
      FROM rollup_state AS s
     CROSS JOIN LATERAL (
           SELECT greatest(clock_timestamp(), s.opened_at) AS received,
                  coalesce(sqlc.narg('now')::timestamptz, greatest(clock_timestamp(), s.opened_at)) AS instant
     ) AS c
     CROSS JOIN LATERAL (SELECT (c.instant AT TIME ZONE @timezone::text)::date AS day) AS d
), input AS (
    SELECT i.event_id, i.kind, i.key_id, i.dedup_key, i.account_id, i.model, i.model_received, i.request_id,
           i.requests, i.input_tokens, i.output_tokens, i.cache_create_tokens, i.cache_read_tokens,
           i.ephemeral_1h_tokens, i.cost, i.priced, i.estimated, i.via, i.fingerprint, i.adjusts, i.reason,
           i.unit, i.ord,
           i.admission_id AS named,
           least(i.occurred_at, t.instant) AS occurred_at,
           coalesce(k.ledger_id, nullif(i.ledger_id, '00000000-0000-0000-0000-000000000000')) AS ledger_id,
           CASE WHEN i.kind = 'adjustment' THEN i.tag_set
                ELSE coalesce(k.tag_set, '00000000-0000-0000-0000-000000000000') END AS tag_set,
           k.rate_limit_window,
           k.ledger_id IS NOT NULL AS known,
           k.ledger_id IS NULL
               AND (i.kind = 'usage' OR i.ledger_id = '00000000-0000-0000-0000-000000000000') AS unknown,
           coalesce(nullif(i.admission_id, '00000000-0000-0000-0000-000000000000'), a.id) AS admission_id
      FROM ROWS FROM (
           unnest(@event_ids::uuid[]), unnest(@kinds::text[]), unnest(@key_ids::uuid[]), unnest(@ledger_ids::uuid[]),
           unnest(@tag_sets::uuid[]), unnest(@dedup_keys::text[]), unnest(@account_ids::text[]),
           unnest(@models::text[]), unnest(@models_received::text[]), unnest(@request_ids::text[]),
           unnest(@occurred_ats::timestamptz[]), unnest(@requests::bigint[]), unnest(@input_tokens::bigint[]),
           unnest(@output_tokens::bigint[]), unnest(@cache_create_tokens::bigint[]),
           unnest(@cache_read_tokens::bigint[]), unnest(@ephemeral_1h_tokens::bigint[]),
           unnest(CAST(@costs::text[] AS numeric[])), unnest(@priced::boolean[]), unnest(@estimated::boolean[]),
           unnest(@vias::text[]), unnest(@fingerprints::bigint[]), unnest(@adjusts::uuid[]), unnest(@reasons::text[]),
           unnest(@admission_ids::uuid[]), unnest(@units::bigint[])
      ) WITH ORDINALITY AS i (
           event_id, kind, key_id, ledger_id, tag_set, dedup_key, account_id, model, model_received, request_id,
           occurred_at, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens,
           ephemeral_1h_tokens, cost, priced, estimated, via, fingerprint, adjusts, reason, admission_id, unit, ord)
     CROSS JOIN clock AS t
      LEFT JOIN LATERAL (
           SELECT x.ledger_id, x.tag_set, x.rate_limit_window FROM api_keys AS x WHERE x.id = i.key_id LIMIT 1
      ) AS k ON true
      LEFT JOIN LATERAL (
           SELECT o.id
             FROM admissions AS o
            WHERE o.key_id = i.key_id AND o.request_id = i.request_id AND o.is_current
              AND i.kind = 'usage' AND i.request_id <> ''
              AND i.admission_id = '00000000-0000-0000-0000-000000000000'
            LIMIT 1
      ) AS a ON true
), looked AS MATERIALIZED (
    -- What was recorded before by the same names.
    SELECT i.*,
           own.event_id AS own_id, own.admission_id AS own_admission, own.fingerprint AS own_fingerprint,
           coalesce(adm.event_id, own.event_id) AS first_id,
           coalesce(adm.model, own.model) AS first_model,
           coalesce(adm.cost, own.cost) AS first_cost,
           coalesce(adm.priced, own.priced) AS first_priced,
           coalesce(adm.fingerprint, own.fingerprint) AS first_fingerprint,
           bool_or(i.unknown) OVER (PARTITION BY i.unit) AS refused,
           adm.event_id IS NULL
               AND (own.event_id IS NULL
                    OR i.kind = 'usage' AND i.admission_id IS NOT NULL
                       AND own.admission_id IS DISTINCT FROM i.admission_id
                       AND own.fingerprint <> i.fingerprint) AS passes
      FROM input AS i
      LEFT JOIN LATERAL (
           SELECT x.* FROM usage_dedup AS x WHERE x.ledger_id = i.ledger_id AND x.dedup_key = i.dedup_key LIMIT 1
      ) AS own ON true
      LEFT JOIN LATERAL (
           SELECT x.* FROM usage_dedup AS x
            WHERE x.ledger_id = i.ledger_id AND x.dedup_key = 'a:' || i.admission_id::text
            LIMIT 1
      ) AS adm ON true
), holders AS (
    -- Of several events of this batch with the same own name, the first holds it.
    SELECT l.*,
           first_value(l.event_id) OVER own AS holder_id,
           first_value(l.admission_id) OVER own AS holder_admission,
           first_value(l.fingerprint) OVER own AS holder_fingerprint
      FROM looked AS l
     WHERE NOT l.refused AND l.passes
    WINDOW own AS (PARTITION BY l.ledger_id, l.dedup_key, l.own_id IS NULL ORDER BY l.ord)
), runs AS MATERIALIZED (
    -- The others of them pass only as second runs; of several with the same admission, the
    -- first that passes settles it.
    SELECT h.*, h.own_id IS NULL AND h.holder_id = h.event_id AS holds,
           p.ok AS passing,
           first_value(h.event_id) OVER (
               PARTITION BY h.ledger_id, h.admission_id ORDER BY p.ok DESC, h.ord) AS settler_id
      FROM holders AS h
     CROSS JOIN LATERAL (
           SELECT h.own_id IS NOT NULL
               OR h.holder_id = h.event_id
               OR h.kind = 'usage' AND h.admission_id IS NOT NULL
                  AND h.holder_admission IS DISTINCT FROM h.admission_id
                  AND h.holder_fingerprint <> h.fingerprint AS ok
     ) AS p
), fresh AS MATERIALIZED (
    SELECT r.*, (r.occurred_at AT TIME ZONE @timezone::text)::date AS day
      FROM runs AS r
     WHERE r.passing AND (r.admission_id IS NULL OR r.settler_id = r.event_id)
), gate AS (
    INSERT INTO usage_dedup (
           ledger_id, dedup_key, event_id, admission_id, model, cost, priced, fingerprint, received_at)
    SELECT f.ledger_id, n.name, f.event_id, f.admission_id, f.model, f.cost, f.priced, f.fingerprint, t.received
      FROM fresh AS f
     CROSS JOIN clock AS t
     CROSS JOIN LATERAL unnest(ARRAY[
           CASE WHEN f.holds THEN f.dedup_key END,
           nullif('a:' || f.admission_id::text, f.dedup_key)
     ]) AS n (name)
     WHERE n.name IS NOT NULL
     ORDER BY f.ledger_id, n.name
    RETURNING event_id
), ledger AS (
    INSERT INTO usage_events (
           event_id, received_at, kind, ledger_id, chunk, account_id, model, model_received, request_id, occurred_at,
           day, tag_set, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens,
           ephemeral_1h_tokens, cost, priced, estimated, via, adjusts, reason)
    SELECT f.event_id, t.received, f.kind, f.ledger_id, t.open_chunk, nullif(f.account_id, ''), f.model,
           f.model_received, nullif(f.request_id, ''), f.occurred_at, f.day, f.tag_set,
           f.requests, f.input_tokens, f.output_tokens, f.cache_create_tokens, f.cache_read_tokens,
           f.ephemeral_1h_tokens, f.cost, f.priced, f.estimated, nullif(f.via, ''),
           nullif(f.adjusts, '00000000-0000-0000-0000-000000000000'), nullif(f.reason, '')
      FROM fresh AS f
     CROSS JOIN clock AS t
), counted AS (
    -- The proposed row holds what the batch adds to the present day, week and month, and as
    -- window_start the earliest start of a window that is open now. The stored period may
    -- be later than the present one, where the clock went back: then it stays.
    INSERT INTO key_counters AS c (
           key_id, window_start, window_tokens, day, day_cost, week, week_cost, month, month_cost,
           requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens,
           cost, last_used_at)
    SELECT f.key_id,
           t.instant - max(f.rate_limit_window) * interval '1 minute',
           coalesce(sum(f.input_tokens + f.output_tokens + f.cache_create_tokens + f.cache_read_tokens)
               FILTER (WHERE f.kind = 'usage'), 0)::bigint,
           t.day, coalesce(sum(f.cost) FILTER (WHERE f.day = t.day), 0),
           t.week, coalesce(sum(f.cost) FILTER (WHERE f.day >= t.week), 0),
           t.month, coalesce(sum(f.cost) FILTER (WHERE f.day >= t.month), 0),
           sum(f.requests)::bigint, sum(f.input_tokens)::bigint, sum(f.output_tokens)::bigint,
           sum(f.cache_create_tokens)::bigint, sum(f.cache_read_tokens)::bigint, sum(f.ephemeral_1h_tokens)::bigint,
           sum(f.cost),
           max(f.occurred_at) FILTER (WHERE f.kind = 'usage')
      FROM fresh AS f
     CROSS JOIN clock AS t
     WHERE f.known
     GROUP BY f.key_id, t.instant, t.day, t.week, t.month
    ON CONFLICT (key_id) DO UPDATE SET
           window_tokens = c.window_tokens
               + CASE WHEN c.window_start > excluded.window_start THEN excluded.window_tokens ELSE 0 END,
           day_cost = CASE WHEN c.day > excluded.day THEN c.day_cost
                           WHEN c.day = excluded.day THEN c.day_cost + excluded.day_cost
                           ELSE excluded.day_cost END,
           week_cost = CASE WHEN c.week > excluded.week THEN c.week_cost
                            WHEN c.week = excluded.week THEN c.week_cost + excluded.week_cost
                            ELSE excluded.week_cost END,
           month_cost = CASE WHEN c.month > excluded.month THEN c.month_cost
                             WHEN c.month = excluded.month THEN c.month_cost + excluded.month_cost
                             ELSE excluded.month_cost END,
           day = greatest(c.day, excluded.day),
           week = greatest(c.week, excluded.week),
           month = greatest(c.month, excluded.month),
           requests = c.requests + excluded.requests,
           input_tokens = c.input_tokens + excluded.input_tokens,
           output_tokens = c.output_tokens + excluded.output_tokens,
           cache_create_tokens = c.cache_create_tokens + excluded.cache_create_tokens,
           cache_read_tokens = c.cache_read_tokens + excluded.cache_read_tokens,
           ephemeral_1h_tokens = c.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens,
           cost = c.cost + excluded.cost,
           last_used_at = greatest(c.last_used_at, excluded.last_used_at)
), settled AS (
    UPDATE admissions AS a SET is_open = false, ended_by = 'settled', ended_at = t.received
      FROM looked AS l
     CROSS JOIN clock AS t
      LEFT JOIN fresh AS f ON f.event_id = l.event_id
     WHERE a.id = l.admission_id AND a.key_id = l.key_id AND l.kind = 'usage' AND NOT l.refused
       AND (f.event_id IS NOT NULL OR a.is_open AND l.named = a.id)
    RETURNING f.event_id, f.cost > a.reserved_cost AND a.reserved_cost > 0 AS dearer
)
SELECT (l.ord - 1)::bigint AS index,
       (CASE WHEN l.unknown THEN 'unknown'
             WHEN l.refused THEN 'refused'
             WHEN f.event_id IS NOT NULL THEN 'recorded'
             WHEN NOT l.passes THEN 'duplicate'
             WHEN s.event_id IS NOT NULL THEN 'duplicate'
             ELSE 'again' END)::text AS state,
       coalesce(d.dearer, false)::boolean AS dearer,
       coalesce(s.event_id, l.first_id, '00000000-0000-0000-0000-000000000000')::uuid AS first_id,
       coalesce(s.model, l.first_model, '')::text AS first_model,
       coalesce(s.cost, l.first_cost, 0)::text AS first_cost,
       coalesce(s.priced, l.first_priced, false)::boolean AS first_priced,
       coalesce(coalesce(s.fingerprint, l.first_fingerprint) <> l.fingerprint, false)::boolean AS conflict
  FROM looked AS l
  LEFT JOIN fresh AS f ON f.event_id = l.event_id
  LEFT JOIN runs AS r ON r.event_id = l.event_id
  LEFT JOIN fresh AS s ON s.event_id = CASE WHEN r.passing THEN r.settler_id ELSE r.holder_id END
  LEFT JOIN settled AS d ON d.event_id = l.event_id
 ORDER BY l.ord;

-- name: HoldersLock :exec
-- Locks ids that the ledger knows and no key has, in order, until the transaction ends:
-- whoever adjusts usage of purged keys waits here for the one before. Those of keys are
-- passed over; LedgerLock locks the keys.
SELECT 1
  FROM (SELECT DISTINCT u.id FROM ROWS FROM (unnest(@ledger_ids::uuid[])) AS u (id) ORDER BY u.id) AS k
 CROSS JOIN LATERAL (
       SELECT h.ledger_id FROM ledger_holders AS h WHERE h.ledger_id = k.id FOR NO KEY UPDATE
 ) AS h;

-- name: AdmissionKeys :many
-- The keys of admissions, for events that name only those.
SELECT a.id, a.key_id
  FROM ROWS FROM (unnest(@admission_ids::uuid[])) AS u (id)
 CROSS JOIN LATERAL (SELECT x.id, x.key_id FROM admissions AS x WHERE x.id = u.id LIMIT 1) AS a;

-- name: DedupPrune :execrows
-- Forgets up to a thousand events received before the deduplication horizon.
-- What was voided is remembered as long as its event may be in the ledger.
DELETE FROM usage_dedup AS d
 WHERE (d.ledger_id, d.dedup_key) IN (
    SELECT o.ledger_id, o.dedup_key FROM usage_dedup AS o
     WHERE o.received_at < coalesce(sqlc.narg('now')::timestamptz,
         now()) - make_interval(secs => @horizon_seconds::integer)
       AND (o.dedup_key NOT LIKE 'v:%'
            OR o.received_at < coalesce(sqlc.narg('now')::timestamptz,
                now()) - make_interval(days => @retention_days::integer))
     LIMIT 1000);

-- name: EventList :many
-- A page of the ledger, newest first, after the event a cursor names: by event id (they sort
-- by time of receipt), or for one key by chunk and event id, as its index has them. Times
-- bound occurred_at: from included, to not. of_key is the id itself for a purged key. Ledger and
-- archive give a page each, so that no more of the archive is asked for, wherever it is stored.
SELECT sqlc.embed(e),
       coalesce(k.id, e.ledger_id)::uuid AS key_id
  FROM (
    (SELECT e.*
       FROM usage_events AS e
      WHERE (sqlc.narg('of_key')::uuid IS NULL
             OR e.ledger_id = coalesce(
                 (SELECT x.ledger_id FROM api_keys AS x WHERE x.id = sqlc.narg('of_key')::uuid),
                 sqlc.narg('of_key')::uuid))
        AND (sqlc.narg('account_id')::text IS NULL OR e.account_id = sqlc.narg('account_id')::text)
        AND (sqlc.narg('model')::text IS NULL OR e.model = sqlc.narg('model')::text)
        AND (sqlc.narg('request_id')::text IS NULL OR e.request_id = sqlc.narg('request_id')::text)
        AND (sqlc.narg('kind')::text IS NULL OR e.kind = sqlc.narg('kind')::text)
        AND (sqlc.narg('from')::timestamptz IS NULL OR e.occurred_at >= sqlc.narg('from')::timestamptz)
        AND (sqlc.narg('to')::timestamptz IS NULL OR e.occurred_at < sqlc.narg('to')::timestamptz)
        AND (sqlc.narg('after_id')::uuid IS NULL
             OR CASE WHEN sqlc.narg('of_key')::uuid IS NULL THEN e.event_id < sqlc.narg('after_id')::uuid
                     ELSE (e.chunk, e.event_id) < (sqlc.narg('after_chunk')::bigint, sqlc.narg('after_id')::uuid) END)
      ORDER BY CASE WHEN sqlc.narg('of_key')::uuid IS NOT NULL THEN e.chunk END DESC, e.event_id DESC
      LIMIT @row_limit)
    UNION ALL
    (SELECT e.*
       FROM stored_usage_archive AS e
      WHERE (sqlc.narg('of_key')::uuid IS NULL
             OR e.ledger_id = coalesce(
                 (SELECT x.ledger_id FROM api_keys AS x WHERE x.id = sqlc.narg('of_key')::uuid),
                 sqlc.narg('of_key')::uuid))
        AND (sqlc.narg('account_id')::text IS NULL OR e.account_id = sqlc.narg('account_id')::text)
        AND (sqlc.narg('model')::text IS NULL OR e.model = sqlc.narg('model')::text)
        AND (sqlc.narg('request_id')::text IS NULL OR e.request_id = sqlc.narg('request_id')::text)
        AND (sqlc.narg('kind')::text IS NULL OR e.kind = sqlc.narg('kind')::text)
        AND (sqlc.narg('from')::timestamptz IS NULL OR e.occurred_at >= sqlc.narg('from')::timestamptz)
        AND (sqlc.narg('to')::timestamptz IS NULL OR e.occurred_at < sqlc.narg('to')::timestamptz)
        AND (sqlc.narg('after_id')::uuid IS NULL
             OR CASE WHEN sqlc.narg('of_key')::uuid IS NULL THEN e.event_id < sqlc.narg('after_id')::uuid
                     ELSE (e.chunk, e.event_id) < (sqlc.narg('after_chunk')::bigint, sqlc.narg('after_id')::uuid) END)
      ORDER BY CASE WHEN sqlc.narg('of_key')::uuid IS NOT NULL THEN e.chunk END DESC, e.event_id DESC
      LIMIT @row_limit)
       ) AS e
  LEFT JOIN api_keys AS k ON k.ledger_id = e.ledger_id
 ORDER BY CASE WHEN sqlc.narg('of_key')::uuid IS NOT NULL THEN e.chunk END DESC, e.event_id DESC
 LIMIT @row_limit;

-- name: EventFind :one
-- One ledger row, which is never edited, with its key (zero: purged) and with what its
-- adjustments have made of it: requests (0 once it was taken back), cost, whether it has a
-- price, and the ids of the adjustments. The archive is asked when the recent ledger has no such row, and
-- for adjustments of a row that is old enough to have some there.
SELECT sqlc.embed(u),
       coalesce(k.id, '00000000-0000-0000-0000-000000000000')::uuid AS key_id,
       (u.requests + coalesce(a.requests, 0))::bigint AS requests_now,
       (u.cost + coalesce(a.cost, 0))::numeric AS cost_now,
       (u.priced OR coalesce(a.priced, false))::boolean AS priced_now,
       coalesce(a.ids, '{}')::uuid[] AS adjustments
  FROM ledger AS u
  LEFT JOIN api_keys AS k ON k.ledger_id = u.ledger_id
  LEFT JOIN LATERAL (
       SELECT array_agg(x.event_id) AS ids,
              sum(x.requests) AS requests,
              sum(x.cost) AS cost,
              bool_or(x.priced) AS priced
         FROM (
               SELECT e.event_id, e.requests, e.cost, e.priced
                 FROM usage_events AS e
                WHERE e.ledger_id = u.ledger_id AND e.chunk >= u.chunk AND e.received_at >= u.received_at
                  AND e.adjusts = u.event_id
               UNION ALL
               SELECT e.event_id, e.requests, e.cost, e.priced
                 FROM stored_usage_archive AS e
                WHERE e.ledger_id = u.ledger_id AND e.chunk >= u.chunk AND e.received_at >= u.received_at
                  AND e.adjusts = u.event_id
                  AND u.received_at < (SELECT s.archived_until FROM archive_state AS s)
              ) AS x
 ) AS a ON true
 WHERE u.event_id = @event_id
 LIMIT 1;

-- name: EventsOfDays :many
-- Usage of these days that has not been taken back, with what adjustments have made of its
-- cost and price, to be priced again. The zero key id: its key was purged. What Envoy told the
-- cost of, and no tokens, is left out: no price gives that again.
SELECT u.event_id, u.ledger_id, u.tag_set, coalesce(k.id, '00000000-0000-0000-0000-000000000000')::uuid AS key_id,
       coalesce(u.account_id, '')::text AS account_id, u.model, u.model_received, u.occurred_at,
       u.input_tokens, u.output_tokens, u.cache_create_tokens, u.cache_read_tokens, u.ephemeral_1h_tokens, u.estimated,
       (u.cost + coalesce(a.cost, 0))::numeric AS cost_now,
       (u.priced OR coalesce(a.priced, false))::boolean AS priced_now,
       coalesce(a.ids, '{}')::uuid[] AS adjustments
  FROM ledger AS u
  LEFT JOIN api_keys AS k ON k.ledger_id = u.ledger_id
  LEFT JOIN (
    SELECT x.adjusts,
           sum(x.requests) AS requests,
           sum(x.cost) AS cost,
           bool_or(x.priced) AS priced,
           array_agg(x.event_id) AS ids
      FROM ledger AS x
     WHERE x.kind = 'adjustment'
       AND x.received_at >= (CAST(@from_day::date AS timestamp) - interval '2 days') AT TIME ZONE (@timezone::text)
     GROUP BY x.adjusts
  ) AS a ON a.adjusts = u.event_id
 WHERE u.kind = 'usage' AND u.day BETWEEN @from_day::date AND @to_day::date
   AND (u.via IS DISTINCT FROM 'envoy'
        OR u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens > 0)
   AND u.received_at >= (CAST(@from_day::date AS timestamp) - interval '2 days') AT TIME ZONE (@timezone::text)
   AND (@model::text = '' OR u.model = @model)
   AND u.requests + coalesce(a.requests, 0) > 0;

-- name: AdjustedBesides :many
-- Which of these events have been adjusted since an instant of the database's clock, but
-- for the adjustments that are known. Asked after LedgerAppend in its transaction, which
-- holds the keys and holders: nobody adjusts them meanwhile.
SELECT DISTINCT x.adjusts::uuid AS event_id
  FROM usage_events AS x
 WHERE x.ledger_id = ANY(@ledger_ids::uuid[]) AND x.received_at >= @since::timestamptz
   AND x.kind = 'adjustment' AND x.adjusts = ANY(@event_ids::uuid[])
   AND x.event_id <> ALL(@known::uuid[]);

-- name: KeyNames :many
-- The names of keys, by the ids that the ledger has for them; purged ones have no row.
SELECT k.id, k.ledger_id, k.name FROM api_keys AS k WHERE k.ledger_id = ANY(@ledger_ids::uuid[]);

-- name: LedgerPartitionsMake :one
-- Makes the ledger's partitions from yesterday to a week ahead where they are missing, and
-- returns how many it made. Not further: each is one more that a reader of the tail looks into.
SELECT make_ledger_partitions((now() AT TIME ZONE 'UTC')::date - 1,
    (now() AT TIME ZONE 'UTC')::date + 7)::integer AS made;

-- name: LedgerPartitionsDrop :one
-- Drops ledger partitions older than the retention, but none that the rollups do not hold yet, and
-- returns how many.
SELECT drop_ledger_partitions((now() AT TIME ZONE 'UTC')::date - @days::integer)::integer AS dropped;

-- name: ArchiveTurn :one
-- Whether it is this session's turn, until its transaction ends, to move a month into the archive:
-- one at a time, over all replicas. It waits for nobody.
SELECT pg_try_advisory_xact_lock(hashtext('keyledger.archive'))::boolean AS turn;

-- name: ArchiveDue :many
-- The days that have partitions, of the first UTC month of the ledger that is older than so many
-- days, that the rollups hold and every event was told of, and that retention leaves whole.
WITH edge AS MATERIALIZED (
    SELECT least((now() AT TIME ZONE 'UTC')::date - @days::integer,
                 (s.tail_since AT TIME ZONE 'UTC')::date,
                 (SELECT min(a.opened_at AT TIME ZONE 'UTC')::date FROM alert_state AS a WHERE a.chunk > 0)) AS day
      FROM rollup_state AS s
), due AS MATERIALIZED (
    SELECT date_trunc('month', min(p.first_day)::timestamp)::date AS month
      FROM ledger_partitions() AS p
     WHERE p.of_table = 'usage_events'
       AND date_trunc('month', p.first_day::timestamp) >= (now() AT TIME ZONE 'UTC')::date - @retention_days::integer
)
SELECT p.first_day::date AS day
  FROM due AS d
  JOIN edge AS e ON (d.month + interval '1 month')::date <= e.day
  JOIN ledger_partitions() AS p ON p.of_table = 'usage_events'
       AND p.first_day >= d.month AND p.next_day <= (d.month + interval '1 month')::date
 ORDER BY day;

-- name: ArchiveBegin :exec
-- Makes the empty partition that a day's month is copied to, unless it is there. It locks what purges
-- change too, so it is a transaction of its own.
SELECT archive_begin(@day::date);

-- name: ArchiveDay :one
-- Copies a day's ledger rows to where the archive's next month is made, and returns how many. After
-- ArchiveBegin, and after ArchiveTurn in the same transaction.
SELECT archive_day(@day::date)::bigint AS copied;

-- name: ArchiveMonth :one
-- Makes the copy of a day's month part of the archive, and returns how many rows it has; -1: another
-- pass has done so. After ArchiveTurn in the same transaction; every transaction that ArchiveDay ran
-- beside has ended.
SELECT archive_month(@day::date)::bigint AS moved;

-- name: TransactionsUnderWay :one
-- Those of this database at this moment, but for this one, by names that only this run of the server
-- gives them.
SELECT transactions_under_way()::text[] AS names;

-- name: LedgerWhole :one
-- The first day whose every event must still be in the ledger.
SELECT ledger_whole_since(@timezone::text)::date AS since;
