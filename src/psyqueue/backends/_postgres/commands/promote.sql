-- Due jobs become pending, expired ones end, left-over follow-through is done; while filling, frozen or moved only the last.
-- Params: queues, limit 1..500 of each.
-- Returns: JSON [ids, more, ms until the next scheduled job of the queues is due].
-- Index: job_expiring, job_due, follower.
-- Cost: one statement for all due jobs of a queue; some six for each expired one.
-- Differs from the others: what another step has locked is passed over.
CREATE FUNCTION @schema@.promote(p_queues text[], p_limit int) RETURNS text @settings@ AS $$
DECLARE
    c record;
    expired record;
    due record;
    is_left_over boolean;
BEGIN
    c := read_clock(false);
    IF is_still() THEN
        RETURN json_build_array('{}'::text[], follow_through(c.now_ms, p_limit))::text;
    END IF;
    expired := expire(p_queues, c.now_ms, p_limit);
    due := promote_due(p_queues, c.now_ms, p_limit);
    is_left_over := follow_through(c.now_ms, p_limit);
    RETURN json_build_array(expired.ids || due.ids, expired.more OR due.more OR is_left_over,
        next_due_in(p_queues, c.now_ms))::text;
END $$;
