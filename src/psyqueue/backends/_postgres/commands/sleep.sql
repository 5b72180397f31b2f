-- Say who sleeps, and until when: steps then tell what they did.
-- Params: client, queues, job ids, ms until it has to be said again.
-- Returns: JSON [queues that have a job to start now, ids that have ended or are gone, the last number given].
-- Index: sleeper; job_ready, body_id.
-- Cost: one row for each name.
-- Differs from the others: what a step on its way commits after this look is not told: the client looks again soon.
CREATE FUNCTION @schema@.sleep(p_client text, p_queues text[], p_ids text[], p_for_ms bigint) RETURNS text @settings@ AS $$
DECLARE
    v_until bigint := floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + p_for_ms;
BEGIN
    INSERT INTO sleeper AS s (kind, key, client, until_ms)
    SELECT u.kind, u.key, p_client, v_until FROM (
        SELECT 'q'::"char" AS kind, q AS key FROM unnest(p_queues) AS a (q)
        UNION SELECT 'j'::"char", j FROM unnest(p_ids) AS b (j)
    ) AS u ORDER BY u.kind, u.key
    ON CONFLICT (kind, key, client) DO UPDATE SET until_ms = excluded.until_ms;
    RETURN '';
END $$;

-- name: look
CREATE FUNCTION @schema@.look(p_queues text[], p_ids text[]) RETURNS text @settings@ AS $$
DECLARE
    c record;
BEGIN
    c := read_clock(true);
    RETURN json_build_array(ARRAY(
        SELECT u.q FROM unnest(p_queues) AS u (q)
        WHERE EXISTS (SELECT 1 FROM job AS j WHERE j.queue = u.q AND j.status = 2 AND NOT j.held)
            AND NOT coalesce(is_paused(limits_of(u.q, NULL), c.now_ms), false)
    ), ARRAY(
        SELECT u.id FROM unnest(p_ids) AS u (id) JOIN body AS b ON b.id = u.id JOIN job AS j ON j.n = b.n WHERE j.status >= 4
    ), (SELECT last_value FROM number))::text;
END $$;

CREATE FUNCTION @schema@.wake_up(p_client text, p_queues text[], p_ids text[]) RETURNS text @settings@ AS $$
BEGIN
    DELETE FROM sleeper AS s WHERE s.client = p_client
        AND (s.kind = 'q' AND s.key = ANY (p_queues) OR s.kind = 'j' AND s.key = ANY (p_ids));
    RETURN '';
END $$;
