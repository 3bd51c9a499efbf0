-- +goose Up

-- What SQL reports stand on: names, types and meaning of these views stay as they are
-- when the tables below them change. Days, weeks and months are those of the service's
-- time zone, amounts US dollars. The views read with their owner's rights, so a reader
-- of them needs no right on any table, and gets at no hash.
CREATE SCHEMA reporting;
COMMENT ON SCHEMA reporting IS 'Views for SQL reports: a stable interface. See docs/sql.md.';

-- Both are asked for each row of a report that filters by day. So the first is answered while PostgreSQL
-- plans, as if it could never change (who changes the setting connects anew), and the second is a
-- piece of SQL that becomes part of the query.
-- +goose StatementBegin
CREATE FUNCTION reporting.timezone() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT s.value FROM public.service_settings AS s WHERE s.name = 'timezone'), 'UTC')
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION reporting.timezone() IS 'The time zone whose midnights part days; UTC before the service has first started.';

CREATE FUNCTION reporting.today() RETURNS date LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (now() AT TIME ZONE reporting.timezone())::date;
COMMENT ON FUNCTION reporting.today() IS 'The present day in the service''s time zone.';

CREATE VIEW reporting.keys AS
SELECT k.id AS key_id,
       k.name AS key_name,
       k.description,
       CASE
           WHEN k.expires_at < now() THEN 'expired'
           WHEN NOT k.is_active THEN 'disabled'
           ELSE 'active'
       END AS status,
       k.tags,
       k.permissions,
       k.enforcement,
       k.expires_at,
       k.created_at,
       k.created_by,
       k.rate_limit_window AS window_minutes,
       k.rate_limit_requests AS requests_limit,
       k.token_limit AS tokens_limit,
       k.concurrency_limit,
       k.daily_cost_limit AS daily_limit_usd,
       k.weekly_cost_limit AS weekly_limit_usd,
       k.monthly_cost_limit AS monthly_limit_usd,
       k.total_cost_limit AS total_limit_usd,
       c.requests,
       c.input_tokens + c.output_tokens + c.cache_create_tokens + c.cache_read_tokens AS total_tokens,
       c.cost AS cost_usd,
       c.last_used_at
  FROM public.api_keys AS k
  JOIN public.key_counters AS c ON c.key_id = k.id
 WHERE k.deleted_at IS NULL;
COMMENT ON VIEW reporting.keys IS 'Keys that are not deleted: what each may do, and its state. A limit of 0 is none.';
COMMENT ON COLUMN reporting.keys.status IS 'active, disabled or expired, at this moment.';
COMMENT ON COLUMN reporting.keys.window_minutes IS 'Length of the window that requests and tokens are limited in; 0: none.';
COMMENT ON COLUMN reporting.keys.requests IS 'Over all time.';
COMMENT ON COLUMN reporting.keys.total_tokens IS 'Over all time: input, output, cache writes and cache reads.';
COMMENT ON COLUMN reporting.keys.cost_usd IS 'Over all time, US dollars.';
COMMENT ON COLUMN reporting.keys.last_used_at IS 'Time of the last request; empty: never used.';

CREATE VIEW reporting.usage_by_key_day AS
SELECT k.key_id,
       k.key_name,
       u.day,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       (sum(u.cache_create_tokens) - sum(u.ephemeral_1h_tokens))::bigint AS ephemeral_5m_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS total_tokens,
       sum(u.cost) AS cost_usd
  FROM public.ledger_keys AS k
  JOIN public.key_days AS u ON u.ledger_id = k.ledger_id AND public.of_key(u.ledger_id) = public.of_key(k.ledger_id)
 GROUP BY k.key_id, k.key_name, u.day;
COMMENT ON VIEW reporting.usage_by_key_day IS 'What each key used on each day.';
COMMENT ON COLUMN reporting.usage_by_key_day.key_name IS 'The key''s present name; (purged) once it is gone.';
COMMENT ON COLUMN reporting.usage_by_key_day.day IS 'In the service''s time zone.';
COMMENT ON COLUMN reporting.usage_by_key_day.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_key_day.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.usage_by_key_month AS
SELECT k.key_id,
       k.key_name,
       date_trunc('month', u.day::timestamp)::date AS month,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       (sum(u.cache_create_tokens) - sum(u.ephemeral_1h_tokens))::bigint AS ephemeral_5m_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS total_tokens,
       sum(u.cost) AS cost_usd
  FROM public.ledger_keys AS k
  JOIN public.key_days AS u ON u.ledger_id = k.ledger_id AND public.of_key(u.ledger_id) = public.of_key(k.ledger_id)
 GROUP BY k.key_id, k.key_name, date_trunc('month', u.day::timestamp)::date;
