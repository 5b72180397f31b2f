-- What rides on other steps: writes to the shared state, follow-up jobs, records. As _memory/intake.py.
-- Effects are { writes: [[kind, key, place of value, number, expected, ttl, capacity, refill] …], jobs: […],
-- records: [[stream, place of body, ttl] …] }; bytes are in the cargo.

CREATE FUNCTION @schema@.write_state_one(w jsonb, p_cargo bytea[], p_mono bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    k text := w->>0;
    v_key text := w->>1;
    v_expected bigint := (w->>4)::bigint;
    v_value bytea := p_cargo[(w->>2)::int];
    cell record;
    found_version bigint := 0;
    reply text;
    v_level bigint;
    v_full bigint := (w->>6)::bigint * 60000;
    missing bigint;
BEGIN
    SELECT * INTO cell FROM state WHERE key = v_key AND (expires_mono_ms IS NULL OR expires_mono_ms > p_mono) FOR NO KEY UPDATE;
    found_version := coalesce(cell.version, 0);
    IF v_expected IS NOT NULL AND k IN ('put', 'delete') AND v_expected <> found_version THEN
        PERFORM refuse('STATE_CONFLICT', jsonb_build_array(v_key, v_expected, found_version));
    END IF;
    IF k = 'delete' THEN
        DELETE FROM state WHERE key = v_key;
        IF FOUND THEN
            PERFORM note_change();
        END IF;
        RETURN '0';
    END IF;
    reply := (found_version + 1)::text;
    IF k = 'add' THEN
        IF encode(cell.value, 'escape') !~ '^[-+]?[0-9]+$' THEN
            PERFORM refuse('STATE_CONFLICT', jsonb_build_array(v_key, NULL, found_version));
        END IF;
        reply := (coalesce(encode(cell.value, 'escape')::numeric, 0) + (w->>3)::numeric)::text;
        v_value := convert_to(reply, 'UTF8');
    ELSIF k = 'take' THEN
        v_level := refilled(
            coalesce(cell.bucket_level, v_full), p_mono - coalesce(cell.bucket_mono_ms, p_mono), (w->>7)::bigint, v_full
        );
        missing := (w->>3)::bigint * 60000 - v_level;
        IF missing > 0 THEN
            PERFORM refuse('RATE_LIMIT_EXCEEDED', jsonb_build_array(v_key, CASE WHEN (w->>7)::bigint = 0 THEN 86400000
                ELSE (missing + (w->>7)::bigint - 1) / (w->>7)::bigint END));
        END IF;
        v_level := v_level - (w->>3)::bigint * 60000;
        reply := (v_level / 60000)::text;
        v_value := convert_to(reply, 'UTF8');
    END IF;
    INSERT INTO state (key, value, version, expires_mono_ms, bucket_level, bucket_mono_ms)
    VALUES (v_key, v_value, found_version + 1, p_mono + (w->>5)::bigint, v_level, CASE WHEN v_level IS NOT NULL THEN p_mono END)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version,
        expires_mono_ms = excluded.expires_mono_ms, bucket_level = excluded.bucket_level,
        bucket_mono_ms = excluded.bucket_mono_ms;
    PERFORM note_change();
    RETURN reply;
END $$;

-- numbers: a text for each write. followed: [id, created, status] of each follow-up job. Raises what a precondition refuses.
CREATE FUNCTION @schema@.apply_effects(
    e jsonb, p_cargo bytea[], p_now bigint, p_mono bigint, OUT numbers text[], OUT followed jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    each jsonb;
    at_ int;
    r record;
    v_seq bigint;
BEGIN
    numbers := '{}';
    followed := '[]';
    FOR each IN SELECT * FROM jsonb_array_elements(coalesce(e->'writes', '[]')) LOOP
        numbers := numbers || write_state_one(each, p_cargo, p_mono);
    END LOOP;
    FOR each IN SELECT * FROM jsonb_array_elements(coalesce(e->'jobs', '[]')) LOOP
        at_ := (each->>'at')::int;
        r := enqueue_one(each, p_cargo[at_], p_cargo[at_ + 1], p_cargo[at_ + 2], p_cargo[at_ + 3], true, p_now, p_mono);
        followed := followed || jsonb_build_array(jsonb_build_array(r.id, r.created, r.status));
    END LOOP;
    FOR each IN SELECT * FROM jsonb_array_elements(coalesce(e->'records', '[]')) LOOP
        INSERT INTO stream AS t (stream, seq) VALUES (each->>0, 1)
        ON CONFLICT (stream) DO UPDATE SET seq = t.seq + 1 RETURNING seq INTO v_seq;
        INSERT INTO record (stream, seq, at_ms, expires_mono_ms, body)
        VALUES (each->>0, v_seq, p_now, p_mono + (each->>2)::bigint, p_cargo[(each->>1)::int]);
        PERFORM note_change();
    END LOOP;
END $$;
