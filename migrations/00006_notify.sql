-- +goose Up

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

CREATE TRIGGER api_keys_tell AFTER INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION tell_change('key', 'id');
CREATE TRIGGER api_key_secrets_tell AFTER INSERT OR UPDATE OR DELETE ON api_key_secrets
    FOR EACH ROW EXECUTE FUNCTION tell_change('key', 'key_id');
CREATE TRIGGER access_tokens_tell AFTER INSERT OR UPDATE OR DELETE ON access_tokens
    FOR EACH ROW EXECUTE FUNCTION tell_change('token', 'id');
CREATE TRIGGER price_revision_tell AFTER UPDATE ON price_revision
    FOR EACH ROW EXECUTE FUNCTION tell_change('prices', 'revision');

-- +goose Down
DROP TRIGGER price_revision_tell ON price_revision;
DROP TRIGGER access_tokens_tell ON access_tokens;
DROP TRIGGER api_key_secrets_tell ON api_key_secrets;
DROP TRIGGER api_keys_tell ON api_keys;
DROP FUNCTION tell_change();
