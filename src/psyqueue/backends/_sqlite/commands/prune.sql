-- Retention: delete what nobody needs any more, oldest first, in bounded steps.
-- Params: queue, instants in ms, limits 1..500; keys as JSON arrays.
-- Returns: the keys of what may go.
-- Index: psyqueue_job_ended; the index of expiry of each table.
-- Cost: limit rows of each kind, and the ended jobs that are held or needed, which are passed over.
-- Differs from the others: a store in one process needs no lock against a second pruner.

-- name: queues
SELECT DISTINCT queue FROM psyqueue_tally WHERE status >= 4 AND jobs > 0 ORDER BY queue;

-- name: aged
SELECT j.completed_at_ms, j.n, j.status, j.links FROM psyqueue_job AS j INDEXED BY psyqueue_job_ended
WHERE j.queue = ? AND j.status = ? AND j.status >= 4 AND j.completed_at_ms <= ? AND j.held = 0
    AND NOT EXISTS (SELECT 1 FROM psyqueue_edge AS e WHERE e.parent = j.n)
ORDER BY j.completed_at_ms, j.n LIMIT ?;

-- name: drop_jobs
DELETE FROM psyqueue_job WHERE n IN (SELECT value FROM json_each(?));

-- name: drop_bodies
DELETE FROM psyqueue_body WHERE n IN (SELECT value FROM json_each(?)) RETURNING n, id;

-- name: drop_results
DELETE FROM psyqueue_result WHERE n IN (SELECT value FROM json_each(?));

-- name: drop_errors
DELETE FROM psyqueue_error WHERE n IN (SELECT value FROM json_each(?));

-- name: idempotency
DELETE FROM psyqueue_idempotency WHERE key IN
    (SELECT key FROM psyqueue_idempotency WHERE expires_mono_ms <= ? ORDER BY expires_mono_ms LIMIT ?);

-- name: state
DELETE FROM psyqueue_state WHERE key IN
    (SELECT key FROM psyqueue_state WHERE expires_mono_ms IS NOT NULL AND expires_mono_ms <= ?
     ORDER BY expires_mono_ms LIMIT ?);

-- name: records
DELETE FROM psyqueue_record WHERE (stream, seq) IN
    (SELECT stream, seq FROM psyqueue_record WHERE expires_mono_ms IS NOT NULL AND expires_mono_ms <= ?
     ORDER BY expires_mono_ms LIMIT ?);

-- name: turns
DELETE FROM psyqueue_turn WHERE (client, channel) IN
    (SELECT client, channel FROM psyqueue_turn WHERE mono_ms <= ? LIMIT ?);

-- name: fires
DELETE FROM psyqueue_fire WHERE (schedule_id, nominal_ms) IN
    (SELECT schedule_id, nominal_ms FROM psyqueue_fire WHERE mono_ms <= ? ORDER BY mono_ms LIMIT ?);

-- name: sessions
DELETE FROM psyqueue_session WHERE n IN
    (SELECT s.n FROM psyqueue_session AS s WHERE s.closed_mono_ms IS NOT NULL AND s.closed_mono_ms <= ?
        AND NOT EXISTS (SELECT 1 FROM psyqueue_job AS j INDEXED BY psyqueue_job_active WHERE j.session = s.n AND j.status = 3)
     ORDER BY s.closed_mono_ms LIMIT ?);

-- name: lanes
DELETE FROM psyqueue_lane WHERE (queue, lane) IN
    (SELECT l.queue, l.lane FROM psyqueue_lane AS l LEFT JOIN psyqueue_queue AS q ON q.queue = l.queue
     WHERE l.lane <> '' AND l.unstarted = 0 AND l.active = 0 AND l.turn <= coalesce(q.turn, 0)
        AND NOT EXISTS (SELECT 1 FROM psyqueue_limits AS s WHERE s.queue = l.queue AND s.is_lane = 1 AND s.lane = l.lane)
     LIMIT ?);

-- name: tallies
DELETE FROM psyqueue_tally WHERE jobs = 0;
