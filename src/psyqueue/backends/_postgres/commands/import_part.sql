-- Take in what another store exported: all of it, or none.
-- Params: client, channel, turn. Jobs as arrays, one element a job, each id once (an array may be NULL: all have the default):
--   ids … unique_masks; has_keys: it holds its unique key. Their errors: number of the job, place, text. The other items in
--   `others`: JSON { part: [fields …] } (includes/moving.sql), with their bytes in `cargo`. keys: what the call names, to be
--   locked in one order.
-- Returns: a number: how many items were not there yet.
-- Index: body_id; the primary key of each table.
-- Cost: some seven statements for all jobs, two or three for the items of each other part.
-- Differs from the others: both numbers come from one sequence, which is raised above both.
CREATE FUNCTION @schema@.import_part(
    p_client text, p_channel bigint, p_turn bigint, p_ids text[], p_numbers bigint[], p_queues text[], p_names text[],
    p_payloads bytea[], p_colds bytea[], p_digests bytea[], p_extras bytea[], p_sizes int[], p_lanes text[], p_priorities int[],
    p_max_retries int[], p_max_lost int[], p_ready bigint[], p_statuses smallint[], p_attempts int[], p_lost int[], p_fences int[],
    p_generations int[], p_needs_left int[], p_held boolean[], p_has_keys boolean[], p_reasons text[], p_created bigint[],
    p_started bigint[], p_completed bigint[], p_run_ats bigint[], p_expires bigint[], p_results bytea[], p_links smallint[],
    p_unique_keys text[], p_unique_masks smallint[], p_gates text[], p_gate_max int[],
    p_error_numbers bigint[], p_error_places int[], p_errors bytea[], p_others jsonb, p_cargo bytea[], p_keys text[]
) RETURNS text @settings@ AS $$
DECLARE
    t record;
    c record;
    is_safe boolean;
    made bigint[] := '{}';
    new_count bigint;
    v_place int;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'import_part');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    c := read_clock(false);
    is_safe := may_import();
    IF p_keys IS NOT NULL THEN
        PERFORM lock_keys(p_keys);
    END IF;
    new_count := import_others(p_others, p_cargo, is_safe, c.mono_ms);
    IF p_ids IS NOT NULL THEN
        BEGIN
            made := insert_bodies(p_numbers, p_ids, p_digests, p_extras, p_colds, p_payloads);
            IF made <> '{}' THEN
                FOREACH v_place IN ARRAY places_without_room(made, p_numbers, p_statuses, p_gates, p_gate_max) LOOP
                    p_statuses[v_place] := 0;
                    p_ready[v_place] := NULL;
                END LOOP;
                PERFORM import_jobs(made, p_ids, p_numbers, p_queues, p_names, p_sizes, p_lanes, p_priorities, p_max_retries,
                    p_max_lost, p_ready, p_statuses, p_attempts, p_lost, p_fences, p_generations, p_needs_left, p_held, p_reasons,
                    p_created, p_started, p_completed, p_run_ats, p_expires, p_results, p_links, p_unique_keys, p_unique_masks,
                    p_gates, p_gate_max);
            END IF;
        EXCEPTION WHEN unique_violation THEN
            PERFORM refuse_numbers(p_numbers, p_ids);
        END;
        PERFORM require_importable(made, p_numbers, p_ids, p_digests, p_statuses, p_held, is_safe);
        IF made <> '{}' THEN
            PERFORM import_links(made, p_numbers, p_queues, p_lanes, p_statuses, p_has_keys, p_unique_keys, p_gates);
            INSERT INTO error (n, number, error) SELECT p_error_numbers[i], p_error_places[i], p_errors[i]
            FROM generate_series(1, cardinality(p_errors)) AS i WHERE p_error_numbers[i] = ANY (made);
        END IF;
    END IF;
    IF p_others ? 'needs' THEN
        new_count := new_count + import_needs(p_others->'needs', is_safe);
    END IF;
    new_count := new_count + cardinality(made);
    IF new_count > 0 THEN
        PERFORM note_change();
    END IF;
    PERFORM end_turn(p_client, p_channel, p_turn, 'import_part', t.before, new_count::text, c.mono_ms);
    RETURN new_count::text;
