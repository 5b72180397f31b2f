-- Broken invariants, in words.
-- Params: after id (NULL: from the start; what concerns the whole store comes with it), limit jobs.
-- Returns: JSON [words, next id or null].
-- Index: body_id.
-- Cost: limit jobs; the first call counts places and keys once.
-- Differs from the others: nothing is counted beside the jobs, so fewer counts can be wrong.
CREATE FUNCTION @schema@.check(p_after text, p_limit int) RETURNS text @settings@ AS $$
DECLARE
    words text[] := '{}';
    j job;
    looked int := 0;
    last text;
BEGIN
    IF p_after IS NULL THEN
        words := words_of_store();
    END IF;
    FOR j IN SELECT t.* FROM body AS b JOIN job AS t ON t.n = b.n
        WHERE p_after IS NULL OR b.id > p_after ORDER BY b.id LIMIT p_limit + 1
    LOOP
        IF looked = p_limit THEN
            RETURN json_build_array(words, last)::text;
        END IF;
        looked := looked + 1;
        last := j.id;
        words := words || words_of_job(j);
    END LOOP;
    RETURN json_build_array(words, NULL)::text;
END $$;

CREATE FUNCTION @schema@.words_of_store() RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN ARRAY(
        SELECT 'places of gate ' || coalesce(g.key, t.gate) || ' differ from the recount'
        FROM (SELECT key, places FROM gate WHERE places <> 0) AS g
        FULL JOIN (SELECT gate, count(*) AS places FROM job WHERE has_place GROUP BY gate) AS t ON t.gate = g.key
        WHERE g.places IS DISTINCT FROM t.places
    ) || ARRAY(
        SELECT 'job number ' || coalesce(j.n, b.n) || ' is there by half, or under two ids'
        FROM job AS j FULL JOIN body AS b ON b.n = j.n WHERE b.id IS DISTINCT FROM j.id
    ) || ARRAY(
        SELECT 'unique key ' || u.key || ' is held by a job that is gone or does not have it'
        FROM unique_key AS u LEFT JOIN job AS j ON j.n = u.n WHERE j.unique_key IS DISTINCT FROM u.key
    ) || ARRAY(
        SELECT 'a need of job number ' || e.child || ' leads nowhere, or the job has ended'
        FROM edge AS e LEFT JOIN job AS c ON c.n = e.child LEFT JOIN job AS p ON p.n = e.parent
        WHERE c.n IS NULL OR p.n IS NULL OR c.status >= 4 OR p.links & 8 = 0
    ) || ARRAY(
        SELECT 'an error of job number ' || e.n || ' has no job' FROM error AS e LEFT JOIN job AS j ON j.n = e.n WHERE j.n IS NULL
    ) || ARRAY(
        SELECT 'queue ' || t.queue || ' keeps fewer ended jobs than were counted' FROM tally AS t WHERE t.count > (
            SELECT count(*) FROM job AS j WHERE j.queue = t.queue AND j.status = t.status AND j.completed_at_ms <= t.at_ms
        )
    );
END $$;

CREATE FUNCTION @schema@.words_of_job(j @schema@.job) RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN ARRAY(SELECT 'job ' || j.id || ': ' || v.promise FROM (VALUES
        ('active, token and session go together', (j.status = 3) = (j.session IS NOT NULL) AND (j.status <> 3 OR j.token IS NOT NULL)),
        ('its session is there', j.session IS NULL OR EXISTS (SELECT 1 FROM session AS s WHERE s.n = j.session)),
        ('an ended job has its time of end', (j.status >= 4) = (j.completed_at_ms IS NOT NULL)),
        ('pending has a ready number', j.status <> 2 OR j.ready_number IS NOT NULL),
        ('attempt is within its retries', j.attempt BETWEEN 0 AND j.max_retries + 1),
        ('fence is at least attempt', j.fence >= j.attempt),
        ('unmet needs are counted', j.status <> 0
            OR j.needs_left = (SELECT count(*) FROM edge AS e WHERE e.child = j.n AND NOT e.met)),
        ('an ended job holds no place', NOT (j.has_place AND j.status >= 4)),
        ('errors are bounded', (SELECT count(*) FROM error AS e WHERE e.n = j.n) <= 20),
        ('active is not held', NOT (j.held AND j.status = 3)),
        ('only what runs is asked to stop', NOT (j.cancel_requested AND j.status <> 3)),
        ('a key is known', (j.unique_key IS NOT NULL) = (j.links & 1 > 0) AND (j.gate IS NOT NULL) = (j.links & 2 > 0))
    ) AS v (promise, holds) WHERE NOT v.holds);
END $$;
