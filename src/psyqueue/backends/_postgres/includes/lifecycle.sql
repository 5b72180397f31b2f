-- How jobs move: to pending, to their end, into and out of gates and needs. As _memory/lifecycle.py says it.
-- A job on its way through these functions is a whole row; `save` writes what may have changed.

CREATE FUNCTION @schema@.save(j @schema@.job) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE job AS t SET
        run_at_ms = j.run_at_ms, ready_number = j.ready_number, expires_at_ms = j.expires_at_ms,
        started_at_ms = j.started_at_ms, completed_at_ms = j.completed_at_ms, session = j.session,
        priority = j.priority, size = j.size, attempt = j.attempt, lost = j.lost, fence = j.fence, generation = j.generation,
        needs_left = j.needs_left, status = j.status, links = j.links, held = j.held,
        cancel_requested = j.cancel_requested, has_place = j.has_place, token = j.token, reason = j.reason,
        result = j.result
    WHERE t.n = j.n;
    PERFORM note_change();
END $$;

CREATE FUNCTION @schema@.has_status(p_mask smallint, p_status smallint) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT p_mask >> p_status & 1 = 1
$$;

-- Waiting (or new) → pending or scheduled, by run_at.
CREATE FUNCTION @schema@.admit(INOUT j @schema@.job, p_now bigint) LANGUAGE plpgsql AS $$
BEGIN
    IF j.run_at_ms > p_now THEN
        j.status := 1;
    ELSE
        j.status := 2;
        j.ready_number := nextval('number');
    END IF;
    PERFORM save(j);
    PERFORM wake_queue(j.queue);
END $$;

-- Its unique key is free as soon as its status is none of those that keep it.
CREATE FUNCTION @schema@.let_go_key(j @schema@.job) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF j.unique_key IS NOT NULL AND NOT has_status(j.unique_mask, j.status) THEN
        DELETE FROM unique_key WHERE key = j.unique_key AND n = j.n;
    END IF;
END $$;

