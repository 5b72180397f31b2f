-- Retention. As _memory/maintenance.py.

CREATE FUNCTION @schema@.next_ended_queue(p_from text, p_is_behind boolean) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT queue FROM job WHERE queue >= p_from AND (queue > p_from OR NOT p_is_behind) AND status >= 4
        ORDER BY queue LIMIT 1);
END $$;

-- First what is too old, then what is too much; oldest end first, never a job that is needed or held.
CREATE FUNCTION @schema@.prune_kind(p_queue text, p_statuses smallint[], p_keep bigint[], p_limit int, p_now bigint)
RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    excess bigint;
    ids text[] := '{}';
    j job;
    v_status smallint;
BEGIN
    excess := -p_keep[2];
    FOREACH v_status IN ARRAY p_statuses LOOP
        excess := excess + (SELECT count(*) FROM (
            SELECT 1 FROM job AS t WHERE t.queue = p_queue AND t.status = v_status AND t.status >= 4 LIMIT p_keep[2] + p_limit
        ) AS counted);
    END LOOP;
    FOR j IN SELECT t.* FROM job AS t
        WHERE t.n = ANY (ARRAY(SELECT h.n FROM oldest_ended(p_queue, p_statuses, p_limit) AS h))
        ORDER BY t.completed_at_ms, t.n FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        EXIT WHEN j.completed_at_ms > p_now - p_keep[1] AND cardinality(ids) >= excess;
        CONTINUE WHEN j.status <> ALL (p_statuses) OR j.held;
        ids := ids || j.id;
        PERFORM drop_job(j);
    END LOOP;
    RETURN ids;
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

-- Keys, state, records, ops, fires, sessions and lanes whose time is over. True: there may be more.
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
    -- A lane without jobs or settings that has no claim saved up or lost: forgetting it changes no order.
    DELETE FROM lane AS t USING (
        SELECT l.queue, l.lane FROM lane AS l
        WHERE l.lane <> '' AND l.turn <= coalesce((SELECT q.turn FROM queue_turn AS q WHERE q.queue = l.queue), 0)
            AND NOT EXISTS (SELECT 1 FROM job AS j WHERE j.queue = l.queue AND j.lane = l.lane AND j.lane <> '' AND j.status <= 3)
            AND NOT EXISTS (SELECT 1 FROM limits AS s WHERE s.queue = l.queue AND s.is_lane AND s.lane = l.lane)
        LIMIT p_limit FOR UPDATE SKIP LOCKED
    ) AS o WHERE t.queue = o.queue AND t.lane = o.lane;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN is_more OR gone >= p_limit;
END $$;
