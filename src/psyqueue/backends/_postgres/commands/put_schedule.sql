-- Compare and set a schedule on its version.
-- Params: op; id, the version that is expected (0: it must not exist), whether to delete, spec, next instant in ms, last
--   nominal time in ms, paused.
-- Returns: the new version as text, or the old one of a deleted schedule. Raises STATE_CONFLICT.
-- Index: schedule by id.
-- Cost: one row.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.put_schedule(
    p_client text, p_channel bigint, p_turn bigint, p_id text, p_version bigint, p_is_deleted boolean, p_spec bytea,
    p_next bigint, p_last bigint, p_paused boolean
) RETURNS text @settings@ AS $$
DECLARE
    t record;
    c record;
    v_version bigint;
    reply text;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'put_schedule');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    c := read_clock(false);
    PERFORM require_new();
    PERFORM lock_keys(ARRAY[' schedule ' || p_id]);
    v_version := coalesce((SELECT s.version FROM schedule AS s WHERE s.id = p_id), 0);
    IF v_version <> p_version THEN
        PERFORM refuse('STATE_CONFLICT', jsonb_build_array(p_id, p_version, v_version));
    END IF;
    IF p_is_deleted THEN
        DELETE FROM schedule AS s WHERE s.id = p_id;
        IF FOUND THEN
            PERFORM note_change();
        END IF;
        reply := p_version::text;
    ELSE
        INSERT INTO schedule (id, spec, version, next_at_ms, last_nominal_ms, paused)
        VALUES (p_id, p_spec, p_version + 1, p_next, p_last, p_paused)
        ON CONFLICT (id) DO UPDATE SET spec = excluded.spec, version = excluded.version, next_at_ms = excluded.next_at_ms,
            last_nominal_ms = excluded.last_nominal_ms, paused = excluded.paused;
        PERFORM note_change();
        reply := (p_version + 1)::text;
    END IF;
    PERFORM end_turn(p_client, p_channel, p_turn, 'put_schedule', t.before, reply, c.mono_ms);
    RETURN reply;
END $$;
