-- Put plain jobs in: bodies first (those with extras by rows.insert_body), then all rows that differ in their numbers
--   alone at once; a lone row by its values, since looking its body up again would cost as much as both rows.
-- Params: insert_body: as rows.insert_body without extras; insert_lone: the row without links, expiry and gate: Python's
--   sqlite3 looks for an adapter for each NULL and each bytes it is given, 0.8 to 1.4 us each. insert_run: queue, lane, status, priority, ready number minus creation number (NULL: none), run at and expires
--   at in ms, first and last creation number.
-- Returns: nothing; the body's statement tells by its count whether an id was taken.
-- Index: primary key of psyqueue_body; the row enters the indexes that its status is in.
-- Cost: two rows for each job, one statement for each run of equal jobs: mostly one a call.
-- Differs from the others: a statement for each row costs more here than the row itself.

-- name: insert_body
INSERT OR IGNORE INTO psyqueue_body (n, id, name, max_retries, max_lost, created_at_ms, digest, cold, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_lone
INSERT INTO psyqueue_job (n, queue, lane, status, priority, ready_number, run_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: insert_run
INSERT INTO psyqueue_job (n, queue, lane, status, priority, ready_number, links, run_at_ms, expires_at_ms)
SELECT n, ?, ?, ?, ?, n + ?, 0, ?, ? FROM psyqueue_body WHERE n BETWEEN ? AND ?;
