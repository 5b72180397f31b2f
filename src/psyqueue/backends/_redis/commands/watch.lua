-- Be told of the end of jobs.
-- Params: 1 client; 2 … the ids.
-- Returns: 1 if one of them has ended, 0 if the note comes later (i:<client>). Of a job that is not there comes none.
-- Index: j:<id>. Cost: two keys each.
-- flags: allow-oom
local WATCHERS_BYTES_MAX = 4096 -- whoever is not noted looks by itself, now and then
for i = 2, #ARGV do
  local key = KEYS[1] .. 'j:' .. ARGV[i]
  local found = redis.call('HMGET', key, 'status', 'watched')
  local status, watched = found[1], found[2] or ''
  if status == 'completed' or status == 'dead' or status == 'cancelled' then
    return 1
  end
  if status and not string.find(watched, ARGV[1], 1, true) and #watched < WATCHERS_BYTES_MAX then
    redis.call('HSET', key, 'watched', watched .. (watched ~= '' and ',' or '') .. ARGV[1], 'special', '1')
  end
end
return 0
