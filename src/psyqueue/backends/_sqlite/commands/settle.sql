-- End deliveries: look at all of them in one statement, then complete the plain ones in another.
-- Params: held: JSON array of n. ack: now in ms, JSON array of n. cancel_requested: session number.
-- Returns: held: what decides whether an outcome counts, all rows as one JSON array (1.8 us a job against 2.7 as rows:
--   each row that Python takes by itself gives the GIL away and asks for it again); cancel_requested: ids.
-- Index: primary keys: a completion token begins with n, so that the index of ids is not needed.
-- Cost: one row read and one written for each ack; the indexes of active and of ended jobs follow.
-- Differs from the others: acks whose jobs have no links go in one statement; what is rare goes row by row (rows.sql).

-- name: held
SELECT json_group_array(json_array(j.n, b.id, j.token, j.session, j.status, j.links, j.queue, j.lane))
FROM psyqueue_job AS j CROSS JOIN psyqueue_body AS b ON b.n = j.n
WHERE j.n IN (SELECT value FROM json_each(?));

-- name: ack
UPDATE psyqueue_job SET status = 4, completed_at_ms = ?, session = NULL, cancel_requested = 0, reason = ''
WHERE n IN (SELECT value FROM json_each(?));

-- name: cancel_requested
SELECT b.id FROM psyqueue_job AS j INDEXED BY psyqueue_job_cancel JOIN psyqueue_body AS b ON b.n = j.n
WHERE j.session = ? AND j.cancel_requested = 1 ORDER BY j.n;
