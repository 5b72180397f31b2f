-- The one row of counters, clocks and the fence of the namespace, and the tallies that every step keeps exact.
-- Params: read: client, channel, session id (NULL: none is asked for). take_turn: nothing. keep: made, ready, follower, shift in ms, monotone now in ms. tally: queue, status, difference.
--   lane: queue, lane, differences of pending, unstarted, active.
-- Returns: read: the row, then whether there is anything at all of what few stores use: left-over follow-through,
--   limits, lanes, jobs asked to cancel; then the channel's last turn and the session: all that nearly every step
--   asks first, in one statement.
-- Index: primary keys.
-- Cost: one row a step; one row for each (queue, status) and each lane that a step touched.
-- Differs from the others: there is one writer, so counters need no sequence and tallies no lock.

-- name: read
SELECT made, ready, follower, mode, epoch, moved_to, test_clock_ms, shift_ms, psyqueue_meta.mono_ms, reaped_mono_ms,
    EXISTS (SELECT 1 FROM psyqueue_follower),
    EXISTS (SELECT 1 FROM psyqueue_limits),
    EXISTS (SELECT 1 FROM psyqueue_lane),
    EXISTS (SELECT 1 FROM psyqueue_job INDEXED BY psyqueue_job_cancel WHERE cancel_requested = 1),
    t.turn, t.verb, t.reply, s.n, s.closed_mono_ms
FROM psyqueue_meta
LEFT JOIN psyqueue_turn AS t ON t.client = ? AND t.channel = ?
LEFT JOIN psyqueue_session AS s ON s.id = ?
WHERE one = 1;

-- name: take_turn
-- Changes nothing, and is a write all the same: in a transaction that has read nothing yet it waits for its turn, where a
--   read would take a snapshot, and a write after that fails at once if anybody else wrote meanwhile.
UPDATE psyqueue_meta SET epoch = epoch WHERE one = 0;

-- name: keep
UPDATE psyqueue_meta SET made = ?, ready = ?, follower = ?, shift_ms = ?, mono_ms = ? WHERE one = 1;

-- name: reaped
UPDATE psyqueue_meta SET reaped_mono_ms = ? WHERE one = 1;

-- name: set_mode
UPDATE psyqueue_meta SET mode = ?, epoch = ?, moved_to = ? WHERE one = 1;

-- name: advance
UPDATE psyqueue_meta SET test_clock_ms = test_clock_ms + ? WHERE one = 1;

-- name: tally
INSERT INTO psyqueue_tally (queue, status, jobs) VALUES (?, ?, ?)
ON CONFLICT (queue, status) DO UPDATE SET jobs = jobs + excluded.jobs;

-- name: lane
INSERT INTO psyqueue_lane (queue, lane, pending, unstarted, active) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (queue, lane) DO UPDATE SET
    pending = pending + excluded.pending,
    unstarted = unstarted + excluded.unstarted,
    active = active + excluded.active;

-- name: tallies
SELECT status, jobs FROM psyqueue_tally WHERE queue = ?;

-- name: lane_counts
SELECT pending, unstarted, active FROM psyqueue_lane WHERE queue = ? AND lane = ?;

-- name: lane_sums
SELECT total(pending), total(unstarted), total(active) FROM psyqueue_lane WHERE queue = ? AND lane <> '';
