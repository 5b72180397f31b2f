-- Put jobs in: a whole batch of plain ones by two statements (rows.insert_job, rows.insert_body), others one by one.
-- Params: taken: JSON array of ids.
-- Returns: taken: one of the ids that exist.
-- Index: psyqueue_body_id.
-- Cost: one look-up for each id, then two rows for each job and an entry in each index that its status is in.
-- Differs from the others: the look-up comes first; with one writer nothing can come in between.

-- name: taken
SELECT id FROM psyqueue_body WHERE id IN (SELECT value FROM json_each(?)) LIMIT 1;
