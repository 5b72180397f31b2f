-- Delete what no rule keeps; while filling, frozen or moved nothing.
-- Params: limit 1..500 of each kind.
-- Returns: JSON [ids of the jobs, more].
-- Index: job_ended, and the one by age of each table; lane and gate by key.
-- Cost: some ten statements for all jobs of a queue; limit rows of each kind. What a queue keeps is counted once
--   (includes/tally.sql): queues until 50,000 jobs are counted, and the next call goes on there; 10 lanes and gates for each
--   of the limit, and 100 lanes with jobs.
-- Differs from the others: jobs are counted when they are pruned, not when they move; nothing is too much in a queue that
--   somebody else prunes just now.
CREATE FUNCTION @schema@.prune(p_limit int) RETURNS text @settings@ AS $$
DECLARE
    c record;
    r record;
    ids text[] := '{}';
    q text;
    l limits;
    counted bigint := 0;
    is_cut boolean := false;
BEGIN
    IF is_still() THEN
        RETURN '[[], false]';
    END IF;
    c := read_clock(false);
    q := next_ended_queue((SELECT queue FROM round WHERE what = 'ended'), false);
    WHILE q IS NOT NULL LOOP
        l := limits_of(q, NULL);
        IF l.queue IS NULL THEN
            l.retain_ended := '{86400000, 10000}';
            l.retain_dead := '{7776000000, 100000}';
        END IF;
        IF l.retain_ended IS NOT NULL THEN
            r := prune_kind(q, '{4, 6}', l.retain_ended, p_limit - cardinality(ids), c.now_ms, c.mono_ms);
            ids := ids || r.ids;
            counted := counted + r.looked_at;
            is_cut := is_cut OR r.is_cut;
        END IF;
        IF l.retain_dead IS NOT NULL AND cardinality(ids) < p_limit THEN
            r := prune_kind(q, '{5}', l.retain_dead, p_limit - cardinality(ids), c.now_ms, c.mono_ms);
            ids := ids || r.ids;
            counted := counted + r.looked_at;
            is_cut := is_cut OR r.is_cut;
        END IF;
        EXIT WHEN cardinality(ids) >= p_limit OR is_cut;
        q := next_ended_queue(q, true);
        EXIT WHEN counted >= 50000;
    END LOOP;
    PERFORM go_on_at('ended', coalesce(q, ''), '');
    PERFORM prune_gates(p_limit);
    PERFORM restore_lanes(100);
    DELETE FROM sleeper WHERE until_ms < extract(epoch FROM clock_timestamp()) * 1000;
    RETURN json_build_array(ids, prune_aged(p_limit, c.mono_ms) OR prune_lanes(p_limit) OR q IS NOT NULL)::text;
END $$;
