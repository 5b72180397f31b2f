-- Outcomes of deliveries, and what becomes of the jobs of a session that is closed. As _memory/settle.py.

CREATE FUNCTION @schema@.add_error(j @schema@.job, p_error bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_number int;
BEGIN
    INSERT INTO error (n, number, error)
    SELECT j.n, coalesce(max(e.number), 0) + 1, p_error FROM error AS e WHERE e.n = j.n RETURNING number INTO v_number;
    IF v_number > 20 THEN
        DELETE FROM error AS e WHERE e.n = j.n AND e.number <= v_number - 20;
    END IF;
    PERFORM note_change();
END $$;

-- Active → pending at its old place, or scheduled without one. Its token stays: it tells a repeat from a loss.
CREATE FUNCTION @schema@.put_back(INOUT j @schema@.job, p_status int) LANGUAGE plpgsql AS $$
BEGIN
    j.status := p_status;
    j.session := NULL;
    IF p_status = 2 THEN
        PERFORM note_rewound();
    ELSE
        j.ready_number := NULL;
    END IF;
    PERFORM save(j);
    PERFORM wake_queue(j.queue);
    PERFORM wake_crowded(ARRAY[j.queue]);
END $$;

-- a ack · r retry · d dead · s snooze · l release · c cancelled · k keep
CREATE FUNCTION @schema@.apply_outcome(
    INOUT j @schema@.job, p_kind text, p_bytes bytea, p_delay bigint, p_reason text, p_now bigint
) LANGUAGE plpgsql AS $$
BEGIN
    IF p_kind = 'k' THEN
        RETURN;
    ELSIF p_kind = 'a' THEN
        j := end_job(j, 4, p_now, '', p_bytes);
        RETURN;
    ELSIF p_kind = 'c' THEN
        j := end_job(j, 6, p_now, CASE WHEN p_reason <> '' THEN p_reason ELSE j.reason END, NULL);
        RETURN;
    ELSIF p_kind = 'd' THEN
        PERFORM add_error(j, p_bytes);
        j := end_job(j, 5, p_now, p_reason, NULL);
        RETURN;
    ELSIF p_kind = 'r' THEN
        PERFORM add_error(j, p_bytes);
    END IF;
    IF j.cancel_requested THEN
        j := end_job(j, 6, p_now, j.reason, NULL);
    ELSIF p_kind = 'r' AND j.attempt > j.max_retries THEN
        j := end_job(j, 5, p_now, 'exhausted', NULL);
    ELSIF p_kind = 'l' THEN
        j.attempt := j.attempt - 1;
        j := put_back(j, 2);
    ELSE
        IF p_kind = 's' THEN
            j.attempt := j.attempt - 1;
            j.reason := p_reason;
        END IF;
        j.run_at_ms := p_now + p_delay;
        j := put_back(j, 1);
    END IF;
END $$;

-- o: { kind, id, n, seed, at: place of its bytes, delay, reason, effects }. One bad outcome spoils nothing else: what its
-- effects refuse is taken back to a savepoint. verdict: o ok, a already, l lost, c conflict.
CREATE FUNCTION @schema@.settle_one(
    o jsonb, p_session bigint, p_cargo bytea[], p_now bigint, p_mono bigint,
    OUT verdict text, OUT status smallint, OUT followed jsonb
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    j job;
BEGIN
    verdict := 'l';
    SELECT t.* INTO j FROM job AS t WHERE t.n = (o->>'n')::bigint AND t.id = o->>'id' FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        status := (SELECT t.status FROM body AS b JOIN job AS t ON t.n = b.n WHERE b.id = o->>'id');
        RETURN;
    END IF;
    status := j.status;
    IF j.token IS DISTINCT FROM o->>'seed' THEN
        RETURN;
    ELSIF j.status <> 3 THEN
        verdict := 'a';
        RETURN;
    ELSIF j.session <> p_session THEN
        RETURN;
    END IF;
    IF o ? 'effects' THEN
        BEGIN
            SELECT e.followed INTO followed FROM apply_effects(o->'effects', p_cargo, p_now, p_mono) AS e;
        EXCEPTION WHEN SQLSTATE 'PQ001' THEN
            verdict := 'c';
            RETURN;
        END;
        -- An effect may have changed this very row (a need on it, for example).
        SELECT t.* INTO j FROM job AS t WHERE t.n = j.n;
    END IF;
    j := apply_outcome(j, o->>'kind', p_cargo[(o->>'at')::int], (o->>'delay')::bigint, coalesce(o->>'reason', ''), p_now);
    verdict := 'o';
    status := j.status;
END $$;

-- All of a call, in its order. Without effects, and each of another job, none changes what another one finds: those of jobs
-- that nothing waits for go in a handful of statements.
CREATE FUNCTION @schema@.settle_others(
    p_session bigint, p_outcomes jsonb, p_cargo bytea[], p_now bigint, p_mono bigint
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    verdicts jsonb := '[]';
    done jsonb;
    o record;
    s record;
BEGIN
    IF (
        SELECT count(DISTINCT u.o->'n') = count(*) AND NOT bool_or(u.o ? 'effects')
        FROM jsonb_array_elements(p_outcomes) AS u (o)
    ) THEN
        done := settle_plain(p_session, p_outcomes, p_cargo, p_now);
    END IF;
    FOR o IN SELECT u.o AS outcome, done->(u.place::text) AS status
        FROM jsonb_array_elements(p_outcomes) WITH ORDINALITY AS u (o, place) ORDER BY u.place
    LOOP
        IF o.status IS NOT NULL THEN
            verdicts := verdicts || jsonb_build_array(jsonb_build_array('o', o.status, NULL));
            CONTINUE;
        END IF;
        s := settle_one(o.outcome, p_session, p_cargo, p_now, p_mono);
        verdicts := verdicts || jsonb_build_array(jsonb_build_array(s.verdict, s.status, s.followed));
    END LOOP;
    RETURN verdicts;
END $$;

CREATE FUNCTION @schema@.status_after(p_kind text, p_is_asked boolean, p_is_last boolean) RETURNS int
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN p_kind = 'c' THEN 6 WHEN p_kind = 'd' THEN 5 WHEN p_is_asked THEN 6
        WHEN p_kind = 'r' AND p_is_last THEN 5 WHEN p_kind = 'l' THEN 2 ELSE 1
    END
$$;

-- As `apply_outcome`, of jobs without links: { place: status } of those that were settled, NULL: none was.
CREATE FUNCTION @schema@.settle_plain(p_session bigint, p_outcomes jsonb, p_cargo bytea[], p_now bigint) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    WITH settled AS (
        UPDATE job AS t SET
            status = status_after(o.kind, t.cancel_requested, t.attempt > t.max_retries),
            session = NULL, cancel_requested = false,
            completed_at_ms = CASE WHEN status_after(o.kind, t.cancel_requested, t.attempt > t.max_retries) >= 4 THEN p_now END,
            ready_number = CASE WHEN status_after(o.kind, t.cancel_requested, t.attempt > t.max_retries) <> 1
                THEN t.ready_number END,
            run_at_ms = CASE WHEN status_after(o.kind, t.cancel_requested, t.attempt > t.max_retries) = 1
                THEN p_now + o.delay ELSE t.run_at_ms END,
            attempt = t.attempt - (o.kind IN ('s', 'l') AND NOT t.cancel_requested)::int,
            reason = CASE
                WHEN o.kind = 'd' OR o.kind = 's' AND NOT t.cancel_requested OR o.kind = 'c' AND o.reason <> '' THEN o.reason
                WHEN o.kind = 'r' AND NOT t.cancel_requested AND t.attempt > t.max_retries THEN 'exhausted'
                ELSE t.reason
            END
        FROM (
            SELECT u.place, u.o->>'kind' AS kind, u.o->>'id' AS id, (u.o->>'n')::bigint AS n, u.o->>'seed' AS seed,
                (u.o->>'delay')::bigint AS delay, coalesce(u.o->>'reason', '') AS reason, p_cargo[(u.o->>'at')::int] AS error
            FROM jsonb_array_elements(p_outcomes) WITH ORDINALITY AS u (o, place) ORDER BY 4
        ) AS o
        -- No equality, as in `ack_plain`.
        WHERE t.n = ANY (ARRAY[o.n]) AND t.id = o.id AND t.token = o.seed AND t.session = p_session AND t.status + 0 = 3
            AND t.links = 0 AND o.kind IN ('r', 'd', 's', 'l', 'c')
        RETURNING t.n, t.id, t.queue, t.status, o.place, o.kind, o.error
    ), noted AS (
        INSERT INTO error (n, number, error)
        SELECT s.n, coalesce((SELECT max(e.number) FROM error AS e WHERE e.n = s.n), 0) + 1, s.error
        FROM settled AS s WHERE s.kind IN ('r', 'd') RETURNING n, number
    )
    SELECT jsonb_object_agg(s.place, s.status) AS done, array_agg(s.id) FILTER (WHERE s.status >= 4) AS ended,
        array_agg(DISTINCT s.queue) AS queues, array_agg(DISTINCT s.queue) FILTER (WHERE s.status < 4) AS back,
        bool_or(s.status = 2) AS is_rewound, (SELECT array_agg(e.n) FROM noted AS e WHERE e.number > 20) AS full_
    INTO r FROM settled AS s;
    IF r.done IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM note_change();
    IF r.full_ IS NOT NULL THEN
        DELETE FROM error AS e WHERE e.n = ANY (r.full_)
            AND e.number <= (SELECT max(f.number) FROM error AS f WHERE f.n = e.n) - 20;
    END IF;
    IF r.is_rewound THEN
        PERFORM note_rewound();
    END IF;
    PERFORM wake_jobs(r.ended), wake_queues(r.back), wake_crowded(r.queues);
    RETURN r.done;
END $$;

-- The number of an open session. With `p_is_kept` it stays open until the step is over; renewals of it go on meanwhile.
CREATE FUNCTION @schema@.require_session(p_id text, p_is_kept boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_n bigint;
BEGIN
    IF p_is_kept THEN
        SELECT n INTO v_n FROM session WHERE id = p_id AND closed_mono_ms IS NULL FOR KEY SHARE;
    ELSE
        SELECT n INTO v_n FROM session WHERE id = p_id AND closed_mono_ms IS NULL;
    END IF;
    IF NOT FOUND THEN
        PERFORM refuse('SESSION_LOST', jsonb_build_array(p_id));
    END IF;
    RETURN v_n;
END $$;

-- Ids that the session holds and somebody wants cancelled.
CREATE FUNCTION @schema@.asked_of(p_session bigint) RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((SELECT array_agg(id ORDER BY n) FROM job WHERE session = p_session AND cancel_requested), '{}');
END $$;

-- A lost delivery: its token is void at once, so that a late outcome is `lost`.
CREATE FUNCTION @schema@.take_back(j @schema@.job, p_now bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    begin_of_error bytea;
BEGIN
    SELECT lost_error INTO begin_of_error FROM session WHERE n = j.session;
    PERFORM add_error(j, begin_of_error
        || convert_to(',"attempt":' || j.attempt || ',"at_ms":' || p_now || '}', 'UTF8'));
    j.token := NULL;
    j.lost := j.lost + 1;
    IF j.cancel_requested THEN
        PERFORM end_job(j, 6, p_now, j.reason, NULL);
    ELSIF j.lost > j.max_lost THEN
        PERFORM end_job(j, 5, p_now, 'lost', NULL);
    ELSIF j.attempt > j.max_retries THEN
        PERFORM end_job(j, 5, p_now, 'exhausted', NULL);
    ELSIF j.lost = 1 THEN
        PERFORM put_back(j, 2);
    ELSE
        j.run_at_ms := p_now + least(60000, 5000::bigint << least(j.lost, 20));
        PERFORM put_back(j, 1);
    END IF;
END $$;
