-- Enqueue the jobs of a schedule once for a nominal time, and set when it is next due.
-- Params: op; schedule id, version; nominal time and next instant in ms; jobs (includes/intake.sql) with their cargo; keys.
-- Returns: 't' or 'f': fired before, another version, or gone; nothing changed then.
-- Index: schedule by id, fire.
-- Cost: two rows, and what the jobs cost.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.fire(
    p_client text, p_channel bigint, p_turn bigint, p_id text, p_version bigint, p_nominal bigint, p_next bigint,
    p_jobs jsonb, p_cargo bytea[], p_keys text[]
) RETURNS text @settings@ AS $$
DECLARE
    t record;
    c record;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'fire');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    c := read_clock(false);
    PERFORM require_new();
    PERFORM lock_keys(coalesce(p_keys, '{}') || (' schedule ' || p_id));
    UPDATE schedule AS s SET next_at_ms = p_next, last_nominal_ms = greatest(s.last_nominal_ms, p_nominal)
    WHERE s.id = p_id AND s.version = p_version
        AND NOT EXISTS (SELECT 1 FROM fire AS f WHERE f.schedule_id = p_id AND f.nominal_ms = p_nominal);
    IF NOT FOUND THEN
        RETURN 'f';
    END IF;
    INSERT INTO fire (schedule_id, nominal_ms, mono_ms) VALUES (p_id, p_nominal, c.mono_ms);
    PERFORM note_change();
    PERFORM apply_effects(jsonb_build_object('jobs', p_jobs), p_cargo, c.now_ms, c.mono_ms);
    PERFORM end_turn(p_client, p_channel, p_turn, 'fire', t.before, 't', c.mono_ms);
    RETURN 't';
END $$;
