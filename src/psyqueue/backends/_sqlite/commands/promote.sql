-- What time does to jobs of one queue: due ones become pending, expired ones are found (they end one by one).
-- Params: queue, wall clock in ms, limit 1..500. start: ready number, n.
-- Returns: due: (n, lane, id), earliest first; expired: n, earliest first; next: (the next due instant, the next expiry).
-- Index: psyqueue_job_due; psyqueue_job_expiring.
-- Cost: limit rows; nothing when nothing is due.
-- Differs from the others: the same order, (instant, creation number), by the order of the index.

-- name: due
SELECT j.n, j.lane, b.id FROM psyqueue_job AS j JOIN psyqueue_body AS b ON b.n = j.n
WHERE j.queue = ? AND j.status = 1 AND j.held = 0 AND j.run_at_ms <= ?
ORDER BY j.run_at_ms, j.n LIMIT ?;

-- name: start
UPDATE psyqueue_job SET status = 2, ready_number = ? WHERE n = ?;

-- name: expired
SELECT n FROM psyqueue_job
WHERE queue = ? AND expires_at_ms IS NOT NULL AND status <= 2 AND held = 0 AND expires_at_ms <= ?
ORDER BY expires_at_ms, n LIMIT ?;

-- name: next
SELECT
    (SELECT min(run_at_ms) FROM psyqueue_job INDEXED BY psyqueue_job_due WHERE queue = ? AND status = 1 AND held = 0),
    (SELECT min(expires_at_ms) FROM psyqueue_job INDEXED BY psyqueue_job_expiring
     WHERE queue = ? AND expires_at_ms IS NOT NULL AND status <= 2 AND held = 0);
