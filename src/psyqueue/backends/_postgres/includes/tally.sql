-- How many ended jobs a queue keeps. They were counted until `at_ms`; what ended later is counted anew each time, which is
-- little, and added once no step is likely to bring an older end. A step that takes longer is missed, so that a few too many
-- may be kept; for that, everything is counted again every hour, in pieces. Deleted jobs are taken off by a trigger, so that
-- the count is never too high, whoever deletes them; truncated ones are noticed. Dead jobs have no tally: replay takes them away, too.

-- Count on to where ends are final. The tally is the caller's until the step is over; count NULL: somebody else has it.
-- is_cut: there is more to count. looked_at: entries of the index.
CREATE FUNCTION @schema@.count_on(
    p_queue text, p_status smallint, p_now bigint, p_mono bigint, OUT at_ms bigint, OUT count bigint, OUT is_cut boolean,
    OUT looked_at bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    t tally;
    c record;
BEGIN
    INSERT INTO tally AS s (queue, status, at_ms, count, since_mono_ms) SELECT p_queue, p_status, -9223372036854775808, 0, p_mono
    WHERE NOT EXISTS (SELECT 1 FROM tally AS s WHERE s.queue = p_queue AND s.status = p_status) ON CONFLICT DO NOTHING;
    SELECT s.* INTO t FROM tally AS s WHERE s.queue = p_queue AND s.status = p_status FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- The wall clock went back: what ended since stands before what was counted. Or somebody has truncated the jobs.
    IF t.at_ms > p_now OR p_mono - t.since_mono_ms > 3600000 OR t.count > 0 AND (
        SELECT j.completed_at_ms FROM job AS j
        WHERE j.queue = p_queue AND j.status = p_status AND j.status >= 4 AND j.completed_at_ms <= t.at_ms
        ORDER BY j.completed_at_ms DESC LIMIT 1
    ) IS NULL THEN
        t.at_ms := -9223372036854775808;
        t.count := 0;
        t.since_mono_ms := p_mono;
    END IF;
    SELECT count(*) AS count, max(f.completed_at_ms) AS last INTO c FROM (
        SELECT j.completed_at_ms FROM job AS j
        WHERE j.queue = p_queue AND j.status = p_status AND j.status >= 4 AND j.completed_at_ms > t.at_ms
            AND j.completed_at_ms <= p_now - 200
        ORDER BY j.completed_at_ms LIMIT 50000
    ) AS f;
    is_cut := c.count = 50000;
    IF is_cut THEN
        -- The last instant may have been cut in two.
        c.count := (SELECT count(*) FROM job AS j WHERE j.queue = p_queue AND j.status = p_status AND j.status >= 4
            AND j.completed_at_ms > t.at_ms AND j.completed_at_ms <= c.last);
    END IF;
    IF c.count > 0 THEN
        t.at_ms := c.last;
        t.count := t.count + c.count;
        UPDATE tally AS s SET at_ms = t.at_ms, count = t.count, since_mono_ms = t.since_mono_ms
        WHERE s.queue = p_queue AND s.status = p_status;
    END IF;
    at_ms := t.at_ms;
    count := t.count;
    looked_at := c.count;
END $$;

-- By how many more than `p_keep` the ended jobs of a queue are, up to `p_limit`. 0 where somebody else counts them just now.
CREATE FUNCTION @schema@.excess_of(
    p_queue text, p_statuses smallint[], p_keep bigint, p_limit int, p_now bigint, p_mono bigint,
    OUT excess bigint, OUT is_cut boolean, OUT looked_at bigint
) LANGUAGE plpgsql AS $$
DECLARE
    v_status smallint;
    c record;
    found bigint := 0;
    late bigint;
BEGIN
    is_cut := false;
    looked_at := 0;
    FOREACH v_status IN ARRAY p_statuses LOOP
        IF v_status = 5 THEN
            SELECT '-9223372036854775808'::bigint AS at_ms, 0::bigint AS count, false AS is_cut, 0::bigint AS looked_at INTO c;
        ELSE
            c := count_on(p_queue, v_status, p_now, p_mono);
        END IF;
        IF c.count IS NULL THEN
            excess := 0;
            RETURN;
        END IF;
        late := CASE WHEN c.is_cut THEN 0 ELSE (SELECT count(*) FROM (
            SELECT 1 FROM job AS t WHERE t.queue = p_queue AND t.status = v_status AND t.status >= 4 AND t.completed_at_ms > c.at_ms
            LIMIT greatest(0, p_keep + p_limit - found - c.count)
        ) AS l) END;
        found := found + c.count + late;
        looked_at := looked_at + c.looked_at + late;
        is_cut := is_cut OR c.is_cut;
    END LOOP;
    excess := least(p_limit, greatest(0, found - p_keep));
END $$;
