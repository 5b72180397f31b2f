-- Which job is next: queue by queue, lane by lane, priority, then age; within what limits allow. As _memory/dequeue.py.

-- Up to `p_wanted` jobs of a lane, locked, and their unique keys let go where a start does that. A job that does not fit into
-- the bytes ends it, so that order is kept; the first of a fetch always fits. Rows that somebody else has locked are passed
-- over: they are being started or changed.
-- p_levels: marks to go by (of the default lane); NULL: look at the whole. tids: where they lie, which their lock keeps true.
-- levels: { priority: lowest ready number } of them, if they have one priority. pages: of the index, that were looked at.
CREATE FUNCTION @schema@.pick(
    p_queue text, p_lane text, p_levels jsonb, p_wanted int, p_bytes bigint, p_is_first boolean, p_now bigint,
    OUT numbers bigint[], OUT tids tid[], OUT bytes_left bigint, OUT is_cut boolean, OUT levels jsonb, OUT pages bigint
) LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    pages := pg_stat_get_xact_blocks_fetched('job_ready'::regclass);
    IF p_levels IS NULL THEN
        SELECT array_agg(t.n) AS numbers, array_agg(t.ctid) AS tids, array_agg(t.size) AS sizes, sum(t.size) AS bytes,
            bool_or(t.links & 1 > 0) AS has_keys, min(t.priority) AS low, max(t.priority) AS high, min(t.ready_number) AS first
        INTO c FROM (
            SELECT j.n, j.ctid, j.links, j.size, j.priority, j.ready_number FROM job AS j
            WHERE j.queue = p_queue AND j.lane = p_lane AND j.status = 2 AND NOT j.held
                AND (j.expires_at_ms IS NULL OR j.expires_at_ms > p_now)
            ORDER BY j.priority DESC, j.ready_number LIMIT p_wanted FOR NO KEY UPDATE SKIP LOCKED
        ) AS t;
    ELSE
        SELECT array_agg(t.n) AS numbers, array_agg(t.tid) AS tids, array_agg(t.size) AS sizes, sum(t.size) AS bytes,
            bool_or(t.links & 1 > 0) AS has_keys, min(t.priority) AS low, max(t.priority) AS high, min(t.ready_number) AS first
        INTO c FROM seek(p_queue, p_levels, p_wanted, p_now) AS t;
    END IF;
    pages := pg_stat_get_xact_blocks_fetched('job_ready'::regclass) - pages;
    numbers := coalesce(c.numbers, '{}');
    tids := coalesce(c.tids, '{}');
    bytes_left := p_bytes - coalesce(c.bytes, 0);
    is_cut := bytes_left < 0 AND NOT (p_is_first AND cardinality(numbers) = 1);
    IF is_cut THEN
        bytes_left := p_bytes;
        FOR i IN 1 .. cardinality(numbers) LOOP
            IF c.sizes[i] > bytes_left AND NOT (p_is_first AND i = 1) THEN
                numbers := numbers[:i - 1];
                tids := tids[:i - 1];
                EXIT;
            END IF;
            bytes_left := bytes_left - c.sizes[i];
        END LOOP;
    ELSIF c.low = c.high THEN
        levels := jsonb_build_object(c.low, c.first);
    END IF;
    IF c.has_keys THEN
        DELETE FROM unique_key AS u USING job AS t
        WHERE t.n = ANY (numbers) AND u.key = t.unique_key AND u.n = t.n AND NOT has_status(t.unique_mask, 3::smallint);
    END IF;
END $$;

-- Lanes with pending jobs that have no row, one look into the index for each that has any: one may be pruned while its first
-- job comes in.
CREATE FUNCTION @schema@.stray_lanes(p_queue text) RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN ARRAY(
        WITH RECURSIVE used (lane) AS (
            SELECT '' COLLATE "C"
            UNION ALL
            SELECT n.lane FROM used AS u CROSS JOIN LATERAL (
                SELECT t.lane FROM job AS t
                WHERE t.queue = p_queue AND t.lane > u.lane AND t.status = 2 AND NOT t.held ORDER BY t.lane LIMIT 1
            ) AS n
        )
        SELECT u.lane FROM used AS u
        WHERE u.lane <> '' AND NOT EXISTS (SELECT 1 FROM lane AS l WHERE l.queue = p_queue AND l.lane = u.lane OFFSET 0)
    );
