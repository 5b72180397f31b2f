-- Retention. As _memory/maintenance.py.

CREATE FUNCTION @schema@.next_ended_queue(p_from text, p_is_behind boolean) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT p_is_behind AND EXISTS (SELECT 1 FROM job AS t WHERE t.queue = p_from AND t.status >= 4) THEN
        RETURN p_from;
    END IF;
    RETURN (SELECT t.queue FROM job AS t WHERE t.queue > p_from AND t.status >= 4 ORDER BY t.queue LIMIT 1);
END $$;

-- First what is too old, then what is too much; oldest end first, never a job that is needed or held. `counted`: how many
-- were counted for that.
CREATE FUNCTION @schema@.prune_kind(
    p_queue text, p_statuses smallint[], p_keep bigint[], p_limit int, p_now bigint, OUT ids text[], OUT counted bigint
) LANGUAGE plpgsql AS $$
DECLARE
    v_status smallint;
    o record;
BEGIN
    counted := 0;
    FOREACH v_status IN ARRAY p_statuses LOOP
        counted := counted + (SELECT count(*) FROM (
            SELECT 1 FROM job AS t WHERE t.queue = p_queue AND t.status = v_status AND t.status >= 4 LIMIT p_keep[2] + p_limit
        ) AS found);
    END LOOP;
    SELECT array_agg(t.n) AS numbers, array_agg(t.id) AS ids, count(*) FILTER (WHERE t.completed_at_ms <= p_now - p_keep[1]) AS old,
        bool_or(t.links & 8 > 0) AS has_children
    INTO o FROM (
        SELECT l.* FROM (
            SELECT j.n, j.id, j.completed_at_ms, j.links FROM job AS j
            WHERE j.n = ANY (ARRAY(SELECT h.n FROM oldest_ended(p_queue, p_statuses, p_limit) AS h))
                AND j.status + 0 = ANY (p_statuses) AND NOT j.held
            ORDER BY j.n FOR NO KEY UPDATE SKIP LOCKED
        ) AS l ORDER BY l.completed_at_ms, l.n
    ) AS t;
    IF o.has_children THEN
        -- Looked at again behind the locks: since then nobody comes to need them.
        SELECT array_agg(t.n) AS numbers, array_agg(t.id) AS ids,
            count(*) FILTER (WHERE t.completed_at_ms <= p_now - p_keep[1]) AS old
        INTO o FROM (
            SELECT j.n, j.id, j.completed_at_ms FROM job AS j
            WHERE j.n = ANY (o.numbers) AND (j.links & 8 = 0 OR NOT EXISTS (SELECT 1 FROM edge AS e WHERE e.parent = j.n))
            ORDER BY j.completed_at_ms, j.n
        ) AS t;
    END IF;
    ids := coalesce(o.ids[:greatest(o.old, counted - p_keep[2], 0)], '{}');
    IF ids <> '{}' THEN
        PERFORM drop_jobs(o.numbers[:cardinality(ids)]);
    END IF;
END $$;

