-- done:
SELECT true
-- end
-- undone:
SELECT NOT EXISTS (SELECT 1 FROM unnest('{usage_daily,daily_cost,usage_archive}'::text[]) AS t (name)
                    WHERE pg_get_viewdef(to_regclass('stored_' || t.name)) LIKE '%scale_out.came%')
-- end
-- apply:
SELECT 1;
-- end
-- undo:
-- Once every transaction has ended that began before the tables came back, all see their rows.
DO $step$
DECLARE
    before text[] := transactions_under_way();
    now_is text[];
    stored text;
BEGIN
    FOR try IN 1 .. 600 LOOP
        now_is := transactions_under_way();
        before := ARRAY(SELECT x.name FROM unnest(before) AS x (name) WHERE x.name = ANY(now_is));
        EXIT WHEN before = '{}';
        PERFORM pg_sleep(0.1);
    END LOOP;
    IF before <> '{}' THEN
        RAISE 'everything is here again, but a transaction that began before has been open for a minute: run this again'
            USING ERRCODE = 'lock_not_available';
    END IF;
    SET LOCAL citus.enable_ddl_propagation = off;
    FOREACH stored IN ARRAY '{usage_daily,daily_cost,usage_archive}'::text[] LOOP
        IF pg_get_viewdef(to_regclass('stored_' || stored)) LIKE '%scale_out.came%' THEN
            PERFORM scale_out.alone(format('CREATE OR REPLACE VIEW %I AS SELECT t.* FROM %I AS t',
                'stored_' || stored, stored));
        END IF;
    END LOOP;
END $step$;
-- end
