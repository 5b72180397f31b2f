-- What people see of a job, and which jobs they mean. As _memory/operating.py.

CREATE FUNCTION @schema@.limit_codes(p_queue text, p_lane text, p_where text, p_now bigint, p_mono bigint) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    l limits := limits_of(p_queue, p_lane);
    codes text[] := '{}';
BEGIN
    IF l.queue IS NULL THEN
        RETURN codes;
    END IF;
    IF is_paused(l, p_now) THEN
        codes := codes || ('paused:' || p_where);
    END IF;
    IF l.active_max IS NOT NULL AND active_of(p_queue, p_lane, l.active_max) >= l.active_max THEN
        codes := codes || ('limit:' || p_where);
    END IF;
    IF l.starts_per_minute IS NOT NULL AND level_of(l, p_mono) < 60000 THEN
        codes := codes || ('rate:' || p_where);
    END IF;
    RETURN codes;
END $$;

-- Why the job is not running.
CREATE FUNCTION @schema@.blocks(j @schema@.job, p_now bigint, p_mono bigint) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    codes text[] := '{}';
BEGIN
    IF j.status > 2 THEN
        RETURN codes;
    END IF;
    IF j.held THEN
        codes := codes || 'held'::text;
    END IF;
    IF j.links & 4 > 0 THEN
        codes := codes || coalesce((
            SELECT array_agg('needs:' || p.id ORDER BY p.n) FROM edge AS e JOIN job AS p ON p.n = e.parent
            WHERE e.child = j.n AND NOT e.met
        ), '{}');
    END IF;
    IF j.status = 0 AND j.needs_left = 0 AND j.gate IS NOT NULL THEN
        codes := codes || ('gate:' || j.gate);
    END IF;
    IF j.status = 1 THEN
        codes := codes || 'run_at'::text;
    END IF;
    codes := codes || limit_codes(j.queue, NULL, 'queue', p_now, p_mono) || limit_codes(j.queue, j.lane, 'lane', p_now, p_mono);
    RETURN codes || coalesce((SELECT ARRAY['mode:' || mode] FROM meta WHERE mode IN ('filling', 'frozen', 'moved')), '{}');
END $$;

