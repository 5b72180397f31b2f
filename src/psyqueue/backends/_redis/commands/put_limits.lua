-- Replace the settings of queues and lanes.
-- Params: 1 op; 2 { { queue, lane or false, settings } … }; 3 effects or false, packed; 4 … bodies of its jobs.
-- The settings: { paused until, weight, active max, rate, burst, pending max, retain ended, retain dead }.
-- Returns: { 0 | 1, {} } | { 2, code, facts … }.
-- Index: `limits` by queue and lane. Cost: three keys each.
-- flags: deny-oom
--- @include head hashes wake bodies rows flush lifecycle limits settings intake effects turn
local settings, effects = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3])
return once('put_limits', function()
  require_change()
  for _, each in ipairs(settings) do
    put_limits(each[1], each[2] or nil, each[3])
  end
  if effects then
    apply_effects(effects)
  end
  return {}
end)
