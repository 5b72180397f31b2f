-- Open sessions by id.
-- Params: after (NULL: from the start), limit 1..500.
-- Returns: a row for each: as registered, jobs held, ms until its lease ends (may be negative).
-- Index: session by id, job_running.
-- Cost: limit rows, and a count of the jobs of each.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.sessions(p_after text, p_limit int) RETURNS TABLE (
    id text, worker text, queues text[], lease_ms bigint, meta bytea, held bigint, opened_at_ms bigint, expires_in_ms bigint
) @settings@ AS $$
#variable_conflict use_column
DECLARE
    c record;
BEGIN
    c := read_clock(true);
    RETURN QUERY SELECT s.id, s.worker, s.queues, s.lease_ms, s.meta,
        (SELECT count(*) FROM job AS j WHERE j.session = s.n AND j.status = 3), s.opened_at_ms, s.until_mono_ms - c.mono_ms
    FROM session AS s WHERE s.closed_mono_ms IS NULL AND (p_after IS NULL OR s.id > p_after) ORDER BY s.id LIMIT p_limit;
END $$;
