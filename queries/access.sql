-- name: TokenCreate :one
-- Stores an access token by its hash. The row comes with an audit row.
INSERT INTO access_tokens (id, name, role, hash, hint, expires_at)
VALUES (@id, @name, @role, @hash, @hint, sqlc.narg('expires_at'))
RETURNING *;

-- name: TokenBootstrap :execrows
-- Stores the first admin token, only if no token has ever existed. Of several
-- replicas that start at once exactly one stores it: the lock puts them in line.
WITH alone AS MATERIALIZED (
    SELECT pg_advisory_xact_lock(hashtext('keyledger.bootstrap')) AS held
)
INSERT INTO access_tokens (id, name, role, hash, hint)
SELECT @id, @name, 'admin', @hash, @hint FROM alone
 WHERE NOT EXISTS (SELECT FROM access_tokens)
ON CONFLICT (hash) DO NOTHING;

-- name: TokenCheck :one
-- The live token with this hash. No row when it is unknown, revoked or past its
-- end by the database's clock (equal is still valid).
SELECT * FROM access_tokens
 WHERE hash = @hash AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at >= coalesce(sqlc.narg('now')::timestamptz, now()));

-- name: TokenRevoke :one
-- Revokes a token at once for every later request. One revoked before keeps its
-- first time.
UPDATE access_tokens SET revoked_at = coalesce(revoked_at, now()) WHERE id = @id
RETURNING *;

-- name: TokenList :many
-- Every token ever issued, newest first.
SELECT * FROM access_tokens ORDER BY created_at DESC, id;
