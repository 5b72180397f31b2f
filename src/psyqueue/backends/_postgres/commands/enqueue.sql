-- Take jobs in: all of them, or none.
-- Params: client (NULL: in the caller's own transaction, without an op), channel, turn. Jobs without keys, gate and needs
--   come as arrays, one element a job (an array may be NULL: all have the default; one of queues, names and colds may have
--   one element: that of all): ids … expires; delays and expirations in ms from now, run_ats in ms. If one job has more than that, all come in `jobs` (includes/intake.sql), with
--   their bytes in `cargo`. effects: includes/effects.sql. keys: what the call names, to be locked in one order.
-- Returns: a number: all of them are new and pending; else JSON [[id, created, status] …].
-- Index: body_id; limits.
-- Cost: one statement for a lone usual job; two for all jobs that come as arrays, one more if an id is taken; some ten
--   small ones for each of the others.
-- Differs from the others: readers and other writers go on meanwhile; equal ids and keys wait for each other.
CREATE FUNCTION @schema@.enqueue(
    p_client text, p_channel bigint, p_turn bigint, p_ids text[], p_queues text[], p_names text[], p_payloads bytea[],
    p_colds bytea[], p_digests bytea[], p_extras bytea[], p_lanes text[], p_priorities int[], p_max_retries int[],
    p_max_lost int[], p_delays bigint[], p_run_ats bigint[], p_expires bigint[],
    p_jobs jsonb, p_cargo bytea[], p_effects jsonb, p_keys text[]
) RETURNS text @settings@ AS $$
DECLARE
    t record;
    r record;
    s jsonb;
    at_ int;
    reply text;
    is_changed boolean := false;
    is_counted boolean := false;
    replies jsonb := '[]';
BEGIN
    t := begin_step(p_client, p_channel, p_turn, 'enqueue');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    IF t.mode <> 'open' THEN
        -- Jobs that come as arrays need nobody.
        PERFORM require_enqueue(CASE WHEN p_ids = '{}' OR p_ids IS NULL THEN '[]' ELSE '[{}]' END::jsonb
            || coalesce(p_jobs, '[]') || coalesce(p_effects->'jobs', '[]'));
    END IF;
    IF p_keys IS NOT NULL THEN
        PERFORM lock_keys(p_keys);
    END IF;
    IF p_effects ? 'writes' THEN
        PERFORM apply_effects(jsonb_build_object('writes', p_effects->'writes'), p_cargo, t.now_ms, t.mono_ms);
    END IF;
    IF t.has_limits THEN
        is_counted := EXISTS (SELECT 1 FROM limits WHERE queue = ANY (p_queues) AND pending_max IS NOT NULL);
    END IF;
    IF p_jobs IS NULL AND cardinality(p_ids) = 1 AND NOT is_counted AND (p_client IS NULL OR p_effects IS NULL) THEN
        reply := insert_lone(p_client, p_channel, p_turn, t.before, p_ids[1], p_queues[1], p_names[1], p_payloads[1], p_colds[1],
            p_digests[1], p_extras[1], p_lanes[1], p_priorities[1], p_max_retries[1], p_max_lost[1], p_delays[1], p_run_ats[1],
            p_expires[1], t.has_sleepers, t.now_ms, t.mono_ms);
        IF reply IS NOT NULL AND p_client IS NOT NULL THEN  -- and the op is kept
            IF t.has_followers THEN
                PERFORM follow_through(t.now_ms);
            END IF;
            RETURN reply;
        END IF;
    END IF;
    IF reply IS NULL AND p_jobs IS NULL THEN
        r := enqueue_plain(p_ids, p_queues, p_names, p_payloads, p_colds, p_digests, p_extras, p_lanes, p_priorities,
            p_max_retries, p_max_lost, p_delays, p_run_ats, p_expires, is_counted, t.has_sleepers, t.now_ms, t.mono_ms);
        reply := r.reply;
        is_changed := r.is_changed;
    ELSIF reply IS NULL THEN
        FOR s IN SELECT * FROM jsonb_array_elements(p_jobs) LOOP
            at_ := (s->>'at')::int;
            r := enqueue_one(s, p_cargo[at_], p_cargo[at_ + 1], p_cargo[at_ + 2], p_cargo[at_ + 3], false,
                t.now_ms, t.mono_ms);
            replies := replies || jsonb_build_array(jsonb_build_array(r.id, r.created, r.status));
        END LOOP;
        reply := replies::text;
    END IF;
    IF p_effects IS NOT NULL THEN
        IF left(reply, 1) <> '[' THEN
            reply := coalesce((SELECT jsonb_agg(jsonb_build_array(u.id, true, 2)) FROM unnest(p_ids) AS u (id)), '[]')::text;
        END IF;
        r := apply_effects(p_effects - 'writes', p_cargo, t.now_ms, t.mono_ms);
        reply := (reply::jsonb || r.followed)::text;
    END IF;
    -- Plain jobs let nobody go; what does has noted that it changed something.
    IF t.has_followers OR has_changed() THEN
        PERFORM follow_through(t.now_ms);
    END IF;
    IF p_client IS NOT NULL AND (is_changed OR has_changed()) THEN
        PERFORM keep_turn(p_client, p_channel, p_turn, 'enqueue', t.before, reply, t.mono_ms);
    END IF;
    RETURN reply;
END $$;

-- Jobs that come as arrays. p_is_counted: a limit bounds how many wait. The reply as `enqueue` says it.
CREATE FUNCTION @schema@.enqueue_plain(
    p_ids text[], p_queues text[], p_names text[], p_payloads bytea[], p_colds bytea[], p_digests bytea[],
    p_extras bytea[], p_lanes text[], p_priorities int[], p_max_retries int[], p_max_lost int[], p_delays bigint[],
    p_run_ats bigint[], p_expires bigint[], p_is_counted boolean, p_has_sleepers boolean, p_now bigint, p_mono bigint,
    OUT reply text, OUT is_changed boolean
) LANGUAGE plpgsql AS $$
DECLARE
    numbers bigint[];
    made bigint[];
    is_all boolean;
    replies jsonb := '[]';
    r record;
    found_job record;
BEGIN
    is_changed := false;
    IF p_is_counted THEN
        FOR r IN SELECT u.id, coalesce(u.queue, p_queues[1]) AS queue, coalesce(u.name, p_names[1]) AS name, u.payload,
                coalesce(u.cold, p_colds[1]) AS cold, u.digest, u.extras, u.lane, u.priority, u.max_retries, u.max_lost, u.delay,
                u.run_at, u.expires_in
            FROM unnest(p_ids, p_queues, p_names, p_payloads, p_colds, p_digests, p_extras, p_lanes,
                p_priorities, p_max_retries, p_max_lost, p_delays, p_run_ats, p_expires)
            AS u (id, queue, name, payload, cold, digest, extras, lane, priority, max_retries, max_lost, delay, run_at, expires_in)
        LOOP
            found_job := enqueue_one(
                jsonb_strip_nulls(to_jsonb(r) - '{payload,cold,digest,extras}'::text[]), r.payload, r.cold, r.digest, r.extras,
                false, p_now, p_mono);
            replies := replies
                || jsonb_build_array(jsonb_build_array(found_job.id, found_job.created, found_job.status));
        END LOOP;
        reply := replies::text;
        RETURN;
    END IF;
    numbers := ARRAY(SELECT nextval('number') FROM generate_series(1, cardinality(p_ids)));
    made := insert_bodies(numbers, p_ids, p_digests, p_extras, p_colds, p_payloads);
    is_all := insert_jobs(numbers, made, p_ids, p_queues, p_names, p_payloads, p_colds, p_lanes, p_priorities,
        p_max_retries, p_max_lost, p_delays, p_run_ats, p_expires, p_now);
    IF made <> '{}' THEN
        is_changed := true;
        IF p_has_sleepers THEN
            PERFORM wake_queues(p_queues);
        END IF;
        IF p_lanes IS NOT NULL THEN
            INSERT INTO lane (queue, lane)
            SELECT DISTINCT coalesce(u.queue, p_queues[1]), u.lane FROM unnest(p_queues, p_lanes) AS u (queue, lane)
            WHERE u.lane <> '' ORDER BY 1, 2 ON CONFLICT DO NOTHING;
        END IF;
        IF is_all THEN
            reply := cardinality(made);
            RETURN;
        END IF;
    END IF;
    FOR r IN SELECT b.digest, t.status, u.id, u.digest AS wanted, u.n = ANY (made) AS is_made
        FROM unnest(numbers, p_ids, p_digests) WITH ORDINALITY AS u (n, id, digest, place)
        JOIN body AS b ON b.id = u.id JOIN job AS t ON t.n = b.n ORDER BY u.place
    LOOP
        IF r.digest <> r.wanted THEN
            PERFORM refuse('ID_CONFLICT', jsonb_build_array(r.id));
        END IF;
        replies := replies || jsonb_build_array(jsonb_build_array(r.id, r.is_made, r.status));
    END LOOP;
    reply := replies::text;
END $$;

-- One job without keys, gate, needs and effects, which is worth a way of its own: its fields come as they are (NULL: the
-- default), since arrays cost both sides a part of it. The usual one is one statement: its op takes the place of the one
-- before it, and job and body come beside it. (The op's key changes, so that no chain of versions grows.) That one writes
-- nothing where there is more to know or to do: another op was the last one of the channel, the mode is not open, a limit
-- counts, something is to be followed through, the id is there. Then this is a call of `enqueue`. Who takes the id in the
-- same moment makes it fail, and the client calls again.
-- Of the settings it has those that its plan needs, and names its tables in full: each setting is one percent of the call.
CREATE FUNCTION @schema@.enqueue_lone(
    p_client text, p_channel bigint, p_turn bigint, p_id text, p_queue text, p_name text, p_payload bytea, p_cold bytea,
    p_digest bytea, p_extras bytea, p_lane text, p_priority int, p_max_retries int, p_max_lost int, p_delay bigint,
    p_run_at bigint, p_expires bigint
) RETURNS text LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    wall bigint;
    is_alone boolean;
    is_behind boolean;
    has_sleepers boolean;
BEGIN
    IF coalesce(p_delay, 0) <= 0 AND p_run_at IS NULL AND coalesce(p_lane, '') = '' THEN
        -- Before the statement, which so sees what a copy of this call did that had the lock. Not by PERFORM, which is one.
        is_alone := pg_advisory_xact_lock(hashtextextended(@schema_text@ || ' turn ' || p_client, p_channel)) IS NOT NULL;
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            PERFORM @schema@.refuse_isolation();
        END IF;
        wall := floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint;
        WITH op AS (
            UPDATE @schema@.turn AS o SET turn = p_turn, verb = 'enqueue', reply = '1', mono_ms = c.mono_ms
            FROM (
                SELECT coalesce(k.test_clock_ms, wall) AS now_ms,
                    greatest(coalesce(k.test_clock_ms, wall) + k.shift_ms, k.mono_ms) AS mono_ms,
                    k.test_clock_ms IS NULL AND wall + k.shift_ms NOT BETWEEN k.mono_ms AND k.mono_ms + 1000 AS is_behind
                FROM @schema@.clock AS k
            ) AS c
            WHERE o.client = p_client AND o.channel = p_channel AND o.turn = p_turn - 1
                AND (SELECT m.mode FROM @schema@.meta AS m) = 'open'
                AND NOT EXISTS (SELECT 1 FROM @schema@.limits AS l WHERE l.queue = p_queue AND l.pending_max IS NOT NULL)
                AND NOT EXISTS (SELECT 1 FROM @schema@.follower) AND NOT EXISTS (SELECT 1 FROM @schema@.body AS b WHERE b.id = p_id)
            RETURNING nextval('@schema@.number') AS n, c.now_ms, c.is_behind
        ), content AS (
            INSERT INTO @schema@.body (n, id, digest, extras, cold, payload)
            SELECT o.n, p_id, p_digest, p_extras, p_cold, p_payload FROM op AS o
        ), made AS (
            INSERT INTO @schema@.job (
                n, created_at_ms, run_at_ms, ready_number, expires_at_ms, priority, max_retries, max_lost, size, status,
                id, queue, lane, name
            )
            SELECT o.n, o.now_ms, o.now_ms, o.n, o.now_ms + p_expires, coalesce(p_priority, 0), coalesce(p_max_retries, 3),
                coalesce(p_max_lost, 2), octet_length(p_payload) + octet_length(p_cold), 2, p_id, p_queue, '', p_name
            FROM op AS o
        )
        SELECT o.is_behind, EXISTS (SELECT 1 FROM @schema@.sleeper) INTO is_behind, has_sleepers FROM op AS o;
        IF FOUND THEN
            IF has_sleepers THEN
                PERFORM @schema@.wake_queue(p_queue);
            END IF;
            IF is_behind THEN
                PERFORM @schema@.keep_clock(wall);
            END IF;
            RETURN '1';
        END IF;
    END IF;
    RETURN @schema@.enqueue(p_client, p_channel, p_turn, ARRAY[p_id], ARRAY[p_queue], ARRAY[p_name], ARRAY[p_payload],
        ARRAY[p_cold], ARRAY[p_digest], ARRAY[p_extras], ARRAY[coalesce(p_lane, '')], ARRAY[p_priority], ARRAY[p_max_retries],
        ARRAY[p_max_lost], ARRAY[p_delay], ARRAY[p_run_at], ARRAY[p_expires], NULL, NULL, NULL, NULL);
END $$;

-- The job, and the op of the call beside it: one statement, since each has a price of its own. NULL: its id is taken.
CREATE FUNCTION @schema@.insert_lone(
    p_client text, p_channel bigint, p_turn bigint, p_before bigint, p_id text, p_queue text, p_name text, p_payload bytea,
    p_cold bytea, p_digest bytea, p_extras bytea, p_lane text, p_priority int, p_max_retries int, p_max_lost int,
    p_delay bigint, p_run_at bigint, p_expires bigint, p_has_sleepers boolean, p_now bigint, p_mono bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    run_at bigint := greatest(p_now + coalesce(p_delay, 0), coalesce(p_run_at, p_now));
    is_due boolean := run_at <= p_now;
    reply text := CASE WHEN is_due THEN '1' ELSE json_build_array(json_build_array(p_id, true, 1))::text END;
BEGIN
    WITH made AS (
        INSERT INTO body AS b (n, id, digest, extras, cold, payload)
        VALUES (nextval('number'), p_id, p_digest, p_extras, p_cold, p_payload) ON CONFLICT (id) DO NOTHING RETURNING b.n
    ), gone AS (
        DELETE FROM turn AS t USING made WHERE t.client = p_client AND t.channel = p_channel AND t.turn = p_before
    ), kept AS (
        INSERT INTO turn (client, channel, turn, verb, reply, mono_ms)
        SELECT p_client, p_channel, p_turn, 'enqueue', reply, p_mono FROM made WHERE p_client IS NOT NULL
    )
    INSERT INTO job (
        n, created_at_ms, run_at_ms, ready_number, expires_at_ms, priority, max_retries, max_lost, size, status, id,
        queue, lane, name
    )
    SELECT m.n, p_now, run_at, CASE WHEN is_due THEN m.n END, p_now + p_expires, coalesce(p_priority, 0),
        coalesce(p_max_retries, 3), coalesce(p_max_lost, 2), octet_length(p_payload) + octet_length(p_cold),
        CASE WHEN is_due THEN 2 ELSE 1 END, p_id, p_queue, coalesce(p_lane, ''), p_name
    FROM made AS m;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF p_has_sleepers THEN
        PERFORM wake_queue(p_queue);
    END IF;
    IF p_lane <> '' THEN
        INSERT INTO lane (queue, lane) VALUES (p_queue, p_lane) ON CONFLICT DO NOTHING;
    END IF;
    RETURN reply;
END $$;

-- The numbers of those whose ids were free. That all are is tried first: with ON CONFLICT each row is looked for before it is
-- written, and confirmed behind that. (Here an element of an array is found at once; unnest would copy each array.)
CREATE FUNCTION @schema@.insert_bodies(
    p_numbers bigint[], p_ids text[], p_digests bytea[], p_extras bytea[], p_colds bytea[], p_payloads bytea[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    made bigint[];
BEGIN
    BEGIN
        INSERT INTO body (n, id, digest, extras, cold, payload)
        SELECT p_numbers[i], p_ids[i], p_digests[i], p_extras[i], coalesce(p_colds[i], p_colds[1]), p_payloads[i]
        FROM generate_series(1, cardinality(p_ids)) AS i;
        RETURN p_numbers;
    EXCEPTION WHEN unique_violation THEN
        PERFORM drop_orphans(p_ids);  -- taken back; now each by itself
    END;
    WITH made_now AS (
        INSERT INTO body AS b (n, id, digest, extras, cold, payload)
        SELECT p_numbers[i], p_ids[i], p_digests[i], p_extras[i], coalesce(p_colds[i], p_colds[1]), p_payloads[i]
        FROM generate_series(1, cardinality(p_ids)) AS i
        ON CONFLICT (id) DO NOTHING RETURNING b.n
    )
    SELECT coalesce(array_agg(m.n), '{}') INTO made FROM made_now AS m;
    RETURN made;
END $$;

-- True: all of the call are new, and pending.
CREATE FUNCTION @schema@.insert_jobs(
    p_numbers bigint[], p_made bigint[], p_ids text[], p_queues text[], p_names text[], p_payloads bytea[],
    p_colds bytea[], p_lanes text[], p_priorities int[], p_max_retries int[], p_max_lost int[], p_delays bigint[],
    p_run_ats bigint[], p_expires bigint[], p_now bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    is_all boolean := cardinality(p_made) = cardinality(p_ids);
BEGIN
    INSERT INTO job (
        n, created_at_ms, run_at_ms, ready_number, expires_at_ms, priority, max_retries, max_lost, size, status, id,
        queue, lane, name
    )
    SELECT v.n, p_now, v.run_at, CASE WHEN v.run_at <= p_now THEN v.n END, p_now + p_expires[v.i],
        coalesce(p_priorities[v.i], 0), coalesce(p_max_retries[v.i], 3), coalesce(p_max_lost[v.i], 2),
        octet_length(p_payloads[v.i]) + octet_length(coalesce(p_colds[v.i], p_colds[1])),
        CASE WHEN v.run_at <= p_now THEN 2 ELSE 1 END, p_ids[v.i], coalesce(p_queues[v.i], p_queues[1]),
        coalesce(p_lanes[v.i], ''), coalesce(p_names[v.i], p_names[1])
    FROM (
        SELECT i, p_numbers[i] AS n, greatest(p_now + coalesce(p_delays[i], 0), coalesce(p_run_ats[i], p_now)) AS run_at
        FROM generate_series(1, cardinality(p_ids)) AS i
        WHERE is_all OR p_numbers[i] = ANY (p_made)
    ) AS v;
    IF is_all AND (p_delays IS NOT NULL OR p_run_ats IS NOT NULL) THEN
        is_all := (SELECT bool_and(coalesce(u.delay, 0) <= 0 AND coalesce(u.run_at, p_now) <= p_now)
            FROM unnest(p_delays, p_run_ats) AS u (delay, run_at));
    END IF;
    RETURN is_all;
END $$;
