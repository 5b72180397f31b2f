-- Jobs that match, in full: queue by queue, status by status.
-- Params: filter (includes/reading.sql), cursor (JSON, NULL: from the start), limit 1..500.
-- Returns: first a row with the next cursor as `head` (NULL: that was all), then views_of.
-- Index: job_unstarted, job_running, job_ended, each in its own order.
-- Cost: 1,000 jobs looked at; some three statements for each that is returned.
-- Differs from the others: ended jobs come in the order in which they ended, because an index of that order is there.
CREATE FUNCTION @schema@.list_jobs(p_where jsonb, p_cursor jsonb, p_limit int) RETURNS TABLE (
    head text,
    n bigint, id text, queue text, name text, lane text, payload bytea, cold bytea, digest bytea, extras bytea,
    priority int, max_retries int, max_lost int, status smallint, attempt int, lost int, generation int, fence int,
    ready_number bigint, session_id text, worker text, held boolean, cancel_requested boolean, reason text,
    created_at_ms bigint, started_at_ms bigint, completed_at_ms bigint, run_at_ms bigint, expires_at_ms bigint,
    result bytea, errors bytea[], blocked_by text[]
) @settings@ AS $$
#variable_conflict use_column
DECLARE
    c record;
    w record;
BEGIN
    c := read_clock(true);
    IF p_where ? 'ids' THEN
        w := walk_ids(p_where, p_cursor, p_limit);
    ELSE
        w := walk(p_where, p_cursor, p_limit, '{0, 1, 2, 3, 4, 5, 6}');
    END IF;
    RETURN QUERY SELECT w.next::text, v.* FROM (SELECT 1) AS one LEFT JOIN views_of('{}', 0, 0) AS v ON false;
    RETURN QUERY SELECT NULL, v.* FROM views_of(w.numbers, c.now_ms, c.mono_ms) AS v;
END $$;
