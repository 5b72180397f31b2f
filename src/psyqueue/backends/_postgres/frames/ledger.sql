-- What is there already, and how it is made. Each section is one statement of the client's own.
-- name: ledger
SELECT number, name, checksum FROM @schema@.migration ORDER BY number;

-- name: has_ledger
SELECT to_regclass($1) IS NOT NULL;

-- name: has_functions
SELECT EXISTS (SELECT 1 FROM @schema@.function_set WHERE suffix = $1);

-- name: lock
SELECT pg_advisory_xact_lock(hashtextextended('psyqueue schema ' || $1, 0));

-- name: prepare
SELECT set_config('search_path', '@schema@, pg_temp', true), set_config('check_function_bodies', 'off', true);

-- name: begin
CREATE SCHEMA IF NOT EXISTS @schema@;

-- name: create_ledger
CREATE TABLE IF NOT EXISTS @schema@.migration (
    number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: create_sets
CREATE TABLE IF NOT EXISTS @schema@.function_set (
    suffix text PRIMARY KEY, version text NOT NULL, made_at timestamptz NOT NULL DEFAULT now()
);

-- name: note
INSERT INTO @schema@.migration (number, name, checksum) VALUES ($1, $2, $3);

-- name: note_functions
INSERT INTO @schema@.function_set (suffix, version) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: start_clock
INSERT INTO @schema@.clock (test_clock_ms, reaped_mono_ms)
VALUES ($1, coalesce($1, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)) ON CONFLICT DO NOTHING;

-- name: is_test_clock
SELECT test_clock_ms IS NOT NULL FROM @schema@.clock;
