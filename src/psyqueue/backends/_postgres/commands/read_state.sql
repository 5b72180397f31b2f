-- State by key.
-- Params: keys.
-- Returns: a row for each key that lives: key, value, version.
-- Index: state by key.
-- Cost: as many rows as keys.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.read_state(p_keys text[]) RETURNS TABLE (key text, value bytea, version bigint) @settings@ AS $$
#variable_conflict use_column
DECLARE
    c record;
BEGIN
    c := read_clock(true);
    RETURN QUERY SELECT s.key, s.value, s.version FROM state AS s
    WHERE s.key = ANY (p_keys) AND (s.expires_mono_ms IS NULL OR s.expires_mono_ms > c.mono_ms);
END $$;
