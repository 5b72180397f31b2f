-- A page of one part of the store, as it is.
-- Params: part; after (NULL: from the start): JSON array with the place of the last item, the columns that a part is in order
--   of; limit 1..500.
-- Returns: a row for each item: its fields (JSON array, in the order of includes/moving.sql; of a job as below), its bytes, and
--   how many items there are from here on, as far as one more than the limit. What does not fit into 8 MiB is left for the
--   next page.
-- Index: the primary key of each table; of what rides on a job those by its number.
-- Cost: one statement; a job costs three look-ups, one more for each link that it has.
-- Differs from the others: pages are cut by the sizes before any bytes are read. One sequence gives both numbers.
CREATE FUNCTION @schema@.export_part(p_part text, p_after jsonb, p_limit int)
RETURNS TABLE (fields text, cargo bytea[], found_count bigint) @settings@ AS $$
DECLARE
    mono bigint := (read_clock(true)).mono_ms;
    k text := p_after->>0;
BEGIN
    CASE p_part
        WHEN 'numbers' THEN RETURN QUERY SELECT json_build_array(s.last, s.last)::text, NULL::bytea[], 1::bigint
            FROM (SELECT last_value - 1 + is_called::int AS last FROM number) AS s;
        WHEN 'limits' THEN RETURN QUERY SELECT * FROM export_limits(k, (p_after->>1)::boolean, p_after->>2, p_limit);
        WHEN 'schedules' THEN RETURN QUERY SELECT * FROM export_schedules(k, p_limit);
        WHEN 'fires' THEN RETURN QUERY SELECT * FROM export_fires(k, (p_after->>1)::bigint, p_limit);
        WHEN 'state' THEN RETURN QUERY SELECT * FROM export_state(k, p_limit, mono);
        WHEN 'streams' THEN RETURN QUERY SELECT * FROM export_streams(k, p_limit);
        WHEN 'records' THEN RETURN QUERY SELECT * FROM export_records(k, (p_after->>1)::bigint, p_limit, mono);
        WHEN 'locks' THEN RETURN QUERY SELECT * FROM export_locks(k, p_limit, mono);
        WHEN 'keys' THEN RETURN QUERY SELECT * FROM export_keys(k, p_limit, mono);
        WHEN 'jobs' THEN RETURN QUERY SELECT * FROM export_jobs(k::bigint, p_limit);
        WHEN 'needs' THEN RETURN QUERY SELECT * FROM export_needs(k::bigint, (p_after->>1)::bigint, p_limit);
    END CASE;
END $$;

