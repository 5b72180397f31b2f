-- The last op of each channel and its compact reply: what makes every call repeatable.
-- Params: find: client, channel. put: client, channel, turn, verb, reply (msgpack), monotone now in ms.
-- Returns: find: (turn, verb, reply).
-- Index: primary key.
-- Cost: one row read and, if the step changed something, one written.
-- Differs from the others: written in place; SQLite keeps no versions that could pile up.

-- name: find
SELECT turn, verb, reply FROM psyqueue_turn WHERE client = ? AND channel = ?;

-- name: put
INSERT INTO psyqueue_turn (client, channel, turn, verb, reply, mono_ms) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (client, channel) DO UPDATE SET
    turn = excluded.turn, verb = excluded.verb, reply = excluded.reply, mono_ms = excluded.mono_ms;
