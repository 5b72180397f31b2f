-- Records of a stream behind a number.
-- Params: stream, after, limit 1..500.
-- Returns: a row for each: seq, instant in ms, body.
-- Index: record by stream and seq.
-- Cost: limit rows.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.read_records(p_stream text, p_after bigint, p_limit int) RETURNS TABLE (seq bigint, at_ms bigint, body bytea)
@settings@ AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT r.seq, r.at_ms, r.body FROM record AS r
    WHERE r.stream = p_stream AND r.seq > p_after ORDER BY r.seq LIMIT p_limit;
END $$;
