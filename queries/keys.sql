-- name: KeyCreate :exec
-- Creates keys with their secrets and counters, all or nothing. Every
-- key gets the same fields (a JSON object of api_keys columns) and a name of
-- its own; ids, names, hashes and hints are parallel arrays.
WITH wanted AS MATERIALIZED (
    SELECT w.id, w.name, w.hash, w.hint
      FROM ROWS FROM (unnest(@key_ids::uuid[]), unnest(@names::text[]), unnest(@hashes::bytea[]),
          unnest(@hints::text[])) AS w (id, name, hash, hint)
), made AS (
    INSERT INTO api_keys (
           id, name, description, token_limit, rate_limit_window, rate_limit_requests, concurrency_limit,
           daily_cost_limit, weekly_cost_limit, monthly_cost_limit, total_cost_limit, permissions,
           enable_model_restriction, restricted_models, restricted_model_names, allowed_models, allowed_model_names,
           enable_client_restriction, allowed_clients, claude_account_id, claude_console_account_id, gemini_account_id,
           openai_account_id, bedrock_account_id, estimate_per_request, enforcement, tags, expires_at, is_active,
           alert_at, alert_expiry_days, created_by)
    SELECT w.id, w.name, f.description, f.token_limit, f.rate_limit_window, f.rate_limit_requests, f.concurrency_limit,
           f.daily_cost_limit, f.weekly_cost_limit, f.monthly_cost_limit, f.total_cost_limit, f.permissions,
           f.enable_model_restriction, f.restricted_models, f.restricted_model_names, f.allowed_models,
           f.allowed_model_names,
           f.enable_client_restriction, f.allowed_clients, f.claude_account_id, f.claude_console_account_id,
           f.gemini_account_id,
           f.openai_account_id, f.bedrock_account_id, f.estimate_per_request, f.enforcement, f.tags, f.expires_at,
           f.is_active,
           f.alert_at, f.alert_expiry_days, @created_by
      FROM wanted AS w, jsonb_populate_record(NULL::api_keys, @fields::jsonb) AS f
    RETURNING id
), secret AS (
    INSERT INTO api_key_secrets (hash, key_id, scheme, pepper_id, hint)
    SELECT w.hash, w.id, 'hmac-sha256', @pepper_id, w.hint FROM wanted AS w
)
INSERT INTO key_counters (key_id) SELECT w.id FROM wanted AS w;

-- name: KeyUpdate :many
-- Changes the fields named in a JSON object of api_keys columns on live keys,
-- and returns the ids it changed: fewer than asked for means that the others
-- are missing, deleted, or (with if_version) at another version. Rows are
-- locked in id order, so concurrent batches cannot deadlock.
WITH locked AS MATERIALIZED (
    SELECT k.id FROM api_keys AS k
     WHERE k.id = ANY(@key_ids::uuid[]) AND k.deleted_at IS NULL
       AND (sqlc.narg('if_version')::bigint IS NULL OR k.version = sqlc.narg('if_version')::bigint)
     ORDER BY k.id
       FOR UPDATE
)
UPDATE api_keys AS k SET
    name = (jsonb_populate_record(k, @fields::jsonb)).name,
    description = (jsonb_populate_record(k, @fields::jsonb)).description,
    token_limit = (jsonb_populate_record(k, @fields::jsonb)).token_limit,
    rate_limit_window = (jsonb_populate_record(k, @fields::jsonb)).rate_limit_window,
    rate_limit_requests = (jsonb_populate_record(k, @fields::jsonb)).rate_limit_requests,
    concurrency_limit = (jsonb_populate_record(k, @fields::jsonb)).concurrency_limit,
    daily_cost_limit = (jsonb_populate_record(k, @fields::jsonb)).daily_cost_limit,
    weekly_cost_limit = (jsonb_populate_record(k, @fields::jsonb)).weekly_cost_limit,
    monthly_cost_limit = (jsonb_populate_record(k, @fields::jsonb)).monthly_cost_limit,
    total_cost_limit = (jsonb_populate_record(k, @fields::jsonb)).total_cost_limit,
    permissions = (jsonb_populate_record(k, @fields::jsonb)).permissions,
    enable_model_restriction = (jsonb_populate_record(k, @fields::jsonb)).enable_model_restriction,
    restricted_models = (jsonb_populate_record(k, @fields::jsonb)).restricted_models,
    allowed_models = (jsonb_populate_record(k, @fields::jsonb)).allowed_models,
    restricted_model_names = (jsonb_populate_record(k, @fields::jsonb)).restricted_model_names,
    allowed_model_names = (jsonb_populate_record(k, @fields::jsonb)).allowed_model_names,
    enable_client_restriction = (jsonb_populate_record(k, @fields::jsonb)).enable_client_restriction,
    allowed_clients = (jsonb_populate_record(k, @fields::jsonb)).allowed_clients,
    claude_account_id = (jsonb_populate_record(k, @fields::jsonb)).claude_account_id,
    claude_console_account_id = (jsonb_populate_record(k, @fields::jsonb)).claude_console_account_id,
    gemini_account_id = (jsonb_populate_record(k, @fields::jsonb)).gemini_account_id,
    openai_account_id = (jsonb_populate_record(k, @fields::jsonb)).openai_account_id,
    bedrock_account_id = (jsonb_populate_record(k, @fields::jsonb)).bedrock_account_id,
    estimate_per_request = (jsonb_populate_record(k, @fields::jsonb)).estimate_per_request,
    enforcement = (jsonb_populate_record(k, @fields::jsonb)).enforcement,
    tags = (jsonb_populate_record(k, @fields::jsonb)).tags,
    expires_at = (jsonb_populate_record(k, @fields::jsonb)).expires_at,
    is_active = (jsonb_populate_record(k, @fields::jsonb)).is_active,
    alert_at = (jsonb_populate_record(k, @fields::jsonb)).alert_at,
    alert_expiry_days = (jsonb_populate_record(k, @fields::jsonb)).alert_expiry_days,
    updated_at = now(), version = k.version + 1
  FROM locked
 WHERE k.id = locked.id
