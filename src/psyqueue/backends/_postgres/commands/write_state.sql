-- Writes to the shared state of plugins, with what rides on them: all or none.
-- Params: op; effects (includes/effects.sql) with their cargo and keys.
-- Returns: JSON, a text for each write: new version (put), number (add), tokens left (take), 0 (delete).
-- Index: state by key.
-- Cost: two statements for each write.
-- Differs from the others: calls that name the same keys wait for each other.
CREATE FUNCTION @schema@.write_state(
    p_client text, p_channel bigint, p_turn bigint, p_effects jsonb, p_cargo bytea[], p_keys text[]
) RETURNS text @settings@ AS $$
DECLARE
    t record;
    c record;
    e record;
    reply text;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'write_state');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    c := read_clock(false);
    IF p_effects ? 'jobs' THEN
        PERFORM require_enqueue(p_effects->'jobs');
    ELSE
        PERFORM require_change();
    END IF;
    PERFORM lock_keys(p_keys);
    e := apply_effects(p_effects, p_cargo, c.now_ms, c.mono_ms);
    reply := to_json(e.numbers)::text;
    PERFORM end_turn(p_client, p_channel, p_turn, 'write_state', t.before, reply, c.mono_ms);
    RETURN reply;
END $$;
