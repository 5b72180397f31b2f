-- Retention. As _memory/maintenance.py.

CREATE FUNCTION @schema@.next_ended_queue(p_from text, p_is_behind boolean) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    -- What is counted is there; looking for one of them passes over all that were deleted since the last vacuum.
    IF NOT p_is_behind AND (EXISTS (SELECT 1 FROM tally AS t WHERE t.queue = p_from AND t.count > 0)
        OR EXISTS (SELECT 1 FROM job AS t WHERE t.queue = p_from AND t.status >= 4)) THEN
        RETURN p_from;
    END IF;
    RETURN (SELECT t.queue FROM job AS t WHERE t.queue > p_from AND t.status >= 4 ORDER BY t.queue LIMIT 1);
END $$;

-- First what is too old, then what is too much; oldest end first, never a job that is needed or held. is_cut: its jobs are not
-- counted to the end yet. looked_at: how many were, now.
CREATE FUNCTION @schema@.prune_kind(
    p_queue text, p_statuses smallint[], p_keep bigint[], p_limit int, p_now bigint, p_mono bigint,
    OUT ids text[], OUT is_cut boolean, OUT looked_at bigint
) LANGUAGE plpgsql AS $$
DECLARE
    x record;
    o record;
    wanted bigint;
    begin_ms bigint;
    pages bigint;
BEGIN
    ids := '{}';
    x := excess_of(p_queue, p_statuses, p_keep[2], p_limit, p_now, p_mono);
    is_cut := x.is_cut;
    looked_at := x.looked_at;
    wanted := x.excess;
    begin_ms := pruned_until(p_queue, p_statuses, p_mono);
    IF wanted < p_limit THEN
        wanted := greatest(wanted, (SELECT count(*) FROM oldest_ended(p_queue, p_statuses, p_limit, begin_ms, p_now - p_keep[1])
            AS h));
    END IF;
    IF wanted = 0 THEN
        RETURN;
    END IF;
    pages := pg_stat_get_xact_blocks_fetched('job_ended'::regclass);
    -- Where they lie is kept true by their locks, so that each is looked for once.
    SELECT array_agg(t.n) AS numbers, array_agg(t.id) AS ids, array_agg(t.tid) AS tids, bool_or(t.links & 1 > 0) AS has_keys,
        bool_or(t.links & 8 > 0) AS has_children, max(t.completed_at_ms) AS last_ms
    INTO o FROM (
        SELECT f.* FROM unnest(p_statuses) AS s (status) CROSS JOIN LATERAL (
            SELECT j.n, j.id, j.ctid AS tid, j.completed_at_ms, j.links FROM job AS j
            WHERE j.queue = p_queue AND j.status = s.status AND j.status >= 4 AND j.completed_at_ms >= begin_ms AND NOT j.held
                AND (j.links & 8 = 0 OR NOT EXISTS (SELECT 1 FROM edge AS e WHERE e.parent = j.n))
            ORDER BY j.completed_at_ms, j.n LIMIT wanted FOR NO KEY UPDATE OF j SKIP LOCKED
        ) AS f ORDER BY f.completed_at_ms, f.n LIMIT wanted
    ) AS t;
    pages := pg_stat_get_xact_blocks_fetched('job_ended'::regclass) - pages;
    IF pages > 32 AND o.last_ms IS NOT NULL THEN
        UPDATE tally AS t SET from_ms = o.last_ms, from_mono_ms = CASE WHEN begin_ms = t.from_ms THEN t.from_mono_ms ELSE p_mono END
        WHERE t.queue = p_queue AND t.status = ANY (p_statuses);
    END IF;
    IF o.has_children THEN
        -- Looked at again behind the locks: since then nobody comes to need them.
        SELECT array_agg(u.n) AS numbers, array_agg(u.id) AS ids, array_agg(u.tid) AS tids, o.has_keys INTO o
        FROM unnest(o.numbers, o.ids, o.tids) WITH ORDINALITY AS u (n, id, tid, place)
        WHERE NOT EXISTS (SELECT 1 FROM edge AS e WHERE e.parent = u.n);
    END IF;
    IF o.numbers IS NOT NULL THEN
        ids := o.ids;
        IF o.has_keys THEN
            DELETE FROM unique_key AS u USING job AS t WHERE t.ctid = ANY (o.tids) AND u.key = t.unique_key AND u.n = t.n;
        END IF;
        DELETE FROM job AS t WHERE t.ctid = ANY (o.tids);
        PERFORM drop_rest(o.numbers);
    END IF;