COMMENT ON VIEW reporting.usage_by_key_month IS 'What each key used in each month.';
COMMENT ON COLUMN reporting.usage_by_key_month.key_name IS 'The key''s present name; (purged) once it is gone.';
COMMENT ON COLUMN reporting.usage_by_key_month.month IS 'Its first day, in the service''s time zone.';
COMMENT ON COLUMN reporting.usage_by_key_month.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_key_month.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.usage_by_key AS
SELECT k.id AS key_id,
       k.name AS key_name,
       u.last_used_at,
       u.requests,
       u.input_tokens,
       u.output_tokens,
       u.cache_create_tokens,
       u.cache_read_tokens,
       u.cache_create_tokens - u.ephemeral_1h_tokens AS ephemeral_5m_tokens,
       u.ephemeral_1h_tokens,
       u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens AS total_tokens,
       u.cost AS cost_usd
  FROM public.api_keys AS k
  JOIN public.key_counters AS u ON u.key_id = k.id
UNION ALL
SELECT h.ledger_id,
       '(purged)',
       NULL,
       sum(u.requests)::bigint,
       sum(u.input_tokens)::bigint,
       sum(u.output_tokens)::bigint,
       sum(u.cache_create_tokens)::bigint,
       sum(u.cache_read_tokens)::bigint,
       (sum(u.cache_create_tokens) - sum(u.ephemeral_1h_tokens))::bigint,
       sum(u.ephemeral_1h_tokens)::bigint,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint,
       sum(u.cost)
  FROM public.ledger_holders AS h
  JOIN public.key_days AS u ON u.ledger_id = h.ledger_id
 GROUP BY h.ledger_id;
COMMENT ON VIEW reporting.usage_by_key IS 'What each key used over all time.';
COMMENT ON COLUMN reporting.usage_by_key.key_name IS 'The key''s present name; (purged) once it is gone.';
COMMENT ON COLUMN reporting.usage_by_key.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_key.total_tokens IS 'Input, output, cache writes and cache reads.';
COMMENT ON COLUMN reporting.usage_by_key.last_used_at IS 'Time of the last request; empty: never used, or purged.';

CREATE VIEW reporting.usage_by_key_model_day AS
SELECT k.key_id,
       k.key_name,
       u.model,
       u.day,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       (sum(u.cache_create_tokens) - sum(u.ephemeral_1h_tokens))::bigint AS ephemeral_5m_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS total_tokens,
       sum(u.cost) AS cost_usd
  FROM public.ledger_keys AS k
  JOIN public.key_days AS u ON u.ledger_id = k.ledger_id AND public.of_key(u.ledger_id) = public.of_key(k.ledger_id)
 GROUP BY k.key_id, k.key_name, u.model, u.day;
COMMENT ON VIEW reporting.usage_by_key_model_day IS 'What each key used of each model on each day.';
COMMENT ON COLUMN reporting.usage_by_key_model_day.key_name IS 'The key''s present name; (purged) once it is gone.';
COMMENT ON COLUMN reporting.usage_by_key_model_day.day IS 'In the service''s time zone.';
COMMENT ON COLUMN reporting.usage_by_key_model_day.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_key_model_day.total_tokens IS 'Input, output, cache writes and cache reads.';

