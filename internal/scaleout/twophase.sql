-- done:
SELECT EXISTS (SELECT 1 FROM pg_trigger AS t WHERE t.tgname = 'scale_out_two_phases')
   AND EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = to_regclass('scale_out_steps'))
   AND EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = to_regclass('scale_out_marks'))
   AND to_regprocedure('scale_out.steady(bigint, uuid)') IS NOT NULL
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

-- A worker that has not committed a step yet shows it by the rows here, one for each shard: those of the
-- rollups lie with them.
CREATE TABLE IF NOT EXISTS scale_out_marks (ledger_id uuid PRIMARY KEY, taken bigint NOT NULL);
COMMENT ON TABLE scale_out_marks IS 'One row in every shard, which each step of the roll-up changes: they differ while a worker has not committed it.';
COMMENT ON COLUMN scale_out_marks.ledger_id IS 'What puts the row into its shard; no key has it.';
COMMENT ON COLUMN scale_out_marks.taken IS 'Steps of the roll-up since the rollups were distributed.';
SET LOCAL citus.shard_count = {shards};
SELECT create_distributed_table('scale_out_marks', 'ledger_id', colocate_with => 'none')
 WHERE NOT EXISTS (SELECT 1 FROM pg_dist_partition AS p WHERE p.logicalrelid = 'scale_out_marks'::regclass);
INSERT INTO scale_out_marks (ledger_id, taken)
SELECT DISTINCT ON (get_shard_id_for_distribution_column('scale_out_marks', u.id)) u.id, 0
  FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, {shards} * 40)) AS u
 WHERE NOT EXISTS (SELECT 1 FROM scale_out_marks AS m);

SET LOCAL citus.enable_ddl_propagation = off;
CREATE OR REPLACE FUNCTION scale_out.in_two_phases() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.scale_out_steps SET taken = taken + 1;
    UPDATE public.scale_out_marks SET taken = taken + 1;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION scale_out.in_two_phases() IS 'Makes the transaction write to every node.';
CREATE OR REPLACE TRIGGER scale_out_two_phases AFTER UPDATE OF mark_chunk, mark_ledger_id ON rollup_state
    FOR EACH ROW EXECUTE FUNCTION scale_out.in_two_phases();

-- What a crash has left prepared on a worker is committed there, or rolled back, as it was here.
CREATE OR REPLACE FUNCTION rollup_settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF has_function_privilege('recover_prepared_transactions()', 'EXECUTE') THEN
        PERFORM recover_prepared_transactions();
    END IF;
END $$;

-- No snapshot covers this server and the workers. So whoever adds the tail, which is here, to a rollup, which
-- is there, keeps the roll-up from taking a step until the transaction ends; must have begun to
-- read after the last step; and every node must have committed that. Two functions, since one that
-- is stable sees no more than its statement.
CREATE OR REPLACE FUNCTION scale_out.is_at(chunk bigint, id uuid) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('keyledger.step'));
    IF NOT EXISTS (SELECT 1 FROM public.rollup_state AS s WHERE s.mark_chunk = chunk AND s.mark_ledger_id = id) THEN
        RAISE 'the roll-up went on while this was read: run it again' USING ERRCODE = 'serialization_failure';
    END IF;
    IF (SELECT min(m.taken) <> max(m.taken) FROM public.scale_out_marks AS m) THEN
        RAISE 'the last step of the roll-up is not committed on every worker yet: run it again'
            USING ERRCODE = 'serialization_failure', HINT = 'Citus does so once a minute (citus.recover_2pc_interval).';
    END IF;
    RETURN true;
END $$;
CREATE OR REPLACE FUNCTION scale_out.steady(chunk bigint, id uuid) RETURNS boolean LANGUAGE plpgsql STABLE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN scale_out.is_at(chunk, id);
END $$;
COMMENT ON FUNCTION scale_out.steady(bigint, uuid) IS 'True, once no step of the roll-up can come between what the statement sees here and what it reads on workers; a serialization failure when one has.';
-- end
-- undo:
SET LOCAL citus.enable_ddl_propagation = off;
DROP TRIGGER IF EXISTS scale_out_two_phases ON rollup_state;
DROP FUNCTION IF EXISTS scale_out.in_two_phases();
DROP FUNCTION IF EXISTS scale_out.steady(bigint, uuid);
DROP FUNCTION IF EXISTS scale_out.is_at(bigint, uuid);
CREATE OR REPLACE FUNCTION rollup_settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
END $$;
SET LOCAL citus.enable_ddl_propagation = on;
DROP TABLE IF EXISTS scale_out_steps, scale_out_marks;
-- end
