-- Set the mode of the namespace; it counts for every step that starts after it.
-- Params: op; mode, the new epoch (the present one + 1), where the jobs have moved to.
-- Returns: an empty text. Raises STATE_CONFLICT.
-- Index: none; one row.
-- Cost: one row; everybody who waits is told.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.set_mode(
    p_client text, p_channel bigint, p_turn bigint, p_mode text, p_epoch bigint, p_moved_to text
) RETURNS text @settings@ AS $$
DECLARE
    t record;
    c record;
    v_epoch bigint;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'set_mode');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    c := read_clock(false);
    SELECT epoch INTO v_epoch FROM meta FOR UPDATE;
    IF p_epoch <> v_epoch + 1 THEN
        PERFORM refuse('STATE_CONFLICT', jsonb_build_array('epoch of the namespace', p_epoch - 1, v_epoch));
    END IF;
    UPDATE meta SET mode = p_mode, epoch = p_epoch, moved_to = p_moved_to;
    PERFORM note_change();
    PERFORM pg_notify(@channel_text@, 'a');
    PERFORM end_turn(p_client, p_channel, p_turn, 'set_mode', t.before, '', c.mono_ms);
    RETURN '';
END $$;
