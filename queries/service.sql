-- name: Setting :one
-- A setting, as the first start of a service has fixed it.
SELECT value FROM service_settings WHERE name = @name;

-- name: SettingAgree :one
-- Stores a setting if it has none yet and returns the value in force, so that
-- whichever replica starts first decides and every other one can compare.
WITH made AS (
    INSERT INTO service_settings (name, value) VALUES (@name, @value)
    ON CONFLICT (name) DO NOTHING
    RETURNING value
)
SELECT value FROM made
UNION ALL
SELECT value FROM service_settings WHERE name = @name
LIMIT 1;

-- name: ZoneCheck :one
-- Fails when PostgreSQL does not know the time zone: days and months are cut by
-- PostgreSQL, so it must.
SELECT (now() AT TIME ZONE @zone::text)::text AS local;

-- name: Now :one
-- The database's clock, the only one that decides anything.
SELECT clock_timestamp()::timestamptz AS now;

-- name: AuditBegin :exec
-- Names who acts in this transaction, for the audit triggers. Ends with the
-- transaction, so it is safe behind a pooler.
SELECT set_config('keyledger.actor', @actor::text, true),
       set_config('keyledger.actor_id', @actor_id::text, true),
       set_config('keyledger.verb', @verb::text, true),
       set_config('keyledger.request_id', @request_id::text, true);

-- name: AuditAppend :exec
-- Adds an audit row for something whose table has no audit trigger. The actor
-- is the one named by AuditBegin in the same transaction.
INSERT INTO audit_log (actor, actor_id, action, target_type, target_id, after, request_id)
VALUES (current_setting('keyledger.actor'),
        nullif(current_setting('keyledger.actor_id'), '')::uuid,
        @target_type::text || '.' || current_setting('keyledger.verb'),
        @target_type, @target_id, @after,
        nullif(current_setting('keyledger.request_id'), ''));

-- name: AuditForget :exec
-- Takes a purged key's name and every value of it out of the audit trail. That
-- something was done, when and by whom stays, under the id that the ledger has for it.
UPDATE audit_log
   SET before = NULL, after = NULL, target_id = CASE WHEN target_type = 'event' THEN target_id ELSE @ledger_id::text END
 WHERE target_type IN ('key', 'secret') AND target_id = @key_id::text
    OR target_type = 'event' AND target_id IN (
        SELECT e.adjusts::text FROM ledger AS e
         WHERE e.ledger_id = CAST(@ledger_id::text AS uuid) AND e.adjusts IS NOT NULL);

-- name: AuditList :many
-- Audit rows of one thing, newest first.
SELECT * FROM audit_log
 WHERE target_type = ANY(@target_types::text[]) AND target_id = @target_id
 ORDER BY id DESC LIMIT @row_limit;

-- name: AuditTrail :many
-- A page of the audit trail, newest first, before a row already seen; optionally of one
-- kind of thing, of one thing, or by one actor.
SELECT * FROM audit_log AS a
 WHERE (sqlc.narg('target_type')::text IS NULL OR a.target_type = sqlc.narg('target_type')::text)
   AND (sqlc.narg('target_id')::text IS NULL OR a.target_id = sqlc.narg('target_id')::text)
   AND (sqlc.narg('actor')::text IS NULL OR a.actor = sqlc.narg('actor')::text)
   AND (sqlc.narg('before_id')::bigint IS NULL OR a.id < sqlc.narg('before_id')::bigint)
 ORDER BY a.id DESC
 LIMIT @row_limit;

-- name: ServerVersion :one
-- PostgreSQL's version, and the database's clock.
SELECT current_setting('server_version')::text AS version, clock_timestamp()::timestamptz AS now;

-- name: WalPosition :one
-- How far this server's log has come, in bytes: what is committed on a primary, what is applied on
-- a standby. A server that is started anew has another started_at.
SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
        - '0/0'::pg_lsn)::bigint AS position,
       pg_is_in_recovery()::boolean AS in_recovery,
       pg_postmaster_start_time()::timestamptz AS started_at;