RETURNING k.id;

-- name: KeyDelete :many
-- Marks keys as deleted and returns the ids of all that exist. One deleted
-- before keeps its time and version, so deleting twice is harmless.
WITH locked AS MATERIALIZED (
    SELECT k.id FROM api_keys AS k WHERE k.id = ANY(@key_ids::uuid[]) ORDER BY k.id FOR UPDATE
), gone AS (
    UPDATE api_keys AS k SET deleted_at = now(), updated_at = now(), version = version + 1
      FROM locked
     WHERE k.id = locked.id AND k.deleted_at IS NULL
)
SELECT locked.id FROM locked;

-- name: KeyRestore :execrows
-- Brings a deleted key back as it was; 0 rows when it is missing or live.
UPDATE api_keys SET deleted_at = NULL, updated_at = now(), version = version + 1
 WHERE id = @key_id AND deleted_at IS NOT NULL;

-- name: KeyTouch :execrows
-- Locks a live key and moves its version on; 0 rows when it is missing or
-- deleted. For changes that lie in other tables but belong to the key.
UPDATE api_keys SET updated_at = now(), version = version + 1
 WHERE id = @key_id AND deleted_at IS NULL;

-- name: SecretRetire :exec
-- Gives every secret of a key an end, no later than the grace: the first half of
-- a rotation. A secret of an earlier rotation keeps an earlier end but never a
-- later one, so that a rotation without grace shuts out all that was issued. The
-- key is locked by KeyTouch before: rotations of one key come one after another.
UPDATE api_key_secrets SET expires_at = now() + make_interval(secs => @grace_seconds::integer)
 WHERE key_id = @key_id AND (expires_at IS NULL OR expires_at > now() + make_interval(secs => @grace_seconds::integer));

-- name: SecretAdd :exec
-- Gives a key its new current secret: the second half of a rotation.
INSERT INTO api_key_secrets (hash, key_id, scheme, pepper_id, hint)
VALUES (@hash, @key_id, 'hmac-sha256', @pepper_id, @hint);

-- name: SecretRehash :exec
-- Replaces a secret's hash by one under the current pepper, at the secret's
-- first use after a change of pepper. Of several at once one does it. One that was
-- brought from elsewhere gets its hint too.
UPDATE api_key_secrets SET
       hash = @new_hash,
       scheme = 'hmac-sha256',
       pepper_id = @pepper_id,
       hint = CASE WHEN hint = '...' THEN @hint ELSE hint END
 WHERE hash = @old_hash;

