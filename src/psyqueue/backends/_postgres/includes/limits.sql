-- Limits of queues and lanes: pauses, rates, how many run at once. As _memory/dequeue.py and _memory/intake.py.

CREATE FUNCTION @schema@.limits_of(p_queue text, p_lane text) RETURNS @schema@.limits LANGUAGE plpgsql AS $$
DECLARE
    l limits;
BEGIN
    SELECT t.* INTO l FROM limits AS t
    WHERE t.queue = p_queue AND t.is_lane = (p_lane IS NOT NULL) AND t.lane = coalesce(p_lane, '');
    RETURN l;
END $$;

CREATE FUNCTION @schema@.is_paused(l @schema@.limits, p_now bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT l.paused_until_ms IS NOT NULL AND (l.paused_until_ms = -1 OR l.paused_until_ms > p_now)
$$;

-- The level of a bucket after a time, in 1/60,000 of a token. Of a long time at a high rate only what fills it is counted: all of
-- it is more than a bigint holds.
CREATE FUNCTION @schema@.refilled(p_level bigint, p_elapsed bigint, p_per_minute bigint, p_full bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT least(p_full, p_level + least(greatest(0, p_elapsed), p_full / greatest(1, p_per_minute) + 1) * p_per_minute)
$$;

-- The rate's bucket as of now; a rate that was never used starts full.
CREATE FUNCTION @schema@.level_of(l @schema@.limits, p_mono bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT refilled(
        coalesce(l.bucket_level, l.starts_burst * 60000), p_mono - coalesce(l.bucket_mono_ms, p_mono), l.starts_per_minute,
        l.starts_burst * 60000
    )
$$;

-- Sessions that hold jobs, one look into the index for each: few, where active jobs may be many.
CREATE FUNCTION @schema@.busy_sessions() RETURNS TABLE (session bigint) LANGUAGE plpgsql ROWS 10 AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY WITH RECURSIVE held (n) AS (
        (SELECT t.session FROM job AS t WHERE t.status = 3 ORDER BY t.session LIMIT 1)
        UNION ALL
        SELECT (SELECT t.session FROM job AS t WHERE t.status = 3 AND t.session > h.n ORDER BY t.session LIMIT 1)
        FROM held AS h WHERE h.n IS NOT NULL
    )
    SELECT h.n FROM held AS h WHERE h.n IS NOT NULL;
END $$;

-- Jobs that run now, of a queue (lane NULL) or of a lane in it, counted up to `p_max` (NULL: all).
CREATE FUNCTION @schema@.active_of(p_queue text, p_lane text, p_max bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF p_lane <> '' THEN
        RETURN (SELECT count(*) FROM (
            SELECT 1 FROM job AS t
            WHERE t.queue = p_queue AND t.lane = p_lane AND t.lane <> '' AND t.status = 3 AND t.status <= 3 LIMIT p_max
        ) AS counted);
    END IF;
    RETURN (SELECT count(*) FROM (
        SELECT 1 FROM busy_sessions() AS h CROSS JOIN LATERAL (
            SELECT 1 FROM job AS t
            WHERE t.session = h.session AND t.queue = p_queue AND t.status = 3 AND (p_lane IS NULL OR t.lane = p_lane)
            OFFSET 0  -- for each session its own part of the index; flattened, it would be all of it
        ) AS held LIMIT p_max
    ) AS counted);
END $$;

-- How many starts the limits of the queue or lane allow now.
CREATE FUNCTION @schema@.room_of(p_queue text, p_lane text, p_now bigint, p_mono bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    l limits := limits_of(p_queue, p_lane);
    room bigint := 1 << 30;
BEGIN
    IF l.queue IS NULL THEN
        RETURN room;
    ELSIF is_paused(l, p_now) THEN
        RETURN 0;
    END IF;
    IF l.active_max IS NOT NULL THEN
        room := least(room, l.active_max - active_of(p_queue, p_lane, l.active_max));
    END IF;
    IF l.starts_per_minute IS NOT NULL THEN
        room := least(room, level_of(l, p_mono) / 60000);
    END IF;
    RETURN greatest(0, room);
END $$;

-- `p_starts` jobs of the queue or lane were started.
CREATE FUNCTION @schema@.charge(p_queue text, p_lane text, p_starts int, p_mono bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE limits AS t SET bucket_level = level_of(t, p_mono) - p_starts * 60000, bucket_mono_ms = p_mono
    WHERE t.queue = p_queue AND t.is_lane = (p_lane IS NOT NULL) AND t.lane = coalesce(p_lane, '')
        AND t.starts_per_minute IS NOT NULL;
END $$;

-- When the first pause or rate that keeps pending jobs of the queues back lets go; NULL: none does, by time alone.
CREATE FUNCTION @schema@.next_start_in(p_queues text[], p_now bigint, p_mono bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    l limits;
    first_ms bigint;
    missing bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM limits WHERE queue = ANY (p_queues)) THEN
        RETURN NULL;
    END IF;
    FOR l IN SELECT t.* FROM limits AS t
        WHERE t.queue = ANY (p_queues) AND (t.paused_until_ms IS NOT NULL OR t.starts_per_minute IS NOT NULL)
            -- A look into an index for each; as one condition it would be a walk over all pending jobs.
            AND CASE WHEN t.is_lane
                THEN EXISTS (SELECT 1 FROM job AS p WHERE p.queue = t.queue AND p.lane = t.lane AND p.status = 2 AND NOT p.held)
                ELSE EXISTS (SELECT 1 FROM job AS p WHERE p.queue = t.queue AND p.status = 2 AND p.status <= 2)
            END
    LOOP
        IF l.paused_until_ms > p_now THEN
            first_ms := least(first_ms, l.paused_until_ms - p_now);
        END IF;
        IF l.starts_per_minute IS NOT NULL THEN
            missing := 60000 - level_of(l, p_mono);
            IF missing > 0 THEN
                first_ms := least(first_ms, CASE WHEN l.starts_per_minute = 0 THEN 86400000
                    ELSE (missing + l.starts_per_minute - 1) / l.starts_per_minute END);
            END IF;
        END IF;
    END LOOP;
    RETURN first_ms;
END $$;

-- Room for one more unstarted job, or QUEUE_FULL. The limit's row is locked: two that come at once count one another.
CREATE FUNCTION @schema@.check_room(p_queue text, p_lane text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    l record;
    found_count bigint;
BEGIN
    FOR l IN SELECT is_lane, lane, pending_max FROM limits
        WHERE queue = p_queue AND pending_max IS NOT NULL AND (NOT is_lane OR lane = p_lane)
        ORDER BY is_lane FOR NO KEY UPDATE
    LOOP
        IF l.is_lane AND p_lane <> '' THEN
            SELECT count(*) INTO found_count FROM (
                SELECT 1 FROM job AS t
                WHERE t.queue = p_queue AND t.lane = p_lane AND t.lane <> '' AND t.status <= 2 AND t.status <= 3
                LIMIT l.pending_max
            ) AS counted;
        ELSE
            SELECT count(*) INTO found_count FROM (
                SELECT 1 FROM job AS t WHERE t.queue = p_queue AND t.status <= 2 AND (NOT l.is_lane OR t.lane = p_lane)
                LIMIT l.pending_max
            ) AS counted;
        END IF;
        IF found_count >= l.pending_max THEN
            PERFORM refuse('QUEUE_FULL',
                jsonb_build_array(p_queue, CASE WHEN l.is_lane THEN p_lane END, l.pending_max));
        END IF;
    END LOOP;
END $$;
