-- Who has keys: the live holder of a unique key, and who opened the window of an idempotency key.
-- Params: unique: key. idempotency: key, monotone now in ms.
-- Returns: unique: id of the job; idempotency: id and digest, kept beside the key since the job may be gone.
-- Index: primary keys.
-- Cost: two rows a unique key, one an idempotency key.
-- Differs from the others: key by key, since a statement costs hardly more than a row here.

-- name: unique
SELECT b.id FROM psyqueue_unique AS u JOIN psyqueue_body AS b ON b.n = u.n WHERE u.key = ?;

-- name: idempotency
SELECT id, digest FROM psyqueue_idempotency WHERE key = ? AND expires_mono_ms > ?;
