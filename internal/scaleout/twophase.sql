-- done:
SELECT EXISTS (SELECT 1 FROM pg_trigger AS t WHERE t.tgname = 'scale_out_two_phases')
   AND EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = to_regclass('scale_out_steps'))
   AND EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = to_regclass('scale_out_marks'))
   AND EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = to_regclass('scale_out_archived'))
   AND to_regprocedure('scale_out.steady(bigint, uuid)') IS NOT NULL
   AND to_regprocedure('scale_out.settled()') IS NOT NULL
-- end
-- undone:
SELECT to_regclass('scale_out_steps') IS NULL AND to_regclass('scale_out_marks') IS NULL
   AND to_regclass('scale_out_archived') IS NULL
   AND NOT EXISTS (SELECT 1 FROM pg_trigger AS t WHERE t.tgname = 'scale_out_two_phases')
-- end
-- apply:
-- A transaction that writes here and on one worker commits in one phase, the worker first: a crash
-- between would leave rows in a rollup that the mark does not know of. One that writes to every
-- node commits in two, or not at all.
CREATE TABLE IF NOT EXISTS scale_out_steps (only_row boolean PRIMARY KEY CHECK (only_row), taken bigint NOT NULL);
COMMENT ON TABLE scale_out_steps IS 'One row on every node of Citus, which each step of the roll-up changes, so that the step commits in two phases.';
COMMENT ON COLUMN scale_out_steps.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN scale_out_steps.taken IS 'Steps of the roll-up since the rollups were distributed.';
SELECT create_reference_table('scale_out_steps')
 WHERE NOT EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = 'scale_out_steps'::regclass);
INSERT INTO scale_out_steps (only_row, taken) VALUES (true, 0) ON CONFLICT DO NOTHING;

-- What a step has written on a worker is there with the mark that it has set: each shard has a row for
-- it, and those of the rollups lie with them.
CREATE TABLE IF NOT EXISTS scale_out_marks (
    ledger_id      uuid   PRIMARY KEY,
    mark_chunk     bigint NOT NULL,
    mark_ledger_id uuid   NOT NULL
);
COMMENT ON TABLE scale_out_marks IS 'One row in every shard: how far the roll-up has come there, as far as its worker has committed.';
COMMENT ON COLUMN scale_out_marks.ledger_id IS 'What puts the row into its shard; no key has it.';
COMMENT ON COLUMN scale_out_marks.mark_chunk IS 'mark_chunk of rollup_state.';
COMMENT ON COLUMN scale_out_marks.mark_ledger_id IS 'mark_ledger_id of rollup_state.';
SET LOCAL citus.shard_count = {shards};
SELECT create_distributed_table('scale_out_marks', 'ledger_id', colocate_with => 'none')
 WHERE NOT EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = 'scale_out_marks'::regclass);
SELECT pg_advisory_xact_lock(hashtext('keyledger.rollup'));
INSERT INTO scale_out_marks (ledger_id, mark_chunk, mark_ledger_id)
SELECT DISTINCT ON (get_shard_id_for_distribution_column('scale_out_marks', u.id)) u.id, u.mark_chunk, u.mark_ledger_id
  FROM (SELECT gen_random_uuid() AS id, s.mark_chunk, s.mark_ledger_id
          FROM rollup_state AS s, generate_series(1, {shards} * 40)) AS u
 WHERE NOT EXISTS (SELECT 1 FROM scale_out_marks AS m);

-- The same for months that move into the archive. It is a table of its own, so that neither waits for
-- the other's rows.
CREATE TABLE IF NOT EXISTS scale_out_archived (
    ledger_id  uuid   PRIMARY KEY,
    partitions bigint NOT NULL
);
COMMENT ON TABLE scale_out_archived IS 'One row in every shard: how many partitions usage_archive has there, as far as its worker has committed.';
COMMENT ON COLUMN scale_out_archived.ledger_id IS 'What puts the row into its shard; no key has it.';
COMMENT ON COLUMN scale_out_archived.partitions IS 'As archive_partitions was told.';
SELECT create_distributed_table('scale_out_archived', 'ledger_id', colocate_with => 'scale_out_marks')
 WHERE NOT EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = 'scale_out_archived'::regclass);
