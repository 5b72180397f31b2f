-- One change to what matches.
-- Params: op; filter (includes/reading.sql), change (kind, priority, instant in ms, result, reason), cursor, limit 1..500;
--   effects with their cargo and keys, which apply once, if anything was changed.
-- Returns: JSON [changed ids, [[skipped id, status or null] …], next cursor].
-- Index: those of list_jobs.
-- Cost: 1,000 jobs looked at; some five statements for each that is changed.
-- Differs from the others: a walk goes by status, and where jobs go to comes before where they come from, so that it never
--   meets what it changed.
CREATE FUNCTION @schema@.amend(
    p_client text, p_channel bigint, p_turn bigint, p_where jsonb, p_kind text, p_priority int, p_run_at bigint,
    p_result bytea, p_reason text, p_cursor jsonb, p_limit int, p_effects jsonb, p_cargo bytea[], p_keys text[]
) RETURNS text @settings@ AS $$
DECLARE
    t record;
    c record;
    w record;
    j job;
    changed jsonb := '[]';
    skipped jsonb := '[]';
    reply text;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'amend');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    c := read_clock(false);
    PERFORM require_change();
    IF p_keys IS NOT NULL THEN
        PERFORM lock_keys(p_keys);
    END IF;
    IF p_where ? 'ids' THEN
        SELECT array_agg(u.n) AS numbers, NULL::jsonb AS next INTO w FROM (
            SELECT h.n FROM jsonb_array_elements_text(p_where->'ids') WITH ORDINALITY AS i (id, place)
            JOIN body AS h ON h.id = i.id ORDER BY i.place
        ) AS u;
    ELSE
        w := walk(p_where, p_cursor, p_limit,
            CASE WHEN p_kind = 'replay' THEN '{0, 1, 2, 3, 4, 6, 5}' ELSE '{4, 5, 6, 3, 1, 0, 2}' END::int[]);
        w.numbers := ARRAY(SELECT u.n FROM unnest(w.numbers) AS u (n) ORDER BY u.n);
    END IF;
    PERFORM 1 FROM job AS h WHERE h.n = ANY (w.numbers) ORDER BY h.n FOR NO KEY UPDATE;
    FOR i IN 1 .. coalesce(cardinality(w.numbers), 0) LOOP
        SELECT h.* INTO j FROM job AS h WHERE h.n = w.numbers[i];
        CONTINUE WHEN NOT FOUND;
        IF matches(j, p_where) AND amend_one(j, p_kind, p_priority, p_run_at, p_result, p_reason, c.now_ms) THEN
            changed := changed || to_jsonb(j.id);
        ELSE
            skipped := skipped || jsonb_build_array(jsonb_build_array(j.id, j.status));
        END IF;
    END LOOP;
    IF p_where ? 'ids' THEN
        skipped := skipped || coalesce((
            SELECT jsonb_agg(jsonb_build_array(i.id, NULL) ORDER BY i.place)
            FROM jsonb_array_elements_text(p_where->'ids') WITH ORDINALITY AS i (id, place)
            WHERE NOT changed ? i.id AND NOT EXISTS (SELECT 1 FROM body AS h WHERE h.id = i.id)
        ), '[]');
    END IF;
    PERFORM follow_through(c.now_ms);
    IF changed <> '[]' AND p_effects IS NOT NULL THEN
        PERFORM apply_effects(p_effects, p_cargo, c.now_ms, c.mono_ms);
    END IF;
    reply := jsonb_build_array(changed, skipped, w.next)::text;
    PERFORM end_turn(p_client, p_channel, p_turn, 'amend', t.before, reply, c.mono_ms);
    RETURN reply;
END $$;
