-- The shared memory of plugins: keys, counters, buckets, append-only streams, locks.
-- Params: key or stream or name; instants in monotone ms (at_ms: wall clock); scan: prefix range, cursor, limit.
-- Returns: get: (value, version, expiry, level, level's instant); scan: (key, value, version) in key order.
-- Index: primary keys.
-- Cost: one row each; scan and records: limit rows.
-- Differs from the others: nothing but the syntax.

-- name: get
SELECT value, version, expires_mono_ms, bucket_level, bucket_mono_ms FROM psyqueue_state WHERE key = ?;

-- name: put
INSERT OR REPLACE INTO psyqueue_state (key, value, version, expires_mono_ms, bucket_level, bucket_mono_ms)
VALUES (?, ?, ?, ?, ?, ?);

-- name: delete
DELETE FROM psyqueue_state WHERE key = ?;

-- name: scan
SELECT key, value, version FROM psyqueue_state
WHERE key >= ? AND key > ? AND (expires_mono_ms IS NULL OR expires_mono_ms > ?)
ORDER BY key LIMIT ?;

-- name: next_seq
INSERT INTO psyqueue_stream (stream, seq) VALUES (?, 1) ON CONFLICT (stream) DO UPDATE SET seq = seq + 1
RETURNING seq;

-- name: append
INSERT INTO psyqueue_record (stream, seq, at_ms, expires_mono_ms, body) VALUES (?, ?, ?, ?, ?);

-- name: records
SELECT seq, at_ms, body FROM psyqueue_record WHERE stream = ? AND seq > ? ORDER BY seq LIMIT ?;

-- name: lock
SELECT holder, fence, until_mono_ms FROM psyqueue_lock WHERE name = ?;

-- name: put_lock
INSERT OR REPLACE INTO psyqueue_lock (name, holder, fence, until_mono_ms) VALUES (?, ?, ?, ?);
