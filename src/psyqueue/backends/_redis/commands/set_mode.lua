-- Set the mode of the namespace, from the present epoch to the next.
-- Params: 1 op; 2 mode; 3 epoch; 4 where it moved to, or ''.
-- Returns: { 0 | 1, {} } | { 2, code, facts … }.
-- Index: meta. Cost: one key, and one for each client that sleeps.
-- flags: allow-oom
--- @include head hashes wake bodies rows flush turn
local wanted = tonumber(ARGV[3])
local epoch = tonumber(call('HGET', P .. 'meta', 'epoch') or '0')
return once('set_mode', function()
  if wanted ~= epoch + 1 then
    refuse('STATE_CONFLICT', 'epoch of the namespace', wanted - 1, epoch)
  end
  defer('HSET', P .. 'meta', 'mode', ARGV[2], 'epoch', wanted, 'moved_to', ARGV[4])
  wake_everybody()
  return {}
end)
