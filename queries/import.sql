-- name: ImportLock :exec
-- Lets one import at a time go on, to the end of the transaction.
SELECT pg_advisory_xact_lock(hashtext('import'));

-- name: ImportKeyCreate :execrows
-- Creates a key that another system had, with its id, its times and the hash of its
-- secret; 0 rows, and nothing is made, when the id or the secret is here already. Fields
-- are a JSON object of api_keys columns.
WITH made AS (
    INSERT INTO api_keys (
           id, name, description, token_limit, rate_limit_window, rate_limit_requests, concurrency_limit,
           daily_cost_limit, weekly_cost_limit, monthly_cost_limit, total_cost_limit, permissions,
           enable_model_restriction, restricted_models, restricted_model_names, allowed_models, allowed_model_names,
           enable_client_restriction, allowed_clients, claude_account_id, claude_console_account_id, gemini_account_id,
           openai_account_id, bedrock_account_id, estimate_per_request, enforcement, tags, expires_at, is_active,
           created_by, created_at)
    SELECT @key_id::uuid, f.name, f.description, f.token_limit, f.rate_limit_window, f.rate_limit_requests,
           f.concurrency_limit,
           f.daily_cost_limit, f.weekly_cost_limit, f.monthly_cost_limit, f.total_cost_limit, f.permissions,
           f.enable_model_restriction, f.restricted_models, f.restricted_model_names, f.allowed_models,
           f.allowed_model_names,
           f.enable_client_restriction, f.allowed_clients, f.claude_account_id, f.claude_console_account_id,
           f.gemini_account_id,
           f.openai_account_id, f.bedrock_account_id, f.estimate_per_request, f.enforcement, f.tags, f.expires_at,
           f.is_active,
           @created_by::text, @created_at::timestamptz
      FROM jsonb_populate_record(NULL::api_keys, @fields::jsonb) AS f
     WHERE NOT EXISTS (SELECT FROM api_key_secrets AS s WHERE s.hash = @hash::bytea)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), counter AS (
    INSERT INTO key_counters (key_id) SELECT m.id FROM made AS m
)
INSERT INTO api_key_secrets (hash, key_id, scheme, pepper_id, hint)
SELECT @hash::bytea, m.id, 'sha256', 'legacy', @hint::text FROM made AS m;

-- name: ImportHolderCreate :exec
-- Makes the holder of what accounts used before they came here: the ledger has an id for
-- it, as for a purged key, and it is no key.
INSERT INTO ledger_holders (ledger_id) VALUES (@ledger_id::uuid) ON CONFLICT (ledger_id) DO NOTHING;

-- name: ImportPurged :one
-- Whether a subject was brought and its key purged since.
SELECT EXISTS (SELECT FROM imported_usage AS i WHERE i.source = @source::text
    AND i.subject = 'purged:' || encode(sha256(convert_to(@subject::text, 'UTF8')), 'hex')) AS purged;

-- name: ImportDiffers :many
-- Which columns of a key that was brought before are not as they would be brought now,
-- with both values. Of secrets nothing can be told: they are hashed anew at first use.
SELECT h.key::text AS name,
       (CASE jsonb_typeof(h.value) WHEN 'number' THEN trim_scale(CAST(h.value AS numeric))::text
           ELSE h.value::text END)::text AS here,
       (CASE jsonb_typeof(t.value) WHEN 'number' THEN trim_scale(CAST(t.value AS numeric))::text
           ELSE t.value::text END)::text AS there
  FROM api_keys AS k
  CROSS JOIN LATERAL jsonb_each(to_jsonb(k)) AS h
  JOIN LATERAL jsonb_each(to_jsonb(jsonb_populate_record(k, @fields::jsonb))) AS t ON t.key = h.key
      AND t.value <> h.value
 WHERE k.id = @key_id::uuid
