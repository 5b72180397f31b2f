-- The registration of running workers and its lease.
-- Params: ids as text, n = session number, instants in ms (monotone, but opened_at_ms), limit.
-- Returns: the rows asked for.
-- Index: unique id; psyqueue_session_open; psyqueue_session_closed; psyqueue_job_active.
-- Cost: one row; reaping: the expired sessions and `limit` of their jobs.
-- Differs from the others: one writer, so a fetch needs no lock on the session's row.

-- name: open
INSERT INTO psyqueue_session (id, worker, queues, lease_ms, meta, opened_at_ms, until_mono_ms)
VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: find
SELECT n, id, worker, queues, lease_ms, meta, opened_at_ms, until_mono_ms, closed_mono_ms
FROM psyqueue_session WHERE id = ?;

-- name: extend
UPDATE psyqueue_session SET until_mono_ms = max(until_mono_ms, ? + lease_ms) WHERE n = ? AND closed_mono_ms IS NULL;

-- name: extend_all
UPDATE psyqueue_session SET until_mono_ms = max(until_mono_ms, ? + lease_ms) WHERE closed_mono_ms IS NULL;

-- name: close
UPDATE psyqueue_session SET closed_mono_ms = ? WHERE n = ? AND closed_mono_ms IS NULL;

-- name: expired
SELECT n FROM psyqueue_session WHERE closed_mono_ms IS NULL AND until_mono_ms <= ?
ORDER BY until_mono_ms, id LIMIT ?;

-- name: held
SELECT n FROM psyqueue_job INDEXED BY psyqueue_job_active WHERE session = ? AND status = 3 ORDER BY n LIMIT ?;

-- name: left_behind
SELECT j.n, s.id, s.worker FROM psyqueue_session AS s CROSS JOIN psyqueue_job AS j INDEXED BY psyqueue_job_active
WHERE s.closed_mono_ms IS NOT NULL AND j.session = s.n AND j.status = 3
ORDER BY s.id, j.n LIMIT ?;

-- name: list
SELECT n, id, worker, queues, lease_ms, meta, opened_at_ms, until_mono_ms FROM psyqueue_session
WHERE closed_mono_ms IS NULL AND id > ? ORDER BY id LIMIT ?;

-- name: held_count
SELECT count(*) FROM psyqueue_job INDEXED BY psyqueue_job_active WHERE session = ? AND status = 3;

-- name: worker
SELECT id, worker FROM psyqueue_session WHERE n = ?;