END $$;

-- Where looking for the oldest begins. What was deleted lies at the head of the index until a vacuum, and each look walks over
-- it; so a look that was dear leaves word of how far it came. What comes to light below, a job that is held or needed no more,
-- waits for the next look at the whole: a second at most.
CREATE FUNCTION @schema@.pruned_until(p_queue text, p_statuses smallint[], p_mono bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((SELECT min(CASE WHEN p_mono - t.from_mono_ms < 1000 THEN t.from_ms ELSE -9223372036854775808 END)
        FROM tally AS t WHERE t.queue = p_queue AND t.status = ANY (p_statuses)), -9223372036854775808);
END $$;

-- The `p_limit` that ended first, of those that may be deleted and ended from `p_from` until `p_until`.
CREATE FUNCTION @schema@.oldest_ended(p_queue text, p_statuses smallint[], p_limit int, p_from bigint, p_until bigint)
RETURNS TABLE (n bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT found.n FROM unnest(p_statuses) AS s (status) CROSS JOIN LATERAL (
        SELECT t.n, t.completed_at_ms FROM job AS t
        WHERE t.queue = p_queue AND t.status = s.status AND t.status >= 4 AND t.completed_at_ms >= p_from
            AND t.completed_at_ms <= p_until AND NOT t.held
            AND (t.links & 8 = 0 OR NOT EXISTS (SELECT 1 FROM edge AS e WHERE e.parent = t.n))
        ORDER BY t.completed_at_ms, t.n LIMIT p_limit
    ) AS found LIMIT p_limit;
END $$;

-- Keys, state, records, ops, fires and sessions whose time is over, and tallies that were not begun anew, since nothing ends in
-- their queues. True: there may be more.
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
    DELETE FROM tally AS t USING (SELECT queue, status FROM tally WHERE since_mono_ms <= p_mono - 7200000
        ORDER BY since_mono_ms LIMIT p_limit FOR UPDATE SKIP LOCKED) AS o WHERE t.queue = o.queue AND t.status = o.status;
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

-- A lane that was pruned while its first job came in has its row again: else it would get no turn before all others had one.
-- One look into the index for each lane with jobs, `p_limit` of them.
CREATE FUNCTION @schema@.restore_lanes(p_limit int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    r round;
    queues text[];
    lanes text[];
BEGIN
    IF NOT EXISTS (SELECT 1 FROM round WHERE what = 'stray') THEN
        INSERT INTO round (what) VALUES ('stray') ON CONFLICT DO NOTHING;
    END IF;
    SELECT * INTO r FROM round WHERE what = 'stray';
    WITH RECURSIVE used (queue, lane) AS (
        SELECT r.queue COLLATE "C", r.key COLLATE "C"
        UNION ALL
        SELECT n.queue, n.lane FROM used AS u CROSS JOIN LATERAL (
            SELECT j.queue, j.lane FROM job AS j
            WHERE (j.queue, j.lane) > (u.queue, u.lane) AND j.lane <> '' AND j.status <= 3 ORDER BY j.queue, j.lane LIMIT 1
        ) AS n
    )
    SELECT array_agg(w.queue), array_agg(w.lane) INTO queues, lanes FROM (
        SELECT u.queue, u.lane FROM used AS u OFFSET 1 LIMIT p_limit
    ) AS w;
    INSERT INTO lane (queue, lane) SELECT u.queue, u.lane FROM unnest(queues, lanes) AS u (queue, lane)
    WHERE NOT EXISTS (SELECT 1 FROM lane AS l WHERE l.queue = u.queue AND l.lane = u.lane OFFSET 0) ON CONFLICT DO NOTHING;
    PERFORM go_on_at('stray', queues[p_limit], lanes[p_limit]);
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
