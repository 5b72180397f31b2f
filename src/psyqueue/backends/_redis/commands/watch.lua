-- Be told of the end of jobs.
-- Params: 1 client; 2 … the ids.
-- Returns: 1 if one of them has ended, 0 if the note comes later (i:<client>). Of a job that is not there comes none.
-- Index: j:<id>. Cost: three keys each.
-- flags: allow-oom
--- @include head bodies
local WATCHERS_BYTES_MAX = 4096 -- whoever is not noted looks by itself, now and then
local client = ARGV[1]
for i = 2, #ARGV do
  local id = ARGV[i]
  local status, watched, session_id = unpack(call('HMGET', P .. 'j:' .. id, 'status', 'watched', 'session'))
  watched = watched or ''
  if status == 'completed' or status == 'dead' or status == 'cancelled' then
    return 1
  end
  if status and not string.find(watched, client, 1, true) and #watched < WATCHERS_BYTES_MAX then
    call('HSET', P .. 'j:' .. id, 'watched', watched .. (watched ~= '' and ',' or '') .. client, 'special', '1')
    -- Whoever starts or ends plain jobs without a look at their rows has to look from now on.
    if status == 'pending' then
      call('SETRANGE', P .. 'b:' .. id, 0, OTHER)
    elseif status == 'active' then
      call('HSET', P .. 'a:' .. session_id, id, '')
    end
  end
end
return 0
