-- How the schema is made and brought up to date: parts of one transaction, each of which may be run again. What a client
-- runs at connect and what `psyqueue schema print-sql` prints is the same text.
-- name: lock
DO $psyqueue$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('psyqueue schema ' || @schema_text@, 0));
END $psyqueue$;
SET LOCAL lock_timeout = '10s';
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;
SET LOCAL check_function_bodies = off

-- name: begin
DO $psyqueue$
BEGIN
    -- Not IF NOT EXISTS: that asks for the right to create one even where it is there.
    IF to_regnamespace('@schema@') IS NULL THEN
        CREATE SCHEMA @schema@;
    END IF;
END $psyqueue$

-- name: ledger
CREATE TABLE IF NOT EXISTS @schema@.migration (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    phase text NOT NULL DEFAULT 'post',         -- pre: releases that do not know it can work on
    applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS @schema@.function_set (
    suffix text PRIMARY KEY,
    version text NOT NULL,                      -- of the release that made it
    number integer NOT NULL,                    -- the newest change that this release knows
    made_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now()  -- a client of it was there, at most some minutes before or after
)

-- name: change
DO $psyqueue$
DECLARE
    found text := (SELECT m.checksum FROM @schema@.migration AS m WHERE m.number = @number@);
BEGIN
    IF found = '@checksum@' THEN
        RETURN;
    ELSIF found IS NOT NULL THEN
        RAISE EXCEPTION 'psyqueue: schema change @number@ (@name@) was made by another build';
    ELSIF '@phase@' = 'post' AND EXISTS (SELECT 1 FROM @schema@.function_set AS f WHERE f.number < @number@) THEN
        RAISE WARNING 'psyqueue: schema change @number@ (@name@) waits until older releases are gone';
        RETURN;
    END IF;
    EXECUTE $psyqueue_change$
@text@
$psyqueue_change$;
    INSERT INTO @schema@.migration (number, name, checksum, phase) VALUES (@number@, '@name@', '@checksum@', '@phase@');
END $psyqueue$

-- name: clock
INSERT INTO @schema@.clock (test_clock_ms, reaped_mono_ms)
VALUES (@clock_ms@, coalesce(@clock_ms@, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)) ON CONFLICT DO NOTHING

-- name: functions
DO $psyqueue$
BEGIN
    IF EXISTS (SELECT 1 FROM @schema@.function_set AS f WHERE f.suffix = '@suffix@') THEN
        RETURN;
    END IF;
    EXECUTE $psyqueue_functions$
@text@
$psyqueue_functions$;
    INSERT INTO @schema@.function_set (suffix, version, number) VALUES ('@suffix@', '@version@', @number@);
END $psyqueue$

-- name: drop_unused
DO $psyqueue$
DECLARE
    gone text;
    f regprocedure;
BEGIN
    -- A client that says it is there holds the row or has changed it: then this waits, looks again, and leaves the set.
    FOR gone IN DELETE FROM @schema@.function_set AS s
        WHERE s.suffix <> '@suffix@' AND s.seen_at < now() - interval '@unused_ms@ milliseconds'
            AND NOT EXISTS (SELECT 1 FROM pg_proc AS p WHERE p.pronamespace = '@schema@'::regnamespace
                AND right(p.proname, length(s.suffix)) = s.suffix AND NOT pg_has_role(p.proowner, 'USAGE'))
        RETURNING s.suffix
    LOOP
        FOR f IN SELECT p.oid FROM pg_proc AS p
            WHERE p.pronamespace = '@schema@'::regnamespace AND right(p.proname, length(gone)) = gone
        LOOP
            EXECUTE format('DROP FUNCTION %s', f);
        END LOOP;
    END LOOP;
END $psyqueue$

-- name: grants
GRANT USAGE ON SCHEMA @schema@ TO @role@;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA @schema@ TO @role@;
GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA @schema@ TO @role@;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA @schema@ TO @role@;
REVOKE INSERT, UPDATE, DELETE ON @schema@.migration, @schema@.function_set FROM @role@;
GRANT UPDATE (seen_at) ON @schema@.function_set TO @role@;
ALTER DEFAULT PRIVILEGES IN SCHEMA @schema@ GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO @role@;
ALTER DEFAULT PRIVILEGES IN SCHEMA @schema@ GRANT USAGE, SELECT, UPDATE ON SEQUENCES TO @role@;
ALTER DEFAULT PRIVILEGES IN SCHEMA @schema@ GRANT EXECUTE ON FUNCTIONS TO @role@

-- name: whole
\set ON_ERROR_STOP on
BEGIN;
@parts@
COMMIT;
