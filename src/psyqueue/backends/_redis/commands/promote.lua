-- Make due jobs pending, end expired ones, move what is left over from earlier steps; while filling, frozen or moved that alone.
-- Params: 1 queues, packed; 2 limit of each kind.
-- Returns: { ids, 1 if there is more, milliseconds until the next job is due or false }.
-- Index: d: and x: of each queue by time. Cost: that of the jobs moved.
-- flags: allow-oom
--- @include head hashes wake bodies rows flush lifecycle limits follow times
local queues, limit = cmsgpack.unpack(ARGV[1]), tonumber(ARGV[2])
if starts_nothing() then
  local is_left_over = follow_through(limit)
  arm_touched()
  return { {}, is_left_over and 1 or 0, false }
end
local ids, more_expired = expire(queues, limit)
local due, more_due = promote(queues, limit)
for _, id in ipairs(due) do
  ids[#ids + 1] = id
end
local is_left_over = follow_through(limit)
arm_touched()
return { ids, (more_expired or more_due or is_left_over) and 1 or 0, next_due_in_ms(queues) }