CREATE FUNCTION @schema@.follow_later(p_parent bigint, p_gate text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO follower (ticket, parent, gate) VALUES (nextval('ticket'), p_parent, p_gate);
END $$;

-- → completed, dead or cancelled: keys and places are let go; who waited for it moves in `follow_through`.
CREATE FUNCTION @schema@.end_job(INOUT j @schema@.job, p_status int, p_now bigint, p_reason text, p_result bytea)
LANGUAGE plpgsql AS $$
DECLARE
    was_active boolean := j.status = 3;
    had_place boolean := j.has_place;
BEGIN
    j.status := p_status;
    j.reason := p_reason;
    j.result := CASE WHEN p_result <> convert_to('null', 'UTF8') THEN p_result END;
    j.completed_at_ms := p_now;
    j.session := NULL;
    j.cancel_requested := false;
    j.has_place := false;
    PERFORM save(j);
    PERFORM wake_jobs(ARRAY[j.id]);
    IF was_active THEN
        PERFORM wake_crowded(ARRAY[j.queue]);
    END IF;
    IF j.links = 0 THEN
        RETURN;
    END IF;
    PERFORM let_go_key(j);
    IF had_place THEN
        UPDATE gate SET places = places - 1 WHERE key = j.gate;
        PERFORM follow_later(NULL, j.gate);
    END IF;
    IF j.links & 4 > 0 THEN
        DELETE FROM edge WHERE child = j.n;
    END IF;
    IF j.links & 8 > 0 AND EXISTS (SELECT 1 FROM edge WHERE parent = j.n) THEN
        PERFORM follow_later(j.n, NULL);
    END IF;
END $$;

-- ── gates ────────────────────────────────────────────────────────────────────────────────────────────────────────────
-- Places taken, and the gate's row locked until the step is over.
CREATE FUNCTION @schema@.places_of(p_key text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
BEGIN
    LOOP
        SELECT places INTO taken FROM gate WHERE key = p_key FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO gate (key, places) VALUES (p_key, 0) ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN taken;
END $$;

CREATE FUNCTION @schema@.take_place(INOUT j @schema@.job, p_now bigint) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE gate SET places = places + 1 WHERE key = j.gate;
    j.has_place := true;
    j := admit(j, p_now);
END $$;

-- Its needs are met: take a place of its gate and be admitted, or stand in line. First come, first served.
CREATE FUNCTION @schema@.enter_gate(INOUT j @schema@.job, p_now bigint) LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
BEGIN
    IF j.gate IS NULL THEN
        j := admit(j, p_now);
        RETURN;
    END IF;
    -- A statement of its own: it may wait, and the look at the line has to see what was done meanwhile.
    taken := places_of(j.gate);
    IF taken >= j.gate_max OR EXISTS (
        SELECT 1 FROM job WHERE gate = j.gate AND status = 0 AND needs_left = 0 AND NOT held AND n <> j.n
    ) THEN
        PERFORM save(j);
    ELSE
        j := take_place(j, p_now);
    END IF;
END $$;

-- ── follow-through ───────────────────────────────────────────────────────────────────────────────────────────────────
-- The parent ended: count it, or give the child up if it ended in another way than the child needs.
CREATE FUNCTION @schema@.meet_need(INOUT j @schema@.job, p_parent bigint, p_now bigint) LANGUAGE plpgsql AS $$
DECLARE
    is_met boolean;
BEGIN
    SELECT has_status(e.mask, p.status) INTO is_met FROM edge AS e JOIN job AS p ON p.n = e.parent
    WHERE e.parent = p_parent AND e.child = j.n;
    IF NOT is_met THEN
        j := end_job(j, 6, p_now, 'dependency', NULL);
        RETURN;
    END IF;
    UPDATE edge SET met = true WHERE parent = p_parent AND child = j.n;
    j.needs_left := j.needs_left - 1;
    IF j.needs_left = 0 THEN
        j := enter_gate(j, p_now);
    ELSE
        PERFORM save(j);
    END IF;
END $$;

CREATE FUNCTION @schema@.free_places(p_key text, p_now bigint, p_limit int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    j job;
    moved int := 0;
BEGIN
    WHILE moved < p_limit LOOP
        EXIT WHEN NOT EXISTS (
            SELECT 1 FROM job WHERE gate = p_key AND status = 0 AND needs_left = 0 AND NOT held
        );
        PERFORM places_of(p_key);
        SELECT t.* INTO j FROM job AS t WHERE t.gate = p_key AND t.status = 0 AND t.needs_left = 0 AND NOT t.held
        ORDER BY t.n LIMIT 1 FOR NO KEY UPDATE;
        EXIT WHEN NOT FOUND OR places_of(p_key) >= j.gate_max;
        j := take_place(j, p_now);
        moved := moved + 1;
    END LOOP;
    RETURN moved;
END $$;

CREATE FUNCTION @schema@.meet_needs(p_parent bigint, p_now bigint, p_limit int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    j job;
    c bigint;
    moved int := 0;
BEGIN
    FOR c IN SELECT e.child FROM edge AS e WHERE e.parent = p_parent AND NOT e.met ORDER BY e.child LOOP
        EXIT WHEN moved >= p_limit;
        SELECT t.* INTO j FROM job AS t WHERE t.n = c FOR NO KEY UPDATE;
        -- Looked at again behind the lock: somebody else may have been here.
        IF j.status = 0 AND NOT j.held AND EXISTS (SELECT 1 FROM edge WHERE parent = p_parent AND child = c AND NOT met)
        THEN
            j := meet_need(j, p_parent, p_now);
            moved := moved + 1;
        END IF;
    END LOOP;
    RETURN moved;
END $$;

-- Move what ended jobs set free, oldest end first, at most `p_limit` jobs. True: some are left for the next step.
CREATE FUNCTION @schema@.follow_through(p_now bigint, p_limit int DEFAULT 500) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    f record;
    budget int := p_limit;
BEGIN
    LOOP
        SELECT * INTO f FROM follower ORDER BY ticket LIMIT 1 FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        PERFORM note_change();
        IF f.gate IS NOT NULL THEN
            budget := budget - free_places(f.gate, p_now, budget);
        ELSE
            budget := budget - meet_needs(f.parent, p_now, budget);
        END IF;
        IF budget <= 0 THEN
            RETURN true;
        END IF;
        DELETE FROM follower WHERE ticket = f.ticket;
    END LOOP;
END $$;

-- ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
-- Unstarted jobs whose time is over → dead(`expired`), in the order of the queues, then of expiry.
CREATE FUNCTION @schema@.expire(p_queues text[], p_now bigint, p_limit int, OUT ids text[], OUT more boolean)
LANGUAGE plpgsql AS $$
DECLARE
    q text;
    j job;
BEGIN
    ids := '{}';
    FOREACH q IN ARRAY p_queues LOOP
        CONTINUE WHEN NOT EXISTS (
            SELECT 1 FROM job AS t
            WHERE t.queue = q AND t.expires_at_ms IS NOT NULL AND t.expires_at_ms <= p_now AND t.status <= 2 AND NOT t.held
        );
        FOR j IN SELECT t.* FROM job AS t
            WHERE t.queue = q AND t.expires_at_ms IS NOT NULL AND t.expires_at_ms <= p_now AND t.status <= 2 AND NOT t.held
            ORDER BY t.expires_at_ms, t.n LIMIT p_limit - cardinality(ids) FOR NO KEY UPDATE SKIP LOCKED
        LOOP
            PERFORM end_job(j, 5, p_now, 'expired', NULL);
            ids := ids || j.id;
        END LOOP;
    END LOOP;
    more := cardinality(ids) >= p_limit;
END $$;

-- Due jobs → pending, earliest first, in the order of the queues.
CREATE FUNCTION @schema@.promote_due(p_queues text[], p_now bigint, p_limit int, OUT ids text[], OUT more boolean)
LANGUAGE plpgsql AS $$
DECLARE
    q text;
    due bigint[];
    due_ids text[];
BEGIN
    ids := '{}';
    FOREACH q IN ARRAY p_queues LOOP
        SELECT array_agg(d.n ORDER BY d.run_at_ms, d.n), array_agg(d.id ORDER BY d.run_at_ms, d.n) INTO due, due_ids FROM (
            SELECT t.n, t.id, t.run_at_ms FROM job AS t
            WHERE t.queue = q AND t.status = 1 AND NOT t.held AND t.run_at_ms <= p_now
            ORDER BY t.run_at_ms, t.n LIMIT p_limit - cardinality(ids) FOR NO KEY UPDATE SKIP LOCKED
        ) AS d;
        IF due IS NOT NULL THEN
            UPDATE job AS t SET status = 2, ready_number = r.ready
            FROM (SELECT u.n, nextval('number') AS ready FROM unnest(due) AS u (n)) AS r WHERE t.n = r.n;
            ids := ids || due_ids;
            PERFORM wake_queue(q);
            PERFORM note_change();
        END IF;
    END LOOP;
    more := cardinality(ids) >= p_limit;
END $$;

-- When the first scheduled job of the queues is due; NULL: there is none.
CREATE FUNCTION @schema@.next_due_in(p_queues text[], p_now bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    q text;
    at_ms bigint;
    first_ms bigint;
BEGIN
    FOREACH q IN ARRAY p_queues LOOP
        SELECT run_at_ms INTO at_ms FROM job WHERE queue = q AND status = 1 AND NOT held ORDER BY run_at_ms, n LIMIT 1;
        first_ms := least(first_ms, at_ms);
    END LOOP;
    RETURN CASE WHEN first_ms IS NOT NULL THEN greatest(0, first_ms - p_now) END;
END $$;
