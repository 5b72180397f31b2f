-- Look at the settings of the lanes of one queue, by lane.
-- Params: 1 queue; 2 prefix of the lanes; 3 1 or '': there is a cursor; 4 cursor; 5 limit.
-- Returns: { { lane, packed limits } …, 1 if there are more, else 0 }.
-- Index: `ll:<queue>` in order of lanes. Cost: one key each.
-- flags: no-writes
--- @include head hashes wake bodies rows limits
local queue, prefix, limit = ARGV[1], ARGV[2], tonumber(ARGV[5])
local low = ARGV[3] ~= '' and '(' .. ARGV[4] or '[' .. prefix
local lanes = call('ZRANGEBYLEX', P .. 'll:' .. queue, low, '[' .. prefix .. '\255', 'LIMIT', 0, limit + 1)
local found = {}
for i = 1, math.min(limit, #lanes) do
  found[i] = { lanes[i], call('HGET', P .. 'limits', limit_name(queue, lanes[i])) }
end
return { found, #lanes > limit and 1 or 0 }
