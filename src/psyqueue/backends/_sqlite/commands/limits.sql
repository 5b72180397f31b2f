-- Settings of queues and lanes, and the bucket of each start rate.
-- Params: queue, is_lane (0: of the queue, 1: of a lane), lane; instants in ms; put: all settings in column order.
--   of_lanes: queue, from this lane on, but not this one (NULL: all), limit 1..501.
-- Returns: settings in column order, then level (1/60,000 start) and monotone instant of the bucket.
-- Index: primary key of psyqueue_limits; psyqueue_lane_turn.
-- Cost: one row; waiting: the limits of one queue that time alone can lift; of_lanes: limit rows.
-- Differs from the others: nothing but the syntax.

-- name: one
SELECT queue, is_lane, lane, paused_until_ms, weight, active_max, starts_per_minute, starts_burst, pending_max,
    retain_ended, retain_dead, bucket_level, bucket_mono_ms
FROM psyqueue_limits WHERE queue = ? AND is_lane = ? AND lane = ?;

-- name: any
SELECT 1 FROM psyqueue_limits WHERE queue = ? LIMIT 1;

-- name: crowded
SELECT 1 FROM psyqueue_limits WHERE queue = ? AND active_max IS NOT NULL LIMIT 1;

-- name: put
INSERT INTO psyqueue_limits (queue, is_lane, lane, paused_until_ms, weight, active_max, starts_per_minute,
    starts_burst, pending_max, retain_ended, retain_dead)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (queue, is_lane, lane) DO UPDATE SET
    paused_until_ms = excluded.paused_until_ms, weight = excluded.weight, active_max = excluded.active_max,
    starts_per_minute = excluded.starts_per_minute, starts_burst = excluded.starts_burst,
    pending_max = excluded.pending_max, retain_ended = excluded.retain_ended, retain_dead = excluded.retain_dead;

-- name: forget
DELETE FROM psyqueue_limits WHERE queue = ? AND is_lane = ? AND lane = ?;

-- name: of_lanes
SELECT queue, is_lane, lane, paused_until_ms, weight, active_max, starts_per_minute, starts_burst, pending_max,
    retain_ended, retain_dead
FROM psyqueue_limits WHERE queue = ? AND is_lane = 1 AND lane >= ? AND lane IS NOT ? ORDER BY lane LIMIT ?;

-- name: charge
UPDATE psyqueue_limits SET bucket_level = ?, bucket_mono_ms = ? WHERE queue = ? AND is_lane = ? AND lane = ?;

-- name: waiting
SELECT l.queue, l.is_lane, l.lane, l.paused_until_ms, l.weight, l.active_max, l.starts_per_minute, l.starts_burst,
    l.pending_max, l.retain_ended, l.retain_dead, l.bucket_level, l.bucket_mono_ms
FROM psyqueue_limits AS l LEFT JOIN psyqueue_lane AS p ON p.queue = l.queue AND p.lane = l.lane
WHERE l.queue = ? AND (l.paused_until_ms > ? OR l.starts_per_minute IS NOT NULL)
    AND (l.is_lane = 0 OR l.lane = '' OR p.pending > 0);

-- name: of_queues
SELECT queue, is_lane, lane, paused_until_ms, weight, active_max, starts_per_minute, starts_burst, pending_max,
    retain_ended, retain_dead, bucket_level, bucket_mono_ms
FROM psyqueue_limits WHERE is_lane = 0 AND queue >= ? AND queue <= ?;
