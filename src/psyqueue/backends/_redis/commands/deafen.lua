-- A client leaves: nobody has to wake it.
-- Params: 1 client.
-- Returns: nothing.
-- Index: listeners, c:<client>. Cost: two keys.
-- flags: allow-oom
redis.call('ZREM', KEYS[1] .. 'listeners', ARGV[1])
redis.call('DEL', KEYS[1] .. 'c:' .. ARGV[1])
