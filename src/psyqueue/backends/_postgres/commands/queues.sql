-- Queues by name, with exact counts.
-- Params: prefix, after (NULL: from the start), limit 1..500.
-- Returns: a row for each: name, counts by status (an array), creation of the oldest pending job, lanes in use, settings.
-- Index: job_unstarted, job_ended, job_running, job_lane; limits by name.
-- Cost: the jobs of each queue are counted, each once, in an index: 79 ms for 300,000; twice that where no vacuum has seen
--   the rows yet. Nothing keeps a count: that would be a row which every step of the queue has to write.
-- Differs from the others: counts when it is asked.
CREATE FUNCTION @schema@.queues(p_prefix text, p_after text, p_limit int) RETURNS TABLE (
    name text, counts bigint[], oldest_pending_at_ms bigint, lanes bigint, has_limits boolean, paused_until_ms bigint,
    weight bigint, active_max bigint, starts_per_minute bigint, starts_burst bigint, pending_max bigint,
    retain_ended bigint[], retain_dead bigint[]
) @settings@ AS $$
#variable_conflict use_column
DECLARE
    q text := coalesce(p_after, '');
    is_behind boolean := p_after IS NOT NULL;
    l limits;
    found_count int := 0;
BEGIN
    IF q < p_prefix COLLATE "C" THEN
        q := p_prefix;
        is_behind := false;
    END IF;
    WHILE found_count < p_limit LOOP
        q := (SELECT min(v COLLATE "C") FROM (
            SELECT next_queue(q, is_behind) AS v
            UNION ALL SELECT min(s.queue) FROM limits AS s WHERE s.queue >= q AND (s.queue > q OR NOT is_behind)
        ) AS u);
        EXIT WHEN q IS NULL OR left(q, length(p_prefix)) <> p_prefix;
        is_behind := true;
        found_count := found_count + 1;
        l := limits_of(q, NULL);
        name := q;
        counts := counts_of(q);
        -- In the order of the index, status as a range: by number alone, the planner may walk through all jobs by theirs.
        oldest_pending_at_ms := (SELECT j.created_at_ms FROM job AS j
            WHERE j.queue = q AND j.status >= 2 AND j.status <= 2 ORDER BY j.status, j.n LIMIT 1);
        lanes := (SELECT count(DISTINCT j.lane) FROM job AS j WHERE j.queue = q AND j.lane <> '' AND j.status <= 3);
        has_limits := l.queue IS NOT NULL;
        paused_until_ms := l.paused_until_ms;
        weight := l.weight;
        active_max := l.active_max;
        starts_per_minute := l.starts_per_minute;
        starts_burst := l.starts_burst;
        pending_max := l.pending_max;
        retain_ended := l.retain_ended;
        retain_dead := l.retain_dead;
        RETURN NEXT;
    END LOOP;
END $$;

-- A count of its own for each status: it is the index alone that is read, and nothing is looked at row by row.
CREATE FUNCTION @schema@.counts_of(p_queue text) RETURNS bigint[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN ARRAY(SELECT (SELECT count(*) FROM job AS t WHERE t.queue = p_queue AND t.status = s AND t.status <= 2)
            FROM generate_series(0, 2) AS s ORDER BY s)
        || active_of(p_queue, NULL, NULL)
        || ARRAY(SELECT (SELECT count(*) FROM job AS t WHERE t.queue = p_queue AND t.status = s AND t.status >= 4)
            FROM generate_series(4, 6) AS s ORDER BY s);
END $$;