UNION ALL
SELECT 'deleted', (k.deleted_at IS NOT NULL)::text, (@deleted::boolean)::text FROM api_keys AS k
    WHERE k.id = @key_id::uuid AND (k.deleted_at IS NOT NULL) <> @deleted::boolean
 ORDER BY 1;

-- name: ImportLastUsed :exec
-- Tells when a key was last used in the system that it came from.
UPDATE key_counters AS c SET last_used_at = greatest(c.last_used_at, @last_used_at::timestamptz)
 WHERE c.key_id = @key_id::uuid;

-- name: ImportedUsage :many
-- What has been brought of these subjects from a source so far.
SELECT * FROM imported_usage AS i WHERE i.source = @source::text AND i.subject = ANY(@subjects::text[]);

-- name: ImportedAdd :exec
-- Notes what is brought, in the transaction that brings it: parallel arrays of distinct
-- (model, day, grain).
INSERT INTO imported_usage AS i (
       source, subject, model, day, grain, requests, input_tokens, output_tokens, cache_create_tokens,
       cache_read_tokens, ephemeral_1h_tokens, cost)
SELECT @source::text, @subject::text, n.model, n.day, n.grain, n.requests, n.input_tokens, n.output_tokens,
       n.cache_create_tokens, n.cache_read_tokens, n.ephemeral_1h_tokens, n.cost
  FROM ROWS FROM (
       unnest(@models::text[]), unnest(@days::date[]), unnest(@grains::text[]), unnest(@requests::bigint[]),
       unnest(@input_tokens::bigint[]), unnest(@output_tokens::bigint[]), unnest(@cache_create_tokens::bigint[]),
       unnest(@cache_read_tokens::bigint[]), unnest(@ephemeral_1h_tokens::bigint[]),
       unnest(CAST(@costs::text[] AS numeric[]))
  ) AS n (
       model, day, grain, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens,
       ephemeral_1h_tokens, cost)
ON CONFLICT (source, subject, model, day, grain) DO UPDATE SET
       requests = i.requests + excluded.requests,
       input_tokens = i.input_tokens + excluded.input_tokens,
       output_tokens = i.output_tokens + excluded.output_tokens,
       cache_create_tokens = i.cache_create_tokens + excluded.cache_create_tokens,
       cache_read_tokens = i.cache_read_tokens + excluded.cache_read_tokens,
       ephemeral_1h_tokens = i.ephemeral_1h_tokens + excluded.ephemeral_1h_tokens,
       cost = i.cost + excluded.cost;

-- name: ImportKeysKnown :many
-- The keys that are here, live or not, with this id or this secret.
SELECT k.id FROM api_keys AS k WHERE k.id = @key_id::uuid
UNION
SELECT s.key_id FROM api_key_secrets AS s WHERE s.hash = @hash::bytea;

-- name: ImportSecret :one
-- The hash that a key's secret had in the source when it was last brought, and how many
-- secrets the key has here by now. No row: it was not brought, or was purged since.
SELECT i.hash,
       (SELECT count(*) FROM api_key_secrets AS s WHERE s.key_id = i.key_id) AS secrets
  FROM imported_secrets AS i
 WHERE i.source = @source::text AND i.key_id = @key_id::uuid;

-- name: ImportSecretNote :exec
-- Notes the hash that a key's secret has in the source.
INSERT INTO imported_secrets (source, key_id, hash)
VALUES (@source::text, @key_id::uuid, @hash::bytea)
ON CONFLICT (source, key_id) DO UPDATE SET hash = excluded.hash;

-- name: ImportSecretsErase :exec
-- Removes all secrets of a key, which is locked by KeyTouch before: the first half of
-- taking over a secret from another system.
DELETE FROM api_key_secrets AS s WHERE s.key_id = @key_id::uuid;

-- name: ImportSecretAdd :exec
-- Gives a key the secret that it has in another system: the second half.
INSERT INTO api_key_secrets (hash, key_id, scheme, pepper_id, hint)
VALUES (@hash::bytea, @key_id::uuid, 'sha256', 'legacy', @hint::text);
