-- Who has keys: the live holder of a unique key, and who opened the window of an idempotency key.
-- Params: unique keys, idempotency keys.
-- Returns: one row of arrays, an element a key and NULL for a free one: ids of the live holders; ids and digests, kept beside
--   the keys since the jobs may be gone.
-- Index: unique_key by key, job by number; idempotency by key.
-- Cost: two statements; two rows a unique key, one an idempotency key.
-- Differs from the others: in nothing.
CREATE FUNCTION @schema@.holders(p_unique text[], p_idempotency text[]) RETURNS TABLE (
    unique_ids text[], kept_ids text[], kept_digests bytea[]
) @settings@ AS $$
#variable_conflict use_column
DECLARE
    c record;
BEGIN
    c := read_clock(true);
    unique_ids := ARRAY(SELECT t.id FROM unnest(p_unique) WITH ORDINALITY AS u (key, place)
        LEFT JOIN unique_key AS k ON k.key = u.key LEFT JOIN job AS t ON t.n = k.n ORDER BY u.place);
    SELECT array_agg(k.id ORDER BY u.place), array_agg(k.digest ORDER BY u.place) INTO kept_ids, kept_digests
    FROM unnest(p_idempotency) WITH ORDINALITY AS u (key, place)
    LEFT JOIN idempotency AS k ON k.key = u.key AND k.expires_mono_ms > c.mono_ms;
    RETURN NEXT;
END $$;