-- name: SecretPrune :execrows
-- Removes secrets whose grace ended more than 30 days ago. Until then they stay
-- for the curious; they open nothing.
DELETE FROM api_key_secrets AS s
 WHERE s.hash IN (SELECT d.hash FROM api_key_secrets AS d
                   WHERE d.expires_at < coalesce(sqlc.narg('now')::timestamptz, now()) - interval '30 days' LIMIT 1000);

-- name: SecretList :many
-- The secrets of a key that work, the current one first, then by the end of their grace.
SELECT s.hint, s.created_at, s.expires_at
  FROM api_key_secrets AS s
 WHERE s.key_id = @key_id
   AND (s.expires_at IS NULL OR s.expires_at > coalesce(sqlc.narg('now')::timestamptz, now()))
 ORDER BY s.expires_at DESC NULLS FIRST;

-- name: PepperUse :many
-- How many live secrets hang on each pepper.
SELECT pepper_id, count(*) AS secrets FROM api_key_secrets
 WHERE expires_at IS NULL OR expires_at > now()
 GROUP BY pepper_id ORDER BY pepper_id;

-- name: SecretFind :many
-- The keys that hashes open, deleted ones too, unless the secret's grace is over, each
-- with the number of the question that its hash was asked in, and with the database's clock
-- to judge its expiry by. Hashes and questions are parallel arrays; row_limit is their length.
--
-- Secrets are found first and alone, then their keys by id: whatever the statistics
-- say, that is one descent of each primary key. A condition on deleted_at would tempt the
-- planner to one of the indexes that lists go by, so the caller looks at it.
WITH secret AS MATERIALIZED (
    SELECT a.question, s.hash, s.key_id, s.scheme, s.pepper_id, s.hint, s.expires_at
      FROM ROWS FROM (unnest(@hashes::bytea[]), unnest(@questions::bigint[])) AS a (hash, question)
     CROSS JOIN LATERAL (SELECT x.* FROM api_key_secrets AS x WHERE x.hash = a.hash LIMIT 1) AS s
     LIMIT @row_limit
)
SELECT s.question::bigint AS question, sqlc.embed(k), s.hash, s.scheme, s.pepper_id, s.hint,
       s.expires_at AS secret_ends,
       coalesce(sqlc.narg('now')::timestamptz, now())::timestamptz AS as_of
  FROM secret AS s
  JOIN api_keys AS k ON k.id = s.key_id
 WHERE s.expires_at IS NULL OR s.expires_at > coalesce(sqlc.narg('now')::timestamptz, now());

-- name: KeyShow :many
-- Keys by id, deleted ones too, each with its hint and counters.
SELECT sqlc.embed(k), s.hint, sqlc.embed(c),
       coalesce(sqlc.narg('now')::timestamptz, now())::timestamptz AS as_of
  FROM api_keys AS k
  JOIN api_key_secrets AS s ON s.key_id = k.id AND s.expires_at IS NULL
  JOIN key_counters AS c ON c.key_id = k.id
 WHERE k.id = ANY(@key_ids::uuid[])
 ORDER BY array_position(@key_ids::uuid[], k.id);

-- name: KeysFound :many
-- Keys whose name, description, hint or id a pattern of LIKE fits, in any case: deleted ones too, in no order,
-- at most so many, and some perhaps twice. Ids, which are lower case, are searched only for a text that an id
-- can hold. KeyList has the same condition for what fits too many keys.
SELECT f.id
  FROM api_keys AS f
 WHERE lower(f.name) LIKE lower(@pattern::text)
    OR f.description <> '' AND lower(f.description) LIKE lower(@pattern::text)
    OR @pattern::text ~ '^%[0-9A-Fa-f-]+%$' AND f.id::text LIKE lower(@pattern::text)
UNION ALL
SELECT s.key_id
  FROM api_key_secrets AS s
 WHERE s.expires_at IS NULL AND lower(s.hint) LIKE lower(@pattern::text)
 LIMIT @row_limit;

