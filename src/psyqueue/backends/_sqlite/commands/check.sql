-- Proof: what must hold of every job and of the whole store, as rows that break it.
-- Params: jobs: after id, limit. Others: none.
-- Returns: jobs: what can be wrong with one job, as numbers; the others: a line for each thing that is wrong.
-- Index: psyqueue_body_id; whole tables with the first page.
-- Cost: limit jobs a call; the first call counts every job once.
-- Differs from the others: asks SQLite itself too (PRAGMA quick_check).

-- name: jobs
SELECT b.id, j.n, j.status, j.token IS NOT NULL, s.n IS NOT NULL, j.completed_at_ms IS NOT NULL,
    j.ready_number IS NOT NULL, j.attempt, b.max_retries, j.fence, j.needs_left,
    (SELECT count(*) FROM psyqueue_edge AS e WHERE e.child = j.n AND e.met = 0), j.has_place,
    (SELECT count(*) FROM psyqueue_error AS r WHERE r.n = j.n), j.held, j.gate IS NOT NULL, j.cancel_requested
FROM psyqueue_body AS b JOIN psyqueue_job AS j ON j.n = b.n
LEFT JOIN psyqueue_session AS s ON s.n = j.session AND j.status = 3
WHERE b.id > ? ORDER BY b.id LIMIT ?;

-- name: halves
SELECT 'job ' || j.n || ' has no body' FROM psyqueue_job AS j LEFT JOIN psyqueue_body AS b ON b.n = j.n WHERE b.n IS NULL
UNION ALL
SELECT 'body ' || b.id || ' has no job' FROM psyqueue_body AS b LEFT JOIN psyqueue_job AS j ON j.n = b.n WHERE j.n IS NULL;

-- name: tallies
SELECT 'tally of queue ' || queue || ', status ' || status || ' differs from the recount by ' || sum(jobs)
FROM (
    SELECT queue, status, jobs FROM psyqueue_tally
    UNION ALL SELECT queue, status, -count(*) FROM psyqueue_job GROUP BY queue, status
) GROUP BY queue, status HAVING sum(jobs) <> 0;

-- name: lanes
SELECT 'counts of lane ' || lane || ' of queue ' || queue || ' differ from the recount'
FROM (
    SELECT queue, lane, pending, unstarted, active FROM psyqueue_lane WHERE lane <> ''
    UNION ALL SELECT queue, lane, -sum(status = 2), -sum(status <= 2), -sum(status = 3) FROM psyqueue_job
        WHERE lane <> '' GROUP BY queue, lane
) GROUP BY queue, lane HAVING sum(pending) <> 0 OR sum(unstarted) <> 0 OR sum(active) <> 0;

-- name: gates
SELECT 'places of gate ' || key || ' differ from the recount by ' || sum(places)
FROM (
    SELECT key, places FROM psyqueue_gate
    UNION ALL SELECT gate, -count(*) FROM psyqueue_job WHERE has_place = 1 GROUP BY gate
) GROUP BY key HAVING sum(places) <> 0;

-- name: unique
SELECT 'unique key ' || u.key || ' is held by a job that is gone'
FROM psyqueue_unique AS u LEFT JOIN psyqueue_job AS j ON j.n = u.n WHERE j.n IS NULL;

-- name: edges
SELECT 'a need of job ' || e.child || ' leads nowhere, or the job has ended'
FROM psyqueue_edge AS e LEFT JOIN psyqueue_job AS c ON c.n = e.child LEFT JOIN psyqueue_job AS p ON p.n = e.parent
WHERE c.n IS NULL OR p.n IS NULL OR c.status >= 4;

-- name: tokens
SELECT 'two deliveries share a completion token of seed ' || token FROM psyqueue_job
WHERE status = 3 GROUP BY token, n HAVING count(*) > 1;

-- name: numbers
SELECT 'a number was given twice or was never given' FROM psyqueue_meta
WHERE made < (SELECT coalesce(max(n), 0) FROM psyqueue_job)
    OR ready < (SELECT coalesce(max(ready_number), 0) FROM psyqueue_job)
    OR follower < (SELECT coalesce(max(ticket), 0) FROM psyqueue_follower);
