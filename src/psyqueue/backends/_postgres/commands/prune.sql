-- Delete what no rule keeps.
-- Params: limit 1..500 of each kind.
-- Returns: JSON [ids of the jobs, more].
-- Index: job_ended, and the one by age of each table.
-- Cost: two counts for each queue with ended jobs, of the kinds that its retention counts; limit rows of each kind.
-- Differs from the others: jobs are counted when they are pruned, not when they move.
CREATE FUNCTION @schema@.prune(p_limit int) RETURNS text @settings@ AS $$
DECLARE
    c record;
    ids text[] := '{}';
    q text;
    l limits;
    gone bigint;
    is_more boolean := false;
BEGIN
    c := read_clock(false);
    q := next_ended_queue('', false);
    WHILE q IS NOT NULL AND cardinality(ids) < p_limit LOOP
        l := limits_of(q, NULL);
        IF l.queue IS NULL THEN
            l.retain_ended := '{86400000, 10000}';
            l.retain_dead := '{7776000000, 100000}';
        END IF;
        IF l.retain_ended IS NOT NULL THEN
            ids := ids || prune_kind(q, '{4, 6}', l.retain_ended, p_limit - cardinality(ids), c.now_ms);
        END IF;
        IF l.retain_dead IS NOT NULL AND cardinality(ids) < p_limit THEN
            ids := ids || prune_kind(q, '{5}', l.retain_dead, p_limit - cardinality(ids), c.now_ms);
        END IF;
        q := next_ended_queue(q, true);
    END LOOP;
    is_more := cardinality(ids) >= p_limit OR prune_aged(p_limit, c.mono_ms);
    DELETE FROM gate AS g WHERE g.key = ANY (ARRAY(
        SELECT t.key FROM gate AS t WHERE t.places = 0
            AND NOT EXISTS (SELECT 1 FROM job AS w WHERE w.gate = t.key AND w.status = 0 AND w.needs_left = 0 AND NOT w.held)
        LIMIT p_limit FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM sleeper WHERE until_ms < extract(epoch FROM clock_timestamp()) * 1000;
    RETURN json_build_array(ids, is_more)::text;
END $$;
