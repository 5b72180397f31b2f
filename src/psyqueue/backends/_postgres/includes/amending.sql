-- What an operator does to one job. As _memory/operating.py.

CREATE FUNCTION @schema@.drop_jobs(p_numbers bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH gone AS (DELETE FROM job AS t WHERE t.n = ANY (p_numbers) RETURNING t.n, t.unique_key)
    DELETE FROM unique_key AS u USING gone AS g WHERE u.key = g.unique_key AND u.n = g.n;
    PERFORM drop_rest(p_numbers);
END $$;

CREATE FUNCTION @schema@.drop_rest(p_numbers bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM error AS e WHERE e.n = ANY (p_numbers);
    DELETE FROM body AS b WHERE b.n = ANY (p_numbers);
    PERFORM note_change();
END $$;

-- A job that has not ended lists it among its needs: it keeps its parents.
CREATE FUNCTION @schema@.is_needed(j @schema@.job) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN j.links & 8 > 0 AND EXISTS (SELECT 1 FROM edge WHERE parent = j.n);
END $$;

-- Startable again; needs and places that came free meanwhile are looked at now.
CREATE FUNCTION @schema@.unhold(j @schema@.job, p_now bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    p bigint;
BEGIN
    IF NOT j.held THEN
        RETURN false;
    END IF;
    j.held := false;
    PERFORM save(j);
    IF j.links & 4 > 0 THEN
        FOR p IN SELECT e.parent FROM edge AS e JOIN job AS t ON t.n = e.parent
            WHERE e.child = j.n AND NOT e.met AND t.status >= 4 ORDER BY e.parent
        LOOP
            IF j.status = 0 THEN
                j := meet_need(j, p, p_now);
            END IF;
        END LOOP;
    END IF;
    IF j.gate IS NOT NULL AND j.status = 0 THEN
        PERFORM follow_later(NULL, j.gate);
    END IF;
    IF j.status IN (1, 2) THEN
        PERFORM note_rewound();
        PERFORM wake_queue(j.queue);
    END IF;
    RETURN true;
END $$;

-- True if it was changed. A held job only listens to unhold.
CREATE FUNCTION @schema@.amend_one(
    j @schema@.job, p_kind text, p_priority int, p_run_at bigint, p_result bytea, p_reason text, p_now bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF p_kind = 'unhold' THEN
        RETURN unhold(j, p_now);
    ELSIF j.held THEN
        RETURN false;
    ELSIF p_kind = 'cancel' AND j.status <= 2 THEN
        PERFORM end_job(j, 6, p_now, p_reason, NULL);
    ELSIF p_kind = 'cancel' AND j.status = 3 AND NOT j.cancel_requested THEN
        j.cancel_requested := true;
        j.reason := p_reason;
        PERFORM save(j);
    ELSIF p_kind = 'finish' AND j.status <= 2 THEN
        PERFORM end_job(j, 4, p_now, p_reason, p_result);
    ELSIF p_kind = 'replay' AND j.status = 5 THEN
        -- As who enqueues with this key: one who found it free relies on that.
        PERFORM lock_keys(ARRAY[' u ' || j.unique_key]);
        RETURN replay(j, p_now);
    ELSIF p_kind = 'delete' AND j.status >= 4 AND NOT is_needed(j) THEN
        PERFORM drop_jobs(ARRAY[j.n]);
    ELSIF p_kind = 'priority' AND j.status <= 2 THEN
        j.priority := p_priority;
        PERFORM note_rewound();
        PERFORM save(j);
        PERFORM wake_queue(j.queue);
    ELSIF p_kind = 'run_at' AND j.status <= 2 THEN
        j.run_at_ms := p_run_at;
        IF j.status = 2 AND p_run_at > p_now THEN
            j.status := 1;
            j.ready_number := NULL;
        END IF;
        PERFORM save(j);
        PERFORM wake_queue(j.queue);
    ELSIF p_kind = 'hold' AND j.status <> 3 THEN
        j.held := true;
        PERFORM save(j);
    ELSE
        RETURN false;
    END IF;
    RETURN true;
END $$;