-- name: KeyList :many
-- A page of keys in a chosen order, each with its hint and counters; the
-- numbers come in the same statement, never by one query a row. The order is
-- total (ties go by id) and starts after the row the cursor names, so that
-- pages neither repeat nor skip a key that stands still. Of a row's four sort
-- values three are constants: where PostgreSQL plans with the arguments, the order
-- is a plain index order if there is an index.
WITH near AS MATERIALIZED (
    -- Candidates for the first page of all keys in the order of a counter: a page of counters,
    -- and as many more as there are deleted keys, which the page leaves out. Only these are
    -- joined and sorted, not all keys.
    SELECT t.key_id
      FROM key_counters AS t
     ORDER BY CASE WHEN @sort::text = 'cost' AND NOT @descending::boolean THEN t.cost END,
              CASE WHEN @sort::text = 'cost' AND @descending::boolean THEN t.cost END DESC,
              CASE WHEN @sort::text = 'requests' AND NOT @descending::boolean THEN t.requests END,
              CASE WHEN @sort::text = 'requests' AND @descending::boolean THEN t.requests END DESC,
              CASE WHEN @sort::text = 'lastUsedAt' AND NOT @descending::boolean
                  THEN coalesce(t.last_used_at, '-infinity') END,
              CASE WHEN @sort::text = 'lastUsedAt' AND @descending::boolean
                  THEN coalesce(t.last_used_at, '-infinity') END DESC,
              CASE WHEN NOT @descending::boolean THEN t.key_id END,
              CASE WHEN @descending::boolean THEN t.key_id END DESC
     LIMIT (SELECT count(*) FROM api_keys AS d WHERE d.deleted_at IS NOT NULL) + CAST(@row_limit AS integer)
), page AS MATERIALIZED (
    SELECT x.id, x.by_text, x.by_time, x.by_number, x.by_count
      FROM (
        SELECT k.id,
               CASE @sort::text WHEN 'name' THEN k.name ELSE '' END AS by_text,
               CASE @sort::text WHEN 'createdAt' THEN k.created_at
                                WHEN 'expiresAt' THEN coalesce(k.expires_at, 'infinity')
                                WHEN 'lastUsedAt' THEN coalesce(t.last_used_at, '-infinity')
                                ELSE '-infinity' END AS by_time,
               CASE @sort::text WHEN 'cost' THEN t.cost ELSE 0 END AS by_number,
               CASE @sort::text WHEN 'requests' THEN t.requests ELSE 0 END AS by_count
          FROM api_keys AS k
          JOIN key_counters AS t ON t.key_id = k.id
         WHERE CASE @status::text
                   WHEN 'deleted' THEN k.deleted_at IS NOT NULL
                   WHEN 'expired' THEN k.deleted_at IS NULL
                       AND k.expires_at < coalesce(sqlc.narg('now')::timestamptz, now())
                   WHEN 'disabled' THEN k.deleted_at IS NULL AND NOT k.is_active
                        AND coalesce(k.expires_at, 'infinity') >= coalesce(sqlc.narg('now')::timestamptz, now())
                   WHEN 'active' THEN k.deleted_at IS NULL AND k.is_active
                        AND coalesce(k.expires_at, 'infinity') >= coalesce(sqlc.narg('now')::timestamptz, now())
                   ELSE k.deleted_at IS NULL
               END
           AND (sqlc.narg('ids')::uuid[] IS NULL OR k.id = ANY(sqlc.narg('ids')::uuid[]))
           AND (sqlc.narg('pattern')::text IS NULL
                OR lower(k.name) LIKE lower(sqlc.narg('pattern')::text)
                OR k.description <> '' AND lower(k.description) LIKE lower(sqlc.narg('pattern')::text)
                OR sqlc.narg('pattern')::text ~ '^%[0-9A-Fa-f-]+%$'
                   AND k.id::text LIKE lower(sqlc.narg('pattern')::text)
                OR EXISTS (SELECT 1 FROM api_key_secrets AS s
                            WHERE s.key_id = k.id AND s.expires_at IS NULL
                              AND lower(s.hint) LIKE lower(sqlc.narg('pattern')::text)))
           AND (@sort::text NOT IN ('cost', 'requests', 'lastUsedAt') OR @status::text <> ''
                OR sqlc.narg('after_id')::uuid IS NOT NULL
                OR sqlc.narg('ids')::uuid[] IS NOT NULL OR sqlc.narg('pattern')::text IS NOT NULL
                OR sqlc.narg('tag')::text IS NOT NULL OR sqlc.narg('permission')::text IS NOT NULL
                OR sqlc.narg('account_id')::text IS NOT NULL
                OR k.id = ANY(ARRAY(SELECT n.key_id FROM near AS n)))
           AND (sqlc.narg('tag')::text IS NULL OR k.tags @> ARRAY[sqlc.narg('tag')::text])
           AND (sqlc.narg('permission')::text IS NULL OR k.permissions && ARRAY['all', sqlc.narg('permission')::text])
           AND (sqlc.narg('account_id')::text IS NULL OR sqlc.narg('account_id')::text IN
                (k.claude_account_id, k.claude_console_account_id, k.gemini_account_id, k.openai_account_id,
                    k.bedrock_account_id))
      ) AS x
     WHERE sqlc.narg('after_id')::uuid IS NULL
        OR CASE WHEN @descending::boolean
                THEN (x.by_text, x.by_time, x.by_number, x.by_count, x.id)
                   < (@after_text::text,
                      CAST(@after_time::text AS timestamptz),
                      CASE @sort::text WHEN 'requests' THEN 0 ELSE CAST(@after_number::text AS numeric) END,
                      CASE @sort::text WHEN 'requests' THEN CAST(@after_number::text AS bigint) ELSE 0 END,
                      sqlc.narg('after_id')::uuid)
                ELSE (x.by_text, x.by_time, x.by_number, x.by_count, x.id)
                   > (@after_text::text,
                      CAST(@after_time::text AS timestamptz),
                      CASE @sort::text WHEN 'requests' THEN 0 ELSE CAST(@after_number::text AS numeric) END,
                      CASE @sort::text WHEN 'requests' THEN CAST(@after_number::text AS bigint) ELSE 0 END,
                      sqlc.narg('after_id')::uuid)
           END
     ORDER BY CASE WHEN NOT @descending::boolean THEN x.by_text END,
              CASE WHEN @descending::boolean THEN x.by_text END DESC,
              CASE WHEN NOT @descending::boolean THEN x.by_time END,
              CASE WHEN @descending::boolean THEN x.by_time END DESC,
              CASE WHEN NOT @descending::boolean THEN x.by_number END,
              CASE WHEN @descending::boolean THEN x.by_number END DESC,
              CASE WHEN NOT @descending::boolean THEN x.by_count END,
              CASE WHEN @descending::boolean THEN x.by_count END DESC,
              CASE WHEN NOT @descending::boolean THEN x.id END,
              CASE WHEN @descending::boolean THEN x.id END DESC
     LIMIT @row_limit
)
SELECT sqlc.embed(k), s.hint, sqlc.embed(c),
       coalesce(sqlc.narg('now')::timestamptz, now())::timestamptz AS as_of,
       p.by_text::text AS by_text,
       p.by_time::text AS by_time,
       (CASE @sort::text WHEN 'requests' THEN p.by_count::text ELSE p.by_number::text END)::text AS by_number
  FROM page AS p
  JOIN api_keys AS k ON k.id = p.id
  JOIN api_key_secrets AS s ON s.key_id = k.id AND s.expires_at IS NULL
  JOIN key_counters AS c ON c.key_id = k.id
 ORDER BY CASE WHEN NOT @descending::boolean THEN p.by_text END,
              CASE WHEN @descending::boolean THEN p.by_text END DESC,
          CASE WHEN NOT @descending::boolean THEN p.by_time END,
              CASE WHEN @descending::boolean THEN p.by_time END DESC,
          CASE WHEN NOT @descending::boolean THEN p.by_number END,
              CASE WHEN @descending::boolean THEN p.by_number END DESC,
          CASE WHEN NOT @descending::boolean THEN p.by_count END,
              CASE WHEN @descending::boolean THEN p.by_count END DESC,
          CASE WHEN NOT @descending::boolean THEN p.id END,
              CASE WHEN @descending::boolean THEN p.id END DESC;

