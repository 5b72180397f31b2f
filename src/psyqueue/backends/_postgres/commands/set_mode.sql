-- Set the mode of the namespace; it counts for every step that starts after it.
-- Params: op; mode, the new epoch (the present one + 1), where the jobs have moved to.
-- Returns: an empty text. Raises STATE_CONFLICT.
-- Index: none; one row.
-- Cost: one row; everybody who waits is told.
-- Differs from the others: a transaction of somebody else's that began before may commit later. The client waits until
--   `older_steps` finds none.
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

-- Transactions that have looked at the mode, or at anything else in its row, and are not over: each look locks the table
-- against its end, to the end of the transaction. A number that a snapshot tells would not do: a step that waits for a key
-- has none yet. p_known: only those, and prepared ones, which older servers name anew when they are prepared; NULL: all.
CREATE FUNCTION @schema@.older_steps(p_known text[]) RETURNS TABLE (
    transaction text, pid int, application text, since timestamptz
) @settings@ AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT l.virtualtransaction, l.pid, a.application_name, a.xact_start FROM (
        SELECT DISTINCT h.virtualtransaction, h.pid FROM pg_locks AS h
        WHERE h.locktype = 'relation' AND h.relation = 'meta'::regclass AND h.granted AND h.pid IS DISTINCT FROM pg_backend_pid()
            AND h.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
            AND (p_known IS NULL OR h.pid IS NULL OR h.virtualtransaction = ANY (p_known))
    ) AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid ORDER BY a.xact_start, l.pid;
END $$;
