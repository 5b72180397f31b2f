-- Extend the lease of an open session to now + lease; late but not reaped is renewed.
-- Params: session id.
-- Returns: JSON [open, ids that somebody wants cancelled, paused queues of its own, now in ms].
-- Index: session by id, job_cancel.
-- Cost: one row.
-- Differs from the others: steps of the session go on meanwhile, only its end waits.
CREATE FUNCTION @schema@.renew(p_id text) RETURNS text @settings@ AS $$
DECLARE
    c record;
BEGIN
    c := read_clock(false);
    UPDATE session SET until_mono_ms = greatest(until_mono_ms, c.mono_ms + lease_ms)
    WHERE id = p_id AND closed_mono_ms IS NULL;
    RETURN renewal_of(p_id, c.now_ms);
END $$;

CREATE FUNCTION @schema@.renewal_of(p_id text, p_now bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    s record;
BEGIN
    SELECT n, queues INTO s FROM session WHERE id = p_id AND closed_mono_ms IS NULL;
    IF NOT FOUND THEN
        RETURN json_build_array(false, '{}'::text[], '{}'::text[], p_now)::text;
    END IF;
    RETURN json_build_array(true, asked_of(s.n), ARRAY(
        SELECT l.queue FROM limits AS l WHERE l.queue = ANY (s.queues) AND NOT l.is_lane AND is_paused(l, p_now)
        ORDER BY array_position(s.queues, l.queue)
    ), p_now)::text;
END $$;
