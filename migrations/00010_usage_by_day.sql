-- +goose NO TRANSACTION

-- +goose Up
-- Rows of usage_daily come in the order of their days, so a summary of ranges of pages
-- finds those of a day; it costs next to nothing to keep.
-- +goose StatementBegin
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('usage_daily_day') AND NOT indisvalid) THEN
        DROP INDEX usage_daily_day;
    END IF;
END $$;
-- +goose StatementEnd
CREATE INDEX CONCURRENTLY IF NOT EXISTS usage_daily_day ON usage_daily USING brin (day) WITH (pages_per_range = 32, autosummarize = on);

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS usage_daily_day;
