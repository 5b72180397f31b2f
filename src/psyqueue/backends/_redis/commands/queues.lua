-- Look at queues by name: exact counts, the oldest pending job, lanes, limits.
-- Params: 1 prefix; 2 cursor or ''; 3 limit.
-- Returns: { { queue, created at of the oldest pending job or false, lanes, packed limits or false, status, count … } …,
-- cursor or false }.
-- Index: queues by name, c:<queue>. Cost: six keys a queue and two a lane.
-- flags: no-writes
--- @include head hashes wake bodies rows
local prefix, cursor, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local LOOK_MAX, LANES_MAX = 200, 1000

-- The first job of a list whose place is its creation number, held ones included.
local function first_of_list(key)
  local first, last = 0, 0 -- nearly always it is the very first
  repeat
    local entries = call('LRANGE', key, first, last)
    for _, entry in ipairs(entries) do
      local number, id = string.match(entry, '^(%d+):(.*)$')
      local row = id and whole_row(id)
      if row and row.status == 'pending' and not row.held and not row.sorted and row.number == tonumber(number) then
        return row
      end
    end
    first, last = last + 1, math.min(10 * last + 9, LOOK_MAX - 1)
  until #entries == 0 or first >= LOOK_MAX
end

local function oldest_pending(queue)
  local oldest
  local function look(row)
    if row and (not oldest or row.number < oldest.number) then
      oldest = row
    end
  end
  look(first_of_list(lane_key('p', queue)))
  for _, lane in ipairs(call('ZRANGE', P .. 'lp:' .. queue, 0, LANES_MAX - 1)) do
    look(first_of_list(lane_key('p', queue, lane)))
  end
  local odd = call('ZRANGE', P .. 'pn:' .. queue, 0, 0)[1]
  look(odd and row_of(id_of(odd)))
  for _, id in ipairs(call('ZRANGE', P .. 'h:' .. queue, 0, LOOK_MAX - 1)) do
    local row = row_of(id)
    if row and row.status == 'pending' then
      look(row)
      break
    end
  end
  return oldest and oldest.created_at
end

local low = cursor ~= '' and cursor >= prefix and '(' .. cursor or '[' .. prefix
local names = call('ZRANGEBYLEX', P .. 'queues', low, '[' .. prefix .. '\255', 'LIMIT', 0, limit + 1)
local found = {}
for i = 1, math.min(limit, #names) do
  local queue = names[i]
  found[i] = {
    queue, oldest_pending(queue) or false, call('ZCARD', P .. 'ln:' .. queue),
    call('HGET', P .. 'limits', 'q:' .. queue), unpack(call('HGETALL', P .. 'c:' .. queue)),
  }
end
return { found, #names > limit and names[limit] }
