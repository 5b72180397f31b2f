-- phase: pre
-- The history for people who ask: views whose columns are a promise. Nothing in psyqueue reads them, and no row of any
-- store makes them fail: bodies are bytes that somebody called JSON, instants are any number.

-- NULL: this is no JSON, or none that PostgreSQL can hold as jsonb (deep nesting, lone surrogates). \u0000, which it
-- cannot hold either, becomes the sign for a lost character, so that an error with a zero byte in its text is still found
-- by its type. IMMUTABLE, so that a view leaves it out where nobody reads the column.
CREATE FUNCTION @schema@.history_json(p_body bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN convert_from(p_body, 'UTF8')::jsonb;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        RETURN regexp_replace(convert_from(p_body, 'UTF8'), '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g')::jsonb;
    EXCEPTION WHEN OTHERS THEN
        RETURN NULL;
    END;
END $$;

-- Instants beyond what people's calendars hold are shown as their ends: the years 1 and 9999.
CREATE FUNCTION @schema@.history_time(p_at_ms bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN p_at_ms IS NOT NULL
        THEN pg_catalog.to_timestamp(greatest(least(p_at_ms, 253402300799999), -62135596800000) / 1000.0) END
$$;

DROP VIEW @schema@.jobs, @schema@.job_errors;

CREATE VIEW @schema@.jobs AS
SELECT
    b.id, j.queue, j.lane, j.name,
    (ARRAY['waiting', 'scheduled', 'pending', 'active', 'completed', 'dead', 'cancelled'])[j.status + 1] AS status,
    j.reason, j.priority, j.attempt, j.max_retries, j.lost, j.max_lost, j.generation, j.held, j.cancel_requested,
    @schema@.history_time(j.created_at_ms) AS created_at,
    @schema@.history_time(j.run_at_ms) AS run_at,
    @schema@.history_time(j.started_at_ms) AS started_at,
    @schema@.history_time(j.completed_at_ms) AS completed_at,
    @schema@.history_time(j.expires_at_ms) AS expires_at,
    s.worker,
    j.unique_key, j.gate,
    @schema@.history_json(b.payload) AS payload, b.payload AS payload_bytes,
    CASE WHEN j.status = 4 THEN @schema@.history_json(coalesce(j.result, 'null')) END AS result,
    CASE WHEN j.status = 4 THEN coalesce(j.result, 'null') END AS result_bytes,
    @schema@.history_json(b.cold) AS options
FROM @schema@.job AS j JOIN @schema@.body AS b ON b.n = j.n
LEFT JOIN @schema@.session AS s ON s.n = j.session AND j.status = 3;

CREATE VIEW @schema@.failed_runs AS
SELECT
    b.id AS job_id, j.queue, j.name, e.number,
    coalesce(r.error->>'type' = 'WorkerLost' AND r.error ? 'session', false) AS is_lost,
    CASE WHEN jsonb_typeof(r.error->'attempt') = 'number'
        THEN least(greatest((r.error->>'attempt')::numeric, 0), 2147483647)::integer END AS attempt,
    CASE WHEN jsonb_typeof(r.error->'at_ms') = 'number'
        THEN @schema@.history_time(least(greatest((r.error->>'at_ms')::numeric, -1e15), 1e15)::bigint) END AS failed_at,
    r.error->>'type' AS type, r.error->>'message' AS message, r.error->>'traceback' AS traceback,
    r.error, e.error AS error_bytes
FROM @schema@.error AS e JOIN @schema@.job AS j ON j.n = e.n JOIN @schema@.body AS b ON b.n = e.n
-- OFFSET 0: the text is read once a row, not once a column.
CROSS JOIN LATERAL (SELECT @schema@.history_json(e.error) AS error OFFSET 0) AS r;