-- w: { queues, statuses, names, lanes, created_from, created_to, ended_before, text, reason }, absent where any will do.
CREATE FUNCTION @schema@.matches(j @schema@.job, w jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    raw bytea;
BEGIN
    IF w ? 'ids' AND NOT w->'ids' ? j.id
        OR w ? 'queues' AND NOT w->'queues' ? j.queue
        OR w ? 'statuses' AND NOT w->'statuses' @> to_jsonb(j.status)
        OR w ? 'names' AND NOT w->'names' ? j.name
        OR w ? 'lanes' AND NOT w->'lanes' ? j.lane
        OR j.created_at_ms < (w->>'created_from')::bigint
        OR j.created_at_ms >= (w->>'created_to')::bigint
        OR w ? 'ended_before' AND (j.completed_at_ms IS NULL OR j.completed_at_ms >= (w->>'ended_before')::bigint)
        OR j.reason <> w->>'reason'
    THEN
        RETURN false;
    END IF;
    IF w ? 'text' THEN
        raw := convert_to(w->>'text', 'UTF8');
        RETURN position(w->>'text' IN j.id) > 0 OR position(w->>'text' IN j.name) > 0
            OR EXISTS (SELECT 1 FROM body AS b
                WHERE b.n = j.n AND (position(raw IN b.payload) > 0 OR position(raw IN b.cold) > 0));
    END IF;
    RETURN true;
END $$;

-- The first name of a queue with jobs, from `p_from` on or behind it. One look into each index: with both in one condition it
-- would walk through all jobs of `p_from`.
CREATE FUNCTION @schema@.next_queue(p_from text, p_is_behind boolean) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT p_is_behind AND (
        EXISTS (SELECT 1 FROM job AS t WHERE t.queue = p_from AND t.status <= 2)
        OR EXISTS (SELECT 1 FROM job AS t WHERE t.queue = p_from AND t.status >= 4)
        OR active_of(p_from, NULL, 1) > 0
    ) THEN
        RETURN p_from;
    END IF;
    RETURN (SELECT min(u.q COLLATE "C") FROM (
        (SELECT t.queue AS q FROM job AS t WHERE t.queue > p_from AND t.status <= 2 ORDER BY t.queue LIMIT 1)
        UNION ALL
        (SELECT t.queue FROM job AS t WHERE t.queue > p_from AND t.status >= 4 ORDER BY t.queue LIMIT 1)
        UNION ALL
        SELECT held.queue FROM busy_sessions() AS h CROSS JOIN LATERAL (
            SELECT t.queue FROM job AS t WHERE t.session = h.session AND t.status = 3 AND t.queue > p_from
            ORDER BY t.queue LIMIT 1
        ) AS held
    ) AS u);
END $$;

-- A chunk of a group, in its order: key, then number. The key is the end of ended jobs, 0 of others.
CREATE FUNCTION @schema@.group_of(p_queue text, p_status int, p_key bigint, p_n bigint, p_limit int)
RETURNS SETOF @schema@.job LANGUAGE plpgsql AS $$
BEGIN
    IF p_status = 3 THEN
        RETURN QUERY SELECT t.* FROM job AS t WHERE t.n = ANY (ARRAY(
            SELECT held.n FROM busy_sessions() AS h CROSS JOIN LATERAL (
                SELECT a.n FROM job AS a WHERE a.session = h.session AND a.queue = p_queue AND a.status = 3 AND a.n > p_n
                ORDER BY a.n + 0 LIMIT p_limit
            ) AS held ORDER BY held.n LIMIT p_limit
        )) AND t.queue = p_queue AND t.status + 0 = 3 ORDER BY t.n;
    ELSIF p_status >= 4 THEN
        RETURN QUERY SELECT t.* FROM job AS t WHERE t.queue = p_queue AND t.status = p_status AND t.status >= 4
            AND (t.completed_at_ms, t.n) > (p_key, p_n) ORDER BY t.completed_at_ms, t.n LIMIT p_limit;
    ELSE
        -- In the order of the index, status as a range: by number alone, the planner may walk through all jobs by theirs.
        RETURN QUERY SELECT t.* FROM job AS t WHERE t.queue = p_queue AND t.status >= p_status AND t.status <= p_status
            AND t.status <= 2 AND t.n > p_n ORDER BY t.status, t.n LIMIT p_limit;
    END IF;
END $$;

-- Numbers of up to `p_limit` matching jobs behind `p_cursor`, queue by queue, in a queue the statuses in the order given.
-- Looks at 1,000 jobs at most. next: where to go on, as JSON [queue, status, key, n]; NULL: that was all.
CREATE FUNCTION @schema@.walk(
    w jsonb, p_cursor jsonb, p_limit int, p_order int[], OUT numbers bigint[], OUT next jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    q text := coalesce(p_cursor->>0, '');
    is_behind boolean := false;
    queues text[];
    s int;
    j job;
    v_key bigint;
    v_n bigint;
    looked int := 0;
    got int;
    place jsonb;
BEGIN
    numbers := '{}';
    IF w ? 'queues' THEN
        queues := ARRAY(SELECT DISTINCT v COLLATE "C" FROM jsonb_array_elements_text(w->'queues') AS u (v) ORDER BY 1);
    END IF;
    LOOP
        IF queues IS NULL THEN
            q := next_queue(q, is_behind);
        ELSE
            q := (SELECT min(v COLLATE "C") FROM unnest(queues) AS u (v)
                WHERE v COLLATE "C" > q OR v = q AND NOT is_behind);
        END IF;
        EXIT WHEN q IS NULL;
        FOREACH s IN ARRAY p_order LOOP
            CONTINUE WHEN w ? 'statuses' AND NOT w->'statuses' @> to_jsonb(s);
            v_key := -4611686018427387904;
            v_n := 0;
            IF q = p_cursor->>0 THEN
                CONTINUE WHEN array_position(p_order, s) < array_position(p_order, (p_cursor->>1)::int);
                IF s = (p_cursor->>1)::int THEN
                    v_key := (p_cursor->>2)::bigint;
                    v_n := (p_cursor->>3)::bigint;
                END IF;
            END IF;
            LOOP
                got := 0;
                FOR j IN SELECT * FROM group_of(q, s, v_key, v_n, 100) LOOP
                    got := got + 1;
                    IF looked >= 1000 OR cardinality(numbers) >= p_limit THEN
                        IF looked >= 1000 OR matches(j, w) THEN
                            next := place;
                            RETURN;
                        END IF;
                    END IF;
                    looked := looked + 1;
                    v_key := CASE WHEN s >= 4 THEN j.completed_at_ms ELSE 0 END;
                    v_n := j.n;
                    place := jsonb_build_array(q, s, v_key, v_n);
                    IF matches(j, w) THEN
                        numbers := numbers || j.n;
                    END IF;
                END LOOP;
                EXIT WHEN got < 100;
            END LOOP;
        END LOOP;
        is_behind := true;
    END LOOP;
END $$;

-- By ids: the same order and cursor, without a walk.
CREATE FUNCTION @schema@.walk_ids(
    w jsonb, p_cursor jsonb, p_limit int, OUT numbers bigint[], OUT next jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    j job;
    v_key bigint;
    place jsonb;
BEGIN
    numbers := '{}';
    FOR j IN SELECT t.* FROM body AS b JOIN job AS t ON t.n = b.n
        WHERE b.id = ANY (ARRAY(SELECT jsonb_array_elements_text(w->'ids')))
        ORDER BY t.queue, t.status, CASE WHEN t.status >= 4 THEN t.completed_at_ms ELSE 0 END, t.n
    LOOP
        v_key := CASE WHEN j.status >= 4 THEN j.completed_at_ms ELSE 0 END;
        CONTINUE WHEN p_cursor IS NOT NULL AND (j.queue COLLATE "C", j.status, v_key, j.n)
            <= ((p_cursor->>0) COLLATE "C", (p_cursor->>1)::int, (p_cursor->>2)::bigint, (p_cursor->>3)::bigint);
        IF matches(j, w) THEN
            IF cardinality(numbers) >= p_limit THEN
                next := place;
                RETURN;
            END IF;
            numbers := numbers || j.n;
            place := jsonb_build_array(j.queue, j.status, v_key, j.n);
        END IF;
    END LOOP;
END $$;

-- Jobs in full, in the order of their numbers in the array.
CREATE FUNCTION @schema@.views_of(p_numbers bigint[], p_now bigint, p_mono bigint) RETURNS TABLE (
    n bigint, id text, queue text, name text, lane text, payload bytea, cold bytea, digest bytea, extras bytea,
    priority int, max_retries int, max_lost int, status smallint, attempt int, lost int, generation int, fence int,
    ready_number bigint, session_id text, worker text, held boolean, cancel_requested boolean, reason text,
    created_at_ms bigint, started_at_ms bigint, completed_at_ms bigint, run_at_ms bigint, expires_at_ms bigint,
    result bytea, errors bytea[], blocked_by text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT j.n, j.id, j.queue, j.name, j.lane, b.payload, b.cold, b.digest, b.extras, j.priority,
        j.max_retries, j.max_lost, j.status, j.attempt, j.lost, j.generation, j.fence, j.ready_number, s.id, s.worker,
        j.held, j.cancel_requested, j.reason, j.created_at_ms, j.started_at_ms, j.completed_at_ms, j.run_at_ms,
        j.expires_at_ms, j.result, ARRAY(SELECT e.error FROM error AS e WHERE e.n = j.n ORDER BY e.number),
        blocks(j, p_now, p_mono)
    FROM unnest(p_numbers) WITH ORDINALITY AS u (n, place) JOIN job AS j ON j.n = u.n JOIN body AS b ON b.n = u.n
    LEFT JOIN session AS s ON s.n = j.session AND j.status = 3
    ORDER BY u.place;
END $$;
