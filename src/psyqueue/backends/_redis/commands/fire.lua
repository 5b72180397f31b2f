-- Enqueue the jobs of a schedule, as follow-ups, once per schedule and nominal time.
-- Params: 1 op; 2 id; 3 version; 4 nominal ms; 5 next at in ms or ''; 6 jobs, packed; 7 … their bodies.
-- Returns: { 0 | 1, { 1 fired | 0 } } | { 2, code, facts … }.
-- Index: `fires` by member. Cost: that of the jobs.
-- flags: deny-oom
--- @include head hashes wake bodies rows flush lifecycle limits intake effects turn
local id, version, nominal_ms = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
return once('fire', function()
  local jobs = cmsgpack.unpack(ARGV[6])
  require_new()
  local packed = field('schedules', id)
  local found = packed and cmsgpack.unpack(packed)
  local member = text_of(nominal_ms) .. ':' .. id
  if not found or found[1] ~= version or call('ZSCORE', P .. 'fires', member) then
    return { 0 }
  end
  defer('ZADD', P .. 'fires', mono_ms, member)
  local last_ms = math.max(found[4], nominal_ms)
  set_field('schedules', id, cmsgpack.pack({ found[1], found[2], tonumber(ARGV[5]) or false, last_ms, found[5] }))
  apply_jobs(jobs, 7, true)
  return { 1 }
end)
