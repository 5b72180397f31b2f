-- Schedules by id.
-- Params: after (NULL: from the start), limit 1..501.
-- Returns: a row for each.
-- Index: schedule by id.
-- Cost: limit rows.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.list_schedules(p_after text, p_limit int) RETURNS SETOF @schema@.schedule @settings@ AS $$
BEGIN
    RETURN QUERY SELECT s.* FROM schedule AS s WHERE p_after IS NULL OR s.id > p_after ORDER BY s.id LIMIT p_limit;
END $$;