-- Sums by model come from the rollup by model. Keys are counted in the one by key, which has as many rows for
-- each as there are keys: PostgreSQL leaves that out where nobody asks for keys.
CREATE VIEW reporting.usage_by_model_day AS
SELECT u.model,
       u.day,
       k.keys,
       u.requests,
       u.input_tokens,
       u.output_tokens,
       u.cache_create_tokens,
       u.cache_read_tokens,
       u.cache_create_tokens - u.ephemeral_1h_tokens AS ephemeral_5m_tokens,
       u.ephemeral_1h_tokens,
       u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens AS total_tokens,
       u.cost AS cost_usd
  FROM (
        SELECT x.model,
               x.day,
               sum(x.requests)::bigint AS requests,
               sum(x.input_tokens)::bigint AS input_tokens,
               sum(x.output_tokens)::bigint AS output_tokens,
               sum(x.cache_create_tokens)::bigint AS cache_create_tokens,
               sum(x.cache_read_tokens)::bigint AS cache_read_tokens,
               sum(x.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
               sum(x.cost) AS cost
          FROM public.model_days AS x
         GROUP BY x.model, x.day
       ) AS u
  LEFT JOIN (
        SELECT d.model,
               d.day,
               count(DISTINCT d.ledger_id) AS keys
          FROM public.key_days AS d
         GROUP BY d.model, d.day
       ) AS k ON k.model = u.model AND k.day = u.day;
COMMENT ON VIEW reporting.usage_by_model_day IS 'What was used of each model on each day.';
COMMENT ON COLUMN reporting.usage_by_model_day.keys IS 'Keys that used it.';
COMMENT ON COLUMN reporting.usage_by_model_day.day IS 'In the service''s time zone.';
COMMENT ON COLUMN reporting.usage_by_model_day.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_model_day.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.usage_by_model_month AS
SELECT u.model,
       u.month,
       k.keys,
       u.requests,
       u.input_tokens,
       u.output_tokens,
       u.cache_create_tokens,
       u.cache_read_tokens,
       u.cache_create_tokens - u.ephemeral_1h_tokens AS ephemeral_5m_tokens,
       u.ephemeral_1h_tokens,
       u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens AS total_tokens,
       u.cost AS cost_usd
  FROM (
        SELECT x.model,
               date_trunc('month', x.day::timestamp)::date AS month,
               sum(x.requests)::bigint AS requests,
               sum(x.input_tokens)::bigint AS input_tokens,
               sum(x.output_tokens)::bigint AS output_tokens,
               sum(x.cache_create_tokens)::bigint AS cache_create_tokens,
               sum(x.cache_read_tokens)::bigint AS cache_read_tokens,
               sum(x.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
               sum(x.cost) AS cost
          FROM public.model_days AS x
         GROUP BY x.model, date_trunc('month', x.day::timestamp)::date
       ) AS u
  LEFT JOIN (
        SELECT d.model,
               date_trunc('month', d.day::timestamp)::date AS month,
               count(DISTINCT d.ledger_id) AS keys
          FROM public.key_days AS d
         GROUP BY d.model, date_trunc('month', d.day::timestamp)::date
       ) AS k ON k.model = u.model AND k.month = u.month;
COMMENT ON VIEW reporting.usage_by_model_month IS 'What was used of each model in each month.';
COMMENT ON COLUMN reporting.usage_by_model_month.keys IS 'Keys that used it.';
COMMENT ON COLUMN reporting.usage_by_model_month.month IS 'Its first day, in the service''s time zone.';
COMMENT ON COLUMN reporting.usage_by_model_month.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_model_month.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.usage_by_model AS
SELECT u.model,
       k.keys,
       u.first_day,
       u.last_day,
       u.requests,
       u.input_tokens,
       u.output_tokens,
       u.cache_create_tokens,
       u.cache_read_tokens,
       u.cache_create_tokens - u.ephemeral_1h_tokens AS ephemeral_5m_tokens,
       u.ephemeral_1h_tokens,
       u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens AS total_tokens,
       u.cost AS cost_usd
  FROM (
        SELECT x.model,
               min(x.day) AS first_day,
               max(x.day) AS last_day,
               sum(x.requests)::bigint AS requests,
               sum(x.input_tokens)::bigint AS input_tokens,
               sum(x.output_tokens)::bigint AS output_tokens,
               sum(x.cache_create_tokens)::bigint AS cache_create_tokens,
               sum(x.cache_read_tokens)::bigint AS cache_read_tokens,
               sum(x.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
               sum(x.cost) AS cost
          FROM public.model_days AS x
         GROUP BY x.model
       ) AS u
  LEFT JOIN (
        SELECT d.model,
               count(DISTINCT d.ledger_id) AS keys
          FROM public.key_days AS d
         GROUP BY d.model
       ) AS k ON k.model = u.model;
COMMENT ON VIEW reporting.usage_by_model IS 'What was used of each model over all time.';
COMMENT ON COLUMN reporting.usage_by_model.keys IS 'Keys that used it.';
COMMENT ON COLUMN reporting.usage_by_model.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_model.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.usage_by_account_day AS
SELECT u.account_id,
       u.day,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       (sum(u.cache_create_tokens) - sum(u.ephemeral_1h_tokens))::bigint AS ephemeral_5m_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS total_tokens,
       sum(u.cost) AS cost_usd
  FROM public.account_days AS u
 WHERE u.account_id <> ''
 GROUP BY u.account_id, u.day;
COMMENT ON VIEW reporting.usage_by_account_day IS 'What each provider account served on each day.';
COMMENT ON COLUMN reporting.usage_by_account_day.day IS 'In the service''s time zone.';
COMMENT ON COLUMN reporting.usage_by_account_day.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_account_day.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.usage_by_account_month AS
SELECT u.account_id,
       date_trunc('month', u.day::timestamp)::date AS month,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       (sum(u.cache_create_tokens) - sum(u.ephemeral_1h_tokens))::bigint AS ephemeral_5m_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS total_tokens,
       sum(u.cost) AS cost_usd
  FROM public.account_days AS u
 WHERE u.account_id <> ''
 GROUP BY u.account_id, date_trunc('month', u.day::timestamp)::date;
COMMENT ON VIEW reporting.usage_by_account_month IS 'What each provider account served in each month.';
COMMENT ON COLUMN reporting.usage_by_account_month.month IS 'Its first day, in the service''s time zone.';
COMMENT ON COLUMN reporting.usage_by_account_month.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_account_month.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.usage_by_account AS
SELECT u.account_id,
       min(u.first_used_at) AS first_used_at,
       max(u.last_used_at) AS last_used_at,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       (sum(u.cache_create_tokens) - sum(u.ephemeral_1h_tokens))::bigint AS ephemeral_5m_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS total_tokens,
       sum(u.cost) AS cost_usd
  FROM public.account_sums AS u
 GROUP BY u.account_id;
COMMENT ON VIEW reporting.usage_by_account IS 'What each provider account served over all time.';
COMMENT ON COLUMN reporting.usage_by_account.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_account.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.usage_by_account_model_day AS
SELECT u.account_id,
       u.model,
       u.day,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       (sum(u.cache_create_tokens) - sum(u.ephemeral_1h_tokens))::bigint AS ephemeral_5m_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS total_tokens,
       sum(u.cost) AS cost_usd
  FROM public.account_days AS u
 WHERE u.account_id <> ''
 GROUP BY u.account_id, u.model, u.day;
COMMENT ON VIEW reporting.usage_by_account_model_day IS 'What each provider account served of each model on each day.';
COMMENT ON COLUMN reporting.usage_by_account_model_day.day IS 'In the service''s time zone.';
COMMENT ON COLUMN reporting.usage_by_account_model_day.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_account_model_day.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.usage_by_tag_day AS
SELECT g.tag,
       u.day,
       count(DISTINCT u.ledger_id) AS keys,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       (sum(u.cache_create_tokens) - sum(u.ephemeral_1h_tokens))::bigint AS ephemeral_5m_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS total_tokens,
       sum(u.cost) AS cost_usd
  FROM public.key_days AS u
  JOIN public.tag_sets AS s ON s.id = u.tag_set
 CROSS JOIN LATERAL unnest(s.tags) AS g (tag)
 GROUP BY g.tag, u.day;
COMMENT ON VIEW reporting.usage_by_tag_day IS 'What was used under each tag on each day.';
COMMENT ON COLUMN reporting.usage_by_tag_day.tag IS 'A tag that the key had when the usage was recorded. Usage under two tags counts under both: do not add tags up.';
COMMENT ON COLUMN reporting.usage_by_tag_day.day IS 'In the service''s time zone.';
COMMENT ON COLUMN reporting.usage_by_tag_day.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_tag_day.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.usage_by_tag_month AS
SELECT g.tag,
       date_trunc('month', u.day::timestamp)::date AS month,
       count(DISTINCT u.ledger_id) AS keys,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       (sum(u.cache_create_tokens) - sum(u.ephemeral_1h_tokens))::bigint AS ephemeral_5m_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS total_tokens,
       sum(u.cost) AS cost_usd
  FROM public.key_days AS u
  JOIN public.tag_sets AS s ON s.id = u.tag_set
 CROSS JOIN LATERAL unnest(s.tags) AS g (tag)
 GROUP BY g.tag, date_trunc('month', u.day::timestamp)::date;
COMMENT ON VIEW reporting.usage_by_tag_month IS 'What was used under each tag in each month.';
COMMENT ON COLUMN reporting.usage_by_tag_month.tag IS 'A tag that the key had when the usage was recorded. Usage under two tags counts under both: do not add tags up.';
COMMENT ON COLUMN reporting.usage_by_tag_month.month IS 'Its first day, in the service''s time zone.';
COMMENT ON COLUMN reporting.usage_by_tag_month.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_tag_month.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.usage_by_tag AS
SELECT g.tag,
       count(DISTINCT u.ledger_id) AS keys,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens,
       sum(u.cache_create_tokens)::bigint AS cache_create_tokens,
       sum(u.cache_read_tokens)::bigint AS cache_read_tokens,
       (sum(u.cache_create_tokens) - sum(u.ephemeral_1h_tokens))::bigint AS ephemeral_5m_tokens,
       sum(u.ephemeral_1h_tokens)::bigint AS ephemeral_1h_tokens,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS total_tokens,
       sum(u.cost) AS cost_usd
  FROM public.key_days AS u
  JOIN public.tag_sets AS s ON s.id = u.tag_set
 CROSS JOIN LATERAL unnest(s.tags) AS g (tag)
 GROUP BY g.tag;
COMMENT ON VIEW reporting.usage_by_tag IS 'What was used under each tag over all time.';
COMMENT ON COLUMN reporting.usage_by_tag.tag IS 'A tag that the key had when the usage was recorded. Usage under two tags counts under both: do not add tags up.';
COMMENT ON COLUMN reporting.usage_by_tag.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.usage_by_tag.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.top_spenders AS
SELECT rank() OVER (ORDER BY u.cost DESC) AS place,
       k.key_id,
       k.key_name,
       u.requests,
       u.cost AS cost_usd
  FROM (
        SELECT d.ledger_id,
               sum(d.requests)::bigint AS requests,
               sum(d.cost) AS cost
          FROM public.key_days AS d
         WHERE d.day >= (SELECT date_trunc('month', reporting.today()::timestamp)::date)
         GROUP BY d.ledger_id
       ) AS u
  JOIN public.ledger_keys AS k ON k.ledger_id = u.ledger_id
 ORDER BY u.cost DESC;
COMMENT ON VIEW reporting.top_spenders IS 'Keys by what they cost in the present month, dearest first.';
COMMENT ON COLUMN reporting.top_spenders.key_name IS 'The key''s present name; (purged) once it is gone.';
COMMENT ON COLUMN reporting.top_spenders.cost_usd IS 'US dollars.';

CREATE VIEW reporting.limits AS
WITH clock AS MATERIALIZED (
    SELECT d.today,
           date_trunc('week', d.today::timestamp)::date AS week,
           date_trunc('month', d.today::timestamp)::date AS month,
           reporting.timezone() AS zone
      FROM (SELECT reporting.today() AS today) AS d
)
SELECT k.id AS key_id,
       k.name AS key_name,
       l.name AS limit_name,
       l.most AS limit_value,
       l.used,
       l.reserved,
       greatest(l.most - l.used - l.reserved, 0) AS remaining,
       l.resets_at,
       k.enforcement
  FROM clock
 CROSS JOIN public.api_keys AS k
  JOIN public.key_counters AS c ON c.key_id = k.id
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE a.lease_expires_at > now()) AS leases,
              coalesce(sum(a.reserved_tokens) FILTER (WHERE a.reserved_until > now()), 0)::numeric AS tokens,
              coalesce(sum(a.reserved_cost) FILTER (WHERE a.reserved_until > now()), 0) AS cost
         FROM public.admissions AS a
        WHERE a.is_open AND a.key_id = k.id
 ) AS held
 CROSS JOIN LATERAL (
       SELECT c.window_start + k.rate_limit_window * interval '1 minute' AS window_end,
              k.rate_limit_window > 0 AND now() < c.window_start + k.rate_limit_window * interval '1 minute' AS is_open
 ) AS w
 CROSS JOIN LATERAL (
    SELECT 'requests'::text AS name,
           CASE WHEN k.rate_limit_window > 0 THEN k.rate_limit_requests ELSE 0 END::numeric AS most,
           CASE WHEN w.is_open THEN c.window_requests ELSE 0 END::numeric AS used,
           0::numeric AS reserved,
           CASE WHEN w.is_open THEN w.window_end END AS resets_at
    UNION ALL
    SELECT 'tokens',
           CASE WHEN k.rate_limit_window > 0 THEN k.token_limit ELSE 0 END::numeric,
           CASE WHEN w.is_open THEN c.window_tokens ELSE 0 END::numeric,
           held.tokens,
           CASE WHEN w.is_open THEN w.window_end END
    UNION ALL
    SELECT 'concurrency', k.concurrency_limit::numeric, held.leases::numeric, 0, NULL
    UNION ALL
    SELECT 'dailyCost',
           k.daily_cost_limit,
           CASE WHEN c.day >= clock.today THEN c.day_cost ELSE 0 END,
           held.cost,
           public.day_start(clock.today + 1, clock.zone)
    UNION ALL
    SELECT 'weeklyCost',
           k.weekly_cost_limit,
           CASE WHEN c.week >= clock.week THEN c.week_cost ELSE 0 END,
           held.cost,
           public.day_start(clock.week + 7, clock.zone)
    UNION ALL
    SELECT 'monthlyCost',
           k.monthly_cost_limit,
           CASE WHEN c.month >= clock.month THEN c.month_cost ELSE 0 END,
           held.cost,
           public.day_start((clock.month + interval '1 month')::date, clock.zone)
    UNION ALL
    SELECT 'totalCost', k.total_cost_limit, c.cost, held.cost, NULL
 ) AS l
 WHERE k.deleted_at IS NULL AND l.most > 0;
COMMENT ON VIEW reporting.limits IS 'Every limit that is set, with what is used and reserved of it at this moment. One row a key and limit; amounts of cost limits are US dollars.';
COMMENT ON COLUMN reporting.limits.limit_name IS 'requests, tokens, concurrency, dailyCost, weeklyCost, monthlyCost or totalCost.';
COMMENT ON COLUMN reporting.limits.reserved IS 'Held by admissions that are not settled yet.';
COMMENT ON COLUMN reporting.limits.resets_at IS 'When used begins again at 0; empty: it does not, or no window is open.';
COMMENT ON COLUMN reporting.limits.enforcement IS 'enforce, or observe: what goes over is let through and counted.';

CREATE VIEW reporting.refusals_by_key_day AS
SELECT k.key_id,
       k.key_name,
       u.day,
       u.code,
       u.let_through,
       u.refusals
  FROM public.admission_refusals AS u
  JOIN public.ledger_keys AS k ON k.ledger_id = u.ledger_id;
COMMENT ON VIEW reporting.refusals_by_key_day IS 'Requests that limits and restrictions refused, or would have refused on keys that only observe.';
COMMENT ON COLUMN reporting.refusals_by_key_day.key_name IS 'The key''s present name; (purged) once it is gone.';
COMMENT ON COLUMN reporting.refusals_by_key_day.day IS 'In the service''s time zone.';
COMMENT ON COLUMN reporting.refusals_by_key_day.code IS 'Why: the code that admissions answer.';
COMMENT ON COLUMN reporting.refusals_by_key_day.let_through IS 'The key only observes its limits: the request went on.';

CREATE VIEW reporting.expiring_keys AS
SELECT k.id AS key_id,
       k.name AS key_name,
       k.tags,
       k.expires_at,
       ceil(extract(epoch FROM k.expires_at - now()) / 86400)::integer AS days_left,
       c.last_used_at
  FROM public.api_keys AS k
  JOIN public.key_counters AS c ON c.key_id = k.id
 WHERE k.deleted_at IS NULL AND k.is_active AND k.expires_at >= now()
 ORDER BY k.expires_at;
COMMENT ON VIEW reporting.expiring_keys IS 'Live keys that have an end, the next to end first.';
COMMENT ON COLUMN reporting.expiring_keys.days_left IS 'Whole days, begun ones counted.';

CREATE VIEW reporting.unpriced_models AS
SELECT u.model,
       sum(u.requests)::bigint AS requests,
       sum(u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)::bigint AS total_tokens,
       count(DISTINCT u.ledger_id) AS keys,
       min(u.occurred_at) AS first_used_at,
       max(u.occurred_at) AS last_used_at
  FROM public.ledger AS u
 WHERE NOT u.priced
 GROUP BY u.model;
COMMENT ON VIEW reporting.unpriced_models IS 'Models that were used without a price and so at cost 0, in the retained ledger.';
COMMENT ON COLUMN reporting.unpriced_models.total_tokens IS 'Input, output, cache writes and cache reads.';

CREATE VIEW reporting.ledger AS
SELECT u.event_id,
       u.kind,
       u.received_at,
       u.occurred_at,
       u.day,
       k.key_id,
       k.key_name,
       u.account_id,
       u.model,
       u.model_received,
       u.request_id,
       u.requests,
       u.input_tokens,
       u.output_tokens,
       u.cache_create_tokens,
       u.cache_read_tokens,
       u.cache_create_tokens - u.ephemeral_1h_tokens AS ephemeral_5m_tokens,
       u.ephemeral_1h_tokens,
       u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens AS total_tokens,
       u.cost AS cost_usd,
       u.priced,
       u.estimated,
       u.via,
       u.adjusts,
       u.reason
  FROM public.ledger AS u
  JOIN public.ledger_keys AS k ON k.ledger_id = u.ledger_id AND public.of_key(k.ledger_id) = public.of_key(u.ledger_id);
COMMENT ON VIEW reporting.ledger IS 'The retained ledger: one row an event, never edited. What is taken back has a row of its own with the opposite amounts.';
COMMENT ON COLUMN reporting.ledger.key_name IS 'The key''s present name; (purged) once it is gone.';
COMMENT ON COLUMN reporting.ledger.day IS 'In the service''s time zone.';
COMMENT ON COLUMN reporting.ledger.cost_usd IS 'US dollars, all digits.';
COMMENT ON COLUMN reporting.ledger.total_tokens IS 'Input, output, cache writes and cache reads.';
COMMENT ON COLUMN reporting.ledger.kind IS 'usage, adjustment or opening.';
COMMENT ON COLUMN reporting.ledger.priced IS 'False: the model had no price, and the cost is 0.';
COMMENT ON COLUMN reporting.ledger.adjusts IS 'The event that this row takes back.';
COMMENT ON COLUMN reporting.ledger.request_id IS 'The caller''s own id; counts once a key.';
COMMENT ON COLUMN reporting.ledger.via IS 'What brought it, where that was neither POST /v1/usage nor the relay: otlp, litellm, envoy.';
COMMENT ON COLUMN reporting.ledger.estimated IS 'True: the caller had to estimate the usage.';

CREATE VIEW reporting.focus AS
SELECT u.cost AS "BilledCost",
       (SELECT s.value FROM public.service_settings AS s WHERE s.name = 'installation') AS "BillingAccountId",
       'keyledger' AS "BillingAccountName",
       'USD' AS "BillingCurrency",
       ((date_trunc('month', u.day::timestamp) + interval '1 month') AT TIME ZONE z.name) AS "BillingPeriodEnd",
       (date_trunc('month', u.day::timestamp) AT TIME ZONE z.name) AS "BillingPeriodStart",
       'Usage' AS "ChargeCategory",
       NULL::text AS "ChargeClass",
       u.model || ', ' || k.key_name AS "ChargeDescription",
       ((u.day + 1)::timestamp AT TIME ZONE z.name) AS "ChargePeriodEnd",
       (u.day::timestamp AT TIME ZONE z.name) AS "ChargePeriodStart",
       u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens AS "ConsumedQuantity",
       'Tokens' AS "ConsumedUnit",
       u.cost AS "ContractedCost",
       NULL::numeric AS "ContractedUnitPrice",
       u.cost AS "EffectiveCost",
       p.name AS "HostProviderName",
       p.name AS "InvoiceIssuerName",
       u.cost AS "ListCost",
       NULL::numeric AS "ListUnitPrice",
       'Standard' AS "PricingCategory",
       (u.input_tokens + u.output_tokens + u.cache_create_tokens + u.cache_read_tokens)
           / 1000000.0 AS "PricingQuantity",
       '1000000 Tokens' AS "PricingUnit",
       p.name AS "ProviderName",
       p.name AS "PublisherName",
       'AI and Machine Learning' AS "ServiceCategory",
       CASE p.name
           WHEN 'Anthropic' THEN 'Claude API'
           WHEN 'OpenAI' THEN 'OpenAI API'
           WHEN 'Google' THEN 'Gemini API'
           WHEN 'Amazon Web Services' THEN 'Amazon Bedrock'
           ELSE 'Unknown'
       END AS "ServiceName",
       p.name AS "ServiceProviderName",
       'Generative AI' AS "ServiceSubcategory",
       u.model AS "SkuId",
       'Tokens' AS "SkuMeter",
       NULL::text AS "SkuPriceId",
       k.key_id::text AS "SubAccountId",
       k.key_name AS "SubAccountName",
       'API Key' AS "SubAccountType",
       coalesce((SELECT jsonb_object_agg(g.tag, true) FROM unnest(s.tags) AS g (tag)), '{}') AS "Tags",
       u.requests AS "x_Requests",
       u.input_tokens AS "x_InputTokens",
       u.output_tokens AS "x_OutputTokens",
       u.cache_read_tokens AS "x_CacheReadTokens",
       u.cache_create_tokens AS "x_CacheWriteTokens",
       u.day AS "x_Day"
  FROM (SELECT d.ledger_id, d.day, d.model, d.tag_set,
               sum(d.requests)::bigint AS requests,
               sum(d.input_tokens)::bigint AS input_tokens,
               sum(d.output_tokens)::bigint AS output_tokens,
               sum(d.cache_create_tokens)::bigint AS cache_create_tokens,
               sum(d.cache_read_tokens)::bigint AS cache_read_tokens,
               sum(d.cost) AS cost
          FROM public.key_days AS d
         GROUP BY d.ledger_id, d.day, d.model, d.tag_set
        HAVING (sum(d.requests), sum(d.cost)) <> (0, 0)) AS u
  JOIN public.ledger_keys AS k ON k.ledger_id = u.ledger_id
  LEFT JOIN public.tag_sets AS s ON s.id = u.tag_set
 CROSS JOIN (SELECT reporting.timezone() AS name) AS z
 CROSS JOIN LATERAL (
       SELECT CASE
                  WHEN u.model ~* 'claude' THEN 'Anthropic'
                  WHEN u.model ~* '^(gpt|o[0-9]|chatgpt|codex|computer-use|text-embedding-(3|ada)|ft:)' THEN 'OpenAI'
                  WHEN u.model ~* '(gemini|gemma)' THEN 'Google'
                  WHEN u.model ~* '(nova|titan)' THEN 'Amazon Web Services'
                  ELSE 'Unknown'
              END AS name
 ) AS p;
COMMENT ON VIEW reporting.focus IS 'Cost and usage in the columns of FOCUS, the FinOps Foundation''s format: one row for each key, day, model and set of tags. docs/sql.md says what each column means here. BilledCost adds up to the ledger.';
COMMENT ON COLUMN reporting.focus."BillingAccountId" IS 'This installation: made with the database, never changed.';
COMMENT ON COLUMN reporting.focus."ChargePeriodStart" IS 'Midnight of the day in the service''s time zone.';
COMMENT ON COLUMN reporting.focus."ServiceProviderName" IS 'By the model''s name: who is thought to have sent the invoice for it.';
COMMENT ON COLUMN reporting.focus."SubAccountId" IS 'The key.';
COMMENT ON COLUMN reporting.focus."Tags" IS 'The tags that the key had when it was used, each true.';
COMMENT ON COLUMN reporting.focus."ListUnitPrice" IS 'Null: a row is of tokens of four prices.';
COMMENT ON COLUMN reporting.focus."x_Day" IS 'In the service''s time zone: filter on it, and only rows of those days are added up.';

-- The role belongs to the whole cluster: another database may have made it, or this
-- user may not. docs/sql.md has the commands for an administrator then.
-- +goose StatementBegin
DO $$
BEGIN
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'keyledger_reader') THEN
            CREATE ROLE keyledger_reader NOLOGIN;
        END IF;
    EXCEPTION
        WHEN insufficient_privilege
            THEN RAISE NOTICE 'the role keyledger_reader was not made, since this user may not: see docs/sql.md';
        WHEN duplicate_object OR unique_violation THEN NULL; -- another database's migration was faster
    END;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'keyledger_reader') THEN
        GRANT USAGE ON SCHEMA reporting TO keyledger_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO keyledger_reader;
    END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP SCHEMA reporting CASCADE;
