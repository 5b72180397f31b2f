-- Compare and set a schedule on its version.
-- Params: 1 op; 2 id; 3 version; 4 '1' to delete; 5 packed { next at, last nominal, is paused }; 6 spec.
-- Returns: { 0 | 1, { new version } } | { 2, code, facts … }.
-- Index: `schedules` by id. Cost: two keys.
-- flags: deny-oom
--- @include head hashes wake bodies rows flush turn
local id, version = ARGV[2], tonumber(ARGV[3])
return once('put_schedule', function()
  require_new()
  local packed = field('schedules', id)
  local found = packed and cmsgpack.unpack(packed)[1] or 0
  if found ~= version then
    refuse('STATE_CONFLICT', id, version, found)
  end
  if ARGV[4] == '1' then
    if packed then
      set_field('schedules', id, false)
      defer('ZREM', P .. 'schedules:k', id)
    end
    return { version }
  end
  local fields = cmsgpack.unpack(ARGV[5])
  set_field('schedules', id, cmsgpack.pack({ version + 1, ARGV[6], unpack(fields, 1, 3) }))
  defer('ZADD', P .. 'schedules:k', 0, id)
  return { version + 1 }
end)
