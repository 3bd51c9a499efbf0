-- +goose Up

-- The ledger and the rollups carry the set of tags that a key had when its usage was
-- recorded, by its id: a later change of tags moves nothing. The id is a hash of the set,
-- so that no lookup and no sequence is needed to know it.
CREATE FUNCTION tag_set_of(tags text[]) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
               WHEN tags = '{}' THEN '00000000-0000-0000-0000-000000000000'
               ELSE encode(substr(sha256(convert_to(
                   (SELECT array_agg(t ORDER BY t) FROM unnest(tags) AS t)::text, 'UTF8')), 1, 16), 'hex')::uuid
           END
$$;
COMMENT ON FUNCTION tag_set_of(text[]) IS 'The id of a set of tags, whatever their order: the first 16 bytes of a SHA-256; the zero id for no tags.';

CREATE TABLE tag_sets (
    id   uuid   PRIMARY KEY,
    tags text[] NOT NULL CHECK (cardinality(tags) > 0)
);
COMMENT ON TABLE  tag_sets IS 'Every set of tags that a key has ever had, but for the empty one. Rows are never changed or deleted: the ledger and the rollups refer to them.';
COMMENT ON COLUMN tag_sets.id IS 'tag_set_of(tags).';
COMMENT ON COLUMN tag_sets.tags IS 'The tags.';

CREATE TABLE api_keys (
    -- What admissions and usage read comes first: a row is read from its beginning.
    id                        uuid,
    ledger_id                 uuid           NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    tag_set                   uuid           NOT NULL GENERATED ALWAYS AS (tag_set_of(tags)) STORED,
    rate_limit_window         integer        NOT NULL CHECK (rate_limit_window >= 0),
    is_active                 boolean        NOT NULL,
    deleted_at                timestamptz,
    expires_at                timestamptz,
    rate_limit_requests       bigint         NOT NULL CHECK (rate_limit_requests >= 0),
    token_limit               bigint         NOT NULL CHECK (token_limit >= 0),
    concurrency_limit         integer        NOT NULL CHECK (concurrency_limit >= 0),
    daily_cost_limit          numeric(24,12) NOT NULL CHECK (daily_cost_limit >= 0),
    weekly_cost_limit         numeric(24,12) NOT NULL CHECK (weekly_cost_limit >= 0),
    monthly_cost_limit        numeric(24,12) NOT NULL CHECK (monthly_cost_limit >= 0),
    total_cost_limit          numeric(24,12) NOT NULL CHECK (total_cost_limit >= 0),
    estimate_per_request      numeric(24,12) CHECK (estimate_per_request >= 0),
    enforcement               text           NOT NULL CHECK (enforcement IN ('enforce', 'observe')),
    enable_model_restriction  boolean        NOT NULL,
    enable_client_restriction boolean        NOT NULL,
    permissions               text[]         NOT NULL CHECK (cardinality(permissions) > 0),
    restricted_model_names    text[]         NOT NULL DEFAULT '{}',
    allowed_model_names       text[]         NOT NULL DEFAULT '{}',
    allowed_clients           text[]         NOT NULL,
    name                      text           NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    description               text           NOT NULL CHECK (char_length(description) <= 500),
    restricted_models         text[]         NOT NULL,
    allowed_models            text[]         NOT NULL,
    claude_account_id         text           CHECK (char_length(claude_account_id) <= 200),
    claude_console_account_id text           CHECK (char_length(claude_console_account_id) <= 200),
    gemini_account_id         text           CHECK (char_length(gemini_account_id) <= 200),
    openai_account_id         text           CHECK (char_length(openai_account_id) <= 200),
    bedrock_account_id        text           CHECK (char_length(bedrock_account_id) <= 200),
    tags                      text[]         NOT NULL CHECK (cardinality(tags) <= 50),
    alert_at                  integer[]      NOT NULL DEFAULT '{80,100}' CHECK (cardinality(alert_at) <= 10),
    alert_expiry_days         integer[]      NOT NULL DEFAULT '{7,1}' CHECK (cardinality(alert_expiry_days) <= 10),
    created_by                text           NOT NULL,
    created_at                timestamptz    NOT NULL DEFAULT now(),
    updated_at                timestamptz    NOT NULL DEFAULT now(),
    version                   bigint         NOT NULL DEFAULT 1,
    -- What each usage event asks of its key is in the index: a million rows need not be in memory for it.
    PRIMARY KEY (id) INCLUDE (ledger_id, tag_set, rate_limit_window)
);
COMMENT ON TABLE  api_keys IS 'What each API key may do. Changed by people only, never by traffic: what a key used is in key_counters, the ledger and the rollups.';
COMMENT ON COLUMN api_keys.id IS 'Identity of the key. It survives rotation of the secret.';
COMMENT ON COLUMN api_keys.ledger_id IS 'The id under which the ledger and the rollups record the usage of this key. Only this column connects the two: a purge deletes it.';
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
COMMENT ON COLUMN api_keys.restricted_model_names IS 'restricted_models as they are compared: normalised and folded. Written with restricted_models.';
COMMENT ON COLUMN api_keys.allowed_models IS 'If not empty, the only models allowed to the key, as entered.';
COMMENT ON COLUMN api_keys.allowed_model_names IS 'allowed_models as they are compared: normalised and folded. Written with allowed_models.';
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
COMMENT ON COLUMN api_keys.tag_set IS 'Id of this set of tags in tag_sets. Computed from tags.';
COMMENT ON COLUMN api_keys.alert_at IS 'Percentages of any limit at which webhooks are told, each 1 to 100, at most 10; empty: at none.';
COMMENT ON COLUMN api_keys.alert_expiry_days IS 'Days before its end at which webhooks are told, each 1 to 365, at most 10; empty: at none.';
COMMENT ON COLUMN api_keys.expires_at IS 'Last instant at which the key is valid; null: never expires.';
COMMENT ON COLUMN api_keys.is_active IS 'False: disabled by a person or by the expiry pass.';
COMMENT ON COLUMN api_keys.created_by IS 'Name of the access token that created it.';
COMMENT ON COLUMN api_keys.created_at IS 'When the key was created.';
COMMENT ON COLUMN api_keys.updated_at IS 'When any column here last changed.';
COMMENT ON COLUMN api_keys.deleted_at IS 'When it was deleted; null: not deleted. A deleted key verifies as NOT_FOUND and can be restored.';
COMMENT ON COLUMN api_keys.version IS 'Grows by one with each change; If-Match compares it.';

