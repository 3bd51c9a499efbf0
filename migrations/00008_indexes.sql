-- +goose NO TRANSACTION
-- Indexes on tables that are in use are made CONCURRENTLY, which nobody waits for. An
-- attempt that is broken off leaves an index that is not used: so that is dropped first,
-- and the migration can be run again.

-- +goose Up

-- Lists by expiry, as by name and by time of creation, are in the order of an index.
-- +goose StatementBegin
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('api_keys_by_expiry') AND NOT indisvalid) THEN
        DROP INDEX api_keys_by_expiry;
    END IF;
END $$;
-- +goose StatementEnd
CREATE INDEX CONCURRENTLY IF NOT EXISTS api_keys_by_expiry ON api_keys (coalesce(expires_at, 'infinity'), id) WHERE deleted_at IS NULL;

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS api_keys_by_expiry;
