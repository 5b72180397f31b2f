-- Close a session and release what it holds, untouched.
-- Params: op; session id; limit 1..500.
-- Returns: JSON [ids of the released jobs, more]. Closed before, or unknown: nothing.
-- Index: session by id, job_running.
-- Cost: some three statements for each job.
-- Differs from the others: waits for a step of the session that is on its way.
CREATE FUNCTION @schema@.close_session(p_client text, p_channel bigint, p_turn bigint, p_id text, p_limit int)
RETURNS text @settings@ AS $$
DECLARE
    t record;
    c record;
    s record;
    j job;
    ids text[] := '{}';
    is_more boolean := false;
    reply text;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'close_session');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    c := read_clock(false);
    SELECT * INTO s FROM session WHERE id = p_id FOR UPDATE;
    IF s.closed_mono_ms IS NULL THEN
        UPDATE session SET closed_mono_ms = c.mono_ms WHERE n = s.n;
        IF FOUND THEN
            PERFORM note_change();
        END IF;
    END IF;
    FOR j IN SELECT h.* FROM job AS h WHERE h.session = s.n AND h.status = 3 ORDER BY h.n + 0 LIMIT p_limit + 1 FOR NO KEY UPDATE
    LOOP
        IF cardinality(ids) = p_limit THEN
            is_more := true;
        ELSE
            ids := ids || j.id;
            PERFORM apply_outcome(j, 'l', NULL, 0, '', c.now_ms);
        END IF;
    END LOOP;
    PERFORM follow_through(c.now_ms);
    reply := json_build_array(ids, is_more)::text;
    PERFORM end_turn(p_client, p_channel, p_turn, 'close_session', t.before, reply, c.mono_ms);
    RETURN reply;
END $$;
