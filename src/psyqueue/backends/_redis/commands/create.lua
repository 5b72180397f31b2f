-- Make the namespace, or look at the one that is there.
-- Params: 1 instant at which a test clock starts, or ''.
-- Returns: { schema, mode, epoch, moved to, now, instant of the test clock or false }.
-- Index: meta. Cost: one key.
-- flags: allow-oom
local key = KEYS[1] .. 'meta'
if redis.call('HSETNX', key, 'schema', SCHEMA) == 1 and ARGV[1] ~= '' then
  redis.call('HSET', key, 'test', ARGV[1])
end
local found = redis.call('HMGET', key, 'schema', 'mode', 'epoch', 'moved_to', 'test')
local time = redis.call('TIME')
local now_ms = tonumber(found[5]) or tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('HEXISTS', key, 'reaped') == 0 then
  redis.call('HSET', key, 'reaped', now_ms)
end
return { found[1], found[2] or 'open', found[3] or '0', found[4] or '', now_ms, found[5] }
