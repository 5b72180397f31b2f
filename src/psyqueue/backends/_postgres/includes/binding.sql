-- Verbs inside a transaction of somebody else's: one round trip each. As the verbs themselves, but for the reply.
--
-- What is refused is taken back to a savepoint, and is the reply, since an error would end the caller's transaction. Only a
-- cancelled statement does, which no savepoint survives.
-- Reply: that of the verb, or { error: [SQLSTATE, text, detail] }, or { elsewhere: whose store this is }.

-- Which store this is, and on which server: a copy of the database has the same id, but not the same place.
CREATE FUNCTION @schema@.store_identity() RETURNS text @settings@ AS $$
BEGIN
    RETURN (SELECT concat_ws(' ', m.store_id, d.oid, extract(epoch FROM pg_postmaster_start_time()))
        FROM meta AS m, pg_database AS d WHERE d.datname = current_database());
END $$;

CREATE FUNCTION @schema@.enqueue_bound(
    p_store text, p_ids text[], p_queues text[], p_names text[], p_payloads bytea[], p_colds bytea[], p_digests bytea[],
    p_extras bytea[], p_lanes text[], p_priorities int[], p_max_retries int[], p_max_lost int[], p_delays bigint[],
    p_run_ats bigint[], p_expires bigint[], p_jobs jsonb, p_cargo bytea[], p_effects jsonb, p_keys text[]
) RETURNS text @settings@ AS $$
DECLARE
    v_state text;
    v_text text;
    v_detail text;
BEGIN
    IF store_identity() <> p_store THEN
        RETURN json_build_object('elsewhere', store_identity());
    END IF;
    PERFORM require_present_mode();
    PERFORM require_fresh_counts(coalesce(p_queues, ARRAY(SELECT j->>'queue' FROM jsonb_array_elements(p_jobs) AS j)));
    RETURN enqueue(NULL, NULL, NULL, p_ids, p_queues, p_names, p_payloads, p_colds, p_digests, p_extras, p_lanes,
        p_priorities, p_max_retries, p_max_lost, p_delays, p_run_ats, p_expires, p_jobs, p_cargo, p_effects, p_keys);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_state = RETURNED_SQLSTATE, v_text = MESSAGE_TEXT, v_detail = PG_EXCEPTION_DETAIL;
    RETURN json_build_object('error', json_build_array(v_state, v_text, v_detail));
END $$;

-- `p_idle_ms`: the server gives the transaction up if it hears nothing for that long from now on. NULL: it stays as it is.
CREATE FUNCTION @schema@.settle_bound(
    p_store text, p_session text, p_ids text[], p_numbers bigint[], p_seeds text[], p_results bytea[], p_outcomes jsonb,
    p_cargo bytea[], p_keys text[], p_idle_ms int
) RETURNS text @settings@ AS $$
DECLARE
    v_state text;
    v_text text;
    v_detail text;
BEGIN
    IF store_identity() <> p_store THEN
        RETURN json_build_object('elsewhere', store_identity());
    END IF;
    IF p_idle_ms IS NOT NULL THEN
        PERFORM set_config('idle_in_transaction_session_timeout', p_idle_ms::text, true);
    END IF;
    RETURN (SELECT s.head FROM settle(NULL, NULL, NULL, p_session, p_ids, p_numbers, p_seeds, p_results, p_outcomes, p_cargo,
        p_keys, NULL, 0, NULL, 0, NULL, false) AS s);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_state = RETURNED_SQLSTATE, v_text = MESSAGE_TEXT, v_detail = PG_EXCEPTION_DETAIL;
    RETURN json_build_object('error', json_build_array(v_state, v_text, v_detail));
END $$;

-- A transaction that sees the store as it was some time ago does not see that the mode was set since, and whoever set it does
-- not wait for it, if it did not use the store before. Where the row is another one by now, locking it fails with 40001; else
-- the lock is taken back, since it would keep others from setting the mode.
CREATE FUNCTION @schema@.require_present_mode() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM 1 FROM meta FOR SHARE;
        RAISE EXCEPTION USING ERRCODE = 'PQ002';
    END IF;
EXCEPTION WHEN SQLSTATE 'PQ002' THEN
    NULL;
END $$;

-- A transaction that sees the store as it was some time ago cannot count what is in a queue by now.
CREATE FUNCTION @schema@.require_fresh_counts(p_queues text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_isolation text := current_setting('transaction_isolation');
BEGIN
    IF v_isolation <> 'read committed'
        AND EXISTS (SELECT 1 FROM limits WHERE queue = ANY (p_queues) AND pending_max IS NOT NULL) THEN
        PERFORM refuse('INVALID_STATE', jsonb_build_array('the queue has a pending_max, and a transaction that is '
            || v_isolation || ' cannot count what is in it by now. Begin it as read committed, or lift the limit'));
    END IF;
END $$;
