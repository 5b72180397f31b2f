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
