-- Close sessions whose lease ended, then take back their jobs.
-- Params: limit 1..500 of each.
-- Returns: JSON [ids of the jobs, more]. Nobody reaped for more than 60 s: every lease gets one of grace, nothing is reaped.
-- Index: session_open, job_running.
-- Cost: one look for each session that holds jobs; what closed ones hold; some six statements for each that is taken back.
-- Differs from the others: a session with a step on its way is passed over, and so is what another reaper has.
CREATE FUNCTION @schema@.reap(p_limit int) RETURNS text @settings@ AS $$
DECLARE
    c record;
    silence bigint;
    closed bigint[];
    ids text[] := '{}';
    is_more boolean;
    v_session bigint;
    j job;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM refuse_isolation();
    END IF;
    c := read_clock(true);
    SELECT c.mono_ms - reaped_mono_ms INTO silence FROM clock FOR NO KEY UPDATE;
    UPDATE clock SET reaped_mono_ms = c.mono_ms, mono_ms = greatest(mono_ms, c.mono_ms);
    IF silence > 60000 THEN
        UPDATE session SET until_mono_ms = greatest(until_mono_ms, c.mono_ms + lease_ms) WHERE closed_mono_ms IS NULL;
        RETURN '[[], false]';
    END IF;
    closed := ARRAY(
        SELECT s.n FROM session AS s WHERE s.closed_mono_ms IS NULL AND s.until_mono_ms <= c.mono_ms
        ORDER BY s.until_mono_ms, s.id LIMIT p_limit FOR UPDATE SKIP LOCKED
    );
    UPDATE session SET closed_mono_ms = c.mono_ms WHERE n = ANY (closed);
    is_more := EXISTS (SELECT 1 FROM session WHERE closed_mono_ms IS NULL AND until_mono_ms <= c.mono_ms)
        AND cardinality(closed) = p_limit;
    FOR v_session IN SELECT s.n FROM busy_sessions() AS h JOIN session AS s ON s.n = h.session
        WHERE s.closed_mono_ms IS NOT NULL ORDER BY s.id
    LOOP
        FOR j IN SELECT h.* FROM job AS h WHERE h.session = v_session AND h.status = 3
            ORDER BY h.n + 0 LIMIT p_limit + 1 - cardinality(ids) FOR NO KEY UPDATE SKIP LOCKED
        LOOP
            IF cardinality(ids) = p_limit THEN
                is_more := true;
            ELSE
                ids := ids || j.id;
                PERFORM take_back(j, c.now_ms);
            END IF;
        END LOOP;
        EXIT WHEN is_more AND cardinality(ids) = p_limit;
    END LOOP;
    PERFORM follow_through(c.now_ms);
    RETURN json_build_array(ids, is_more)::text;
END $$;
