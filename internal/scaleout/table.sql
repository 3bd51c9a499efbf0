-- done:
SELECT EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = '{table}'::regclass)
   AND ('{view}' = '' OR coalesce(pg_get_viewdef(to_regclass('{view}')) LIKE '%scale_out.%', false)
        AND (SELECT array_agg(a.attname ORDER BY a.attname) FROM pg_attribute AS a
              WHERE a.attrelid = '{table}'::regclass AND a.attnum > 0 AND NOT a.attisdropped)
          = (SELECT array_agg(a.attname ORDER BY a.attname) FROM pg_attribute AS a
              WHERE a.attrelid = to_regclass('scale_out.{table}') AND a.attnum > 0 AND NOT a.attisdropped))
-- end
-- undone:
SELECT NOT EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = '{table}'::regclass)
   AND to_regclass('scale_out.{table}') IS NULL
-- end
-- apply:
SELECT pg_advisory_xact_lock(hashtext('{lock}'));
SELECT create_distributed_table('{table}', 'ledger_id', colocate_with => 'scale_out_marks')
 WHERE NOT EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = '{table}'::regclass);
SET LOCAL citus.enable_ddl_propagation = off;
DO $step$
BEGIN
    IF '{view}' <> '' THEN
        EXECUTE 'CREATE OR REPLACE VIEW {view} AS SELECT t.* FROM {table} AS t';
        EXECUTE 'DROP FOREIGN TABLE IF EXISTS scale_out.{table}';
        EXECUTE 'IMPORT FOREIGN SCHEMA public LIMIT TO ({table}) FROM SERVER keyledger_citus INTO scale_out';
        EXECUTE 'CREATE OR REPLACE VIEW {view} AS SELECT t.* FROM scale_out.{table} AS t{steady}';
    END IF;
END $step$;
-- end
-- undo:
-- A reader who plans at the very end waits for the table, and this for the reader's view: it gives up
-- first (lock_timeout of the server keyledger_citus), and reads again.
SELECT pg_advisory_xact_lock(hashtext('{lock}'));
SELECT undistribute_table('{table}')
 WHERE EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = '{table}'::regclass);
SET LOCAL citus.enable_ddl_propagation = off;
DO $step$
BEGIN
    IF '{view}' <> '' THEN
        EXECUTE 'CREATE OR REPLACE VIEW {view} AS SELECT t.* FROM {table} AS t';
        EXECUTE 'DROP FOREIGN TABLE IF EXISTS scale_out.{table}';
    END IF;
END $step$;
-- end