-- The `p_limit` that ended first, of those that may be deleted.
CREATE FUNCTION @schema@.oldest_ended(p_queue text, p_statuses smallint[], p_limit int) RETURNS TABLE (n bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT found.n FROM unnest(p_statuses) AS s (status) CROSS JOIN LATERAL (
        SELECT t.n, t.completed_at_ms FROM job AS t
        WHERE t.queue = p_queue AND t.status = s.status AND t.status >= 4 AND NOT t.held
            AND (t.links & 8 = 0 OR NOT EXISTS (SELECT 1 FROM edge AS e WHERE e.parent = t.n))
        ORDER BY t.completed_at_ms, t.n LIMIT p_limit
    ) AS found ORDER BY found.completed_at_ms, found.n LIMIT p_limit;
END $$;

-- Keys, state, records, ops, fires and sessions whose time is over. True: there may be more.
CREATE FUNCTION @schema@.prune_aged(p_limit int, p_mono bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    gone bigint;
    is_more boolean := false;
BEGIN
    DELETE FROM idempotency AS t WHERE t.key = ANY (ARRAY(SELECT key FROM idempotency WHERE expires_mono_ms <= p_mono
        ORDER BY expires_mono_ms LIMIT p_limit FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS gone = ROW_COUNT;
    is_more := is_more OR gone >= p_limit;
    DELETE FROM state AS t WHERE t.key = ANY (ARRAY(SELECT key FROM state WHERE expires_mono_ms <= p_mono
        ORDER BY expires_mono_ms LIMIT p_limit FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS gone = ROW_COUNT;
    is_more := is_more OR gone >= p_limit;
    DELETE FROM record AS t USING (SELECT stream, seq FROM record WHERE expires_mono_ms <= p_mono
        ORDER BY expires_mono_ms LIMIT p_limit FOR UPDATE SKIP LOCKED) AS o WHERE t.stream = o.stream AND t.seq = o.seq;
    GET DIAGNOSTICS gone = ROW_COUNT;
    is_more := is_more OR gone >= p_limit;
    DELETE FROM turn AS t USING (SELECT client, channel, turn FROM turn WHERE mono_ms <= p_mono - 86400000
        ORDER BY mono_ms LIMIT p_limit FOR UPDATE SKIP LOCKED) AS o
    WHERE t.client = o.client AND t.channel = o.channel AND t.turn = o.turn;
    GET DIAGNOSTICS gone = ROW_COUNT;
    is_more := is_more OR gone >= p_limit;
    DELETE FROM fire AS t USING (SELECT schedule_id, nominal_ms FROM fire WHERE mono_ms <= p_mono - 7776000000
        ORDER BY mono_ms LIMIT p_limit FOR UPDATE SKIP LOCKED) AS o
    WHERE t.schedule_id = o.schedule_id AND t.nominal_ms = o.nominal_ms;
    GET DIAGNOSTICS gone = ROW_COUNT;
    is_more := is_more OR gone >= p_limit;
    DELETE FROM session AS t WHERE t.n = ANY (ARRAY(SELECT s.n FROM session AS s WHERE s.closed_mono_ms <= p_mono - 86400000
        AND NOT EXISTS (SELECT 1 FROM job AS h WHERE h.session = s.n AND h.status = 3)
        ORDER BY s.closed_mono_ms LIMIT p_limit FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS gone = ROW_COUNT;
    is_more := is_more OR gone >= p_limit;
    RETURN is_more;
END $$;

-- A lane without jobs or settings that has no claim saved up or lost: forgetting it changes no order. True: there may be more.
CREATE FUNCTION @schema@.prune_lanes(p_limit int) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    r round;
    queues text[];
    lanes text[];
    gone bigint;
BEGIN
    SELECT * INTO r FROM round WHERE what = 'lane';
    SELECT array_agg(w.queue ORDER BY w.queue, w.lane), array_agg(w.lane ORDER BY w.queue, w.lane) INTO queues, lanes FROM (
        SELECT t.queue, t.lane FROM lane AS t WHERE (t.queue, t.lane) > (r.queue, r.key)
        ORDER BY t.queue, t.lane LIMIT p_limit * 10
    ) AS w;
    PERFORM go_on_at('lane', queues[p_limit * 10], lanes[p_limit * 10]);
    DELETE FROM lane AS t USING (
        SELECT l.queue, l.lane FROM unnest(queues, lanes) AS u (queue, lane) JOIN lane AS l ON l.queue = u.queue AND l.lane = u.lane
        WHERE l.lane <> '' AND l.turn <= coalesce((SELECT q.turn FROM queue_turn AS q WHERE q.queue = l.queue), 0)
            AND NOT EXISTS (SELECT 1 FROM job AS j WHERE j.queue = l.queue AND j.lane = l.lane AND j.lane <> '' AND j.status <= 3)
            AND NOT EXISTS (SELECT 1 FROM limits AS s WHERE s.queue = l.queue AND s.is_lane AND s.lane = l.lane)
        LIMIT p_limit FOR UPDATE OF l SKIP LOCKED
    ) AS o WHERE t.queue = o.queue AND t.lane = o.lane;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone >= p_limit;
END $$;

-- Gates where nobody has a place or waits for one.
CREATE FUNCTION @schema@.prune_gates(p_limit int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    keys := ARRAY(SELECT g.key FROM gate AS g WHERE g.key > (SELECT key FROM round WHERE what = 'gate')
        ORDER BY g.key LIMIT p_limit * 10);
    PERFORM go_on_at('gate', '', keys[p_limit * 10]);
    DELETE FROM gate AS g WHERE g.key = ANY (ARRAY(
        SELECT t.key FROM gate AS t WHERE t.key = ANY (keys) AND t.places = 0
            AND NOT EXISTS (SELECT 1 FROM job AS w WHERE w.gate = t.key AND w.status = 0 AND w.needs_left = 0 AND NOT w.held)
        LIMIT p_limit FOR UPDATE SKIP LOCKED
    ));
END $$;

-- The next look begins there; NULL: from the start. Two who look at once do not wait for each other here.
CREATE FUNCTION @schema@.go_on_at(p_what text, p_queue text, p_key text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE round AS r SET queue = coalesce(p_queue, ''), key = coalesce(p_key, '') WHERE r.what = ANY (ARRAY(
        SELECT t.what FROM round AS t
        WHERE t.what = p_what AND (t.queue, t.key) IS DISTINCT FROM (coalesce(p_queue, ''), coalesce(p_key, ''))
        FOR NO KEY UPDATE SKIP LOCKED
    ));
END $$;
