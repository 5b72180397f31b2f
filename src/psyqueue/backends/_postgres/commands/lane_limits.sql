-- Settings of the lanes of one queue, by lane.
-- Params: queue, prefix of the lanes, after (NULL: from the start), limit 1..501.
-- Returns: a row for each lane that was given some.
-- Index: limits by queue and lane.
-- Cost: limit rows.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.lane_limits(p_queue text, p_prefix text, p_after text, p_limit int) RETURNS SETOF @schema@.limits @settings@ AS $$
DECLARE
    l limits;
BEGIN
    FOR l IN SELECT t.* FROM limits AS t
        WHERE t.queue = p_queue AND t.is_lane AND t.lane >= greatest(p_prefix COLLATE "C", p_after COLLATE "C")
            AND (p_after IS NULL OR t.lane > p_after)
        ORDER BY t.lane LIMIT p_limit
    LOOP
        EXIT WHEN left(l.lane, length(p_prefix)) <> p_prefix;
        RETURN NEXT l;
    END LOOP;
END $$;
