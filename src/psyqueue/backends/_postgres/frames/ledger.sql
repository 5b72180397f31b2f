-- What is there already. Each section is one statement of the client's own; nothing here defines anything.
-- name: changes
SELECT number, name, checksum, phase, applied_at FROM @schema@.migration ORDER BY number;

-- name: has_ledger
SELECT to_regclass('@schema@.function_set') IS NOT NULL;

-- name: is_long_unseen
SELECT seen_at < now() - interval '@present_ms@ milliseconds' FROM @schema@.function_set WHERE suffix = $1;

-- name: sets
SELECT suffix, version, number, made_at, seen_at FROM @schema@.function_set ORDER BY made_at, suffix;

-- name: say_in_use
UPDATE @schema@.function_set SET seen_at = now() WHERE suffix = $1 RETURNING true;

-- name: is_test_clock
SELECT test_clock_ms IS NOT NULL FROM @schema@.clock;

-- name: who
SELECT current_user::text, current_database()::text;