END $$;

-- True: everything is taken, since nothing starts; false: only what is held.
CREATE FUNCTION @schema@.may_import() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    m record;
BEGIN
    SELECT mode, moved_to INTO m FROM meta;
    IF m.mode = 'moved' THEN
        PERFORM refuse('NAMESPACE_MOVED', jsonb_build_array(m.moved_to));
    END IF;
    RETURN m.mode IN ('filling', 'frozen');
END $$;

-- ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
CREATE FUNCTION @schema@.import_jobs(
    p_made bigint[], p_ids text[], p_numbers bigint[], p_queues text[], p_names text[], p_sizes int[], p_lanes text[],
    p_priorities int[], p_max_retries int[], p_max_lost int[], p_ready bigint[], p_statuses smallint[], p_attempts int[],
    p_lost int[], p_fences int[], p_generations int[], p_needs_left int[], p_held boolean[], p_reasons text[], p_created bigint[],
    p_started bigint[], p_completed bigint[], p_run_ats bigint[], p_expires bigint[], p_results bytea[], p_links smallint[],
    p_unique_keys text[], p_unique_masks smallint[], p_gates text[], p_gate_max int[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    is_all boolean := cardinality(p_made) = cardinality(p_ids);
BEGIN
    PERFORM raise_number((SELECT greatest(max(u.n), max(u.ready)) FROM unnest(p_numbers, p_ready) AS u (n, ready)));
    INSERT INTO job (
        n, created_at_ms, run_at_ms, ready_number, expires_at_ms, started_at_ms, completed_at_ms, priority, attempt, max_retries,
        max_lost, lost, fence, generation, size, needs_left, status, links, held, has_place, id, queue, lane, name, reason,
        unique_key, unique_mask, gate, gate_max, result
    )
    SELECT p_numbers[i], p_created[i], p_run_ats[i], p_ready[i], p_expires[i], p_started[i], p_completed[i],
        coalesce(p_priorities[i], 0), coalesce(p_attempts[i], 0), coalesce(p_max_retries[i], 3), coalesce(p_max_lost[i], 2),
        coalesce(p_lost[i], 0), coalesce(p_fences[i], 0), coalesce(p_generations[i], 0), p_sizes[i], coalesce(p_needs_left[i], 0),
        p_statuses[i], coalesce(p_links[i], 0), coalesce(p_held[i], false), p_gates[i] IS NOT NULL AND p_statuses[i] IN (1, 2),
        p_ids[i], p_queues[i], coalesce(p_lanes[i], ''), p_names[i], coalesce(p_reasons[i], ''), p_unique_keys[i],
        p_unique_masks[i], p_gates[i], p_gate_max[i], p_results[i]
    FROM generate_series(1, cardinality(p_ids)) AS i WHERE is_all OR p_numbers[i] = ANY (p_made);
    -- Marks of fetches may be above them.
    IF p_ready IS NOT NULL THEN
        PERFORM note_rewound();
    END IF;
    -- They ended before others that are counted.
    IF p_completed IS NOT NULL THEN
        DELETE FROM tally AS t WHERE t.queue = ANY (p_queues);
    END IF;
END $$;

-- Places in the call of the new jobs past waiting whose gates are full, by jobs of this store and those before them in the
-- call: they wait in line. The rows of the gates are locked until the step is over.
CREATE FUNCTION @schema@.places_without_room(
    p_made bigint[], p_numbers bigint[], p_statuses smallint[], p_gates text[], p_gate_max int[]
) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    r record;
    v_gate text;
    taken bigint;
    without_room int[] := '{}';
BEGIN
    FOR r IN SELECT u.place::int, u.gate, u.gate_max
        FROM unnest(p_numbers, p_statuses, p_gates, p_gate_max) WITH ORDINALITY AS u (n, status, gate, gate_max, place)
        WHERE u.gate IS NOT NULL AND u.status IN (1, 2) AND u.n = ANY (p_made) ORDER BY u.gate, u.place
    LOOP
        IF v_gate IS DISTINCT FROM r.gate THEN
            v_gate := r.gate;
            taken := places_of(v_gate);
        END IF;
        IF taken < r.gate_max THEN
            taken := taken + 1;
        ELSE
            without_room := without_room || r.place;
        END IF;
    END LOOP;
    RETURN without_room;
END $$;

-- One of the numbers is that of another job.
CREATE FUNCTION @schema@.refuse_numbers(p_numbers bigint[], p_ids text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    SELECT u.id, u.n INTO r FROM unnest(p_ids, p_numbers) WITH ORDINALITY AS u (id, n, place)
    WHERE EXISTS (SELECT 1 FROM job AS t WHERE t.n = u.n AND t.id <> u.id)
        OR (SELECT count(*) FROM unnest(p_numbers) AS o (n) WHERE o.n = u.n) > 1
    ORDER BY u.place LIMIT 1;
    PERFORM refuse('INVALID_STATE', jsonb_build_array(format(
        'job %L cannot be taken in: its number %s is that of another job. Give it one that is free here', r.id, r.n)));
END $$;

-- What was there is the same; what is new may come.
CREATE FUNCTION @schema@.require_importable(
    p_made bigint[], p_numbers bigint[], p_ids text[], p_digests bytea[], p_statuses smallint[], p_held boolean[],
    p_is_safe boolean
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    IF cardinality(p_made) < cardinality(p_ids) THEN
        SELECT b.id INTO r FROM generate_series(1, cardinality(p_ids)) AS i JOIN body AS b ON b.id = p_ids[i]
        WHERE b.digest <> p_digests[i] ORDER BY i LIMIT 1;
        IF FOUND THEN
            PERFORM refuse('ID_CONFLICT', jsonb_build_array(r.id));
        END IF;
    END IF;
    SELECT u.id, u.status INTO r FROM unnest(p_ids, p_numbers, p_statuses, p_held) WITH ORDINALITY AS u (id, n, status, held, place)
    WHERE (u.status = 3 OR NOT p_is_safe AND u.held IS NOT TRUE) AND u.n = ANY (p_made) ORDER BY u.place LIMIT 1;
    IF FOUND THEN
        PERFORM refuse('INVALID_STATE', jsonb_build_array(format('job %L cannot be taken in: it is %s', r.id,
            CASE WHEN r.status = 3 THEN 'active' ELSE 'not held, and the namespace is neither frozen nor filling' END)));
    END IF;
END $$;

-- What stands beside the rows of new jobs: keys, places at gates, lanes.
CREATE FUNCTION @schema@.import_links(
    p_made bigint[], p_numbers bigint[], p_queues text[], p_lanes text[], p_statuses smallint[], p_has_keys boolean[],
    p_unique_keys text[], p_gates text[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    IF p_has_keys IS NOT NULL THEN
        INSERT INTO unique_key (key, n) SELECT u.key, u.n FROM unnest(p_unique_keys, p_numbers, p_has_keys) AS u (key, n, has)
        WHERE u.has AND u.n = ANY (p_made) ORDER BY u.key ON CONFLICT DO NOTHING;
        SELECT u.key, t.id INTO r FROM unnest(p_unique_keys, p_numbers, p_has_keys) WITH ORDINALITY AS u (key, n, has, place)
        JOIN unique_key AS k ON k.key = u.key JOIN job AS t ON t.n = k.n
        WHERE u.has AND u.n = ANY (p_made) AND k.n <> u.n ORDER BY u.place LIMIT 1;
        IF FOUND THEN
            PERFORM refuse('KEY_CONFLICT', jsonb_build_array(r.key, r.id, 'unique'));
        END IF;
    END IF;
    IF p_gates IS NOT NULL THEN
        INSERT INTO gate AS g (key, places) SELECT u.gate, count(*) FROM unnest(p_gates, p_numbers, p_statuses) AS u (gate, n, status)
        WHERE u.gate IS NOT NULL AND u.status IN (1, 2) AND u.n = ANY (p_made) GROUP BY u.gate ORDER BY u.gate
        ON CONFLICT (key) DO UPDATE SET places = g.places + excluded.places;
    END IF;
    IF p_lanes IS NOT NULL THEN
        INSERT INTO lane (queue, lane) SELECT DISTINCT u.queue, u.lane FROM unnest(p_queues, p_lanes, p_numbers) AS u (queue, lane, n)
        WHERE u.lane <> '' AND u.n = ANY (p_made) ORDER BY 1, 2 ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- The job that needs is held, or nothing starts anyway. Its parents are locked, so that none of them ends unseen.
CREATE FUNCTION @schema@.import_needs(p_items jsonb, p_is_safe boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    r record;
    parents bigint[];
    new_count bigint;
BEGIN
    SELECT w.child_id, CASE WHEN w.child IS NULL THEN w.child_id ELSE w.parent_id END AS missing INTO r FROM needs_in(p_items) AS w
    WHERE w.child IS NULL OR w.parent IS NULL ORDER BY w.place LIMIT 1;
    IF FOUND THEN
        PERFORM refuse('UNKNOWN_DEPENDENCY', jsonb_build_array(r.child_id, r.missing));
    END IF;
    SELECT array_agg(t.n) INTO parents FROM (
        SELECT t.n FROM job AS t WHERE t.n = ANY (ARRAY(SELECT w.parent FROM needs_in(p_items) AS w))
        ORDER BY t.n FOR NO KEY UPDATE
    ) AS t;
    IF NOT p_is_safe THEN
        SELECT w.child_id INTO r FROM needs_in(p_items) AS w JOIN job AS t ON t.n = w.child
        WHERE NOT t.held AND NOT EXISTS (SELECT 1 FROM edge AS e WHERE e.parent = w.parent AND e.child = w.child)
        ORDER BY w.place LIMIT 1;
        IF FOUND THEN
            PERFORM refuse('INVALID_STATE', jsonb_build_array(
                format('a need of job %L cannot be taken in: the job is not held', r.child_id)));
        END IF;
    END IF;
    INSERT INTO edge (parent, child, mask, met) SELECT w.parent, w.child, w.mask, w.met FROM needs_in(p_items) AS w
    ORDER BY w.parent, w.child ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS new_count = ROW_COUNT;
    UPDATE job AS t SET links = t.links | 8 WHERE t.n = ANY (parents) AND t.links & 8 = 0;
    RETURN new_count;
END $$;

-- ── all else ─────────────────────────────────────────────────────────────────────────────────────────────────────────
-- What no job is part of.
CREATE FUNCTION @schema@.import_others(p_others jsonb, p_cargo bytea[], p_is_safe boolean, p_mono bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_part text;
    got bigint;
    new_count bigint := 0;
BEGIN
    FOR v_part IN SELECT k FROM jsonb_object_keys(p_others) AS p (k) WHERE k <> 'needs' LOOP
        IF NOT p_is_safe THEN
            PERFORM refuse('INVALID_STATE', jsonb_build_array(
                'the part ' || v_part || ' is only taken in while the namespace is frozen or filling'));
        END IF;
        CASE v_part
            WHEN 'numbers' THEN got := (SELECT count(*) FILTER (WHERE raise_number(greatest((w->>0)::bigint, (w->>1)::bigint)))
                FROM jsonb_array_elements(p_others->'numbers') AS i (w));
            WHEN 'limits' THEN
                INSERT INTO limits (queue, is_lane, lane, paused_until_ms, weight, active_max, starts_per_minute, starts_burst,
                    pending_max, retain_ended, retain_dead)
                SELECT * FROM limits_in(p_others->'limits') ON CONFLICT DO NOTHING;
                GET DIAGNOSTICS got = ROW_COUNT;
            WHEN 'schedules' THEN
                INSERT INTO schedule (id, spec, version, next_at_ms, last_nominal_ms, paused)
                SELECT * FROM schedules_in(p_others->'schedules', p_cargo) ON CONFLICT DO NOTHING;
                GET DIAGNOSTICS got = ROW_COUNT;
            WHEN 'fires' THEN
                INSERT INTO fire (schedule_id, nominal_ms, mono_ms) SELECT f.schedule_id, f.nominal_ms, p_mono
                FROM fires_in(p_others->'fires') AS f ON CONFLICT DO NOTHING;
                GET DIAGNOSTICS got = ROW_COUNT;
            WHEN 'streams' THEN
                INSERT INTO stream AS t (stream, seq) SELECT s.stream, max(s.seq) FROM streams_in(p_others->'streams') AS s
                GROUP BY s.stream ORDER BY 1
                ON CONFLICT (stream) DO UPDATE SET seq = excluded.seq WHERE t.seq < excluded.seq;
                GET DIAGNOSTICS got = ROW_COUNT;
            WHEN 'records' THEN
                INSERT INTO record (stream, seq, at_ms, expires_mono_ms, body)
                SELECT * FROM records_in(p_others->'records', p_cargo, p_mono) ON CONFLICT DO NOTHING;
                GET DIAGNOSTICS got = ROW_COUNT;
            ELSE got := import_keyed(v_part, p_others->v_part, p_cargo, p_mono);
        END CASE;
        new_count := new_count + got;
    END LOOP;
    RETURN new_count;
END $$;

-- Those whose newest counts: state, locks, idempotency keys.
CREATE FUNCTION @schema@.import_keyed(p_part text, p_items jsonb, p_cargo bytea[], p_mono bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    r record;
    new_count bigint;
BEGIN
    IF p_part = 'state' THEN
        INSERT INTO state AS t (key, value, version, expires_mono_ms, bucket_level, bucket_mono_ms)
        SELECT DISTINCT ON (s.key) s.* FROM state_in(p_items, p_cargo, p_mono) AS s ORDER BY s.key, s.version DESC
        ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version,
            expires_mono_ms = excluded.expires_mono_ms, bucket_level = excluded.bucket_level,
            bucket_mono_ms = excluded.bucket_mono_ms WHERE t.version < excluded.version;
        GET DIAGNOSTICS new_count = ROW_COUNT;
    ELSIF p_part = 'locks' THEN
        INSERT INTO lock AS t (name, holder, fence, until_mono_ms)
        SELECT DISTINCT ON (l.name) l.* FROM locks_in(p_items, p_mono) AS l ORDER BY l.name, l.fence DESC
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, fence = excluded.fence,
            until_mono_ms = excluded.until_mono_ms WHERE t.fence < excluded.fence;
        GET DIAGNOSTICS new_count = ROW_COUNT;
    ELSE
        INSERT INTO idempotency AS t (key, id, digest, expires_mono_ms)
        SELECT DISTINCT ON (k.key) k.* FROM keys_in(p_items, p_cargo, p_mono) AS k ORDER BY k.key
        ON CONFLICT (key) DO UPDATE SET id = excluded.id, digest = excluded.digest,
            expires_mono_ms = excluded.expires_mono_ms WHERE t.expires_mono_ms <= p_mono;
        GET DIAGNOSTICS new_count = ROW_COUNT;
        SELECT t.key, t.id INTO r FROM keys_in(p_items, p_cargo, p_mono) AS k JOIN idempotency AS t ON t.key = k.key
        WHERE t.id <> k.id ORDER BY t.key LIMIT 1;
        IF FOUND THEN
            PERFORM refuse('KEY_CONFLICT', jsonb_build_array(r.key, r.id, 'idempotency'));
        END IF;
    END IF;
    RETURN new_count;
END $$;
