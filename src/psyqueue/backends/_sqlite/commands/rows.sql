-- Single jobs on the careful path: load all that can change, write it back.
-- Params: by_n: creation number. by_id: job id. by_ids, by_numbers: JSON array. save: the changing columns, then n.
-- Returns: rows in the order of rows.COLUMNS.
-- Index: primary key of psyqueue_job; psyqueue_body_id.
-- Cost: one job each (two rows).
-- Differs from the others: the store lives in the process, so a rare move may take several small statements.

-- name: by_n
SELECT
    j.n, j.queue, j.lane, j.status, j.priority, j.ready_number, j.attempt, j.lost, j.fence, j.generation, j.links,
    j.held, j.cancel_requested, j.needs_left, j.has_place, j.token, j.session, j.run_at_ms, j.expires_at_ms,
    j.started_at_ms, j.completed_at_ms, j.reason, j.gate,
    b.id, b.name, b.max_retries, b.max_lost, b.created_at_ms, b.digest, b.extras
FROM psyqueue_job AS j JOIN psyqueue_body AS b ON b.n = j.n WHERE j.n = ?;

-- name: by_id
SELECT
    j.n, j.queue, j.lane, j.status, j.priority, j.ready_number, j.attempt, j.lost, j.fence, j.generation, j.links,
    j.held, j.cancel_requested, j.needs_left, j.has_place, j.token, j.session, j.run_at_ms, j.expires_at_ms,
    j.started_at_ms, j.completed_at_ms, j.reason, j.gate,
    b.id, b.name, b.max_retries, b.max_lost, b.created_at_ms, b.digest, b.extras
FROM psyqueue_body AS b JOIN psyqueue_job AS j ON j.n = b.n WHERE b.id = ?;

-- name: save
UPDATE psyqueue_job SET
    status = ?, priority = ?, ready_number = ?, attempt = ?, lost = ?, fence = ?, generation = ?, links = ?, held = ?,
    cancel_requested = ?, needs_left = ?, has_place = ?, token = ?, session = ?, run_at_ms = ?, expires_at_ms = ?,
    started_at_ms = ?, completed_at_ms = ?, reason = ?
WHERE n = ?;

-- name: number_of
SELECT n FROM psyqueue_body WHERE id = ?;

-- name: status_of
SELECT j.status FROM psyqueue_body AS b JOIN psyqueue_job AS j ON j.n = b.n WHERE b.id = ?;

-- name: insert_job
INSERT INTO psyqueue_job (n, queue, lane, status, priority, ready_number, links, run_at_ms, expires_at_ms, gate)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_body
INSERT OR IGNORE INTO psyqueue_body (n, id, name, max_retries, max_lost, created_at_ms, digest, cold, payload, extras)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: replace_body
UPDATE psyqueue_body SET digest = ?, cold = ?, payload = ? WHERE n = ?;

-- name: drop_job
DELETE FROM psyqueue_job WHERE n = ?;

-- name: drop_body
DELETE FROM psyqueue_body WHERE n = ?;

-- name: drop_result
DELETE FROM psyqueue_result WHERE n = ?;

-- name: drop_errors
DELETE FROM psyqueue_error WHERE n = ?;

-- name: put_result
INSERT OR REPLACE INTO psyqueue_result (n, result) VALUES (?, ?);

-- name: put_error
INSERT INTO psyqueue_error (n, number, error)
VALUES (?, 1 + coalesce((SELECT max(number) FROM psyqueue_error WHERE n = ?), 0), ?) RETURNING number;

-- name: trim_errors
DELETE FROM psyqueue_error WHERE n = ? AND number <= ?;

-- name: errors
SELECT error FROM psyqueue_error WHERE n = ? ORDER BY number;

-- name: result
SELECT result FROM psyqueue_result WHERE n = ?;

-- name: content
SELECT cold, payload FROM psyqueue_body WHERE n = ?;
