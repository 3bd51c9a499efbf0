-- name: TokenCreate :one
-- Stores an access token by its hash, unless its end has passed by the database's clock:
-- then there is no row. The row comes with an audit row.
INSERT INTO access_tokens (id, name, role, hash, hint, expires_at)
SELECT @id, @name, @role, @hash, @hint, sqlc.narg('expires_at')::timestamptz
 WHERE sqlc.narg('expires_at')::timestamptz IS NULL OR sqlc.narg('expires_at')::timestamptz > now()
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

-- name: TokenRevoke :many
-- Revokes the token with this id, or with this name where only one live token has it, at
-- once for every later request. One revoked before keeps its first time. Every token that
-- matches is returned; where there are several, none is revoked.
WITH found AS MATERIALIZED (
    SELECT t.id
      FROM access_tokens AS t
     WHERE t.id::text = @id_or_name::text OR t.name = @id_or_name::text AND t.revoked_at IS NULL
     ORDER BY t.id
       FOR UPDATE
), revoked AS (
    UPDATE access_tokens AS t SET revoked_at = coalesce(t.revoked_at, now())
      FROM found AS f
     WHERE t.id = f.id AND (SELECT count(*) FROM found) = 1
    RETURNING t.id, t.name, t.role, t.revoked_at
)
SELECT f.id,
       coalesce(r.name, '')::text AS name,
       coalesce(r.role, '')::text AS role,
       r.revoked_at
  FROM found AS f
  LEFT JOIN revoked AS r ON r.id = f.id
 ORDER BY f.id;

-- name: TokenList :many
-- Every token ever issued, newest first.
SELECT * FROM access_tokens ORDER BY created_at DESC, id;

-- name: TokenEnd :one
-- Revokes the token with this id, at once for every later request, unless it is a live admin
-- token and no other one lives as long. One revoked before keeps its first time. Live admin
-- tokens are locked, so that of two that are revoked at the same time one stays.
WITH admins AS MATERIALIZED (
    SELECT t.id, coalesce(t.expires_at, 'infinity') AS ends
      FROM access_tokens AS t
     WHERE t.role = 'admin' AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at >= now())
     ORDER BY t.id
       FOR UPDATE
), ended AS (
    UPDATE access_tokens AS t SET revoked_at = coalesce(t.revoked_at, now())
     WHERE t.id = @id
       AND (NOT EXISTS (SELECT FROM admins AS a WHERE a.id = t.id)
            OR EXISTS (SELECT FROM admins AS a
                        WHERE a.id <> t.id AND a.ends >= coalesce(t.expires_at, 'infinity')))
    RETURNING t.id
)
SELECT EXISTS (SELECT FROM access_tokens AS t WHERE t.id = @id)::boolean AS known,
       EXISTS (SELECT FROM ended)::boolean AS ended;
