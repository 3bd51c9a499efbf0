-- done:
SELECT to_regprocedure('scale_out.came(xid8)') IS NOT NULL
   AND (SELECT p.prolang FROM pg_proc AS p WHERE p.oid = 'of_key(uuid)'::regprocedure)
     = (SELECT l.oid FROM pg_language AS l WHERE l.lanname = 'plpgsql')
   AND EXISTS (
       SELECT 1 FROM pg_foreign_server AS s
         JOIN pg_user_mappings AS m ON m.srvid = s.oid AND m.usename = current_user
        WHERE s.srvname = 'keyledger_citus'
          AND ({password} = '' OR m.umoptions @> ARRAY['password=' || {password}])
          AND s.srvoptions @> ARRAY['host=' || {host}, 'port=' || {port}, 'dbname=' || current_database()])
-- end
-- undone:
SELECT NOT EXISTS (SELECT 1 FROM pg_foreign_server AS s WHERE s.srvname = 'keyledger_citus')
-- end
-- apply:
DO $step$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_extension AS e WHERE e.extname = 'postgres_fdw') THEN
        CREATE EXTENSION postgres_fdw;
    END IF;
    IF NOT has_foreign_data_wrapper_privilege('postgres_fdw', 'USAGE') THEN
        RAISE insufficient_privilege;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE 'the extension postgres_fdw is missing, or % may not use it. A superuser runs, in this database: '
        'CREATE EXTENSION IF NOT EXISTS postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO %; '
        'GRANT EXECUTE ON FUNCTION recover_prepared_transactions() TO %',
        current_user, quote_ident(current_user), quote_ident(current_user);
END $step$;
SET LOCAL citus.enable_ddl_propagation = off;
CREATE SCHEMA IF NOT EXISTS scale_out;
COMMENT ON SCHEMA scale_out IS 'What keyledger scale-out made: how this server reads what lies on the workers of Citus.';
DO $step$
DECLARE
    mapping text := format('user %L', {user});
BEGIN
    IF EXISTS (SELECT 1 FROM pg_foreign_server AS s WHERE s.srvname = 'keyledger_citus') THEN
        EXECUTE format('ALTER SERVER keyledger_citus OPTIONS (SET host %L, SET port %L, SET dbname %L)',
            {host}, {port}, current_database());
    ELSE
        -- Asked for its estimates, it can be asked for the rows of one key within a join; EXPLAIN of the
        -- shards would cost as much as the query. No lock is waited for long, since no server sees both
        -- ends of a deadlock that leads over the connection.
        EXECUTE format('CREATE SERVER keyledger_citus FOREIGN DATA WRAPPER postgres_fdw OPTIONS (
                host %L, port %L, dbname %L, use_remote_estimate ''true'', fetch_size ''10000'',
                options ''-c citus.explain_distributed_queries=off -c jit=off -c lock_timeout=3s'')',
            {host}, {port}, current_database());
    END IF;
    EXECUTE 'DROP USER MAPPING IF EXISTS FOR CURRENT_USER SERVER keyledger_citus';
    IF {password} <> '' THEN
        mapping := mapping || format(', password %L', {password});
    ELSIF (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        mapping := mapping || ', password_required ''false''';
    ELSE
        RAISE 'the connection back to this server needs a password, since % is no superuser: put it in DATABASE_URL',
            current_user;
    END IF;
    EXECUTE format('CREATE USER MAPPING FOR CURRENT_USER SERVER keyledger_citus OPTIONS (%s)', mapping);
END $step$;
-- Citus tells the same number of rows whatever is asked for. A condition that is not handed on, and so is
-- thought to leave few of them, is what lets the rows of one key be asked for at all.
CREATE OR REPLACE FUNCTION of_key(ledger_id uuid) RETURNS uuid LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 0.01 AS $$
BEGIN
    RETURN ledger_id;
END $$;
-- Who reads keeps a table from being replaced, and whoever comes then waits behind the one who would replace it. So
-- the first try is short, for he may come through between two readers, and each next one
-- longer, for he must outlast the longest report.
CREATE OR REPLACE FUNCTION scale_out.alone(statement text) RETURNS void LANGUAGE plpgsql
    SET lock_timeout = '1s' AS $$
BEGIN
    FOR try IN 0 .. 5 LOOP
        BEGIN
            PERFORM set_config('lock_timeout', (1000 << try) || 'ms', true);
            EXECUTE statement;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(1);
        END;
    END LOOP;
    RAISE 'somebody has been reading for more than half a minute: run this again. It waited to run %', statement
        USING ERRCODE = 'lock_not_available';
END $$;
COMMENT ON FUNCTION scale_out.alone(text) IS 'Runs a statement that needs for itself what others read. Gives up after six tries of 1 to 32 seconds.';
-- Rows that a transaction has brought back to this server are not there for snapshots that are older.
CREATE OR REPLACE FUNCTION scale_out.came(back xid8) RETURNS boolean LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_visible_in_snapshot(back, pg_current_snapshot()) THEN
        RAISE 'what this reads came back to this server meanwhile: run it again'
            USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION scale_out.came(xid8) IS 'True, when the snapshot sees what this transaction did; a serialization failure when it is older.';
-- end
-- undo:
SET LOCAL citus.enable_ddl_propagation = off;
CREATE OR REPLACE FUNCTION of_key(ledger_id uuid) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN ledger_id;
DROP SERVER IF EXISTS keyledger_citus CASCADE;
DROP SCHEMA IF EXISTS scale_out CASCADE;
-- end
