-- What the store says of itself.
-- Params: none.
-- Returns: now in ms, mode, epoch, moved_to, schema number, id of the store.
-- Index: none; three rows.
-- Cost: three rows.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.info() RETURNS TABLE (now_ms bigint, mode text, epoch bigint, moved_to text, schema int, store_id uuid) @settings@ AS $$
#variable_conflict use_column
DECLARE
    c record;
BEGIN
    c := read_clock(true);
    RETURN QUERY SELECT c.now_ms, m.mode, m.epoch, m.moved_to, (SELECT max(m2.number) FROM migration AS m2), m.store_id
    FROM meta AS m;
END $$;
