-- Is there anything to wake up for? Asked twice a second while somebody waits and the file has changed.
-- Params: pending: queue. live: JSON array of ids.
-- Returns: pending: a row if the queue has a job that may be started; live: how many of the ids have not ended.
-- Index: psyqueue_job_ready; psyqueue_body_id.
-- Cost: one row for each queue, one for each id.
-- Differs from the others: PRAGMA data_version says whether it needs to be asked at all.

-- name: pending
SELECT 1 FROM psyqueue_job INDEXED BY psyqueue_job_ready WHERE queue = ? AND status = 2 AND held = 0 LIMIT 1;

-- name: live
SELECT count(*) FROM psyqueue_body AS b JOIN psyqueue_job AS j ON j.n = b.n
WHERE b.id IN (SELECT value FROM json_each(?)) AND j.status <= 3;
