-- Read and write the ledger of schema changes.
-- Params: note: number, name, checksum (hex), instant in ms. start: the test clock or NULL, monotone now in ms.
-- Returns: foreign, has_ledger: one number; ledger: (number, name, checksum, applied_at_ms).
-- Index: none; the ledger holds a handful of rows.
-- Cost: a handful of rows.
-- Differs from the others: SQLite keeps the schema in the same file, so a half-made one cannot exist.

-- name: has_json
SELECT json_valid('[]');

-- name: names
SELECT name FROM sqlite_master WHERE name LIKE 'psyqueue\_%' ESCAPE '\';

-- name: create_ledger
CREATE TABLE psyqueue_schema (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at_ms INTEGER NOT NULL
);

-- name: ledger
SELECT number, name, checksum, applied_at_ms FROM psyqueue_schema ORDER BY number;

-- name: note
INSERT INTO psyqueue_schema (number, name, checksum, applied_at_ms) VALUES (?, ?, ?, ?);

-- name: start
INSERT OR IGNORE INTO psyqueue_meta (one, test_clock_ms, mono_ms, reaped_mono_ms) VALUES (1, ?, ?, ?);