END $$;

-- Start-time fair queueing: a lane that was idle starts at the queue's time and saves up no claim.
-- Lanes are looked at in the order of their turns, as far as there is room, since there may be very many. (OFFSET 0, here and
-- elsewhere: a look for each, where the planner would join, in any order or with all of a table.)
CREATE FUNCTION @schema@.start_by_turn(
    p_session bigint, p_queue text, p_room bigint, p_wanted int, p_seed text, p_bytes bigint, p_is_first boolean,
    p_now bigint, p_mono bigint, OUT numbers bigint[], OUT bytes_left bigint, OUT is_cut boolean
) LANGUAGE plpgsql AS $$
DECLARE
    by_turn CURSOR FOR SELECT w.lane, w.turn FROM (
        SELECT l.lane, l.turn FROM lane AS l WHERE l.queue = p_queue
        UNION ALL
        SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM lane AS l WHERE l.queue = p_queue AND l.lane = '')
        ORDER BY turn, lane
    ) AS w
    WHERE EXISTS (SELECT 1 FROM job AS t WHERE t.queue = p_queue AND t.lane = w.lane AND t.status = 2 AND NOT t.held
        AND (t.expires_at_ms IS NULL OR t.expires_at_ms > p_now) OFFSET 0);
    ahead record;  -- the first lane that is not among these
    lanes text[] := '{}';
    turns bigint[] := '{}';
    rooms bigint[] := '{}';
    starts int[] := '{}';
    more text[];
    queue_time bigint;
    room bigint;
    o record;
    s record;
BEGIN
    numbers := '{}';
    bytes_left := p_bytes;
    is_cut := false;
    INSERT INTO queue_turn (queue, turn) VALUES (p_queue, 0) ON CONFLICT DO NOTHING;
    SELECT turn INTO queue_time FROM queue_turn WHERE queue = p_queue FOR NO KEY UPDATE;
    OPEN by_turn;
    FETCH by_turn INTO ahead;
    WHILE cardinality(numbers) < least(p_room, p_wanted) LOOP
        SELECT u.lane, u.turn, u.place INTO o FROM unnest(lanes, turns, rooms) WITH ORDINALITY AS u (lane, turn, room, place)
        WHERE u.room > 0 ORDER BY u.turn, u.lane COLLATE "C" LIMIT 1;
        IF ahead.lane IS NOT NULL AND (o.place IS NULL OR (ahead.turn, ahead.lane COLLATE "C") < (o.turn, o.lane)) THEN
            room := room_of(p_queue, ahead.lane, p_now, p_mono);
            IF room > 0 THEN
                lanes := lanes || ahead.lane;
                turns := turns || ahead.turn;
                rooms := rooms || room;
                starts := starts || 0;
            END IF;
            FETCH by_turn INTO ahead;
            CONTINUE;
        ELSIF o.place IS NULL THEN
            EXIT WHEN more IS NOT NULL;
            more := stray_lanes(p_queue);
            lanes := lanes || more;
            turns := turns || array_fill(0::bigint, ARRAY[cardinality(more)]);
            rooms := rooms || ARRAY(SELECT room_of(p_queue, m.lane, p_now, p_mono) FROM unnest(more) AS m (lane));
            starts := starts || array_fill(0, ARRAY[cardinality(more)]);
            CONTINUE;
        END IF;
        s := pick(p_queue, o.lane, NULL, 1, bytes_left, p_is_first AND numbers = '{}', p_now);
        is_cut := s.is_cut;
        EXIT WHEN is_cut;
        IF s.numbers = '{}' THEN
            rooms[o.place] := 0;
            CONTINUE;
        END IF;
        -- As `settle` starts the others; here at once, so that the next look at this lane finds the next job.
        UPDATE job AS t SET status = 3, attempt = t.attempt + 1, fence = t.fence + 1, token = p_seed, session = p_session,
            started_at_ms = p_now, reason = ''
        WHERE t.ctid = ANY (s.tids);
        numbers := numbers || s.numbers;
        bytes_left := s.bytes_left;
        queue_time := greatest(o.turn, queue_time);
        turns[o.place] := queue_time + 1048576 / coalesce((limits_of(p_queue, o.lane)).weight, 1);
        rooms[o.place] := rooms[o.place] - 1;
        starts[o.place] := starts[o.place] + 1;
    END LOOP;
    CLOSE by_turn;
    IF numbers <> '{}' THEN
        UPDATE queue_turn SET turn = queue_time WHERE queue = p_queue;
        INSERT INTO lane AS l (queue, lane, turn)
        SELECT p_queue, u.lane, u.turn FROM unnest(lanes, turns, starts) AS u (lane, turn, count) WHERE u.count > 0
        ON CONFLICT (queue, lane) DO UPDATE SET turn = excluded.turn;
        PERFORM charge(p_queue, u.lane, u.count, p_mono) FROM unnest(lanes, starts) AS u (lane, count) WHERE u.count > 0;
    END IF;
