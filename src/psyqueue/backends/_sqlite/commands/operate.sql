-- Schedules and their fires.
-- Params: put: schedule in column order. fire: schedule id, nominal instant in ms, monotone now in ms.
-- Returns: find: the schedule; fired: one row if it did.
-- Index: primary keys.
-- Cost: one row each.
-- Differs from the others: nothing but the syntax.

-- name: schedule
SELECT id, spec, version, next_at_ms, last_nominal_ms, paused FROM psyqueue_schedule WHERE id = ?;

-- name: put_schedule
INSERT OR REPLACE INTO psyqueue_schedule (id, spec, version, next_at_ms, last_nominal_ms, paused)
VALUES (?, ?, ?, ?, ?, ?);

-- name: drop_schedule
DELETE FROM psyqueue_schedule WHERE id = ?;

-- name: fire
INSERT OR IGNORE INTO psyqueue_fire (schedule_id, nominal_ms, mono_ms) VALUES (?, ?, ?);

-- name: set_next
UPDATE psyqueue_schedule SET next_at_ms = ?, last_nominal_ms = max(last_nominal_ms, ?) WHERE id = ?;
