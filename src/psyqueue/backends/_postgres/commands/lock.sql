-- Take or renew a lock for a time; 0 lets it go.
-- Params: op; name, holder, lease in ms.
-- Returns: JSON [fence or null, holder, ms left].
-- Index: lock by name.
-- Cost: one row.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.lock(
    p_client text, p_channel bigint, p_turn bigint, p_name text, p_holder text, p_lease bigint
) RETURNS text @settings@ AS $$
DECLARE
    t record;
    c record;
    l record;
    is_taken boolean;
    v_fence bigint;
    reply text;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'lock');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    c := read_clock(false);
    PERFORM require_change();
    PERFORM lock_keys(ARRAY[' lock ' || p_name]);
    SELECT holder, fence, until_mono_ms INTO l FROM lock WHERE name = p_name;
    is_taken := coalesce(l.until_mono_ms > c.mono_ms, false);
    IF is_taken AND l.holder <> p_holder THEN
        RETURN json_build_array(NULL, l.holder, l.until_mono_ms - c.mono_ms)::text;
    ELSIF p_lease <= 0 THEN
        IF is_taken THEN
            UPDATE lock SET until_mono_ms = c.mono_ms WHERE name = p_name;
            PERFORM note_change();
        END IF;
        reply := json_build_array(NULL, '', 0)::text;
    ELSE
        v_fence := coalesce(l.fence, 0) + (NOT is_taken)::int;
        INSERT INTO lock (name, holder, fence, until_mono_ms) VALUES (p_name, p_holder, v_fence, c.mono_ms + p_lease)
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, fence = excluded.fence,
            until_mono_ms = excluded.until_mono_ms;
        PERFORM note_change();
        reply := json_build_array(v_fence, p_holder, p_lease)::text;
    END IF;
    PERFORM end_turn(p_client, p_channel, p_turn, 'lock', t.before, reply, c.mono_ms);
    RETURN reply;
END $$;
