-- Moving house: what is imported and dropped, as rows. An item of a part comes as a JSON array of its fields, in the order in
-- which it is exported; where bytes belong to it, then with the place of the first in the cargo behind them. Times that run
-- come as what is left of them; NULL: they never end.
-- Nothing of a call is looked at here but what it brought: who asks compares it with the store.

CREATE FUNCTION @schema@.limits_in(p_items jsonb) RETURNS TABLE (
    queue text, is_lane boolean, lane text, paused_until_ms bigint, weight bigint, active_max bigint, starts_per_minute bigint,
    starts_burst bigint, pending_max bigint, retain_ended bigint[], retain_dead bigint[]
) LANGUAGE sql IMMUTABLE AS $$
    SELECT w->>0, w->>1 IS NOT NULL, coalesce(w->>1, ''), (w->>2)::bigint, (w->>3)::bigint, (w->>4)::bigint, (w->>5)::bigint,
        (w->>6)::bigint, (w->>7)::bigint, CASE WHEN w->>8 IS NOT NULL THEN ARRAY[(w->8->>0)::bigint, (w->8->>1)::bigint] END,
        CASE WHEN w->>9 IS NOT NULL THEN ARRAY[(w->9->>0)::bigint, (w->9->>1)::bigint] END
    FROM jsonb_array_elements(p_items) AS i (w)
$$;

CREATE FUNCTION @schema@.schedules_in(p_items jsonb, p_cargo bytea[]) RETURNS TABLE (
    id text, spec bytea, version bigint, next_at_ms bigint, last_nominal_ms bigint, paused boolean
) LANGUAGE sql IMMUTABLE AS $$
    SELECT w->>0, p_cargo[(w->>5)::int], (w->>1)::bigint, (w->>2)::bigint, (w->>3)::bigint, (w->>4)::boolean
    FROM jsonb_array_elements(p_items) AS i (w)
$$;

CREATE FUNCTION @schema@.fires_in(p_items jsonb) RETURNS TABLE (schedule_id text, nominal_ms bigint) LANGUAGE sql IMMUTABLE AS $$
    SELECT w->>0, (w->>1)::bigint FROM jsonb_array_elements(p_items) AS i (w)
$$;

CREATE FUNCTION @schema@.state_in(p_items jsonb, p_cargo bytea[], p_mono bigint) RETURNS TABLE (
    key text, value bytea, version bigint, expires_mono_ms bigint, bucket_level bigint, bucket_mono_ms bigint
) LANGUAGE sql IMMUTABLE AS $$
    SELECT w->>0, p_cargo[(w->>5)::int], (w->>1)::bigint, p_mono + (w->>2)::bigint, (w->>3)::bigint,
        CASE WHEN w->>3 IS NOT NULL THEN p_mono - (w->>4)::bigint END
    FROM jsonb_array_elements(p_items) AS i (w)
$$;

CREATE FUNCTION @schema@.streams_in(p_items jsonb) RETURNS TABLE (stream text, seq bigint) LANGUAGE sql IMMUTABLE AS $$
    SELECT w->>0, (w->>1)::bigint FROM jsonb_array_elements(p_items) AS i (w)
$$;

CREATE FUNCTION @schema@.records_in(p_items jsonb, p_cargo bytea[], p_mono bigint) RETURNS TABLE (
    stream text, seq bigint, at_ms bigint, expires_mono_ms bigint, body bytea
) LANGUAGE sql IMMUTABLE AS $$
    SELECT w->>0, (w->>1)::bigint, (w->>2)::bigint, p_mono + (w->>3)::bigint, p_cargo[(w->>4)::int]
    FROM jsonb_array_elements(p_items) AS i (w)
$$;

CREATE FUNCTION @schema@.locks_in(p_items jsonb, p_mono bigint) RETURNS TABLE (
    name text, holder text, fence bigint, until_mono_ms bigint
) LANGUAGE sql IMMUTABLE AS $$
    SELECT w->>0, w->>1, (w->>2)::bigint, p_mono + (w->>3)::bigint FROM jsonb_array_elements(p_items) AS i (w)
$$;

CREATE FUNCTION @schema@.keys_in(p_items jsonb, p_cargo bytea[], p_mono bigint) RETURNS TABLE (
    key text, id text, digest bytea, expires_mono_ms bigint
) LANGUAGE sql IMMUTABLE AS $$
    SELECT w->>0, w->>1, p_cargo[(w->>3)::int], p_mono + (w->>2)::bigint FROM jsonb_array_elements(p_items) AS i (w)
$$;

-- With the numbers of the two jobs; NULL: there is none.
CREATE FUNCTION @schema@.needs_in(p_items jsonb) RETURNS TABLE (
    place bigint, child bigint, parent bigint, child_id text, parent_id text, mask smallint, met boolean
) LANGUAGE sql STABLE AS $$
    SELECT i.place, c.n, p.n, w->>0, w->>1, (w->>2)::smallint, (w->>3)::boolean
    FROM jsonb_array_elements(p_items) WITH ORDINALITY AS i (w, place)
    LEFT JOIN body AS c ON c.id = w->>0 LEFT JOIN body AS p ON p.id = w->>1
$$;

-- Numbers that are given from now on are above `p_to`. What is given meanwhile is above, too: a short way is gone number by
-- number; a long one is leapt, which would only go back if others were given as many in between.
CREATE FUNCTION @schema@.raise_number(p_to bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_last bigint := (SELECT last_value - 1 + is_called::int FROM number);
BEGIN
    IF p_to <= v_last THEN
        RETURN false;
    ELSIF p_to - v_last > 10000 THEN
        PERFORM setval('number', p_to);
    ELSE
        PERFORM nextval('number') FROM generate_series(v_last + 1, p_to);
    END IF;
    RETURN true;
END $$;
