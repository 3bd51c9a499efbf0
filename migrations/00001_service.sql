-- +goose Up

-- What this database has agreed with the service that runs on it. One row a
-- fact: the time zone of days and months, and a check value for each pepper.
CREATE TABLE service_settings (
    name       text        PRIMARY KEY,
    value      text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE  service_settings IS 'Facts fixed when the service first started on this database. A service configured otherwise refuses to start.';
COMMENT ON COLUMN service_settings.name IS 'What is fixed: "installation", "timezone", or "pepper:ID" for each hashing pepper in use.';
COMMENT ON COLUMN service_settings.value IS 'For installation, a random id that tells this ledger from others; for timezone, the IANA name whose midnights part days and months; for a pepper, a check value that reveals nothing of it.';
COMMENT ON COLUMN service_settings.created_at IS 'When it was fixed.';
INSERT INTO service_settings (name, value) VALUES ('installation', gen_random_uuid()::text);

CREATE TABLE access_tokens (
    id           uuid        PRIMARY KEY,
    name         text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    role         text        NOT NULL CHECK (role IN ('admin', 'relay', 'reader')),
    hash         bytea       NOT NULL UNIQUE CHECK (length(hash) = 32),
    hint         text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz
);
COMMENT ON TABLE  access_tokens IS 'Tokens with which people, relays and reports reach the REST API. Rows are never deleted: a revoked token still names who did what.';
COMMENT ON COLUMN access_tokens.id IS 'Identity of the token in audit rows.';
COMMENT ON COLUMN access_tokens.name IS 'Who or what holds it; shown as createdBy on keys and as actor in audit_log.';
COMMENT ON COLUMN access_tokens.role IS 'admin: everything. relay: verify, admissions, usage. reader: GET and reports.';
COMMENT ON COLUMN access_tokens.hash IS 'SHA-256 of the token. Tokens are random (or an operator''s 32 characters and more), so a plain hash suffices and no pepper is needed to make one.';
COMMENT ON COLUMN access_tokens.hint IS 'First and last four characters of the token''s secret part, to tell tokens apart.';
COMMENT ON COLUMN access_tokens.created_at IS 'When it was issued.';
COMMENT ON COLUMN access_tokens.expires_at IS 'Last instant at which it is accepted; null: no end.';
COMMENT ON COLUMN access_tokens.revoked_at IS 'When it was revoked; null: not revoked.';

CREATE TABLE audit_log (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    actor       text        NOT NULL,
    actor_id    uuid,
    action      text        NOT NULL,
    target_type text        NOT NULL,
    target_id   text        NOT NULL,
    before      jsonb,
    after       jsonb,
    request_id  text
);
CREATE INDEX audit_log_target ON audit_log (target_type, target_id, id);
CREATE INDEX audit_log_actor ON audit_log (actor, id);
COMMENT ON TABLE  audit_log IS 'Who changed what. Written by triggers in the transaction of the change itself, so that no change is without its row, not even one made in psql. Never holds a secret or a hash.';
COMMENT ON COLUMN audit_log.id IS 'Order of writing.';
COMMENT ON COLUMN audit_log.at IS 'Start of the transaction that made the change.';
COMMENT ON COLUMN audit_log.actor IS 'Name of the access token, "system" for background passes, "cli" for commands on the database, else "psql:" and the database role.';
COMMENT ON COLUMN audit_log.actor_id IS 'Id of the access token; null where none was used.';
COMMENT ON COLUMN audit_log.action IS 'What was done, for example key.create, key.update, key.expire, token.revoke, usage.void.';
COMMENT ON COLUMN audit_log.target_type IS 'Kind of thing changed: key, secret, token, prices, event, ledger, rollups, webhook.';
COMMENT ON COLUMN audit_log.target_id IS 'Id of the thing changed.';
COMMENT ON COLUMN audit_log.before IS 'Columns that changed, as they were; null for something new.';
COMMENT ON COLUMN audit_log.after IS 'Columns that changed, as they are now (all of them for something new); null for something erased.';
COMMENT ON COLUMN audit_log.request_id IS 'X-Request-Id of the HTTP request, where there was one.';

-- audit_row writes one audit_log row for a changed row. The actor and the
-- action come from the transaction's settings (see AuditBegin); a change made
-- without them is still recorded, as psql's.
-- Trigger arguments: target type, id column, and any columns never to be shown.
-- +goose StatementBegin
CREATE FUNCTION audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    hidden  text[] := TG_ARGV[2:];
    old_row jsonb  := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - hidden END;
    new_row jsonb  := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - hidden END;
    was     jsonb  := old_row;
    is_now  jsonb  := new_row;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        SELECT jsonb_object_agg(o.key, o.value), jsonb_object_agg(o.key, new_row -> o.key)
          INTO was, is_now
          FROM jsonb_each(old_row) AS o
         WHERE o.value IS DISTINCT FROM new_row -> o.key;
        IF was IS NULL THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO audit_log (actor, actor_id, action, target_type, target_id, before, after, request_id)
    VALUES (
        coalesce(nullif(current_setting('keyledger.actor', true), ''), 'psql:' || session_user),
        nullif(current_setting('keyledger.actor_id', true), '')::uuid,
        TG_ARGV[0] || '.' || coalesce(nullif(current_setting('keyledger.verb', true), ''), lower(TG_OP)),
        TG_ARGV[0],
        coalesce(new_row, old_row) ->> TG_ARGV[1],
        was, is_now,
        nullif(current_setting('keyledger.request_id', true), ''));
    RETURN NULL;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION audit_row() IS 'Trigger: one audit_log row for each changed row, with only the columns that changed and without hidden ones.';

-- tell_change announces a changed row to every replica, in the transaction of the
-- change: what they remember of it is dropped when the change is committed, and not
-- before. Arguments: the kind of thing, and the column that names it.
-- +goose StatementBegin
CREATE FUNCTION tell_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('keyledger', TG_ARGV[0] || ' ' || coalesce(
        CASE WHEN TG_OP = 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END ->> TG_ARGV[1], ''));
    RETURN NULL;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION tell_change() IS 'Trigger: NOTIFY keyledger with the kind and the id of a changed row, so that replicas forget what they remember of it.';

CREATE TRIGGER access_tokens_audit AFTER INSERT OR UPDATE OR DELETE ON access_tokens
    FOR EACH ROW EXECUTE FUNCTION audit_row('token', 'id', 'hash');
CREATE TRIGGER access_tokens_tell AFTER INSERT OR UPDATE OR DELETE ON access_tokens
    FOR EACH ROW EXECUTE FUNCTION tell_change('token', 'id');

-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE 'COMMENT ON TABLE goose_db_version IS $c$Migrations applied to this database, as goose keeps them. The largest version_id is the version of the schema.$c$';
    EXECUTE 'COMMENT ON COLUMN goose_db_version.id IS $c$Order of writing.$c$';
    EXECUTE 'COMMENT ON COLUMN goose_db_version.version_id IS $c$Number of the migration.$c$';
    EXECUTE 'COMMENT ON COLUMN goose_db_version.is_applied IS $c$Always true: taking a migration back removes its row.$c$';
    EXECUTE 'COMMENT ON COLUMN goose_db_version.tstamp IS $c$When it was applied.$c$';
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE access_tokens, audit_log, service_settings;
DROP FUNCTION audit_row();
DROP FUNCTION tell_change();
