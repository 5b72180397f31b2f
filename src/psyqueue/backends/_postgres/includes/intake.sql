-- Enqueue, job by job. As _memory/intake.py. A job comes as an object of its small fields, and its bytes beside it:
-- id, queue, name, lane, priority, max_retries, max_lost, delay, run_at, expires_in, unique [key, mask, on conflict],
-- idempotency [key, window], gate [key, capacity], needs [[parent, mask] …], at: where its bytes begin in the cargo
-- (payload, cold, digest, extras). Absent fields are the defaults.

CREATE FUNCTION @schema@.run_at_of(s jsonb, p_now bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT greatest(p_now + coalesce((s->>'delay')::bigint, 0), coalesce((s->>'run_at')::bigint, p_now))
$$;

-- The parents of a new job, locked so that none of them ends unseen. Raises UNKNOWN_DEPENDENCY.
CREATE FUNCTION @schema@.parents_of(s jsonb, OUT numbers bigint[], OUT masks smallint[], OUT statuses smallint[])
LANGUAGE plpgsql AS $$
DECLARE
    missing text;
BEGIN
    SELECT array_agg(p.n), array_agg(p.mask), array_agg(p.status) INTO numbers, masks, statuses FROM (
        SELECT t.n, t.status, (w.need->>1)::smallint AS mask
        FROM jsonb_array_elements(s->'needs') AS w (need) JOIN body AS b ON b.id = w.need->>0 JOIN job AS t ON t.n = b.n
        ORDER BY t.n FOR NO KEY UPDATE OF t
    ) AS p;
    IF coalesce(cardinality(numbers), 0) < jsonb_array_length(s->'needs') THEN
        SELECT w.need->>0 INTO missing FROM jsonb_array_elements(s->'needs') WITH ORDINALITY AS w (need, place)
        WHERE NOT EXISTS (SELECT 1 FROM body AS b JOIN job AS t ON t.n = b.n WHERE b.id = w.need->>0) ORDER BY w.place LIMIT 1;
        PERFORM refuse('UNKNOWN_DEPENDENCY', jsonb_build_array(s->>'id', missing));
    END IF;
END $$;

-- Count its needs against what its parents are by now; without unmet ones it goes straight to its gate.
CREATE FUNCTION @schema@.start_waiting(
    INOUT j @schema@.job, p_parents bigint[], p_masks smallint[], p_statuses smallint[], p_now bigint
) LANGUAGE plpgsql AS $$
DECLARE
    is_hopeless boolean := false;
BEGIN
    IF p_parents IS NOT NULL THEN
        INSERT INTO edge (parent, child, mask, met)
        SELECT u.parent, j.n, u.mask, has_status(u.mask, u.status)
        FROM unnest(p_parents, p_masks, p_statuses) AS u (parent, mask, status);
        UPDATE job AS t SET links = t.links | 8 WHERE t.n = ANY (p_parents) AND t.links & 8 = 0;
        SELECT count(*) FILTER (WHERE NOT has_status(u.mask, u.status)),
            coalesce(bool_or(u.status >= 4 AND NOT has_status(u.mask, u.status)), false)
        INTO j.needs_left, is_hopeless FROM unnest(p_parents, p_masks, p_statuses) AS u (parent, mask, status);
    END IF;
    IF is_hopeless THEN
        j := end_job(j, 6, p_now, 'dependency', NULL);
    ELSIF j.needs_left = 0 THEN
        j := enter_gate(j, p_now);
    ELSE
        PERFORM save(j);
    END IF;
END $$;

-- A holder that has not started gets the content of the newcomer; its id, name, queue and place in line stay.
CREATE FUNCTION @schema@.replace_content(
    INOUT j @schema@.job, s jsonb, p_payload bytea, p_cold bytea, p_digest bytea, p_now bigint
) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE body AS b SET payload = p_payload, cold = p_cold, digest = p_digest WHERE b.n = j.n;
    j.size := octet_length(p_payload) + octet_length(p_cold);
    j.priority := coalesce((s->>'priority')::int, 0);
    j.run_at_ms := run_at_of(s, p_now);
    j.expires_at_ms := p_now + (s->>'expires_in')::bigint;
    IF j.status = 0 THEN
        PERFORM save(j);
    ELSIF j.run_at_ms > p_now THEN
        j.status := 1;
        j.ready_number := NULL;
        PERFORM save(j);
        PERFORM wake_queue(j.queue);
    ELSIF j.status = 2 THEN
        PERFORM note_rewound();
        PERFORM save(j);
        PERFORM wake_queue(j.queue);
    ELSE
        j := admit(j, p_now);
    END IF;
END $$;

-- The job that is there instead of a newcomer with this unique key; NULL: the key is free.
CREATE FUNCTION @schema@.holder_of(p_key text) RETURNS @schema@.job LANGUAGE plpgsql AS $$
DECLARE
    j job;
    holder bigint;
BEGIN
    LOOP
        SELECT u.n INTO holder FROM unique_key AS u WHERE u.key = p_key;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        SELECT t.* INTO j FROM job AS t WHERE t.n = holder FOR NO KEY UPDATE;
        -- Behind the lock: it may have ended meanwhile, and let the key go.
        IF FOUND AND EXISTS (SELECT 1 FROM unique_key AS u WHERE u.key = p_key AND u.n = holder) THEN
            RETURN j;
        END IF;
        PERFORM free_key(p_key);
    END LOOP;
END $$;

-- Whoever deletes a job by hand leaves what stands beside it. Its unique key is let go …
CREATE FUNCTION @schema@.free_key(p_key text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM unique_key AS u WHERE u.key = p_key AND NOT EXISTS (SELECT 1 FROM job AS t WHERE t.n = u.n OFFSET 0);
END $$;

-- … and its id.
CREATE FUNCTION @schema@.drop_orphans(p_ids text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    orphans bigint[] := ARRAY(SELECT b.n FROM body AS b
        WHERE b.id = ANY (p_ids) AND NOT EXISTS (SELECT 1 FROM job AS t WHERE t.n = b.n OFFSET 0));
BEGIN
    IF orphans <> '{}' THEN
        PERFORM drop_rest(orphans);
    END IF;
END $$;

-- status NULL: the job is gone, its key still counts.
CREATE FUNCTION @schema@.enqueue_one(
    s jsonb, p_payload bytea, p_cold bytea, p_digest bytea, p_extras bytea, p_is_follow_up boolean,
    p_now bigint, p_mono bigint, OUT id text, OUT created boolean, OUT status smallint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    j job;
    r record;
    ps record;
    v_key text;
    v_n bigint;
BEGIN
    created := false;
    LOOP
        SELECT b.digest, t.status INTO r FROM body AS b JOIN job AS t ON t.n = b.n WHERE b.id = s->>'id';
        IF FOUND THEN
            IF r.digest <> p_digest AND NOT p_is_follow_up THEN
                PERFORM refuse('ID_CONFLICT', jsonb_build_array(s->>'id'));
            END IF;
            id := s->>'id';
            status := r.status;
            RETURN;
        END IF;
        v_key := s->'idempotency'->>0;
        IF v_key IS NOT NULL THEN
            SELECT k.id, k.digest INTO r FROM idempotency AS k WHERE k.key = v_key AND k.expires_mono_ms > p_mono;
            IF FOUND THEN
                IF r.digest <> p_digest AND NOT p_is_follow_up THEN
                    PERFORM refuse('KEY_CONFLICT', jsonb_build_array(v_key, r.id, 'idempotency'));
                END IF;
                id := r.id;
                status := (SELECT t.status FROM body AS b JOIN job AS t ON t.n = b.n WHERE b.id = r.id);
                RETURN;
            END IF;
        END IF;
        v_key := s->'unique'->>0;
        IF v_key IS NOT NULL THEN
            j := holder_of(v_key);
            IF j.n IS NOT NULL THEN
                IF s->'unique'->>2 = 'reject' AND NOT p_is_follow_up THEN
                    PERFORM refuse('KEY_CONFLICT', jsonb_build_array(v_key, j.id, 'unique'));
                ELSIF s->'unique'->>2 = 'replace' AND j.status <= 2 AND NOT j.held THEN
                    j := replace_content(j, s, p_payload, p_cold, p_digest, p_now);
                END IF;
                id := j.id;
                status := j.status;
                RETURN;
            END IF;
        END IF;
        IF s ? 'needs' THEN
            ps := parents_of(s);
        ELSE
            SELECT NULL::bigint[] AS numbers, NULL::smallint[] AS masks, NULL::smallint[] AS statuses INTO ps;
        END IF;
        IF NOT p_is_follow_up THEN
            PERFORM check_room(s->>'queue', coalesce(s->>'lane', ''));
        END IF;
        INSERT INTO body AS b (n, id, digest, extras, cold, payload)
        VALUES (nextval('number'), s->>'id', p_digest, p_extras, p_cold, p_payload)
        ON CONFLICT (id) DO NOTHING RETURNING b.n INTO v_n;
        IF NOT FOUND THEN
            -- The id was taken in this moment: look at that job; or by one that is gone.
            PERFORM drop_orphans(ARRAY[s->>'id']);
            CONTINUE;
        END IF;
        INSERT INTO job AS t (
            n, created_at_ms, run_at_ms, expires_at_ms, priority, max_retries, max_lost, size, status, links, id,
            queue, lane, name, unique_key, unique_mask, gate, gate_max
        ) VALUES (
            v_n, p_now, run_at_of(s, p_now), p_now + (s->>'expires_in')::bigint,
            coalesce((s->>'priority')::int, 0), coalesce((s->>'max_retries')::int, 3), coalesce((s->>'max_lost')::int, 2),
            octet_length(p_payload) + octet_length(p_cold), 0, (s ? 'unique')::int + (s ? 'gate')::int * 2 + (s ? 'needs')::int * 4,
            s->>'id', s->>'queue', coalesce(s->>'lane', ''), s->>'name', s->'unique'->>0, (s->'unique'->>1)::smallint,
            s->'gate'->>0, least((s->'gate'->>1)::numeric, 2147483647)::int
        ) RETURNING t.* INTO j;
        EXIT;
    END LOOP;
    PERFORM note_change();
    IF s ? 'idempotency' THEN
        INSERT INTO idempotency AS k (key, id, digest, expires_mono_ms)
        VALUES (s->'idempotency'->>0, j.id, p_digest, p_mono + (s->'idempotency'->>1)::bigint)
        ON CONFLICT (key) DO UPDATE SET id = excluded.id, digest = excluded.digest,
            expires_mono_ms = excluded.expires_mono_ms;
    END IF;
    IF s ? 'unique' THEN
        INSERT INTO unique_key (key, n) VALUES (s->'unique'->>0, j.n);
    END IF;
    IF j.lane <> '' THEN
        INSERT INTO lane (queue, lane) VALUES (j.queue, j.lane) ON CONFLICT DO NOTHING;
    END IF;
    j := start_waiting(j, ps.numbers, ps.masks, ps.statuses, p_now);
    id := j.id;
    created := true;
    status := j.status;
END $$;

-- Dead → pending or waiting, as a new generation. False: its unique key is taken.
CREATE FUNCTION @schema@.replay(j @schema@.job, p_now bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    holder bigint;
BEGIN
    IF j.unique_key IS NOT NULL THEN
        PERFORM free_key(j.unique_key);
        INSERT INTO unique_key (key, n) VALUES (j.unique_key, j.n) ON CONFLICT DO NOTHING;
        SELECT u.n INTO holder FROM unique_key AS u WHERE u.key = j.unique_key;
        IF holder <> j.n THEN
            RETURN false;
        END IF;
    END IF;
    j.status := 0;
    j.generation := j.generation + 1;
    j.attempt := 0;
    j.lost := 0;
    j.needs_left := 0;
    j.reason := '';
    j.completed_at_ms := NULL;
    j.started_at_ms := NULL;
    j.ready_number := NULL;
    j.run_at_ms := p_now;
    j.expires_at_ms := NULL;
    PERFORM enter_gate(j, p_now);
    RETURN true;
END $$;
