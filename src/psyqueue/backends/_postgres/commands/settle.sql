-- The heart: outcomes of deliveries, then what is due, then the next deliveries, in one step.
-- Params: client (NULL: in the caller's own transaction), channel, turn; session id. Plain acks as arrays: job ids, numbers and
--   seeds of the tokens, results (NULL element = null). The other outcomes in `outcomes` (includes/outcomes.sql), with their
--   bytes in `cargo`, in their order; keys: what their effects name. Fetch: queues (NULL: none), count 0..500, seed, bytes.
-- Returns: first a row with `head`: JSON { acks: how many, a: NULL (all are ok) or [[verdict, status] …], o: [[verdict, status,
--   follow-up jobs] …], asked, more, next, d: numbers, seed }; then a row for each delivery.
-- Index: job by number, job_ready in its own order, job_due, job_expiring, job_cancel, session.
-- Cost: plain acks are one statement, deliveries two; some five small ones for each other outcome.
-- Differs from the others: jobs that another step has locked are passed over, not waited for. The session's row is locked
--   against its end, not against its renewal.
CREATE FUNCTION @schema@.settle(
    p_client text, p_channel bigint, p_turn bigint, p_session text,
    p_ids text[], p_numbers bigint[], p_seeds text[], p_results bytea[],
    p_outcomes jsonb, p_cargo bytea[], p_keys text[],
    p_queues text[], p_count int, p_seed text, p_bytes bigint
) RETURNS TABLE (
    head text, n bigint, id text, queue text, name text, payload bytea, cold bytea, fence int, attempt int, lost int,
    max_retries int, priority int, lane text, created_at_ms bigint, started_at_ms bigint, run_at_ms bigint, max_lost int,
    generation int, extras bytea
) @settings@ AS $$
#variable_conflict use_column
DECLARE
    t record;
    c record;
    d record;
    v_session bigint;
    acks jsonb;
    others jsonb;
    started bigint[] := '{}';
    is_fetching boolean := p_queues IS NOT NULL;
    is_more boolean := false;
    next_ms bigint;
    reply json;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'settle');
    IF t.reply IS NOT NULL THEN
        started := ARRAY(SELECT jsonb_array_elements_text(t.reply::jsonb->'d')::bigint);
        v_session := (SELECT s.n FROM session AS s WHERE s.id = p_session);
        RETURN QUERY SELECT (t.reply::jsonb || jsonb_build_object('asked', asked_of(v_session), 'more', true, 'next', NULL))::text,
            d.* FROM (SELECT 1) AS one LEFT JOIN deliveries_of('{}', '') AS d ON false;
        RETURN QUERY SELECT NULL, d.* FROM deliveries_of(started, t.reply::jsonb->>'seed') AS d;
        RETURN;
    END IF;
    c := read_clock(p_client IS NULL);
    IF is_fetching AND EXISTS (SELECT 1 FROM meta WHERE mode IN ('frozen', 'moved')) THEN
        IF p_outcomes IS NULL AND p_ids IS NULL THEN
            PERFORM require_mode(false);
        END IF;
        is_fetching := false;
    END IF;
    v_session := require_session(p_session, p_ids IS NOT NULL OR p_outcomes IS NOT NULL);
    IF p_keys IS NOT NULL THEN
        PERFORM lock_keys(p_keys);
    END IF;
    IF p_ids IS NOT NULL THEN
        acks := ack_plain(v_session, p_ids, p_numbers, p_seeds, p_results, c.now_ms, c.mono_ms);
    END IF;
    IF p_outcomes IS NOT NULL THEN
        others := settle_others(v_session, p_outcomes, p_cargo, c.now_ms, c.mono_ms);
    END IF;
    IF is_fetching THEN
        is_more := (expire(p_queues, c.now_ms, 100)).more;
        is_more := (promote_due(p_queues, c.now_ms, 500)).more OR is_more;
    END IF;
    is_more := follow_through(c.now_ms) OR is_more;
    IF is_fetching THEN
        -- Who finds nothing locks nothing, so that an idle worker writes nothing.
        IF EXISTS (SELECT 1 FROM job AS p WHERE p.queue = ANY (p_queues) AND p.status = 2 AND NOT p.held) THEN
            v_session := require_session(p_session, true);
            d := dequeue(v_session, p_queues, p_count, p_seed, p_bytes, c.now_ms, c.mono_ms);
            started := d.numbers;
            is_more := is_more OR d.is_bounded;
        END IF;
        next_ms := least(next_due_in(p_queues, c.now_ms), next_start_in(p_queues, c.now_ms, c.mono_ms));
    END IF;
    reply := json_build_object('acks', coalesce(cardinality(p_ids), 0), 'a', acks, 'o', others, 'asked', asked_of(v_session),
        'more', is_more, 'next', next_ms, 'd', started, 'seed', p_seed);
    PERFORM end_turn(p_client, p_channel, p_turn, 'settle', t.before, reply::text, c.mono_ms);
    RETURN QUERY SELECT reply::text, d.* FROM (SELECT 1) AS one LEFT JOIN deliveries_of('{}', '') AS d ON false;
    IF started <> '{}' THEN
        RETURN QUERY SELECT NULL, d.* FROM deliveries_of(started, p_seed) AS d;
    END IF;
