-- The heart: outcomes of deliveries, then what is due, then the next deliveries, in one step.
-- Params: client (NULL: in the caller's own transaction), channel, turn; session id. Plain acks as arrays: job ids, numbers and
--   seeds of the tokens, results (NULL element = null). The other outcomes in `outcomes` (includes/outcomes.sql), with their
--   bytes in `cargo`, in their order; keys: what their effects name. Fetch: queues (NULL: none), count 0..500, seed, bytes,
--   marks (includes/marks.sql; NULL: none), whether to count what the session holds.
-- Returns: a row for each delivery, in any order; last one with `head`: JSON { acks: how many, a: NULL (all are ok) or
--   [[verdict, status] …], o: [[verdict, status, follow-up jobs] …], asked, more, next, active: how many, d: numbers, in
--   the order in which they should run, seed, w: marks }.
-- Index: job by number, job_ready in its own order, job_due, job_expiring, job_cancel, session; to count job_running.
-- Cost: plain acks are one statement, deliveries two (one more for each start where lanes take turns), what else has no
--   effects and ends or puts back jobs without links three; some five small ones for each of the rest.
-- Differs from the others: jobs that another step has locked are passed over, not waited for. The session's row is locked
--   against its end, not against its renewal.
CREATE FUNCTION @schema@.settle(
    p_client text, p_channel bigint, p_turn bigint, p_session text,
    p_ids text[], p_numbers bigint[], p_seeds text[], p_results bytea[],
    p_outcomes jsonb, p_cargo bytea[], p_keys text[],
    p_queues text[], p_count int, p_seed text, p_bytes bigint, p_marks jsonb, p_counts boolean
) RETURNS TABLE (
    head text, n bigint, id text, queue text, name text, payload bytea, cold bytea, fence int, attempt int, lost int,
    max_retries int, priority int, lane text, created_at_ms bigint, started_at_ms bigint, run_at_ms bigint, max_lost int,
    generation int, extras bytea
) @settings@ AS $$
#variable_conflict use_column
DECLARE
    t record;
    f record;
    d record;
    v_session bigint;
    acks jsonb;
    others jsonb;
    marks jsonb;
    started bigint[] := '{}';
    is_fetching boolean := p_queues IS NOT NULL;
    has_outcomes boolean := p_ids IS NOT NULL OR p_outcomes IS NOT NULL;
    is_kept boolean;
    is_changed boolean := false;
    is_more boolean := false;
    is_promoted boolean;
    next_ms bigint;
    active bigint;
BEGIN
    t := begin_step(p_client, p_channel, p_turn, 'settle');
    IF t.reply IS NOT NULL THEN
        RETURN QUERY SELECT h.* FROM settled_before(t.reply::jsonb, p_session) AS h;
        RETURN;
    END IF;
    IF is_fetching AND t.mode IN ('filling', 'frozen', 'moved') THEN
        IF NOT has_outcomes THEN
            PERFORM require_mode('{open,draining}');
        END IF;
        is_fetching := false;
    END IF;
    -- Who finds nothing locks nothing, so that an idle worker writes nothing.
    is_kept := has_outcomes OR is_fetching AND (p_marks IS NOT NULL OR has_pending(p_queues));
    v_session := require_session(p_session, is_kept);
    IF p_keys IS NOT NULL THEN
        PERFORM lock_keys(p_keys);
    END IF;
    IF p_ids IS NOT NULL THEN
        d := ack_plain(v_session, p_ids, p_numbers, p_seeds, p_results, t.has_limits, t.has_sleepers, t.now_ms, t.mono_ms);
        acks := d.verdicts;
        is_changed := d.is_changed;
    END IF;
    IF p_outcomes IS NOT NULL THEN
        others := settle_others(v_session, p_outcomes, p_cargo, t.now_ms, t.mono_ms);
    END IF;
    IF is_fetching THEN
        f := survey(p_queues, p_marks, t.now_ms);
        IF f.has_expired THEN
            is_more := (expire(p_queues, t.now_ms, 100)).more;
        END IF;
        IF f.first_due_ms <= t.now_ms THEN
            is_more := (promote_due(p_queues, t.now_ms, 500)).more OR is_more;
        END IF;
        is_promoted := NOT is_more;
    END IF;
    -- Plain acks let nobody go; what does has noted that it changed something.
    IF t.has_followers OR has_changed() THEN
        is_more := follow_through(t.now_ms) OR is_more;
    END IF;
    IF is_fetching THEN
        IF is_kept OR has_pending(p_queues) THEN
            IF NOT is_kept THEN
                v_session := require_session(p_session, true);
            END IF;
            d := dequeue(v_session, p_queues, p_count, p_seed, p_bytes, p_marks, t.has_limits, f.lane_queues, f.rewound,
                is_promoted, t.now_ms, t.mono_ms);
            marks := d.marks;
            started := d.numbers;
            -- Here, so that what is looked at below finds them started.
            IF d.tids <> '{}' THEN
                RETURN QUERY UPDATE job AS j SET status = 3, attempt = j.attempt + 1, fence = j.fence + 1, token = p_seed,
                    session = v_session, started_at_ms = t.now_ms, reason = ''
                FROM body AS b WHERE j.ctid = ANY (d.tids) AND b.n = j.n
                RETURNING NULL::text, j.n, j.id, j.queue, j.name, b.payload, b.cold, j.fence, j.attempt, j.lost, j.max_retries,
                    j.priority, j.lane, j.created_at_ms, j.started_at_ms, j.run_at_ms, j.max_lost, j.generation, b.extras;
            END IF;
            IF d.begun <> '{}' THEN
                RETURN QUERY SELECT NULL, h.* FROM deliveries_of(d.begun, p_seed) AS h;
            END IF;
            is_changed := is_changed OR started <> '{}';
            is_more := is_more OR d.is_bounded;
        END IF;
        next_ms := CASE WHEN f.first_due_ms <= t.now_ms OR has_changed() THEN next_due_in(p_queues, t.now_ms)
            ELSE f.first_due_ms - t.now_ms END;
        IF t.has_limits THEN
            next_ms := least(next_ms, next_start_in(p_queues, t.now_ms, t.mono_ms));
        END IF;
        IF p_counts THEN
            active := (SELECT count(*) FROM job AS j WHERE j.session = v_session AND j.status = 3);
        END IF;
    END IF;
    head := json_build_object('acks', coalesce(cardinality(p_ids), 0), 'a', acks, 'o', others, 'asked', asked_of(v_session),
        'more', is_more, 'next', next_ms, 'active', active, 'd', started, 'seed', p_seed, 'w', marks);
    IF p_client IS NOT NULL AND (is_changed OR has_changed()) THEN
        PERFORM keep_turn(p_client, p_channel, p_turn, 'settle', t.before, head, t.mono_ms);
    END IF;
    RETURN NEXT;
END $$;

-- A fetch of one queue that brings no outcomes: a worker's that was woken, or looks once more before it sleeps. Where it finds
-- one job, or none, it is two statements, or one: a look that says all that has to be known, and a start beside the op, which
-- takes the place of the one before it. Whoever has to know or to do more has written nothing by then, and is a call of
-- `settle`: an op that was made before or is the first of its channel, a closed session, another mode, a limit on what runs,
-- what is due, expired, asked to be cancelled or to be followed through, lanes, a second job, one with a unique key.
-- The job is locked before the session here: for a job nobody waits. The second statement sees what the locks found.
-- Of the settings it has those that its plans need, and names its tables in full, as `enqueue_lone`.
CREATE FUNCTION @schema@.dequeue_lone(
    p_client text, p_channel bigint, p_turn bigint, p_session text, p_queue text, p_count int, p_seed text, p_bytes bigint,
    p_counts boolean
) RETURNS TABLE (
    head text, n bigint, id text, queue text, name text, payload bytea, cold bytea, fence int, attempt int, lost int,
    max_retries int, priority int, lane text, created_at_ms bigint, started_at_ms bigint, run_at_ms bigint, max_lost int,
    generation int, extras bytea
) LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    wall bigint;
    now_ms bigint;
    v_mono bigint;
    due_ms bigint;
    expires_ms bigint;
    v_session bigint;
    before bigint;
    found_count bigint;
    number bigint;
    place tid;
    has_keys boolean;
    is_alone boolean;
    is_behind boolean;
    rewound bigint := coalesce(pg_sequence_last_value('@schema@.rewound'::regclass) + 1, 1);
    pages bigint := pg_stat_get_xact_blocks_fetched('@schema@.job_ready'::regclass);
    marks jsonb;
    active bigint;
BEGIN
    is_alone := pg_advisory_xact_lock(hashtextextended(@schema_text@ || ' turn ' || p_client, p_channel)) IS NOT NULL;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM @schema@.refuse_isolation();
    END IF;
    wall := floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    SELECT coalesce(k.test_clock_ms, wall), greatest(coalesce(k.test_clock_ms, wall) + k.shift_ms, k.mono_ms),
        k.test_clock_ms IS NULL AND wall + k.shift_ms NOT BETWEEN k.mono_ms AND k.mono_ms + 1000,
        s.n, c.found, c.n, c.tid, c.has_keys, (
            SELECT o.turn FROM @schema@.turn AS o WHERE o.client = p_client AND o.channel = p_channel
            ORDER BY o.turn DESC LIMIT 1
        ), (
            SELECT t.run_at_ms FROM @schema@.job AS t WHERE t.queue = p_queue AND t.status = 1 AND NOT t.held
            ORDER BY t.run_at_ms, t.n LIMIT 1
        ), (
            SELECT t.expires_at_ms FROM @schema@.job AS t
            WHERE t.queue = p_queue AND t.expires_at_ms IS NOT NULL AND t.status <= 2 AND NOT t.held
            ORDER BY t.expires_at_ms, t.n LIMIT 1
        )
    INTO now_ms, v_mono, is_behind, v_session, found_count, number, place, has_keys, before, due_ms, expires_ms
    FROM @schema@.clock AS k CROSS JOIN @schema@.session AS s CROSS JOIN LATERAL (
        SELECT count(*) AS found, min(t.n) AS n, min(t.tid) AS tid, bool_or(t.links & 1 > 0) AS has_keys FROM (
            SELECT r.n, r.ctid AS tid, r.links FROM @schema@.job AS r
            WHERE r.queue = p_queue AND r.lane = '' AND r.status = 2 AND NOT r.held
                AND (r.expires_at_ms IS NULL OR r.expires_at_ms > coalesce(k.test_clock_ms, wall))
            ORDER BY r.priority DESC, r.ready_number LIMIT least(p_count, 2) FOR NO KEY UPDATE SKIP LOCKED
        ) AS t
    ) AS c
    WHERE s.id = p_session AND s.closed_mono_ms + 0 IS NULL
        AND (SELECT m.mode FROM @schema@.meta AS m) IN ('open', 'draining')
        AND NOT EXISTS (SELECT 1 FROM @schema@.limits AS l WHERE l.queue = p_queue
            AND (l.paused_until_ms IS NOT NULL OR l.active_max IS NOT NULL OR l.starts_per_minute IS NOT NULL))
        AND NOT EXISTS (SELECT 1 FROM @schema@.follower)
        AND NOT EXISTS (SELECT 1 FROM @schema@.lane AS l WHERE l.queue = p_queue AND l.lane > '')
        AND NOT EXISTS (SELECT 1 FROM @schema@.job AS t
            WHERE t.queue = p_queue AND t.lane <> '' AND t.status = 2 AND t.status <= 3)
        AND NOT EXISTS (SELECT 1 FROM @schema@.job AS t WHERE t.session = s.n AND t.cancel_requested);
    IF FOUND AND before < p_turn AND found_count <= 1 AND has_keys IS NOT true AND coalesce(due_ms > now_ms, true)
        AND coalesce(expires_ms > now_ms, true)
    THEN
        pages := pg_stat_get_xact_blocks_fetched('@schema@.job_ready'::regclass) - pages;
        head := '{"acks":0,"a":null,"o":null,"d":[' || coalesce(number::text, '') || '],"seed":' || to_json(p_seed);
        IF found_count = 1 THEN
            RETURN QUERY WITH op AS (
                UPDATE @schema@.turn AS o SET turn = p_turn, verb = 'settle', reply = head || '}', mono_ms = v_mono
                WHERE o.client = p_client AND o.channel = p_channel AND o.turn = before AND (
                    SELECT true FROM @schema@.session AS s WHERE s.n = v_session AND s.closed_mono_ms + 0 IS NULL FOR KEY SHARE
                ) RETURNING 1
            )
            UPDATE @schema@.job AS j SET status = 3, attempt = j.attempt + 1, fence = j.fence + 1, token = p_seed,
                session = v_session, started_at_ms = now_ms, reason = ''
            FROM @schema@.body AS b WHERE j.ctid = place AND b.n = number AND EXISTS (SELECT 1 FROM op)
            RETURNING NULL::text, j.n, j.id, j.queue, j.name, b.payload, b.cold, j.fence, j.attempt, j.lost, j.max_retries,
                j.priority, j.lane, j.created_at_ms, j.started_at_ms, j.run_at_ms, j.max_lost, j.generation, b.extras;
        END IF;
        IF FOUND THEN
            IF is_behind THEN
                PERFORM @schema@.keep_clock(wall);
            END IF;
            IF p_counts THEN
                active := (SELECT count(*) FROM @schema@.job AS j WHERE j.session = v_session AND j.status = 3);
            END IF;
            IF pages > 32 AND found_count = 1 THEN
                marks := jsonb_build_object(p_queue, @schema@.mark_after(NULL, ARRAY[number], NULL, true, true, pages, rewound,
                    true, now_ms));
            END IF;
            head := head || ',"asked":[],"more":' || (found_count >= p_count)::text || ',"next":'
                || coalesce((due_ms - now_ms)::text, 'null') || ',"active":' || coalesce(active::text, 'null') || ',"w":'
                || coalesce(marks::text, 'null') || '}';
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    RETURN QUERY SELECT * FROM @schema@.settle(p_client, p_channel, p_turn, p_session, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        ARRAY[p_queue], p_count, p_seed, p_bytes, NULL, p_counts);
END $$;

-- The call was done before: its reply again, with those of its deliveries that are still held.
CREATE FUNCTION @schema@.settled_before(p_reply jsonb, p_session text) RETURNS TABLE (
    head text, n bigint, id text, queue text, name text, payload bytea, cold bytea, fence int, attempt int, lost int,
    max_retries int, priority int, lane text, created_at_ms bigint, started_at_ms bigint, run_at_ms bigint, max_lost int,
    generation int, extras bytea
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    head := (p_reply || jsonb_build_object('asked', asked_of((SELECT s.n FROM session AS s WHERE s.id = p_session)),
        'more', true, 'next', NULL, 'active', NULL, 'w', NULL))::text;
    RETURN QUERY SELECT NULL, d.*
    FROM deliveries_of(ARRAY(SELECT jsonb_array_elements_text(p_reply->'d')::bigint), p_reply->>'seed') AS d;
    RETURN NEXT;
END $$;

-- What the queues of a fetch have besides pending jobs. Behind a mark only what became due since.
CREATE FUNCTION @schema@.survey(
    p_queues text[], p_marks jsonb, p_now bigint, OUT has_expired boolean, OUT first_due_ms bigint, OUT lane_queues text[],
    OUT rewound bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    SELECT
        bool_or(EXISTS (
            SELECT 1 FROM job AS t
            WHERE t.queue = u.q AND t.expires_at_ms IS NOT NULL AND t.expires_at_ms >= u.since AND t.expires_at_ms <= p_now
                AND t.status <= 2 AND NOT t.held
        )),
        min((SELECT t.run_at_ms FROM job AS t
            WHERE t.queue = u.q AND t.status = 1 AND NOT t.held AND t.run_at_ms >= u.since ORDER BY t.run_at_ms, t.n LIMIT 1)),
        -- A lane may be pruned while its first job comes in: that job counts, too.
        array_agg(u.q) FILTER (WHERE EXISTS (SELECT 1 FROM lane AS l WHERE l.queue = u.q AND l.lane <> '')
            OR EXISTS (SELECT 1 FROM job AS t WHERE t.queue = u.q AND t.lane <> '' AND t.status = 2 AND t.status <= 3)),
        (SELECT r.last_value + r.is_called::int FROM rewound AS r)
    INTO has_expired, first_due_ms, lane_queues, rewound FROM (
        SELECT q, CASE WHEN (p_marks->q->>'f')::boolean THEN 0 ELSE coalesce((p_marks->q->>'t')::bigint, 0) END AS since
        FROM unnest(p_queues) AS a (q)
    ) AS u;
END $$;

CREATE FUNCTION @schema@.has_pending(p_queues text[]) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT 1 FROM job AS t WHERE t.queue = ANY (p_queues) AND t.status = 2 AND NOT t.held);
END $$;

-- Deliveries by their numbers: those still held under the seed.
CREATE FUNCTION @schema@.deliveries_of(p_numbers bigint[], p_seed text) RETURNS TABLE (
    n bigint, id text, queue text, name text, payload bytea, cold bytea, fence int, attempt int, lost int,
    max_retries int, priority int, lane text, created_at_ms bigint, started_at_ms bigint, run_at_ms bigint, max_lost int,
    generation int, extras bytea
) LANGUAGE plpgsql ROWS 100 AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT j.n, j.id, j.queue, j.name, b.payload, b.cold, j.fence, j.attempt, j.lost, j.max_retries, j.priority,
        j.lane, j.created_at_ms, j.started_at_ms, j.run_at_ms, j.max_lost, j.generation, b.extras
    FROM unnest(p_numbers) AS u (n) JOIN job AS j ON j.n = u.n JOIN body AS b ON b.n = u.n
    WHERE j.status + 0 = 3 AND j.token = p_seed;
END $$;

-- Acks without effects of different jobs. Those of jobs that nothing waits for are one statement, which decides by itself;
-- `status + 0`, since an index of the active jobs looks empty to the planner, and would be read once for each ack; no `n = n`,
-- since by the order of that the planner would rather walk over all jobs, once, and compare each with each ack.
CREATE FUNCTION @schema@.ack_plain(
    p_session bigint, p_ids text[], p_numbers bigint[], p_seeds text[], p_results bytea[], p_has_limits boolean,
    p_has_sleepers boolean, p_now bigint, p_mono bigint, OUT verdicts jsonb, OUT is_changed boolean
) LANGUAGE plpgsql AS $$
DECLARE
    done int[];
    is_all boolean;
    r record;
    s record;
BEGIN
    WITH ended AS (
        UPDATE job AS t SET status = 4, completed_at_ms = p_now, session = NULL, cancel_requested = false, reason = '',
            result = p_results[o.i]
        FROM generate_series(1, cardinality(p_ids)) AS o (i)
        WHERE t.n = ANY (ARRAY[p_numbers[o.i]]) AND t.id = p_ids[o.i] AND t.token = p_seeds[o.i] AND t.session = p_session
            AND t.status + 0 = 3 AND t.links = 0
        RETURNING o.i
    )
    SELECT array_agg(e.i) INTO done FROM ended AS e;
    is_changed := done IS NOT NULL;
    IF is_changed THEN
        is_all := cardinality(done) = cardinality(p_ids);
        IF p_has_sleepers THEN
            PERFORM wake_jobs(CASE WHEN is_all THEN p_ids ELSE ARRAY(SELECT p_ids[d.i] FROM unnest(done) AS d (i)) END);
        END IF;
        IF p_has_limits THEN
            PERFORM wake_crowded(ARRAY(SELECT DISTINCT t.queue FROM unnest(done) AS d (i) JOIN job AS t ON t.n = p_numbers[d.i]));
        END IF;
        IF is_all THEN
            RETURN;
        END IF;
    END IF;
    verdicts := '[]';
    FOR r IN SELECT o.*, o.place = ANY (done) AS is_done
        FROM unnest(p_ids, p_numbers, p_seeds, p_results) WITH ORDINALITY AS o (id, n, seed, result, place) ORDER BY o.place
    LOOP
        IF r.is_done THEN
            verdicts := verdicts || '[["o", 4]]'::jsonb;
        ELSE
            s := settle_one(jsonb_build_object('kind', 'a', 'id', r.id, 'n', r.n, 'seed', r.seed, 'at', 1), p_session,
                ARRAY[r.result], p_now, p_mono);
            verdicts := verdicts || jsonb_build_array(jsonb_build_array(s.verdict, s.status));
        END IF;
    END LOOP;
END $$;
