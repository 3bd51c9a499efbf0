-- +goose NO TRANSACTION

-- +goose Up
-- Rows of usage_daily come in the order of their days, so a summary of ranges of pages
-- finds those of a day; it costs next to nothing to keep.
DROP INDEX CONCURRENTLY IF EXISTS usage_daily_day;
CREATE INDEX CONCURRENTLY usage_daily_day ON usage_daily USING brin (day) WITH (pages_per_range = 32, autosummarize = on);

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS usage_daily_day;