-- name: KeyStates :one
-- How many keys there are by status, deleted ones left out, with the present day in the
-- service's time zone.
SELECT count(*) FILTER (WHERE k.is_active AND coalesce(k.expires_at, 'infinity') >= now()) AS active,
       count(*) FILTER (WHERE NOT k.is_active AND coalesce(k.expires_at, 'infinity') >= now()) AS disabled,
       count(*) FILTER (WHERE k.expires_at < now()) AS expired,
       (now() AT TIME ZONE @timezone::text)::date AS today
  FROM api_keys AS k
 WHERE k.deleted_at IS NULL;

-- name: KeyTop :many
-- The keys that cost most today and this month, dearest first, at most so many of each:
-- from the counters that limits are read from.
WITH top AS MATERIALIZED (
    (SELECT 'today' AS period, c.key_id, c.day_cost AS cost
       FROM key_counters AS c
      WHERE c.day = @today::date AND c.day_cost > 0
      ORDER BY c.day_cost DESC, c.key_id
      LIMIT @row_limit)
    UNION ALL
    (SELECT 'month', c.key_id, c.month_cost
       FROM key_counters AS c
      WHERE c.month = date_trunc('month', @today::date)::date AND c.month_cost > 0
      ORDER BY c.month_cost DESC, c.key_id
      LIMIT @row_limit)
)
SELECT t.period::text AS period, t.key_id, k.name, t.cost::numeric AS cost
  FROM top AS t
  JOIN api_keys AS k ON k.id = t.key_id
 ORDER BY t.period, t.cost DESC, t.key_id;

