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
SET LOCAL citus.enable_ddl_propagation = on;
SELECT pg_advisory_xact_lock(hashtext('{lock}'));
SELECT create_distributed_table('{table}', 'ledger_id', colocate_with => 'scale_out_marks')
 WHERE NOT EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = '{table}'::regclass);
SET LOCAL citus.enable_ddl_propagation = off;
DO $step$
BEGIN
    IF '{view}' <> '' THEN
        PERFORM scale_out.alone('CREATE OR REPLACE VIEW {view} AS SELECT t.* FROM {table} AS t');
        EXECUTE 'DROP FOREIGN TABLE IF EXISTS scale_out.{table}';
        EXECUTE 'IMPORT FOREIGN SCHEMA public LIMIT TO ({table}) FROM SERVER keyledger_citus INTO scale_out';
        -- The first half has no rows: it is there to raise an error before the second is read. A condition
        -- in the second would keep PostgreSQL from handing it the conditions of joins; and without OFFSET it
        -- would see that no row of the first can meet them, and leave it out.
        PERFORM scale_out.alone('CREATE OR REPLACE VIEW {view} AS
            (SELECT (NULL::scale_out.{table}).* WHERE NOT {guard} OFFSET 0)
            UNION ALL SELECT t.* FROM scale_out.{table} AS t');
    END IF;
END $step$;
-- end
-- undo:
-- What a crash has left prepared on a worker is in nobody's sight, and would be committed into a table that is
-- gone: it has been ended, or nothing comes back.
SELECT pg_advisory_xact_lock(hashtext('{lock}'));
SELECT {guard};
DO $step$
DECLARE
    old  pg_class;
    part record;
    ix   record;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = '{table}'::regclass) THEN
        RETURN;
    END IF;
    IF '{view}' = '' THEN -- nobody reads it
        SET LOCAL citus.enable_ddl_propagation = on;
        PERFORM undistribute_table('{table}');
        RETURN;
    END IF;
    -- undistribute_table locks the table while it makes its indexes. So they are made for a copy, which then takes
    -- the table's place in an instant.
    SET LOCAL citus.enable_ddl_propagation = off;
    SELECT c.* INTO old FROM pg_class AS c WHERE c.oid = '{table}'::regclass;
    EXECUTE 'CREATE TABLE {table}_back (LIKE {table} INCLUDING ALL EXCLUDING INDEXES)'
        || coalesce(' PARTITION BY ' || pg_get_partkeydef(old.oid), '')
        || coalesce(' WITH (' || array_to_string(old.reloptions, ', ') || ')', '');
    EXECUTE format('COMMENT ON TABLE {table}_back IS %L', obj_description(old.oid, 'pg_class'));
    FOR part IN SELECT c.relname,
                       pg_get_expr(c.relpartbound, c.oid) AS bounds,
                       obj_description(c.oid, 'pg_class') AS about
                  FROM pg_inherits AS i
                  JOIN pg_class AS c ON c.oid = i.inhrelid
                 WHERE i.inhparent = old.oid LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF {table}_back %s', part.relname || '_back', part.bounds);
        PERFORM explain_ledger_partition(format('%I', part.relname || '_back')::regclass, part.about);
    END LOOP;
    LOCK TABLE {table} IN EXCLUSIVE MODE; -- purges would change what is copied already
    INSERT INTO {table}_back SELECT t.* FROM {table} AS t;
    FOR ix IN SELECT n.relname, pg_get_indexdef(i.indexrelid) AS made, pg_get_constraintdef(c.oid) AS key
                FROM pg_index AS i
                JOIN pg_class AS n ON n.oid = i.indexrelid
                LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.contype = 'p'
               WHERE i.indrelid = old.oid LOOP
        EXECUTE CASE
            WHEN ix.key IS NOT NULL
                THEN format('ALTER TABLE {table}_back ADD CONSTRAINT %I %s', ix.relname || '_back', ix.key)
            ELSE regexp_replace(ix.made, '^CREATE (UNIQUE )?INDEX .* USING ',
                     format('CREATE \1INDEX %I ON {table}_back USING ', ix.relname || '_back'))
        END;
    END LOOP;
    FOR part IN SELECT g.privilege_type AS right_to,
                       CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END AS whom
                  FROM aclexplode(old.relacl) AS g WHERE g.grantee <> old.relowner LOOP
        EXECUTE format('GRANT %s ON {table}_back TO %s', part.right_to, part.whom);
    END LOOP;
    ANALYZE {table}_back;
    -- Whose snapshot is older than this transaction sees none of the rows: he is told so (step views).
    PERFORM scale_out.alone(format('CREATE OR REPLACE VIEW {view} AS
        (SELECT (NULL::{table}_back).* WHERE NOT (SELECT scale_out.came(%L)) OFFSET 0)
        UNION ALL SELECT t.* FROM {table}_back AS t', pg_current_xact_id()));
    SET LOCAL citus.enable_ddl_propagation = on;
    DROP TABLE {table};
    SET LOCAL citus.enable_ddl_propagation = off;
    FOR part IN SELECT c.relname, c.relkind
                  FROM pg_class AS c
                 WHERE c.oid = '{table}_back'::regclass
                    OR c.oid IN (SELECT x.relid FROM pg_partition_tree('{table}_back') AS x)
                    OR c.oid IN (SELECT i.indexrelid FROM pg_index AS i WHERE i.indrelid = '{table}_back'::regclass)
                    OR c.oid IN (SELECT x.relid
                                   FROM pg_index AS i, pg_partition_tree(i.indexrelid) AS x
                                  WHERE i.indrelid = '{table}_back'::regclass)
    LOOP
        EXECUTE format('ALTER %s %I RENAME TO %I', CASE WHEN part.relkind IN ('i', 'I') THEN 'INDEX' ELSE 'TABLE' END,
            part.relname, regexp_replace(part.relname, '_back(_|$)', '\1'));
    END LOOP;
END $step$;
SET LOCAL citus.enable_ddl_propagation = off;
DO $step$
BEGIN
    IF '{view}' <> '' THEN
        IF pg_get_viewdef(to_regclass('{view}')) LIKE '%scale_out.{table}%' THEN -- somebody else brought it back
            PERFORM scale_out.alone('CREATE OR REPLACE VIEW {view} AS SELECT t.* FROM {table} AS t');
        END IF;
        EXECUTE 'DROP FOREIGN TABLE IF EXISTS scale_out.{table}';
    END IF;
END $step$;
-- end
