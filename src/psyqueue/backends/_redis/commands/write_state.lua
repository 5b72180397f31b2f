-- Write the shared state of plugins, all or none.
-- Params: 1 op; 2 effects, packed (includes/effects.lua); 3 … bodies of its jobs.
-- Returns: { 0 | 1, { the number of each write, as text } } | { 2, code, facts … }.
-- Index: `state` by key. Cost: three keys a write.
-- flags: deny-oom
--- @include head hashes wake bodies rows flush lifecycle limits intake effects turn
local effects = cmsgpack.unpack(ARGV[2])
return once('write_state', function()
  if #effects[2] > 0 then
    require_enqueue(effects[2])
  else
    require_change()
  end
  return (apply_effects(effects))
end)
