-- Write what another store exported. What is there stays as it is.
-- Params: the columns of the kind in order, instants of this store's monotone clock; known: JSON array of ids.
-- Returns: known: (id, digest). Of the others the number of rows written says whether it was new.
-- Index: primary keys; psyqueue_body_id; a job enters the indexes that its status is in.
-- Cost: a job is two rows, and one for its result, each error, its unique key; two small statements more at a gate.
-- Differs from the others: nothing but the syntax.

-- name: known
SELECT id, digest FROM psyqueue_body WHERE id IN (SELECT value FROM json_each(?));

-- name: id_of
SELECT id FROM psyqueue_body WHERE n = ?;

-- name: jobs
INSERT INTO psyqueue_job (n, queue, lane, status, priority, ready_number, attempt, lost, fence, generation, links, held,
    cancel_requested, needs_left, has_place, run_at_ms, expires_at_ms, started_at_ms, completed_at_ms, reason, gate)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: bodies
INSERT INTO psyqueue_body (n, id, name, max_retries, max_lost, created_at_ms, digest, extras, cold, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: errors
INSERT INTO psyqueue_error (n, number, error) VALUES (?, ?, ?);

-- name: needs
INSERT OR IGNORE INTO psyqueue_edge (parent, child, mask, met) VALUES (?, ?, ?, ?);

-- name: keys
INSERT INTO psyqueue_idempotency (key, id, digest, expires_mono_ms) VALUES (?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    id = excluded.id, digest = excluded.digest, expires_mono_ms = excluded.expires_mono_ms
    WHERE psyqueue_idempotency.expires_mono_ms <= ?;

-- name: state
INSERT INTO psyqueue_state (key, value, version, expires_mono_ms, bucket_level, bucket_mono_ms)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    value = excluded.value, version = excluded.version, expires_mono_ms = excluded.expires_mono_ms,
    bucket_level = excluded.bucket_level, bucket_mono_ms = excluded.bucket_mono_ms
    WHERE psyqueue_state.version < excluded.version;

-- name: streams
INSERT INTO psyqueue_stream (stream, seq) VALUES (?, ?)
ON CONFLICT (stream) DO UPDATE SET seq = excluded.seq WHERE seq < excluded.seq;

-- name: records
INSERT OR IGNORE INTO psyqueue_record (stream, seq, at_ms, expires_mono_ms, body) VALUES (?, ?, ?, ?, ?);

-- name: locks
INSERT INTO psyqueue_lock (name, holder, fence, until_mono_ms) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET
    holder = excluded.holder, fence = excluded.fence, until_mono_ms = excluded.until_mono_ms
    WHERE psyqueue_lock.fence < excluded.fence;

-- name: schedules
INSERT OR IGNORE INTO psyqueue_schedule (id, spec, version, next_at_ms, last_nominal_ms, paused)
VALUES (?, ?, ?, ?, ?, ?);
