-- Everything of one kind, page by page in the order of its key.
-- Params: the last key of the page before (columns of the key in order), then monotone now in ms where times run, limit.
-- Returns: the columns of the kind, the key first. Of a job what each has, and the rest as a JSON array; NULL for one that is as
--   it was right after its enqueue: each column of a row costs the reader more than SQLite's own work for it.
-- Index: primary keys.
-- Cost: limit rows; jobs: limit rows of both tables, and their results; errors, key_holders: those of the jobs given.
-- Differs from the others: what nearly all jobs have in common is not told.

-- name: limits
SELECT queue, is_lane, lane, paused_until_ms, weight, active_max, starts_per_minute, starts_burst, pending_max,
    retain_ended, retain_dead
FROM psyqueue_limits WHERE (queue, is_lane, lane) > (?, ?, ?) ORDER BY queue, is_lane, lane LIMIT ?;

-- name: schedules
SELECT id, spec, version, next_at_ms, last_nominal_ms, paused FROM psyqueue_schedule WHERE id > ? ORDER BY id LIMIT ?;

-- name: fires
SELECT schedule_id, nominal_ms FROM psyqueue_fire
WHERE (schedule_id, nominal_ms) > (?, ?) ORDER BY schedule_id, nominal_ms LIMIT ?;

-- name: state
SELECT key, value, version, expires_mono_ms, bucket_level, bucket_mono_ms FROM psyqueue_state
WHERE key > ? AND (expires_mono_ms IS NULL OR expires_mono_ms > ?) ORDER BY key LIMIT ?;

-- name: streams
SELECT stream, seq FROM psyqueue_stream WHERE stream > ? ORDER BY stream LIMIT ?;

-- name: records
SELECT stream, seq, at_ms, body, expires_mono_ms FROM psyqueue_record
WHERE (stream, seq) > (?, ?) ORDER BY stream, seq LIMIT ?;

-- name: locks
SELECT name, holder, fence, until_mono_ms FROM psyqueue_lock WHERE name > ? ORDER BY name LIMIT ?;

-- name: keys
SELECT key, id, digest, expires_mono_ms FROM psyqueue_idempotency
WHERE key > ? AND expires_mono_ms > ? ORDER BY key LIMIT ?;

-- name: jobs
SELECT
    j.n, b.id, j.queue, b.name, b.created_at_ms, j.ready_number, b.digest, b.cold, b.payload, b.extras,
    CASE WHEN j.status = 4 THEN (SELECT r.result FROM psyqueue_result AS r WHERE r.n = j.n) END,
    CASE WHEN j.status <> 2 OR j.attempt | j.lost | j.fence | j.generation | j.links | j.held | j.cancel_requested
        OR j.priority <> 0 OR j.run_at_ms <> b.created_at_ms OR j.expires_at_ms IS NOT NULL OR j.reason <> '' OR j.lane <> ''
        OR b.max_retries <> 3 OR b.max_lost <> 2 OR b.extras IS NOT NULL
    THEN json_array(
        j.status, j.lane, j.priority, b.max_retries, b.max_lost, j.attempt, j.lost, j.fence, j.generation, j.needs_left,
        j.held, j.cancel_requested, j.links <> 0 AND EXISTS (SELECT 1 FROM psyqueue_edge AS e WHERE e.parent = j.n),
        j.reason, j.started_at_ms, j.completed_at_ms, j.run_at_ms, j.expires_at_ms
    ) END
FROM psyqueue_job AS j
CROSS JOIN psyqueue_body AS b ON b.n = j.n
WHERE j.n > ? ORDER BY j.n LIMIT ?;

-- name: key_holders
SELECT n FROM psyqueue_unique WHERE key IN (SELECT value FROM json_each(?));

-- name: errors
SELECT n, error FROM psyqueue_error WHERE n BETWEEN ? AND ? ORDER BY n, number;

-- name: needs
SELECT e.parent, e.child, e.mask, e.met, p.id, c.id FROM psyqueue_edge AS e
JOIN psyqueue_body AS p ON p.n = e.parent JOIN psyqueue_body AS c ON c.n = e.child
WHERE (e.parent, e.child) > (?, ?) ORDER BY e.parent, e.child LIMIT ?;
