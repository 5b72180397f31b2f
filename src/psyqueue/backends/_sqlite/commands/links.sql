-- What binds jobs to each other and to keys: unique keys, idempotency keys, needs, gates, left-over follow-through.
-- Params: keys as text, jobs by creation number, instants in monotone ms; a mask has a bit for each status.
-- Returns: the rows asked for.
-- Index: primary keys; psyqueue_edge_child; psyqueue_job_line.
-- Cost: one row each; children: `limit` rows.
-- Differs from the others: nothing but the syntax.

-- name: unique_holder
SELECT n FROM psyqueue_unique WHERE key = ?;

-- name: take_unique
INSERT OR REPLACE INTO psyqueue_unique (key, n) VALUES (?, ?);

-- name: drop_unique
DELETE FROM psyqueue_unique WHERE key = ? AND n = ?;

-- name: kept
SELECT id, digest, expires_mono_ms FROM psyqueue_idempotency WHERE key = ?;

-- name: keep
INSERT OR REPLACE INTO psyqueue_idempotency (key, id, digest, expires_mono_ms) VALUES (?, ?, ?, ?);

-- name: add_edge
INSERT OR REPLACE INTO psyqueue_edge (parent, child, mask, met) VALUES (?, ?, ?, ?);

-- name: mark_needed
UPDATE psyqueue_job SET links = links | ? WHERE n = ?;

-- name: edge
SELECT mask, met FROM psyqueue_edge WHERE parent = ? AND child = ?;

-- name: unmet_of
SELECT b.id, e.parent, p.status FROM psyqueue_edge AS e
JOIN psyqueue_body AS b ON b.n = e.parent JOIN psyqueue_job AS p ON p.n = e.parent
WHERE e.child = ? AND e.met = 0;

-- name: meet_edge
UPDATE psyqueue_edge SET met = 1 WHERE parent = ? AND child = ?;

-- name: drop_edges
DELETE FROM psyqueue_edge WHERE child = ?;

-- name: is_needed
SELECT 1 FROM psyqueue_edge WHERE parent = ? LIMIT 1;

-- name: children
SELECT e.child, e.mask FROM psyqueue_edge AS e JOIN psyqueue_job AS j ON j.n = e.child
WHERE e.parent = ? AND e.met = 0 AND j.held = 0 AND j.status = 0
ORDER BY e.child LIMIT ?;

-- name: places
SELECT places FROM psyqueue_gate WHERE key = ?;

-- name: is_gate_in_use
SELECT 1 FROM psyqueue_gate WHERE key = ? AND places > 0
UNION ALL SELECT 1 FROM psyqueue_job WHERE gate = ? AND gate IS NOT NULL AND status = 0 AND needs_left = 0
LIMIT 1;

-- name: add_place
INSERT INTO psyqueue_gate (key, places) VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET places = places + 1;

-- name: free_place
UPDATE psyqueue_gate SET places = places - 1 WHERE key = ?;

-- name: drop_gate
DELETE FROM psyqueue_gate WHERE key = ? AND places <= 0;

-- name: head_of_line
SELECT n FROM psyqueue_job
WHERE gate = ? AND gate IS NOT NULL AND status = 0 AND needs_left = 0 AND held = 0 AND n <> ?
ORDER BY n LIMIT 1;

-- name: add_follower
INSERT INTO psyqueue_follower (ticket, parent, gate) VALUES (?, ?, ?);

-- name: first_follower
SELECT ticket, parent, gate FROM psyqueue_follower ORDER BY ticket LIMIT 1;

-- name: drop_follower
DELETE FROM psyqueue_follower WHERE ticket = ?;
