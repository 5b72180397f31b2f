-- Be among the clients that are woken when the mode or a clock changes.
-- Params: 1 client.
-- Returns: nothing.
-- Index: listeners. Cost: one key.
-- flags: allow-oom
--- @include head
call('ZADD', P .. 'listeners', mono_ms, ARGV[1])
