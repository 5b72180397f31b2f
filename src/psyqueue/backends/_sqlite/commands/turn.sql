-- The last op of each channel and its compact reply: what makes every call repeatable.
-- Params: client, channel, turn, verb, reply (msgpack), monotone now in ms.
-- Returns: nothing; meta.read brings the turn back.
-- Index: primary key.
-- Cost: one row written, if the step changed something.
-- Differs from the others: written in place; SQLite keeps no versions that could pile up.

-- name: put
INSERT INTO psyqueue_turn (client, channel, turn, verb, reply, mono_ms) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (client, channel) DO UPDATE SET
    turn = excluded.turn, verb = excluded.verb, reply = excluded.reply, mono_ms = excluded.mono_ms;
