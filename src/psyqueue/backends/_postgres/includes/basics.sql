-- Clock, refusals, turns, waking: what every verb stands on. Functions here run under the settings of the verb that calls.
-- Those that name their tables in full are called by one that pins no path.
--
-- Whether a step changed anything is a setting of the transaction, psyqueue.changed: a savepoint that is rolled back takes
-- it back, too, which no variable and no count of written rows would do.

-- A refusal ends the step (or the outcome that it rides on): nothing of it was written. The facts go to the client.
CREATE FUNCTION @schema@.refuse(p_code text, p_facts jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PQ001', MESSAGE = 'psyqueue refused: ' || p_code,
        DETAIL = (jsonb_build_array(p_code) || p_facts)::text;
END $$;

CREATE FUNCTION @schema@.note_change() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('psyqueue.changed', '1', true);
END $$;

-- A step takes its locks, and then has to see what was done before it got them. Where a role or database got another default
-- than read committed, nothing is done, and the client is told. The question stands where it is asked: a call costs as much
-- as a statement.
CREATE FUNCTION @schema@.refuse_isolation() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PQ003', MESSAGE = current_setting('transaction_isolation');
END $$;

-- Now, and the monotone clock: wall + kept offset, so that it stands still while the wall goes back. How far it came is
-- written once a second by whoever comes first. `p_is_quiet`: not in a transaction of somebody else's, which may be long.
CREATE FUNCTION @schema@.read_clock(p_is_quiet boolean, OUT now_ms bigint, OUT mono_ms bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    c record;
BEGIN
    SELECT test_clock_ms, shift_ms, k.mono_ms AS reached,
        coalesce(test_clock_ms, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) AS wall
    INTO c FROM clock AS k;
    now_ms := c.wall;
    mono_ms := greatest(c.wall + c.shift_ms, c.reached);
    IF c.test_clock_ms IS NULL AND NOT p_is_quiet
        AND (c.wall + c.shift_ms < c.reached OR c.wall + c.shift_ms > c.reached + 1000) THEN
        PERFORM keep_clock(c.wall);
    END IF;
    IF NOT p_is_quiet AND current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM refuse_isolation();
    END IF;
END $$;

CREATE FUNCTION @schema@.keep_clock(p_wall bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE @schema@.clock AS k SET shift_ms = greatest(k.shift_ms, k.mono_ms - p_wall),
        mono_ms = greatest(k.mono_ms, p_wall + k.shift_ms)
    WHERE k.one = ANY (ARRAY(SELECT one FROM @schema@.clock FOR NO KEY UPDATE SKIP LOCKED));
END $$;

-- Raises unless the namespace's mode is one of these.
CREATE FUNCTION @schema@.require_mode(p_modes text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    m record;
BEGIN
    SELECT mode, moved_to INTO m FROM meta;
    IF m.mode = ANY (p_modes) THEN
        RETURN;
    ELSIF m.mode = 'moved' OR m.moved_to <> '' THEN
        PERFORM refuse('NAMESPACE_MOVED', jsonb_build_array(m.moved_to));
    END IF;
    PERFORM refuse('NAMESPACE_FROZEN', jsonb_build_array(m.mode));
END $$;

CREATE FUNCTION @schema@.require_change() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM require_mode('{open,draining,filling}');
END $$;

-- New jobs and schedules.
CREATE FUNCTION @schema@.require_new() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM require_mode('{open,filling}');
END $$;

-- While draining only calls are taken that belong to jobs there. p_jobs: as includes/intake.sql has them, all of the call.
CREATE FUNCTION @schema@.require_enqueue(p_jobs jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    is_bound boolean := false;
BEGIN
    IF (SELECT mode = 'draining' FROM meta) THEN
        is_bound := belong_here(p_jobs);
    END IF;
    PERFORM require_mode(CASE WHEN is_bound THEN '{open,draining,filling}' ELSE '{open,filling}' END::text[]);
END $$;

-- One of the jobs needs another one, or stands at a gate that is in use: somebody has a place there, or is in line.
CREATE FUNCTION @schema@.belong_here(p_jobs jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_key text;
BEGIN
    -- Parents are locked before gates: who needs one looks at no gate here.
    IF EXISTS (SELECT 1 FROM jsonb_array_elements(p_jobs) AS u (j) WHERE j ? 'needs') THEN
        RETURN true;
    END IF;
    FOR v_key IN SELECT DISTINCT j->'gate'->>0 AS key FROM jsonb_array_elements(p_jobs) AS u (j)
        WHERE j ? 'gate' ORDER BY key
    LOOP
        IF is_gate_in_use(v_key) THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END $$;

-- It stays so until the commit: nobody leaves the gate, and whoever is found in line stays there.
CREATE FUNCTION @schema@.is_gate_in_use(p_key text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
BEGIN
    SELECT places INTO taken FROM gate WHERE key = p_key FOR NO KEY UPDATE;
    IF taken > 0 THEN
        RETURN true;
    END IF;
    PERFORM 1 FROM job WHERE gate = p_key AND status = 0 AND needs_left = 0 AND NOT held LIMIT 1 FOR NO KEY UPDATE;
    IF FOUND THEN
        RETURN true;
    END IF;
    -- No index has held jobs by their gate: all that wait are walked over.
    PERFORM 1 FROM job WHERE gate = p_key AND status = 0 AND needs_left = 0 AND held LIMIT 1 FOR NO KEY UPDATE;
    RETURN FOUND;
END $$;

-- True: nothing may change by itself, since it is being copied, or a copy, or was copied.
CREATE FUNCTION @schema@.is_still() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT mode IN ('filling', 'frozen', 'moved') FROM meta);
END $$;

-- ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────
-- The call was made before: what was said then. Raises STALE_OP for an older one.
CREATE FUNCTION @schema@.told_before(p_turn bigint, p_verb text, p_last bigint, p_last_verb text, p_reply text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    IF p_turn < p_last OR p_verb <> p_last_verb THEN
        PERFORM refuse('STALE_OP', jsonb_build_array(p_last));
    END IF;
    RETURN p_reply;
END $$;

-- A call begins: copies of it wait here for each other. `reply`: it was done before, and this was said.
CREATE FUNCTION @schema@.begin_turn(
    p_client text, p_channel bigint, p_turn bigint, p_verb text, OUT before bigint, OUT reply text
) LANGUAGE plpgsql AS $$
DECLARE
    t record;
BEGIN
    IF p_client IS NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended(@schema_text@ || ' turn ' || p_client, p_channel));
    SELECT o.turn, o.verb, o.reply INTO t FROM turn AS o
    WHERE o.client = p_client AND o.channel = p_channel ORDER BY o.turn DESC LIMIT 1;
    before := t.turn;
    IF p_turn <= t.turn THEN
        reply := told_before(p_turn, p_verb, t.turn, t.verb, t.reply);
    END IF;
END $$;

-- The same for the two verbs that everything hangs on, with all that they have to know: one look instead of six, since
-- each statement has a price of its own. The clock is the caller's to keep, where it is said to be behind.
CREATE FUNCTION @schema@.begin_step(
    p_client text, p_channel bigint, p_turn bigint, p_verb text, OUT before bigint, OUT reply text, OUT now_ms bigint,
    OUT mono_ms bigint, OUT mode text, OUT has_limits boolean, OUT has_sleepers boolean, OUT has_followers boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    last_verb text;
    is_behind boolean;
    wall bigint;
BEGIN
    IF p_client IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(@schema_text@ || ' turn ' || p_client, p_channel));
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            PERFORM refuse_isolation();
        END IF;
    END IF;
    wall := floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    -- Straight into what is returned: an assignment in plpgsql costs several times what a column does here.
    SELECT o.turn, o.verb, o.reply, coalesce(k.test_clock_ms, wall),
        greatest(coalesce(k.test_clock_ms, wall) + k.shift_ms, k.mono_ms), m.mode, EXISTS (SELECT 1 FROM limits),
        EXISTS (SELECT 1 FROM sleeper), EXISTS (SELECT 1 FROM follower),
        k.test_clock_ms IS NULL AND wall + k.shift_ms NOT BETWEEN k.mono_ms AND k.mono_ms + 1000
    INTO before, last_verb, reply, now_ms, mono_ms, mode, has_limits, has_sleepers, has_followers, is_behind
    FROM clock AS k CROSS JOIN meta AS m LEFT JOIN LATERAL (
        SELECT t.turn, t.verb, t.reply FROM turn AS t
        WHERE t.client = p_client AND t.channel = p_channel ORDER BY t.turn DESC LIMIT 1
    ) AS o ON true;
    IF p_turn <= before THEN
        reply := told_before(p_turn, p_verb, before, last_verb, reply);
        RETURN;
    END IF;
    reply := NULL;
    IF is_behind AND p_client IS NOT NULL THEN
        PERFORM keep_clock(wall);
    END IF;
END $$;

-- Remember the call, in place of the one before.
CREATE FUNCTION @schema@.keep_turn(
    p_client text, p_channel bigint, p_turn bigint, p_verb text, p_before bigint, p_reply text, p_mono bigint
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH gone AS (
        DELETE FROM turn AS t WHERE t.client = p_client AND t.channel = p_channel AND t.turn = p_before
    )
    INSERT INTO turn (client, channel, turn, verb, reply, mono_ms)
    VALUES (p_client, p_channel, p_turn, p_verb, p_reply, p_mono);
END $$;

CREATE FUNCTION @schema@.has_changed() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT current_setting('psyqueue.changed', true) IS NOT DISTINCT FROM '1'
$$;

-- If the call changed something, it is remembered.
CREATE FUNCTION @schema@.end_turn(
    p_client text, p_channel bigint, p_turn bigint, p_verb text, p_before bigint, p_reply text, p_mono bigint
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF p_client IS NOT NULL AND has_changed() THEN
        PERFORM keep_turn(p_client, p_channel, p_turn, p_verb, p_before, p_reply, p_mono);
    END IF;
END $$;

-- Two calls that name the same keys take them in the same order: the locks go with the transaction.
CREATE FUNCTION @schema@.lock_keys(p_keys text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    h bigint;
BEGIN
    FOR h IN SELECT DISTINCT hashtextextended(@schema_text@ || k, 1) AS hash FROM unnest(p_keys) AS k
        WHERE k IS NOT NULL ORDER BY hash
    LOOP
        PERFORM pg_advisory_xact_lock(h);
    END LOOP;
END $$;

-- ── waking ───────────────────────────────────────────────────────────────────────────────────────────────────────────
-- A commit with a notification takes a lock of the whole database: it is sent only if somebody sleeps.
--
-- A transaction that sent one cannot be prepared for a commit in two phases. Whoever will do that says so.
CREATE FUNCTION @schema@.is_quiet() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT current_setting('psyqueue.quiet', true) IS NOT DISTINCT FROM 'on'
$$;

CREATE FUNCTION @schema@.wake_queue(p_queue text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM @schema@.sleeper WHERE kind = 'q' AND key = p_queue) AND NOT @schema@.is_quiet() THEN
        PERFORM pg_notify(@channel_text@, 'q' || p_queue);
    END IF;
END $$;

CREATE FUNCTION @schema@.wake_queues(p_queues text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM sleeper WHERE kind = 'q') AND NOT is_quiet() THEN
        PERFORM pg_notify(@channel_text@, 'q' || q)
        FROM (SELECT DISTINCT key AS q FROM sleeper WHERE kind = 'q' AND key = ANY (p_queues)) AS s;
    END IF;
END $$;

CREATE FUNCTION @schema@.wake_jobs(p_ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM sleeper WHERE kind = 'j') AND NOT is_quiet() THEN
        PERFORM pg_notify(@channel_text@, 'j' || j)
        FROM (SELECT DISTINCT key AS j FROM sleeper WHERE kind = 'j' AND key = ANY (p_ids)) AS s;
    END IF;
END $$;

-- A job of these queues runs no more: news to who waits for a start, where a limit covers it.
CREATE FUNCTION @schema@.wake_crowded(p_queues text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM limits WHERE queue = ANY (p_queues) AND active_max IS NOT NULL) THEN
        PERFORM wake_queues(p_queues);
    END IF;
END $$;