CREATE INDEX api_keys_created ON api_keys (created_at, id);
-- Passes look at keys that were changed of late.
CREATE INDEX api_keys_updated ON api_keys (updated_at);
CREATE INDEX api_keys_name ON api_keys (name, id);
CREATE INDEX api_keys_expiry ON api_keys (expires_at, id) WHERE is_active AND deleted_at IS NULL;
-- Lists by expiry, as by name and by time of creation, are in the order of an index.
CREATE INDEX api_keys_by_expiry ON api_keys (coalesce(expires_at, 'infinity'), id) WHERE deleted_at IS NULL;
-- How many there are bounds what a list by use reads.
CREATE INDEX api_keys_deleted ON api_keys (id) WHERE deleted_at IS NOT NULL;
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
    key_id              uuid           PRIMARY KEY,
    window_start        timestamptz,
    window_requests     bigint         NOT NULL DEFAULT 0,
    window_tokens       bigint         NOT NULL DEFAULT 0,
    day                 date           NOT NULL DEFAULT '0001-01-01',
    day_cost            numeric(38,12) NOT NULL DEFAULT 0,
    week                date           NOT NULL DEFAULT '0001-01-01',
    week_cost           numeric(38,12) NOT NULL DEFAULT 0,
    month               date           NOT NULL DEFAULT '0001-01-01',
    month_cost          numeric(38,12) NOT NULL DEFAULT 0,
    requests            bigint         NOT NULL DEFAULT 0,
    input_tokens        bigint         NOT NULL DEFAULT 0,
    output_tokens       bigint         NOT NULL DEFAULT 0,
    cache_create_tokens bigint         NOT NULL DEFAULT 0,
    cache_read_tokens   bigint         NOT NULL DEFAULT 0,
    ephemeral_1h_tokens bigint         NOT NULL DEFAULT 0,
    cost                numeric(38,12) NOT NULL DEFAULT 0,
    last_used_at        timestamptz,
    CONSTRAINT key_counters_countable CHECK (
        abs(input_tokens::numeric + output_tokens + cache_create_tokens + cache_read_tokens) <= 9223372036854775807)
) WITH (fillfactor = 50);
COMMENT ON TABLE  key_counters IS 'All that limits and lists read of what each key used, written in the ledger''s own transaction. One row a key, made with the key; it is the lock that puts admissions and usage of one key in order. Nothing resets it: a period that is not the present one counts as 0 and is overwritten by the next use.';
COMMENT ON COLUMN key_counters.key_id IS 'The key.';
COMMENT ON COLUMN key_counters.window_start IS 'First admitted request of the latest rate-limit window; null: none yet. The window ends rate_limit_window minutes later.';
COMMENT ON COLUMN key_counters.window_requests IS 'Requests admitted in that window.';
COMMENT ON COLUMN key_counters.window_tokens IS 'Tokens (all four kinds) recorded while that window was open.';
COMMENT ON COLUMN key_counters.day IS 'The day, in the service''s time zone, that day_cost belongs to. It never goes back.';
COMMENT ON COLUMN key_counters.day_cost IS 'USD of usage that occurred on that day.';
COMMENT ON COLUMN key_counters.week IS 'Monday of the ISO week that week_cost belongs to. It never goes back.';
COMMENT ON COLUMN key_counters.week_cost IS 'USD of usage that occurred in that week.';
COMMENT ON COLUMN key_counters.month IS 'First day of the month that month_cost belongs to. It never goes back.';
COMMENT ON COLUMN key_counters.month_cost IS 'USD of usage that occurred in that month.';
COMMENT ON COLUMN key_counters.requests IS 'Requests of all time, less those taken back.';
COMMENT ON COLUMN key_counters.input_tokens IS 'Input tokens of all time, not counting those read from or written to cache.';
COMMENT ON COLUMN key_counters.output_tokens IS 'Output tokens of all time.';
COMMENT ON COLUMN key_counters.cache_create_tokens IS 'Tokens written to cache, of all time, both lifetimes.';
COMMENT ON COLUMN key_counters.cache_read_tokens IS 'Tokens read from cache, of all time.';
COMMENT ON COLUMN key_counters.ephemeral_1h_tokens IS 'Part of cache_create_tokens written for 1 hour; the rest was written for 5 minutes.';
COMMENT ON COLUMN key_counters.cost IS 'USD of all time.';
COMMENT ON COLUMN key_counters.last_used_at IS 'Latest occurred_at of its usage; null: never used.';