-- name: BudgetsLeft :many
-- The limits of cost that are used up most, at most so many of them, of live keys that may be
-- used and were within a day: what is left of each, in USD, and of how much. What is reserved counts as left.
WITH today AS MATERIALIZED (
    SELECT d.day, date_trunc('week', d.day)::date AS week, date_trunc('month', d.day)::date AS month
      FROM (SELECT (coalesce(sqlc.narg('now')::timestamptz, now()) AT TIME ZONE @timezone::text)::date AS day) AS d
)
SELECT k.id AS key_id,
       b.name::text AS limit_name,
       (b.most - b.used)::float8 AS remaining,
       b.most::float8 AS most
  FROM api_keys AS k
  JOIN key_counters AS c ON c.key_id = k.id
 CROSS JOIN today AS t
 CROSS JOIN LATERAL (VALUES
       ('dailyCost', k.daily_cost_limit, CASE WHEN c.day >= t.day THEN c.day_cost ELSE 0 END),
       ('weeklyCost', k.weekly_cost_limit, CASE WHEN c.week >= t.week THEN c.week_cost ELSE 0 END),
       ('monthlyCost', k.monthly_cost_limit, CASE WHEN c.month >= t.month THEN c.month_cost ELSE 0 END),
       ('totalCost', k.total_cost_limit, c.cost)
 ) AS b (name, most, used)
 WHERE k.is_active AND k.deleted_at IS NULL AND b.most > 0
   AND c.last_used_at > coalesce(sqlc.narg('now')::timestamptz, now()) - interval '1 day'
 ORDER BY b.used / b.most DESC, k.id, limit_name
 LIMIT @row_limit;

-- name: TagList :many
-- Tags of live keys, each with the number of keys that carry it.
SELECT tag::text AS tag, count(*) AS keys
  FROM api_keys AS k CROSS JOIN LATERAL unnest(k.tags) AS tag
 WHERE k.deleted_at IS NULL
 GROUP BY tag ORDER BY tag;

-- name: KeyExpireDue :many
-- Disables up to row_limit keys that are past their end and still active. Rows
-- that another replica holds are passed over, so each key is disabled by one
-- and returned to one.
WITH due AS MATERIALIZED (
    SELECT k.id FROM api_keys AS k
     WHERE k.is_active AND k.deleted_at IS NULL AND k.expires_at < coalesce(sqlc.narg('now')::timestamptz, now())
     ORDER BY k.expires_at, k.id
     LIMIT @row_limit
       FOR UPDATE SKIP LOCKED
)
UPDATE api_keys AS k SET is_active = false, updated_at = now(), version = version + 1
  FROM due WHERE k.id = due.id
RETURNING k.id, k.name, k.expires_at;

-- name: KeyPurgeLock :one
-- Locks a key with its counters, and so shuts out changes, usage and admissions of it
-- before a purge: what is in flight commits first, what comes later finds the key unknown.
-- Returns the id that the ledger has for it.
SELECT k.ledger_id
  FROM api_keys AS k
  JOIN key_counters AS c ON c.key_id = k.id
 WHERE k.id = @key_id::uuid
   FOR UPDATE OF k, c;

