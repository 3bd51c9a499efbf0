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
        PERFORM scale_out.lead('{view}', 'SELECT t.* FROM {table} AS t');
        EXECUTE 'DROP FOREIGN TABLE IF EXISTS scale_out.{table}';
        EXECUTE 'IMPORT FOREIGN SCHEMA public LIMIT TO ({table}) FROM SERVER keyledger_citus INTO scale_out';
        -- The first half has no rows: it is there to raise an error before the second is read. A condition
        -- in the second would keep PostgreSQL from handing it the conditions of joins; and without OFFSET it
        -- would see that no row of the first can meet them, and leave it out.
        PERFORM scale_out.lead('{view}', '(SELECT (NULL::scale_out.{table}).* WHERE NOT {guard} OFFSET 0)
            UNION ALL SELECT t.* FROM scale_out.{table} AS t');
    END IF;
END $step$;
-- end
-- undo:
SELECT pg_advisory_xact_lock(hashtext('{lock}'));
DO $step$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = '{table}'::regclass) THEN
        RETURN;
    END IF;
    IF (SELECT c.relkind FROM pg_class AS c WHERE c.oid = '{table}'::regclass) = 'p' THEN
        PERFORM undistribute_table('{table}');
        RETURN;
    END IF;
    -- undistribute_table locks the table while it makes its indexes. So they are made for a copy, which then takes
    -- the table's place in an instant.
    SET LOCAL citus.enable_ddl_propagation = off;
    CREATE TABLE {table}_back (LIKE {table} INCLUDING ALL EXCLUDING INDEXES);
    EXECUTE (SELECT format('ALTER TABLE {table}_back SET (%s); COMMENT ON TABLE {table}_back IS %L',
                           array_to_string(c.reloptions, ', '), obj_description(c.oid))
               FROM pg_class AS c WHERE c.oid = '{table}'::regclass);
    INSERT INTO {table}_back SELECT t.* FROM {table} AS t;
    EXECUTE (SELECT format('ALTER TABLE {table}_back ADD CONSTRAINT {table}_pkey_back %s', pg_get_constraintdef(c.oid))
               FROM pg_constraint AS c WHERE c.conrelid = '{table}'::regclass AND c.contype = 'p');
    ANALYZE {table}_back;
    PERFORM scale_out.lead('{view}', 'SELECT t.* FROM {table}_back AS t');
    SET LOCAL citus.enable_ddl_propagation = on;
    DROP TABLE {table};
    SET LOCAL citus.enable_ddl_propagation = off;
    ALTER TABLE {table}_back RENAME TO {table};
    ALTER INDEX {table}_pkey_back RENAME TO {table}_pkey;
END $step$;
SET LOCAL citus.enable_ddl_propagation = off;
DO $step$
BEGIN
    IF '{view}' <> '' THEN
        PERFORM scale_out.lead('{view}', 'SELECT t.* FROM {table} AS t');
        EXECUTE 'DROP FOREIGN TABLE IF EXISTS scale_out.{table}';
    END IF;
END $step$;
-- end
