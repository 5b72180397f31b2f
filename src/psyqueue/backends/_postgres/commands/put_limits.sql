-- Replace the settings of queues and lanes, or just some of them; what is all back at the defaults is forgotten.
-- Params: op; for each as arrays: queue, lane (NULL: of the queue), and the settings (retention as ms and count, NULL = keep
--   all); the names of those to be replaced, none: all; effects with their cargo and keys.
-- Returns: an empty text.
-- Index: limits by name.
-- Cost: one row for each.
-- Differs from the others: the bucket of a start rate stays with its row.
CREATE FUNCTION @schema@.put_limits(
    p_client text, p_channel bigint, p_turn bigint, p_queues text[], p_lanes text[], p_paused bigint[], p_weights bigint[],
    p_active bigint[], p_rates bigint[], p_bursts bigint[], p_pending bigint[], p_ended_ms bigint[], p_ended_count bigint[],
    p_dead_ms bigint[], p_dead_count bigint[], p_only text[], p_effects jsonb, p_cargo bytea[], p_keys text[]
) RETURNS text @settings@ AS $$
DECLARE
    t record;
    c record;
    v_all boolean := cardinality(p_only) = 0;
    v_was_there boolean;
BEGIN
    t := begin_turn(p_client, p_channel, p_turn, 'put_limits');
    IF t.reply IS NOT NULL THEN
        RETURN t.reply;
    END IF;
    c := read_clock(false);
    PERFORM require_change();
    IF p_keys IS NOT NULL THEN
        PERFORM lock_keys(p_keys);
    END IF;
    FOR i IN 1 .. cardinality(p_queues) LOOP
        v_was_there := EXISTS (
            SELECT 1 FROM limits AS l
            WHERE l.queue = p_queues[i] AND l.is_lane = (p_lanes[i] IS NOT NULL) AND l.lane = coalesce(p_lanes[i], '')
        );
        INSERT INTO limits AS l (
            queue, is_lane, lane, paused_until_ms, weight, active_max, starts_per_minute, starts_burst, pending_max,
            retain_ended, retain_dead
        ) VALUES (
            p_queues[i], p_lanes[i] IS NOT NULL, coalesce(p_lanes[i], ''), p_paused[i], p_weights[i], p_active[i], p_rates[i],
            p_bursts[i], p_pending[i], CASE WHEN p_ended_ms[i] IS NOT NULL THEN ARRAY[p_ended_ms[i], p_ended_count[i]] END,
            CASE WHEN p_dead_ms[i] IS NOT NULL THEN ARRAY[p_dead_ms[i], p_dead_count[i]] END
        ) ON CONFLICT (queue, is_lane, lane) DO UPDATE SET
            paused_until_ms = CASE WHEN v_all OR 'paused_until_ms' = ANY (p_only) THEN excluded.paused_until_ms ELSE l.paused_until_ms END,
            weight = CASE WHEN v_all OR 'weight' = ANY (p_only) THEN excluded.weight ELSE l.weight END,
            active_max = CASE WHEN v_all OR 'active_max' = ANY (p_only) THEN excluded.active_max ELSE l.active_max END,
            starts_per_minute = CASE WHEN v_all OR 'starts_per_minute' = ANY (p_only) THEN excluded.starts_per_minute ELSE l.starts_per_minute END,
            starts_burst = CASE WHEN v_all OR 'starts_burst' = ANY (p_only) THEN excluded.starts_burst ELSE l.starts_burst END,
            pending_max = CASE WHEN v_all OR 'pending_max' = ANY (p_only) THEN excluded.pending_max ELSE l.pending_max END,
            retain_ended = CASE WHEN v_all OR 'retain_ended' = ANY (p_only) THEN excluded.retain_ended ELSE l.retain_ended END,
            retain_dead = CASE WHEN v_all OR 'retain_dead' = ANY (p_only) THEN excluded.retain_dead ELSE l.retain_dead END;
        DELETE FROM limits AS l
        WHERE l.queue = p_queues[i] AND l.is_lane = (p_lanes[i] IS NOT NULL) AND l.lane = coalesce(p_lanes[i], '')
            AND l.weight = 1 AND l.starts_burst = 1 AND l.retain_ended = '{86400000, 10000}' AND l.retain_dead = '{7776000000, 100000}'
            AND coalesce(l.paused_until_ms, l.active_max, l.starts_per_minute, l.pending_max) IS NULL;
        IF v_was_there OR NOT FOUND THEN
            PERFORM note_change();
        END IF;
        PERFORM wake_queue(p_queues[i]);
    END LOOP;
    IF p_effects IS NOT NULL THEN
        PERFORM apply_effects(p_effects, p_cargo, c.now_ms, c.mono_ms);
    END IF;
    PERFORM end_turn(p_client, p_channel, p_turn, 'put_limits', t.before, '', c.mono_ms);
    RETURN '';
END $$;