-- Fields: number, id, queue, name, lane, priority, max_retries, max_lost, ready number of a pending one, status, attempt, lost,
-- fence, generation, needs left of a waiting one, held, asked to stop, has its unique key, is needed, reason, instants:
-- created, started, completed, run, expires. Bytes: payload, cold, digest, extras, result, errors.
CREATE FUNCTION @schema@.export_jobs(p_after bigint, p_limit int)
RETURNS TABLE (fields text, cargo bytea[], found_count bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT json_build_array(
            j.n, j.id, j.queue, j.name, j.lane, j.priority, j.max_retries, j.max_lost, CASE WHEN j.status = 2 THEN j.ready_number END,
            j.status, j.attempt, j.lost, j.fence, j.generation, CASE WHEN j.status = 0 THEN j.needs_left ELSE 0 END, j.held,
            j.cancel_requested, j.links & 1 > 0 AND EXISTS (SELECT 1 FROM unique_key AS u WHERE u.key = j.unique_key AND u.n = j.n),
            j.links & 8 > 0 AND EXISTS (SELECT 1 FROM edge AS e WHERE e.parent = j.n), j.reason,
            j.created_at_ms, j.started_at_ms, j.completed_at_ms, j.run_at_ms, j.expires_at_ms)::text,
        ARRAY[b.payload, b.cold, b.digest, b.extras, j.result]
            || ARRAY(SELECT e.error FROM error AS e WHERE e.n = j.n ORDER BY e.number),
        p.found_count
    FROM (
        SELECT c.n, sum(c.size) OVER w AS total, row_number() OVER w AS place, count(*) OVER () AS found_count FROM (
            SELECT t.n, t.size + coalesce(octet_length(t.result), 0)
                + coalesce((SELECT sum(octet_length(e.error)) FROM error AS e WHERE e.n = t.n), 0) AS size
            FROM job AS t WHERE t.n > coalesce(p_after, -9223372036854775808) ORDER BY t.n LIMIT p_limit + 1
        ) AS c WINDOW w AS (ORDER BY c.n)
    ) AS p JOIN job AS j ON j.n = p.n JOIN body AS b ON b.id = j.id
    WHERE p.place = 1 OR p.place <= p_limit AND p.total <= 8388608 ORDER BY p.n;
END $$;

-- The parents of a child by the number of the child.
CREATE FUNCTION @schema@.export_needs(p_child bigint, p_parent bigint, p_limit int)
RETURNS TABLE (fields text, cargo bytea[], found_count bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT json_build_array(c.child, c.parent, j.id, p.id, c.mask, c.met)::text, NULL::bytea[], c.found_count FROM (
        SELECT e.child, e.parent, e.mask, e.met, count(*) OVER () AS found_count FROM (
            SELECT t.child, t.parent, t.mask, t.met FROM edge AS t
            WHERE t.child >= coalesce(p_child, -9223372036854775808) AND (p_child IS NULL OR (t.child, t.parent) > (p_child, p_parent))
            ORDER BY t.child, t.parent LIMIT p_limit + 1
        ) AS e ORDER BY e.child, e.parent LIMIT p_limit
    ) AS c JOIN job AS j ON j.n = c.child JOIN job AS p ON p.n = c.parent ORDER BY c.child, c.parent;
END $$;

CREATE FUNCTION @schema@.export_limits(p_queue text, p_is_lane boolean, p_lane text, p_limit int)
RETURNS TABLE (fields text, cargo bytea[], found_count bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT json_build_array(l.queue, CASE WHEN l.is_lane THEN l.lane END, l.paused_until_ms, l.weight, l.active_max,
            l.starts_per_minute, l.starts_burst, l.pending_max, l.retain_ended, l.retain_dead)::text, NULL::bytea[], count(*) OVER ()
    FROM (
        SELECT t.* FROM limits AS t WHERE (t.queue, t.is_lane, t.lane) > (coalesce(p_queue, ''), coalesce(p_is_lane, false), coalesce(p_lane, ''))
        ORDER BY t.queue, t.is_lane, t.lane LIMIT p_limit + 1
    ) AS l ORDER BY l.queue, l.is_lane, l.lane LIMIT p_limit;
END $$;

CREATE FUNCTION @schema@.export_schedules(p_after text, p_limit int)
RETURNS TABLE (fields text, cargo bytea[], found_count bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT json_build_array(s.id, s.version, s.next_at_ms, s.last_nominal_ms, s.paused)::text, ARRAY[s.spec],
        p.found_count
    FROM (
        SELECT c.id, sum(c.size) OVER w AS total, row_number() OVER w AS place, count(*) OVER () AS found_count FROM (
            SELECT t.id, octet_length(t.spec) AS size FROM schedule AS t WHERE t.id > coalesce(p_after, '')
            ORDER BY t.id LIMIT p_limit + 1
        ) AS c WINDOW w AS (ORDER BY c.id)
    ) AS p JOIN schedule AS s ON s.id = p.id
    WHERE p.place = 1 OR p.place <= p_limit AND p.total <= 8388608 ORDER BY p.id;
END $$;

CREATE FUNCTION @schema@.export_fires(p_schedule text, p_nominal bigint, p_limit int)
RETURNS TABLE (fields text, cargo bytea[], found_count bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT json_build_array(f.schedule_id, f.nominal_ms)::text, NULL::bytea[], count(*) OVER () FROM (
        SELECT t.schedule_id, t.nominal_ms FROM fire AS t
        WHERE (t.schedule_id, t.nominal_ms) > (coalesce(p_schedule, ''), coalesce(p_nominal, 0))
        ORDER BY t.schedule_id, t.nominal_ms LIMIT p_limit + 1
    ) AS f ORDER BY f.schedule_id, f.nominal_ms LIMIT p_limit;
END $$;

CREATE FUNCTION @schema@.export_state(p_after text, p_limit int, p_mono bigint)
RETURNS TABLE (fields text, cargo bytea[], found_count bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT json_build_array(s.key, s.version, s.expires_mono_ms - p_mono, s.bucket_level,
            coalesce(p_mono - s.bucket_mono_ms, 0))::text, ARRAY[s.value], p.found_count
    FROM (
        SELECT c.key, sum(c.size) OVER w AS total, row_number() OVER w AS place, count(*) OVER () AS found_count FROM (
            SELECT t.key, octet_length(t.value) AS size FROM state AS t
            WHERE t.key > coalesce(p_after, '') AND (t.expires_mono_ms IS NULL OR t.expires_mono_ms > p_mono)
            ORDER BY t.key LIMIT p_limit + 1
        ) AS c WINDOW w AS (ORDER BY c.key)
    ) AS p JOIN state AS s ON s.key = p.key
    WHERE p.place = 1 OR p.place <= p_limit AND p.total <= 8388608 ORDER BY p.key;
END $$;

CREATE FUNCTION @schema@.export_streams(p_after text, p_limit int)
RETURNS TABLE (fields text, cargo bytea[], found_count bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT json_build_array(s.stream, s.seq)::text, NULL::bytea[], count(*) OVER () FROM (
        SELECT t.stream, t.seq FROM stream AS t WHERE t.stream > coalesce(p_after, '')
        ORDER BY t.stream LIMIT p_limit + 1
    ) AS s ORDER BY s.stream LIMIT p_limit;
END $$;

CREATE FUNCTION @schema@.export_records(p_stream text, p_seq bigint, p_limit int, p_mono bigint)
RETURNS TABLE (fields text, cargo bytea[], found_count bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT json_build_array(r.stream, r.seq, r.at_ms, CASE WHEN r.expires_mono_ms IS NOT NULL THEN greatest(0, r.expires_mono_ms - p_mono) END)::text,
        ARRAY[r.body], p.found_count
    FROM (
        SELECT c.stream, c.seq, sum(c.size) OVER w AS total, row_number() OVER w AS place, count(*) OVER () AS found_count FROM (
            SELECT t.stream, t.seq, octet_length(t.body) AS size FROM record AS t
            WHERE (t.stream, t.seq) > (coalesce(p_stream, ''), coalesce(p_seq, 0)) ORDER BY t.stream, t.seq LIMIT p_limit + 1
        ) AS c WINDOW w AS (ORDER BY c.stream, c.seq)
    ) AS p JOIN record AS r ON r.stream = p.stream AND r.seq = p.seq
    WHERE p.place = 1 OR p.place <= p_limit AND p.total <= 8388608 ORDER BY p.stream, p.seq;
END $$;

CREATE FUNCTION @schema@.export_locks(p_after text, p_limit int, p_mono bigint)
RETURNS TABLE (fields text, cargo bytea[], found_count bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT json_build_array(l.name, l.holder, l.fence, greatest(0, l.until_mono_ms - p_mono))::text, NULL::bytea[],
        count(*) OVER ()
    FROM (
        SELECT t.* FROM lock AS t WHERE t.name > coalesce(p_after, '') ORDER BY t.name LIMIT p_limit + 1
    ) AS l ORDER BY l.name LIMIT p_limit;
END $$;

CREATE FUNCTION @schema@.export_keys(p_after text, p_limit int, p_mono bigint)
RETURNS TABLE (fields text, cargo bytea[], found_count bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT json_build_array(k.key, k.id, k.expires_mono_ms - p_mono)::text, ARRAY[k.digest], count(*) OVER () FROM (
        SELECT t.* FROM idempotency AS t WHERE t.key > coalesce(p_after, '') AND t.expires_mono_ms > p_mono
        ORDER BY t.key LIMIT p_limit + 1
    ) AS k ORDER BY k.key LIMIT p_limit;
END $$;
