-- +goose Up

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
    ephemeral_5m_tokens bigint         NOT NULL,
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
COMMENT ON COLUMN imported_usage.ephemeral_5m_tokens IS 'Part of cache_create_tokens written for 5 minutes, where the source says so.';
COMMENT ON COLUMN imported_usage.ephemeral_1h_tokens IS 'Part of cache_create_tokens written for 1 hour, where the source says so.';
COMMENT ON COLUMN imported_usage.cost IS 'USD: what the source says it cost, else at the prices of the day.';

CREATE TABLE imported_secrets (
    source text  NOT NULL,
    key_id uuid  NOT NULL,
    hash   bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (source, key_id)
);
COMMENT ON TABLE  imported_secrets IS 'The hash that each imported key''s secret had in its source when it was last brought: tells a secret that was made anew there, also after it was rehashed here.';
COMMENT ON COLUMN imported_secrets.source IS 'The system it came from.';
COMMENT ON COLUMN imported_secrets.key_id IS 'The key.';
COMMENT ON COLUMN imported_secrets.hash IS 'SHA-256 of the key text and the source''s own pepper.';

-- +goose Down
DROP TABLE imported_usage, imported_secrets;