END $$;

-- Deliveries by their numbers, in that order: those still held under the seed.
CREATE FUNCTION @schema@.deliveries_of(p_numbers bigint[], p_seed text) RETURNS TABLE (
    n bigint, id text, queue text, name text, payload bytea, cold bytea, fence int, attempt int, lost int,
    max_retries int, priority int, lane text, created_at_ms bigint, started_at_ms bigint, run_at_ms bigint, max_lost int,
    generation int, extras bytea
) LANGUAGE plpgsql ROWS 100 AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT j.n, j.id, j.queue, j.name, b.payload, b.cold, j.fence, j.attempt, j.lost, j.max_retries, j.priority,
        j.lane, j.created_at_ms, j.started_at_ms, j.run_at_ms, j.max_lost, j.generation, b.extras
    FROM unnest(p_numbers) WITH ORDINALITY AS u (n, place) JOIN job AS j ON j.n = u.n JOIN body AS b ON b.n = u.n
    WHERE j.status + 0 = 3 AND j.token = p_seed ORDER BY u.place;
END $$;

-- Acks without effects of different jobs. Those of jobs that nothing waits for are one statement, which decides by itself;
-- `status + 0`, since an index of the active jobs looks empty to the planner, and would be read once for each ack.
CREATE FUNCTION @schema@.ack_plain(
    p_session bigint, p_ids text[], p_numbers bigint[], p_seeds text[], p_results bytea[], p_now bigint, p_mono bigint
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    done text[];
    done_queues text[];
    verdicts jsonb := '[]';
    r record;
    s record;
BEGIN
    WITH ended AS (
        UPDATE job AS t SET status = 4, completed_at_ms = p_now, session = NULL, cancel_requested = false, reason = '',
            result = o.result
        FROM unnest(p_ids, p_numbers, p_seeds, p_results) AS o (id, n, seed, result)
        WHERE t.n = o.n AND t.id = o.id AND t.token = o.seed AND t.session = p_session AND t.status + 0 = 3 AND t.links = 0
        RETURNING t.id, t.queue
    )
    SELECT array_agg(e.id), array_agg(DISTINCT e.queue) INTO done, done_queues FROM ended AS e;
    IF done IS NOT NULL THEN
        PERFORM note_change();
        PERFORM wake_jobs(done);
        PERFORM wake_crowded(done_queues);
        IF cardinality(done) = cardinality(p_ids) THEN
            RETURN NULL;
        END IF;
    END IF;
    FOR r IN SELECT o.*, d.id IS NOT NULL AS is_done
        FROM unnest(p_ids, p_numbers, p_seeds, p_results) WITH ORDINALITY AS o (id, n, seed, result, place)
        LEFT JOIN unnest(done) AS d (id) ON d.id = o.id ORDER BY o.place
    LOOP
        IF r.is_done THEN
            verdicts := verdicts || '[["o", 4]]'::jsonb;
        ELSE
            s := settle_one(jsonb_build_object('kind', 'a', 'id', r.id, 'n', r.n, 'seed', r.seed, 'at', 1), p_session,
                ARRAY[r.result], p_now, p_mono);
            verdicts := verdicts || jsonb_build_array(jsonb_build_array(s.verdict, s.status));
        END IF;
    END LOOP;
    RETURN verdicts;
END $$;

CREATE FUNCTION @schema@.settle_others(
    p_session bigint, p_outcomes jsonb, p_cargo bytea[], p_now bigint, p_mono bigint
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    verdicts jsonb := '[]';
    o jsonb;
    s record;
BEGIN
    FOR o IN SELECT * FROM jsonb_array_elements(p_outcomes) LOOP
        s := settle_one(o, p_session, p_cargo, p_now, p_mono);
        verdicts := verdicts || jsonb_build_array(jsonb_build_array(s.verdict, s.status, s.followed));
    END LOOP;
    RETURN verdicts;
END $$;
