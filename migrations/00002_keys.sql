-- +goose Up

CREATE TABLE api_keys (
    id                        uuid           PRIMARY KEY,
    name                      text           NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    description               text           NOT NULL CHECK (char_length(description) <= 500),
    token_limit               bigint         NOT NULL CHECK (token_limit >= 0),
    rate_limit_window         integer        NOT NULL CHECK (rate_limit_window >= 0),
    rate_limit_requests       bigint         NOT NULL CHECK (rate_limit_requests >= 0),
    concurrency_limit         integer        NOT NULL CHECK (concurrency_limit >= 0),
    daily_cost_limit          numeric(24,12) NOT NULL CHECK (daily_cost_limit >= 0),
    weekly_cost_limit         numeric(24,12) NOT NULL CHECK (weekly_cost_limit >= 0),
    monthly_cost_limit        numeric(24,12) NOT NULL CHECK (monthly_cost_limit >= 0),
    total_cost_limit          numeric(24,12) NOT NULL CHECK (total_cost_limit >= 0),
    permissions               text[]         NOT NULL CHECK (cardinality(permissions) > 0),
    enable_model_restriction  boolean        NOT NULL,
    restricted_models         text[]         NOT NULL,
    allowed_models            text[]         NOT NULL,
    enable_client_restriction boolean        NOT NULL,
    allowed_clients           text[]         NOT NULL,
    claude_account_id         text           CHECK (char_length(claude_account_id) <= 200),
    claude_console_account_id text           CHECK (char_length(claude_console_account_id) <= 200),
    gemini_account_id         text           CHECK (char_length(gemini_account_id) <= 200),
    openai_account_id         text           CHECK (char_length(openai_account_id) <= 200),
    bedrock_account_id        text           CHECK (char_length(bedrock_account_id) <= 200),
    estimate_per_request      numeric(24,12) CHECK (estimate_per_request >= 0),
    enforcement               text           NOT NULL CHECK (enforcement IN ('enforce', 'observe')),
    tags                      text[]         NOT NULL CHECK (cardinality(tags) <= 50),
    expires_at                timestamptz,
    is_active                 boolean        NOT NULL,
    created_by                text           NOT NULL,
    created_at                timestamptz    NOT NULL DEFAULT now(),
    updated_at                timestamptz    NOT NULL DEFAULT now(),
    deleted_at                timestamptz,
    version                   bigint         NOT NULL DEFAULT 1
);
COMMENT ON TABLE  api_keys IS 'What each API key may do. Changed by people only, never by traffic: what a key used is in key_totals, usage_daily and the ledger.';
COMMENT ON COLUMN api_keys.id IS 'Identity of the key. It survives rotation of the secret.';
COMMENT ON COLUMN api_keys.name IS 'Display name, 1 to 100 characters; need not be unique.';
COMMENT ON COLUMN api_keys.description IS 'Free text, at most 500 characters.';
COMMENT ON COLUMN api_keys.token_limit IS 'Tokens (all four kinds) per rate-limit window; 0: no limit. Means nothing without a window.';
COMMENT ON COLUMN api_keys.rate_limit_window IS 'Length of the rate-limit window in minutes; 0: no window.';
COMMENT ON COLUMN api_keys.rate_limit_requests IS 'Requests per rate-limit window; 0: no limit. Means nothing without a window.';
COMMENT ON COLUMN api_keys.concurrency_limit IS 'Requests in flight at once; 0: no limit.';
COMMENT ON COLUMN api_keys.daily_cost_limit IS 'USD per day of the service''s time zone; 0: no limit.';
COMMENT ON COLUMN api_keys.weekly_cost_limit IS 'USD per ISO week (Monday to Sunday) of the service''s time zone; 0: no limit.';
COMMENT ON COLUMN api_keys.monthly_cost_limit IS 'USD per calendar month of the service''s time zone; 0: no limit.';
COMMENT ON COLUMN api_keys.total_cost_limit IS 'USD over the life of the key; 0: no limit.';
COMMENT ON COLUMN api_keys.permissions IS 'Services the key may use: {all}, or names from KEYLEDGER_SERVICES.';
COMMENT ON COLUMN api_keys.enable_model_restriction IS 'Whether restricted_models and allowed_models are in force.';
COMMENT ON COLUMN api_keys.restricted_models IS 'Models denied to the key, as entered; compared after normalisation.';
COMMENT ON COLUMN api_keys.allowed_models IS 'If not empty, the only models allowed to the key, as entered.';
COMMENT ON COLUMN api_keys.enable_client_restriction IS 'Whether allowed_clients is in force.';
COMMENT ON COLUMN api_keys.allowed_clients IS 'Ids of the client programs allowed (GET /v1/clients); empty: all.';
COMMENT ON COLUMN api_keys.claude_account_id IS 'Upstream Claude account this key is bound to; null: any.';
COMMENT ON COLUMN api_keys.claude_console_account_id IS 'Upstream Claude Console account this key is bound to; null: any.';
COMMENT ON COLUMN api_keys.gemini_account_id IS 'Upstream Gemini account this key is bound to; null: any.';
COMMENT ON COLUMN api_keys.openai_account_id IS 'Upstream OpenAI account this key is bound to; null: any.';
COMMENT ON COLUMN api_keys.bedrock_account_id IS 'Upstream Bedrock account this key is bound to; null: any.';
COMMENT ON COLUMN api_keys.estimate_per_request IS 'USD reserved by an admission that brings no estimate of its own; null: the service''s default.';
COMMENT ON COLUMN api_keys.enforcement IS 'enforce: limits refuse. observe: limits are counted and let through.';
COMMENT ON COLUMN api_keys.tags IS 'Labels for reports, each 1 to 50 characters, unique, at most 50.';
COMMENT ON COLUMN api_keys.expires_at IS 'Last instant at which the key is valid; null: never expires.';
COMMENT ON COLUMN api_keys.is_active IS 'False: disabled by a person or by the expiry pass.';
COMMENT ON COLUMN api_keys.created_by IS 'Name of the access token that created it.';
COMMENT ON COLUMN api_keys.created_at IS 'When the key was created.';
COMMENT ON COLUMN api_keys.updated_at IS 'When any column here last changed.';
COMMENT ON COLUMN api_keys.deleted_at IS 'When it was deleted; null: not deleted. A deleted key verifies as NOT_FOUND and can be restored.';
COMMENT ON COLUMN api_keys.version IS 'Grows by one with each change; If-Match compares it.';