END $$;

-- p_has_limits: false if there are none; p_lane_queues, p_rewound: from survey. numbers: of the jobs that should run, in that order;
-- begun: those of them that are started; tids: of the others, which are locked. is_bounded: a bound ended it. marks: those that
-- are worth keeping (includes/marks.sql).
CREATE FUNCTION @schema@.dequeue(
    p_session bigint, p_queues text[], p_count int, p_seed text, p_bytes bigint, p_marks jsonb, p_has_limits boolean,
    p_lane_queues text[], p_rewound bigint, p_is_all_promoted boolean, p_now bigint, p_mono bigint,
    OUT numbers bigint[], OUT begun bigint[], OUT tids tid[], OUT is_bounded boolean, OUT marks jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    q text;
    bytes_left bigint := p_bytes;
    has_limits boolean := false;
    has_lanes boolean;
    room bigint;
    mark jsonb;
    is_whole boolean;
    s record;
BEGIN
    numbers := '{}';
    begun := '{}';
    tids := '{}';
    is_bounded := false;
    IF p_count <= 0 THEN
        RETURN;
    END IF;
    IF p_has_limits THEN
        has_limits := EXISTS (SELECT 1 FROM limits WHERE queue = ANY (p_queues));
    END IF;
    IF has_limits THEN
        -- Taken in one order by everybody; whoever counts behind it counts right.
        PERFORM 1 FROM limits WHERE queue = ANY (p_queues) AND (active_max IS NOT NULL OR starts_per_minute IS NOT NULL)
            ORDER BY queue, is_lane, lane FOR NO KEY UPDATE;
    END IF;
    FOR i IN 1 .. cardinality(p_queues) LOOP
        EXIT WHEN is_bounded;
        q := p_queues[i];
        -- Named twice: what was picked is not started yet, and would be found again.
        CONTINUE WHEN array_position(p_queues, q) < i;
        has_lanes := p_lane_queues IS NOT NULL AND q = ANY (p_lane_queues);
        room := p_count - cardinality(numbers);
        IF has_limits THEN
            room := least(room, room_of(q, NULL, p_now, p_mono));
            IF NOT has_lanes AND room > 0 THEN
                room := least(room, room_of(q, '', p_now, p_mono));
            END IF;
        END IF;
        CONTINUE WHEN room <= 0;
        IF has_lanes THEN
            s := start_by_turn(p_session, q, room, p_count - cardinality(numbers), p_seed, bytes_left, numbers = '{}', p_now,
                p_mono);
            begun := begun || s.numbers;
        ELSE
            mark := p_marks->q;
            is_whole := mark IS NULL OR (mark->>'f')::boolean OR (mark->>'s')::bigint <> p_rewound;
            s := pick(q, '', CASE WHEN NOT is_whole THEN mark->'l' END, room::int, bytes_left, numbers = '{}', p_now);
            tids := tids || s.tids;
            IF s.pages > 32 OR mark IS NOT NULL THEN
                marks := coalesce(marks, '{}') || jsonb_build_object(q, mark_after(
                    mark, s.numbers, s.levels, is_whole, cardinality(s.numbers) < room AND NOT s.is_cut, s.pages, p_rewound,
                    p_is_all_promoted, p_now));
            END IF;
        END IF;
        numbers := numbers || s.numbers;
        bytes_left := s.bytes_left;
        is_bounded := s.is_cut OR cardinality(numbers) >= p_count;
        IF has_limits AND s.numbers <> '{}' THEN
            PERFORM charge(q, NULL, cardinality(s.numbers), p_mono);
            IF NOT has_lanes THEN
                PERFORM charge(q, '', cardinality(s.numbers), p_mono);
            END IF;
        END IF;
    END LOOP;
END $$;
