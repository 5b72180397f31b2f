-- What operators and tools look at: jobs group by group (queue, then status), queues, one job in full.
-- Params: unstarted: queue, status, after n, limit 1..1000; active: the same without status; ended: with key before n.
--   with_text: JSON array of n, text twice, the same text as bytes twice. queues: after, from. Instants in ms.
-- Returns: groups: (key, n, id, name, lane, created at, completed at, reason); key orders the group and never changes.
-- Index: psyqueue_job_unstarted, psyqueue_job_active, psyqueue_job_ended; primary keys.
-- Cost: limit rows, small columns only; active: all active jobs, of which there are as many as workers hold.
-- Differs from the others: ended jobs come in the order in which they ended, because an index of that order is there.

-- name: unstarted
SELECT 0, j.n, b.id, b.name, j.lane, b.created_at_ms, j.completed_at_ms, j.reason
FROM psyqueue_job AS j INDEXED BY psyqueue_job_unstarted CROSS JOIN psyqueue_body AS b ON b.n = j.n
WHERE j.queue = ? AND j.status = ? AND j.status <= 2 AND j.n > ? ORDER BY j.n LIMIT ?;

-- name: active
SELECT 0, j.n, b.id, b.name, j.lane, b.created_at_ms, j.completed_at_ms, j.reason
FROM psyqueue_job AS j INDEXED BY psyqueue_job_active CROSS JOIN psyqueue_body AS b ON b.n = j.n
WHERE j.queue = ? AND j.status = 3 AND j.n > ? ORDER BY j.n LIMIT ?;

-- name: ended
SELECT j.completed_at_ms, j.n, b.id, b.name, j.lane, b.created_at_ms, j.completed_at_ms, j.reason
FROM psyqueue_job AS j INDEXED BY psyqueue_job_ended CROSS JOIN psyqueue_body AS b ON b.n = j.n
WHERE j.queue = ? AND j.status = ? AND j.status >= 4 AND (j.completed_at_ms, j.n) > (?, ?)
ORDER BY j.completed_at_ms, j.n LIMIT ?;

-- name: with_text
SELECT n FROM psyqueue_body
WHERE n IN (SELECT value FROM json_each(?))
    AND (instr(id, ?) OR instr(name, ?) OR instr(payload, ?) OR instr(cold, ?));

-- name: queues_with_jobs
SELECT DISTINCT queue FROM psyqueue_tally WHERE jobs > 0 AND queue >= ? ORDER BY queue;

-- name: queues
SELECT queue FROM (SELECT queue FROM psyqueue_tally WHERE jobs > 0 UNION SELECT queue FROM psyqueue_limits)
WHERE queue > ? AND queue >= ? ORDER BY queue LIMIT ?;

-- name: oldest_pending
SELECT b.created_at_ms FROM psyqueue_job AS j INDEXED BY psyqueue_job_unstarted JOIN psyqueue_body AS b ON b.n = j.n
WHERE j.queue = ? AND j.status = ? AND j.status <= 2 AND j.n > 0 ORDER BY j.n LIMIT 1;

-- name: used_lanes
SELECT count(*) FROM psyqueue_lane WHERE queue = ? AND lane <> '' AND (unstarted > 0 OR active > 0);

-- name: schedules
SELECT id, spec, version, next_at_ms, last_nominal_ms, paused FROM psyqueue_schedule WHERE id > ? ORDER BY id LIMIT ?;