SELECT pg_advisory_xact_lock(hashtext('keyledger.archive'));
INSERT INTO scale_out_archived (ledger_id, partitions)
SELECT m.ledger_id, 0 FROM scale_out_marks AS m
    ON CONFLICT DO NOTHING;

SET LOCAL citus.enable_ddl_propagation = off;
CREATE OR REPLACE FUNCTION scale_out.in_two_phases() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE public.scale_out_steps SET taken = taken + 1;
    UPDATE public.scale_out_marks SET mark_chunk = NEW.mark_chunk, mark_ledger_id = NEW.mark_ledger_id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION scale_out.in_two_phases() IS 'Makes the transaction write to every node.';
CREATE OR REPLACE TRIGGER scale_out_two_phases AFTER UPDATE OF mark_chunk, mark_ledger_id ON rollup_state
    FOR EACH ROW EXECUTE FUNCTION scale_out.in_two_phases();

CREATE OR REPLACE FUNCTION archive_partitions(partitions bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.scale_out_archived AS a SET partitions = $1;
END $$;
SELECT pg_advisory_xact_lock(hashtext('make_ledger_partitions')); -- retention has ended, or tells of what it does
SELECT archive_partitions(count(*)) FROM pg_inherits AS i WHERE i.inhparent = 'usage_archive'::regclass;

-- What a crash has left prepared on a worker is committed there, or rolled back, as it was here.
CREATE OR REPLACE FUNCTION rollup_settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF has_function_privilege('recover_prepared_transactions()', 'EXECUTE') THEN
        PERFORM recover_prepared_transactions();
    END IF;
END $$;

-- No snapshot covers this server and the workers. So whoever adds the tail, which is here, to a rollup, which
-- is there, keeps the roll-up from ending a step until his transaction does; and what he sees of
-- the mark, by a snapshot that may be old, must be what every worker has now.
CREATE OR REPLACE FUNCTION scale_out.steady(chunk bigint, id uuid) RETURNS boolean LANGUAGE plpgsql STABLE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE 'rollups that are scaled out are read on the coordinator alone, not on a standby of it'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtext('keyledger.step'));
    IF EXISTS (SELECT 1 FROM public.scale_out_marks AS m WHERE m.mark_chunk <> chunk OR m.mark_ledger_id <> id) THEN
        RAISE 'the roll-up went on while this was read, or a worker has not committed its last step: run it again'
            USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION scale_out.steady(bigint, uuid) IS 'True, once no step of the roll-up can come between what the statement sees here and what it reads on workers; a serialization failure when one has.';

-- The month that a worker has not committed is nowhere: its days are gone here, and not yet there. What partitions
-- there are is seen as it is now, as the partitions themselves are, whatever the reader's snapshot. He
-- locks the recent ledger too, which keeps a month from moving between this and what he reads.
CREATE OR REPLACE FUNCTION scale_out.settled() RETURNS boolean LANGUAGE plpgsql STABLE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    here bigint := (SELECT count(*) FROM pg_partition_tree('public.usage_archive') AS p WHERE p.level = 1);
BEGIN
    IF EXISTS (SELECT 1 FROM public.scale_out_archived AS a WHERE a.partitions <> here) THEN
        RAISE 'a month moved to the archive while this was read, or a worker has not committed it '
            '(here the archive has % partitions): run it again', here
            USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION scale_out.settled() IS 'True, when every worker has the partitions of the archive that this server has; a serialization failure when one has not.';
-- end
-- undo:
SET LOCAL citus.enable_ddl_propagation = off;
DROP TRIGGER IF EXISTS scale_out_two_phases ON rollup_state;
DROP FUNCTION IF EXISTS scale_out.in_two_phases();
DROP FUNCTION IF EXISTS scale_out.steady(bigint, uuid);
DROP FUNCTION IF EXISTS scale_out.settled();
CREATE OR REPLACE FUNCTION archive_partitions(partitions bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
END $$;
CREATE OR REPLACE FUNCTION rollup_settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
END $$;
SET LOCAL citus.enable_ddl_propagation = on;
DROP TABLE IF EXISTS scale_out_steps, scale_out_marks, scale_out_archived;
-- end
