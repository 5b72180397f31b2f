-- Replace the settings of queues and lanes, or just some of them.
-- Params: 1 op; 2 { { queue, lane or false, settings } … }; 3 effects or false, packed; 4 which of them, by their places,
--   none: all; 5 … bodies of its jobs.
-- The settings: { paused until, weight, active max, rate, burst, pending max, retain ended, retain dead }.
-- Returns: { 0 | 1, {} } | { 2, code, facts … }.
-- What is all back at the defaults is forgotten.
-- Index: `limits` by queue and lane. Cost: three keys each.
-- flags: deny-oom
--- @include head hashes wake bodies rows flush lifecycle limits settings lifting intake effects turn
local settings, effects, only = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3]), cmsgpack.unpack(ARGV[4])
return once('put_limits', function()
  require_change()
  local defaults, unlimited = cmsgpack.pack(DEFAULTS), {}
  for _, each in ipairs(settings) do
    local queue, lane = each[1], each[2] or nil
    local wanted = settings_over(queue, lane, each[3], only)
    if cmsgpack.pack(wanted) ~= defaults then
      put_limits(queue, lane, wanted)
    elseif field('limits', limit_name(queue, lane)) then
      forget_limits(queue, lane)
      put(touched, queue, true)
      unlimited[queue] = true
    end
  end
  if effects then
    apply_effects(effects)
  end
  flush()
  note_unlimited(unlimited)
  return {}
end)
