-- Move the clock of a store of tests, back too.
-- Params: ms.
-- Returns: an empty text.
-- Index: none; one row.
-- Cost: one row; whoever sleeps looks.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.advance_clock(p_by bigint) RETURNS text @settings@ AS $$
BEGIN
    -- Looked at in each state: a step back that nobody saw would stretch leases by its length.
    UPDATE clock SET mono_ms = greatest(mono_ms, test_clock_ms + shift_ms);
    UPDATE clock SET test_clock_ms = test_clock_ms + p_by,
        shift_ms = greatest(shift_ms, mono_ms - test_clock_ms - p_by),
        mono_ms = greatest(mono_ms, test_clock_ms + p_by + shift_ms);
    PERFORM pg_notify(@channel_text@, 'a');
    RETURN '';
END $$;