CREATE INDEX api_keys_created ON api_keys (created_at, id);
CREATE INDEX api_keys_name ON api_keys (name, id);
CREATE INDEX api_keys_expiry ON api_keys (expires_at, id) WHERE is_active AND deleted_at IS NULL;
CREATE INDEX api_keys_tags ON api_keys USING gin (tags) WHERE deleted_at IS NULL;

CREATE TABLE api_key_secrets (
    hash       bytea       PRIMARY KEY CHECK (length(hash) = 32),
    key_id     uuid        NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    scheme     text        NOT NULL CHECK (scheme IN ('hmac-sha256', 'sha256')),
    pepper_id  text        NOT NULL,
    hint       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);
-- One current secret a key; rotation gives the old one an end in the same statement.
CREATE UNIQUE INDEX api_key_secrets_current ON api_key_secrets (key_id) WHERE expires_at IS NULL;
CREATE INDEX api_key_secrets_ended ON api_key_secrets (key_id, expires_at) WHERE expires_at IS NOT NULL;
COMMENT ON TABLE  api_key_secrets IS 'Secrets of keys, hashed. A key has one current secret and, after rotation, old ones within their grace: all draw on the same limits and ledger.';
COMMENT ON COLUMN api_key_secrets.hash IS 'Hash of the whole key text under scheme and pepper. The secret itself is stored nowhere.';
COMMENT ON COLUMN api_key_secrets.key_id IS 'The key it opens.';
COMMENT ON COLUMN api_key_secrets.scheme IS 'hmac-sha256: HMAC-SHA-256 under the pepper. sha256: SHA-256 of key text followed by pepper, as the original service stored it; rehashed at first use.';
COMMENT ON COLUMN api_key_secrets.pepper_id IS 'Id of the pepper in KEYLEDGER_PEPPERS; "legacy" for KEYLEDGER_LEGACY_PEPPER.';
COMMENT ON COLUMN api_key_secrets.hint IS 'Prefix, first four and last four characters: enough to recognise a key, not to use it.';
COMMENT ON COLUMN api_key_secrets.created_at IS 'When this secret was issued.';
COMMENT ON COLUMN api_key_secrets.expires_at IS 'End of the grace after rotation; null: the current secret.';

CREATE TABLE idempotency_keys (
    actor_id    uuid        NOT NULL,
    operation   text        NOT NULL,
    idem_key    text        NOT NULL CHECK (char_length(idem_key) BETWEEN 1 AND 200),
    fingerprint bytea       NOT NULL,
    key_id      uuid        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (actor_id, operation, idem_key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);
COMMENT ON TABLE  idempotency_keys IS 'Remembers Idempotency-Key headers of create and rotate for 24 hours, so that a repeat makes no second key.';
COMMENT ON COLUMN idempotency_keys.actor_id IS 'Access token that sent it: tokens do not share a name space.';
COMMENT ON COLUMN idempotency_keys.operation IS 'create, or rotate and the key''s id.';
COMMENT ON COLUMN idempotency_keys.idem_key IS 'The header as sent.';
COMMENT ON COLUMN idempotency_keys.fingerprint IS 'SHA-256 of the request body: the same header with another body is refused.';
COMMENT ON COLUMN idempotency_keys.key_id IS 'The key that the first request made or rotated.';
COMMENT ON COLUMN idempotency_keys.created_at IS 'When the first request was made.';

CREATE TABLE key_counters (
    key_id       uuid        PRIMARY KEY,
    window_start timestamptz,
    requests     bigint      NOT NULL DEFAULT 0,
    tokens       bigint      NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON TABLE  key_counters IS 'The current rate-limit window of each key. Its end is computed from its start: nothing resets it.';
COMMENT ON COLUMN key_counters.key_id IS 'The key.';
COMMENT ON COLUMN key_counters.window_start IS 'First admitted request of the latest window; null: none yet. The window ends rate_limit_window minutes later.';
COMMENT ON COLUMN key_counters.requests IS 'Requests admitted in that window.';
COMMENT ON COLUMN key_counters.tokens IS 'Tokens (all four kinds) recorded while that window was open.';

CREATE TRIGGER api_keys_audit AFTER INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION audit_row('key', 'id');
CREATE TRIGGER api_key_secrets_audit AFTER INSERT OR UPDATE OF expires_at OR DELETE ON api_key_secrets
    FOR EACH ROW EXECUTE FUNCTION audit_row('secret', 'key_id', 'hash');

-- +goose Down
DROP TABLE key_counters, idempotency_keys, api_key_secrets, api_keys;