CREATE TABLE ledger_holders (
    ledger_id uuid PRIMARY KEY
);
COMMENT ON TABLE  ledger_holders IS 'Ids that the ledger and the rollups know and no key has: those of purged keys, and the holder of usage that was imported for accounts alone.';
COMMENT ON COLUMN ledger_holders.ledger_id IS 'The id.';

-- Reports list keys by it: those that there are, and what is left of those that are gone.
CREATE VIEW ledger_keys AS
SELECT k.id AS key_id,
       k.ledger_id,
       k.name AS key_name
  FROM api_keys AS k
UNION ALL
SELECT h.ledger_id, h.ledger_id, '(purged)'
  FROM ledger_holders AS h;
COMMENT ON VIEW ledger_keys IS 'Every key, deleted ones too, beside the id that the ledger has for it; a purged key is known by that id alone.';
COMMENT ON COLUMN ledger_keys.key_id IS 'The key; the ledger''s id of a purged one.';
COMMENT ON COLUMN ledger_keys.ledger_id IS 'The id that the ledger and the rollups have for it.';
COMMENT ON COLUMN ledger_keys.key_name IS 'The key''s name; (purged) once it is gone.';

-- Views that join a key to its rows elsewhere say so twice, the second time through this function. Here it
-- is nothing at all. keyledger scale-out makes it one that PostgreSQL cannot look into, which then
-- takes the rows of one key for few, asks for those alone, and does not fetch those of all keys.
CREATE FUNCTION of_key(ledger_id uuid) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN ledger_id;
COMMENT ON FUNCTION of_key(uuid) IS 'The id itself: what views join by when the rows of a key may be on other servers.';

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

CREATE TRIGGER api_keys_audit AFTER INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION audit_row('key', 'id', 'ledger_id', 'tag_set');
CREATE TRIGGER api_key_secrets_audit AFTER INSERT OR UPDATE OF expires_at OR DELETE ON api_key_secrets
    FOR EACH ROW EXECUTE FUNCTION audit_row('secret', 'key_id', 'hash');
CREATE TRIGGER api_keys_tell AFTER INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION tell_change('key', 'id');
CREATE TRIGGER api_key_secrets_tell AFTER INSERT OR UPDATE OR DELETE ON api_key_secrets
    FOR EACH ROW EXECUTE FUNCTION tell_change('key', 'key_id');

-- +goose StatementBegin
CREATE FUNCTION keep_tag_set() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tag_sets (id, tags) VALUES (NEW.tag_set, NEW.tags) ON CONFLICT (id) DO NOTHING;
    RETURN NULL;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keep_tag_set() IS 'Trigger: keeps the set of tags of a key in tag_sets, in the transaction that gives it to the key.';
CREATE TRIGGER api_keys_tag_set AFTER INSERT OR UPDATE OF tags ON api_keys
    FOR EACH ROW WHEN (NEW.tags <> '{}') EXECUTE FUNCTION keep_tag_set();

-- +goose Down
DROP FUNCTION of_key(uuid);
DROP VIEW ledger_keys;
DROP TABLE imported_secrets, ledger_holders, key_counters, idempotency_keys, api_key_secrets, api_keys, tag_sets;
DROP FUNCTION keep_tag_set();
DROP FUNCTION tag_set_of(text[]);
