-- done:
SELECT EXISTS (
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
CREATE EXTENSION IF NOT EXISTS postgres_fdw;
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
-- end
-- undo:
SET LOCAL citus.enable_ddl_propagation = off;
DROP SERVER IF EXISTS keyledger_citus CASCADE;
DROP SCHEMA IF EXISTS scale_out CASCADE;
-- end
