-- name: PriceRevision :one
-- The catalogue's revision and the database's clock in one round trip.
SELECT revision, clock_timestamp()::timestamptz AS now FROM price_revision;

-- name: PriceAll :many
-- The whole catalogue, with the revision it was read at: one snapshot.
SELECT sqlc.embed(model_prices), price_revision.revision
  FROM model_prices, price_revision
 ORDER BY model_prices.model, model_prices.effective_from;

-- name: PriceList :many
-- A page of the catalogue by model and start, optionally of models that contain
-- a text (any case), after a (model, start) already seen.
SELECT * FROM model_prices
 WHERE (sqlc.narg('pattern')::text IS NULL OR model ILIKE sqlc.narg('pattern')::text)
   AND (sqlc.narg('provider')::text IS NULL OR provider = sqlc.narg('provider')::text)
   AND (sqlc.narg('after_model')::text IS NULL
        OR (model, effective_from) > (sqlc.narg('after_model')::text, sqlc.narg('after_from')::timestamptz))
 ORDER BY model, effective_from
 LIMIT @row_limit;

-- name: PriceUpsert :many
-- Stores catalogue entries, all or nothing, from parallel arrays; an entry with
-- the same model and start is replaced if any price differs, and one that says
-- what is in force at that start already is passed over. Returns the models whose
-- rows changed. A price of -1 means none, and 0 that the largest output is unknown.
INSERT INTO model_prices (model, effective_from, provider, source,
    input_per_million, output_per_million, cache_read_per_million, cache_write_per_million, cache_write_1h_per_million,
    long_input_per_million, long_output_per_million, long_cache_read_per_million, long_cache_write_per_million,
        long_cache_write_1h_per_million, max_output_tokens)
SELECT p.model, @effective_from::timestamptz, p.provider, @source,
    nullif(p.c1, -1), nullif(p.c2, -1), nullif(p.c3, -1), nullif(p.c4, -1), nullif(p.c5, -1),
    nullif(p.l1, -1), nullif(p.l2, -1), nullif(p.l3, -1), nullif(p.l4, -1), nullif(p.l5, -1),
    nullif(p.most, 0)
  FROM ROWS FROM (
    unnest(@models::text[]), unnest(@providers::text[]),
    unnest(@inputs::numeric[]), unnest(@outputs::numeric[]), unnest(@cache_reads::numeric[]),
        unnest(@cache_writes::numeric[]), unnest(@cache_writes_1h::numeric[]),
    unnest(@long_inputs::numeric[]), unnest(@long_outputs::numeric[]), unnest(@long_cache_reads::numeric[]),
        unnest(@long_cache_writes::numeric[]), unnest(@long_cache_writes_1h::numeric[]),
    unnest(@max_outputs::bigint[])
  ) AS p (model, provider, c1, c2, c3, c4, c5, l1, l2, l3, l4, l5, most)
  LEFT JOIN LATERAL (
    SELECT m.* FROM model_prices AS m WHERE m.model = p.model AND m.effective_from <= @effective_from::timestamptz
     ORDER BY m.effective_from DESC LIMIT 1
  ) AS f ON true
 WHERE (f.provider, f.input_per_million, f.output_per_million, f.cache_read_per_million, f.cache_write_per_million,
     f.cache_write_1h_per_million,
        f.long_input_per_million, f.long_output_per_million, f.long_cache_read_per_million,
            f.long_cache_write_per_million, f.long_cache_write_1h_per_million, f.max_output_tokens)
       IS DISTINCT FROM
       (p.provider, nullif(p.c1, -1), nullif(p.c2, -1), nullif(p.c3, -1), nullif(p.c4, -1), nullif(p.c5, -1),
        nullif(p.l1, -1), nullif(p.l2, -1), nullif(p.l3, -1), nullif(p.l4, -1), nullif(p.l5, -1), nullif(p.most, 0))
 ORDER BY p.model
ON CONFLICT (model, effective_from) DO UPDATE SET
    provider = excluded.provider, source = excluded.source, created_at = now(),
    input_per_million = excluded.input_per_million, output_per_million = excluded.output_per_million,
    cache_read_per_million = excluded.cache_read_per_million,
        cache_write_per_million = excluded.cache_write_per_million,
    cache_write_1h_per_million = excluded.cache_write_1h_per_million,
    long_input_per_million = excluded.long_input_per_million,
        long_output_per_million = excluded.long_output_per_million,
    long_cache_read_per_million = excluded.long_cache_read_per_million,
        long_cache_write_per_million = excluded.long_cache_write_per_million,
    long_cache_write_1h_per_million = excluded.long_cache_write_1h_per_million,
    max_output_tokens = excluded.max_output_tokens
WHERE (NOT @keep_others::boolean OR model_prices.source = excluded.source)
  AND (model_prices.provider, model_prices.source,
       model_prices.input_per_million, model_prices.output_per_million, model_prices.cache_read_per_million,
       model_prices.cache_write_per_million, model_prices.cache_write_1h_per_million,
       model_prices.long_input_per_million, model_prices.long_output_per_million,
           model_prices.long_cache_read_per_million,
       model_prices.long_cache_write_per_million, model_prices.long_cache_write_1h_per_million,
       model_prices.max_output_tokens)
      IS DISTINCT FROM
      (excluded.provider, excluded.source,
       excluded.input_per_million, excluded.output_per_million, excluded.cache_read_per_million,
       excluded.cache_write_per_million, excluded.cache_write_1h_per_million,
       excluded.long_input_per_million, excluded.long_output_per_million, excluded.long_cache_read_per_million,
       excluded.long_cache_write_per_million, excluded.long_cache_write_1h_per_million,
       excluded.max_output_tokens)
RETURNING model;

-- name: UnpricedModels :many
-- Models used without a price within the ledger's retention, most requests
-- first, with the names they were received under, by which prices are looked up.
-- What was taken back does not count.
SELECT model, array_agg(DISTINCT model_received)::text[] AS received, sum(requests)::bigint AS requests,
       least(sum(input_tokens::numeric + output_tokens + cache_create_tokens + cache_read_tokens),
           9223372036854775807)::bigint AS tokens,
       min(occurred_at)::timestamptz AS first_at, max(occurred_at)::timestamptz AS last_at
  FROM ledger
 WHERE NOT priced
 GROUP BY model
HAVING sum(requests) > 0
 ORDER BY sum(requests) DESC, model;
