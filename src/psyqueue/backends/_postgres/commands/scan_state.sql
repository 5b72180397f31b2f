-- State below a prefix, in key order.
-- Params: prefix, after (NULL: from the start), limit 1..501.
-- Returns: a row for each key that lives: key, value, version.
-- Index: state by key.
-- Cost: limit rows, and those between whose time is over.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.scan_state(p_prefix text, p_after text, p_limit int) RETURNS TABLE (key text, value bytea, version bigint)
@settings@ AS $$
#variable_conflict use_column
DECLARE
    c record;
BEGIN
    c := read_clock(true);
    FOR key, value, version IN SELECT s.key, s.value, s.version FROM state AS s
        WHERE s.key >= greatest(p_prefix COLLATE "C", p_after COLLATE "C") AND (p_after IS NULL OR s.key > p_after)
            AND (s.expires_mono_ms IS NULL OR s.expires_mono_ms > c.mono_ms)
        ORDER BY s.key LIMIT p_limit
    LOOP
        EXIT WHEN left(key, length(p_prefix)) <> p_prefix;
        RETURN NEXT;
    END LOOP;
END $$;
