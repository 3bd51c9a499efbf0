-- +goose NO TRANSACTION
-- Indexes on tables that are in use are made CONCURRENTLY, which nobody waits for. An
-- attempt that is broken off leaves an index that is not used: so that is dropped first,
-- and the migration can be run again.

-- +goose Up

-- Open admissions that reserve nothing, most of them, are not even in the index that
-- reservations are added up by, so a key that is in use a thousand times at once is as
-- fast as any.
-- +goose StatementBegin
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('admissions_reserved') AND NOT indisvalid) THEN
        DROP INDEX admissions_reserved;
    END IF;
END $$;
-- +goose StatementEnd
CREATE INDEX CONCURRENTLY IF NOT EXISTS admissions_reserved ON admissions (key_id) WHERE is_open AND (reserved_tokens > 0 OR reserved_cost > 0);

-- Those past their end are found among the open admissions, which are few.
DROP INDEX CONCURRENTLY IF EXISTS admissions_overdue;

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
DROP INDEX CONCURRENTLY IF EXISTS admissions_overdue;
CREATE INDEX CONCURRENTLY admissions_overdue ON admissions (reserved_until) WHERE is_open;
DROP INDEX CONCURRENTLY IF EXISTS admissions_reserved;
