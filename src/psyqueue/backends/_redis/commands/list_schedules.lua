-- Look at schedules by id.
-- Params: 1 cursor or ''; 2 limit.
-- Returns: { { id, version, spec, next at or false, last nominal, 1 if paused } …, cursor or false }.
-- Index: `schedules:k` in order of ids. Cost: one key each.
-- flags: no-writes
--- @include head
local cursor, limit = ARGV[1], tonumber(ARGV[2])
local ids = call('ZRANGEBYLEX', P .. 'schedules:k', cursor ~= '' and '(' .. cursor or '-', '+', 'LIMIT', 0, limit + 1)
local found = {}
for i = 1, math.min(limit, #ids) do
  local v = cmsgpack.unpack(call('HGET', P .. 'schedules', ids[i]))
  found[i] = { ids[i], v[1], v[2], v[3], v[4], v[5] and 1 or 0 }
end
return { found, #ids > limit and ids[limit] }
