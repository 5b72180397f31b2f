-- Put a batch of plain jobs in: bodies first (rows.insert_body), then all rows that differ in their numbers alone at once.
-- Params: insert_run: queue, lane, status, priority, ready number minus creation number (NULL: none), run at and expires
--   at in ms, first and last creation number.
-- Returns: nothing; rows.insert_body tells by its count whether an id was taken.
-- Index: primary key of psyqueue_body; the row enters the indexes that its status is in.
-- Cost: two rows for each job, one statement for each run of equal jobs: mostly one a call.
-- Differs from the others: a statement for each row costs more here than the row itself.

-- name: insert_run
INSERT INTO psyqueue_job (n, queue, lane, status, priority, ready_number, links, run_at_ms, expires_at_ms)
SELECT n, ?, ?, ?, ?, n + ?, 0, ?, ? FROM psyqueue_body WHERE n BETWEEN ? AND ?;