-- name: KeyPurge :exec
-- Erases a key, its secrets and its admissions, and with them what connects it with its
-- ledger rows and rollups: none of those moves, and every sum stays. Request ids and
-- reasons, which are free text, go. The Idempotency-Key that made the key is remembered, so
-- that a repeat makes no second one. KeyPurgeLock comes before it, and returns ledger_id.
WITH gone AS (
    DELETE FROM api_keys AS k WHERE k.id = @key_id::uuid
), counters AS (
    DELETE FROM key_counters AS c WHERE c.key_id = @key_id::uuid
), held AS (
    INSERT INTO ledger_holders (ledger_id) VALUES (@ledger_id::uuid)
), rotations AS (
    DELETE FROM idempotency_keys AS i WHERE i.key_id = @key_id::uuid AND i.operation <> 'create'
), creation AS (
    UPDATE idempotency_keys AS i SET key_id = @ledger_id::uuid
     WHERE i.key_id = @key_id::uuid AND i.operation = 'create'
), dedup AS (
    DELETE FROM usage_dedup AS d WHERE d.ledger_id = @ledger_id::uuid AND d.dedup_key LIKE 'r:%'
), imported AS (
    UPDATE imported_usage AS m SET subject = 'purged:' || encode(sha256(convert_to(m.subject, 'UTF8')), 'hex')
     WHERE m.subject = 'key:' || CAST(@key_id::uuid AS text)
), secrets AS (
    DELETE FROM imported_secrets AS x WHERE x.key_id = @key_id::uuid
), admitted AS (
    DELETE FROM admissions AS a WHERE a.key_id = @key_id::uuid
), told AS (
    DELETE FROM webhook_events AS w WHERE w.key_id = @key_id::uuid
), used AS MATERIALIZED ( -- events that tell of usage of this key and of others, without this key's
    SELECT w.id, (
           SELECT jsonb_agg(x.one) FROM jsonb_array_elements(w.data -> 'events') AS x (one)
            WHERE x.one ->> 'keyId' <> CAST(@key_id::uuid AS text)) AS others
      FROM webhook_events AS w
     WHERE w.type = 'usage.recorded'
       AND w.data -> 'events' @> jsonb_build_array(jsonb_build_object('keyId', @key_id::uuid))
), told_of_it_alone AS (
    DELETE FROM webhook_events AS w USING used AS u WHERE w.id = u.id AND u.others IS NULL
), told_of_others AS (
    UPDATE webhook_events AS w SET data = jsonb_build_object('events', u.others)
      FROM used AS u
     WHERE w.id = u.id AND u.others IS NOT NULL
), alerted AS (
    DELETE FROM alerts AS a WHERE a.subject = CAST(@key_id::uuid AS text)
)
UPDATE usage_events AS e SET request_id = NULL, reason = NULL
 WHERE e.ledger_id = @ledger_id::uuid AND (e.request_id IS NOT NULL OR e.reason IS NOT NULL);

-- name: KeyPurgeArchive :exec
-- Does the same in the archive. After KeyPurge in its transaction.
UPDATE usage_archive AS e SET request_id = NULL, reason = NULL
 WHERE e.ledger_id = @ledger_id::uuid AND (e.request_id IS NOT NULL OR e.reason IS NOT NULL);

-- name: KeyPurgeArchiving :exec
-- Does the same in what is on its way to the archive. After KeyPurge in its transaction.
UPDATE usage_archiving AS e SET request_id = NULL, reason = NULL
 WHERE e.ledger_id = @ledger_id::uuid AND (e.request_id IS NOT NULL OR e.reason IS NOT NULL);

-- name: IdempotencyClaim :one
-- Claims an Idempotency-Key for 24 hours. Waits for another request with the
-- same key that is under way. No row: it was claimed before.
INSERT INTO idempotency_keys (actor_id, operation, idem_key, fingerprint, key_id)
VALUES (@actor_id, @operation, @idem_key, @fingerprint, @key_id)
ON CONFLICT (actor_id, operation, idem_key) DO UPDATE
   SET fingerprint = excluded.fingerprint, key_id = excluded.key_id, created_at = now()
 WHERE idempotency_keys.created_at < now() - interval '24 hours'
RETURNING key_id;

-- name: IdempotencyFind :one
-- What an Idempotency-Key was first used for.
SELECT key_id, fingerprint FROM idempotency_keys
 WHERE actor_id = @actor_id AND operation = @operation AND idem_key = @idem_key;

-- name: IdempotencyPrune :execrows
-- Forgets claims older than 24 hours, a thousand at a time.
DELETE FROM idempotency_keys AS i
 WHERE (i.actor_id, i.operation, i.idem_key) IN (
    SELECT o.actor_id, o.operation, o.idem_key FROM idempotency_keys AS o
     WHERE o.created_at < coalesce(sqlc.narg('now')::timestamptz, now()) - interval '24 hours' LIMIT 1000);
