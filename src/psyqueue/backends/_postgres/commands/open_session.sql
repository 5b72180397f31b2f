-- Register a running worker.
-- Params: op (client, channel, turn); id, worker, queues, lease in ms, meta, begin of the error of its lost jobs.
-- Returns: JSON as renew says it. Raises INVALID_STATE if the id was used before.
-- Index: session by id.
-- Cost: one row.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.open_session(
    p_client text, p_channel bigint, p_turn bigint, p_id text, p_worker text, p_queues text[], p_lease bigint, p_meta bytea,
    p_lost_error bytea
) RETURNS text @settings@ AS $$
DECLARE
    t record;
    c record;
    reply text;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'open_session');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    c := read_clock(false);
    INSERT INTO session (id, worker, queues, lease_ms, meta, lost_error, opened_at_ms, until_mono_ms)
    VALUES (p_id, p_worker, p_queues, p_lease, p_meta, p_lost_error, c.now_ms, c.mono_ms + p_lease) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM refuse('INVALID_STATE',
            jsonb_build_array(format('session %L was used before. Give each worker start a new id', p_id)));
    END IF;
    PERFORM note_change();
    reply := renewal_of(p_id, c.now_ms);
    PERFORM end_turn(p_client, p_channel, p_turn, 'open_session', t.before, reply, c.mono_ms);
    RETURN reply;
END $$;
