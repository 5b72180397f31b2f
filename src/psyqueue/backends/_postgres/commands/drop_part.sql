-- Forget what was imported, or exported to stay elsewhere, without a trace.
-- Params: client, channel, turn. Jobs: ids, digests. The other items in `others`: JSON { part: [fields …] } (includes/moving.sql),
--   with their bytes in `cargo`. keys: what the call names, to be locked in one order.
-- Returns: a number: how many items were there, the same as given. Numbers stay, and needs go with their jobs alone.
-- Index: body_id; edge_child; the primary key of each table.
-- Cost: some ten statements for all jobs, one or two for the items of each other part.
-- Differs from the others: nothing but the syntax.
CREATE FUNCTION @schema@.drop_part(
    p_client text, p_channel bigint, p_turn bigint, p_ids text[], p_digests bytea[], p_others jsonb, p_cargo bytea[], p_keys text[]
) RETURNS text @settings@ AS $$
DECLARE
    t record;
    c record;
    v_part text;
    gone bigint := 0;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'drop_part');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    c := read_clock(false);
    IF p_keys IS NOT NULL THEN
        PERFORM lock_keys(p_keys);
    END IF;
    IF p_ids IS NOT NULL THEN
        gone := drop_moved(p_ids, p_digests, (SELECT mode = 'frozen' FROM meta));
    END IF;
    FOR v_part IN SELECT k FROM jsonb_object_keys(p_others) AS p (k) LOOP
        gone := gone + drop_others(v_part, p_others->v_part, p_cargo, c.mono_ms);
    END LOOP;
    IF gone > 0 THEN
        PERFORM note_change();
    END IF;
    PERFORM end_turn(p_client, p_channel, p_turn, 'drop_part', t.before, gone::text, c.mono_ms);
    RETURN gone::text;
END $$;

-- Jobs with their keys, places, needs and errors. Nobody moves up for that.
CREATE FUNCTION @schema@.drop_moved(p_ids text[], p_digests bytea[], p_is_frozen boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    numbers bigint[];
BEGIN
    numbers := ARRAY(SELECT t.n FROM job AS t WHERE t.n = ANY (ARRAY(
        SELECT b.n FROM generate_series(1, cardinality(p_ids)) AS i JOIN body AS b ON b.id = p_ids[i] WHERE b.digest = p_digests[i]
    )) ORDER BY t.n FOR UPDATE);
    -- Looked at behind the locks, which who comes to need one of them waits for: what another job waits for is not taken from
    -- it, unless all stands still.
    numbers := ARRAY(SELECT t.n FROM job AS t WHERE t.n = ANY (numbers) AND t.status + 0 <> 3
        AND (p_is_frozen OR t.held AND NOT EXISTS (SELECT 1 FROM edge AS e WHERE e.parent = t.n)));
    UPDATE gate AS g SET places = g.places - o.places FROM (
        SELECT t.gate, count(*) AS places FROM job AS t WHERE t.n = ANY (numbers) AND t.has_place GROUP BY t.gate ORDER BY t.gate
    ) AS o WHERE g.key = o.gate;
    DELETE FROM edge AS e WHERE e.child = ANY (numbers);
    DELETE FROM edge AS e WHERE e.parent = ANY (numbers);
    IF numbers <> '{}' THEN
        PERFORM drop_jobs(numbers);
    END IF;
    RETURN cardinality(numbers);
END $$;

-- Of the other parts, what stands there just as it was given.
CREATE FUNCTION @schema@.drop_others(p_part text, p_items jsonb, p_cargo bytea[], p_mono bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    gone bigint := 0;
BEGIN
    CASE p_part
        WHEN 'numbers', 'needs' THEN RETURN 0;
        WHEN 'limits' THEN DELETE FROM limits AS t USING limits_in(p_items) AS w
            WHERE t.queue = w.queue AND t.is_lane = w.is_lane AND t.lane = w.lane
                AND (t.paused_until_ms, t.weight, t.active_max, t.starts_per_minute, t.starts_burst, t.pending_max, t.retain_ended,
                    t.retain_dead)
                IS NOT DISTINCT FROM (w.paused_until_ms, w.weight, w.active_max, w.starts_per_minute, w.starts_burst, w.pending_max,
                    w.retain_ended, w.retain_dead);
        WHEN 'schedules' THEN DELETE FROM schedule AS t USING schedules_in(p_items, p_cargo) AS w
            WHERE t.id = w.id AND (t.spec, t.version, t.next_at_ms, t.last_nominal_ms, t.paused)
                IS NOT DISTINCT FROM (w.spec, w.version, w.next_at_ms, w.last_nominal_ms, w.paused);
        WHEN 'fires' THEN DELETE FROM fire AS t USING fires_in(p_items) AS w
            WHERE t.schedule_id = w.schedule_id AND t.nominal_ms = w.nominal_ms;
        WHEN 'state' THEN DELETE FROM state AS t USING state_in(p_items, p_cargo, p_mono) AS w
            WHERE t.key = w.key AND t.version = w.version AND t.value = w.value;
        WHEN 'streams' THEN DELETE FROM stream AS t USING streams_in(p_items) AS w WHERE t.stream = w.stream AND t.seq = w.seq;
        WHEN 'records' THEN DELETE FROM record AS t USING records_in(p_items, p_cargo, p_mono) AS w
            WHERE t.stream = w.stream AND t.seq = w.seq AND t.at_ms = w.at_ms AND t.body = w.body;
        WHEN 'locks' THEN DELETE FROM lock AS t USING locks_in(p_items, p_mono) AS w WHERE t.name = w.name AND t.fence = w.fence;
        WHEN 'keys' THEN DELETE FROM idempotency AS t USING keys_in(p_items, p_cargo, p_mono) AS w
            WHERE t.key = w.key AND t.id = w.id;
    END CASE;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;
