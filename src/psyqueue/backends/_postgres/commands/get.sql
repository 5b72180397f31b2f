-- Jobs in full, by id.
-- Params: ids.
-- Returns: includes/reading.sql, views_of; those that exist, in the order of the ids.
-- Index: body_id.
-- Cost: some three statements for each job.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.get(p_ids text[]) RETURNS TABLE (
    n bigint, id text, queue text, name text, lane text, payload bytea, cold bytea, digest bytea, extras bytea,
    priority int, max_retries int, max_lost int, status smallint, attempt int, lost int, generation int, fence int,
    ready_number bigint, session_id text, worker text, held boolean, cancel_requested boolean, reason text,
    created_at_ms bigint, started_at_ms bigint, completed_at_ms bigint, run_at_ms bigint, expires_at_ms bigint,
    result bytea, errors bytea[], blocked_by text[]
) @settings@ AS $$
#variable_conflict use_column
DECLARE
    c record;
BEGIN
    c := read_clock(true);
    RETURN QUERY SELECT * FROM views_of(ARRAY(SELECT j.n FROM unnest(p_ids) WITH ORDINALITY AS u (id, place)
        JOIN body AS j ON j.id = u.id ORDER BY u.place), c.now_ms, c.mono_ms);
END $$;
