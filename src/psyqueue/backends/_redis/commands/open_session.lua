-- Register a worker; its lease begins.
-- Params: 1 op; 2 id; 3 worker; 4 queues, packed; 5 lease in ms; 6 meta; 7 the beginning of the error of a lost run.
-- Returns: { 0 | 1, renewal } | { 2, code, facts … }; a renewal: includes/sessions.lua.
-- Index: S:<id>, leases. Cost: five keys.
-- flags: allow-oom
--- @include head hashes wake bodies rows flush limits sessions turn
local id = ARGV[2]
return once('open_session', function()
  if call('EXISTS', P .. 'S:' .. id) == 1 then
    refuse('INVALID_STATE', 'session ' .. id .. ' was used before. Give each worker start a new id')
  end
  is_changed = true
  call('HSET', P .. 'S:' .. id, 'worker', ARGV[3], 'queues', ARGV[4], 'lease_ms', ARGV[5], 'meta', ARGV[6],
    'lost', ARGV[7], 'opened_at', now_ms)
  call('ZADD', P .. 'leases', mono_ms + tonumber(ARGV[5]), id)
  return renewal_of(id)
end)
