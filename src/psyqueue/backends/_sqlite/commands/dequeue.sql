-- Give up to `limit` pending jobs of a lane to a session: highest priority first, then lowest ready number.
-- Params: heads: queue, lane, now in ms, limit 1..500, offset. start: token seed, session number, now in ms, JSON array of n.
--   lanes: queue, after (turn, lane), limit. take_turn: queue, lane, virtual time. queue_turn: queue, virtual time.
-- Returns: heads: n, what a delivery holds, in order; lanes: (virtual time, lane) with pending jobs, whose turn it is first.
-- Index: psyqueue_job_ready in its own order, so nothing is sorted; psyqueue_lane_turn.
-- Cost: limit rows read (payload included), limit rows written; as many lanes as are given a turn.
-- Differs from the others: one writer, so no lock is taken; read first, write after, so that bytes_max can end it.

-- name: heads
SELECT j.n, j.attempt + 1, j.lost, j.fence + 1, j.priority, j.generation, j.run_at_ms,
    b.id, b.name, b.max_retries, b.created_at_ms, b.extras, b.cold, b.payload, b.max_lost
FROM psyqueue_job AS j INDEXED BY psyqueue_job_ready CROSS JOIN psyqueue_body AS b ON b.n = j.n
WHERE j.queue = ? AND j.lane = ? AND j.status = 2 AND j.held = 0 AND (j.expires_at_ms IS NULL OR j.expires_at_ms > ?)
ORDER BY j.priority DESC, j.ready_number LIMIT ? OFFSET ?;

-- name: start
UPDATE psyqueue_job SET
    status = 3, attempt = attempt + 1, fence = fence + 1, token = ?, session = ?, started_at_ms = ?, reason = ''
WHERE n IN (SELECT value FROM json_each(?));

-- name: has_lanes
SELECT 1 FROM psyqueue_lane WHERE queue = ? AND lane <> '' LIMIT 1;

-- name: lanes
SELECT turn, lane FROM psyqueue_lane WHERE queue = ? AND pending > 0 AND (turn, lane) > (?, ?)
ORDER BY turn, lane LIMIT ?;

-- name: lane_turn
SELECT turn FROM psyqueue_lane WHERE queue = ? AND lane = ?;

-- name: queue_turn
SELECT turn FROM psyqueue_queue WHERE queue = ?;

-- name: take_turn
INSERT INTO psyqueue_lane (queue, lane, turn) VALUES (?, ?, ?)
ON CONFLICT (queue, lane) DO UPDATE SET turn = excluded.turn;

-- name: keep_queue_turn
INSERT INTO psyqueue_queue (queue, turn) VALUES (?, ?) ON CONFLICT (queue) DO UPDATE SET turn = excluded.turn;

-- name: again
SELECT j.n, j.attempt, j.lost, j.fence, j.priority, j.generation, j.run_at_ms,
    b.id, b.name, b.max_retries, b.created_at_ms, b.extras, b.cold, b.payload, b.max_lost, j.queue, j.lane, j.started_at_ms
FROM psyqueue_job AS j JOIN psyqueue_body AS b ON b.n = j.n
WHERE j.n = ? AND j.status = 3 AND j.token = ? AND j.session = ?;
