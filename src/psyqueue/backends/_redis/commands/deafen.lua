-- A client leaves: nobody has to wake it.
-- Params: 1 client.
-- Returns: nothing.
-- Index: listeners, i:<client>. Cost: two keys.
-- flags: allow-oom
redis.call('ZREM', KEYS[1] .. 'listeners', ARGV[1])
redis.call('DEL', KEYS[1] .. 'i:' .. ARGV[1])
