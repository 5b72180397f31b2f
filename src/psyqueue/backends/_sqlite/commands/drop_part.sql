-- Forget items, if what is there is the same.
-- Params: the key of the item and what has to be equal.
-- Returns: the number of rows deleted says whether it was there.
-- Index: primary keys; psyqueue_edge_child.
-- Cost: one row; edges_to: all edges of those that need a job.
-- Differs from the others: nothing but the syntax.

-- name: limits
DELETE FROM psyqueue_limits WHERE queue = ? AND is_lane = ? AND lane = ?;

-- name: schedules
DELETE FROM psyqueue_schedule WHERE id = ? AND spec = ? AND version = ?;

-- name: fires
DELETE FROM psyqueue_fire WHERE schedule_id = ? AND nominal_ms = ?;

-- name: state
DELETE FROM psyqueue_state WHERE key = ? AND value = ? AND version = ?;

-- name: streams
DELETE FROM psyqueue_stream WHERE stream = ? AND seq = ?;

-- name: records
DELETE FROM psyqueue_record WHERE stream = ? AND seq = ? AND at_ms = ? AND body = ?;

-- name: locks
DELETE FROM psyqueue_lock WHERE name = ? AND fence = ?;

-- name: keys
DELETE FROM psyqueue_idempotency WHERE key = ? AND id = ?;

-- name: edges_to
DELETE FROM psyqueue_edge WHERE parent = ?;
