-- Retention. As _memory/maintenance.py.
local QUEUES_MAX, LANES_MAX = 200, 500
local OPS_KEPT_MS, CLOSED_KEPT_MS, FIRES_KEPT_MS = 86400000, 86400000, 90 * 86400000

-- Jobs of one place (`e:` or `D:`), oldest end first. Held ones and those that a live child needs do not stand there.
local function prune_place(queue, key, count, retention, limit, ids, is_of_dead)
  local aged = call('ZCOUNT', key, '-inf', now_ms - retention[1])
  local doomed = math.min(limit, math.max(aged, count - retention[2]))
  if doomed <= 0 then
    return
  end
  local members = call('ZRANGE', key, 0, doomed - 1)
  local names, plain, completed, dead = {}, {}, 0, 0
  for _, member in ipairs(members) do
    local id, kind = id_of(member), kind_of(member)
    local row = kind ~= COMPLETED and kind ~= HAS_RESULT and row_of(id)
    ids[#ids + 1] = id
    if row then
      drop_job(row)
    else
      plain[#plain + 1] = member
      local n = #names
      names[n + 1], names[n + 2] = P .. 'j:' .. id, P .. 'b:' .. id
      if kind ~= COMPLETED then
        names[n + 3] = P .. 'r:' .. id
      end
      if kind == COMPLETED or kind == HAS_RESULT then
        completed = completed + 1
      else -- its row is broken
        names[n + 4], names[n + 5] = P .. 'f:' .. id, P .. 'n:' .. id
        dead = dead + (is_of_dead and 1 or 0)
      end
    end
  end
  if #plain > 0 then
    tally(queue, nil, 'completed', -completed)
    if dead > 0 then
      tally(queue, nil, 'dead', -dead)
    end
    call_many('ZREM', key, plain)
    for i = 1, #names, 4000 do
      call('UNLINK', unpack(names, i, math.min(i + 3999, #names)))
    end
  end
  flush()
end

local function prune_queue(queue, limit, ids)
  local limits = limits_of(queue)
  local ended, dead = DEFAULTS[7], DEFAULTS[8]
  if limits then
    ended, dead = limits.retain_ended, limits.retain_dead
  end
  if ended then
    local count = count_of(queue, 'completed') + count_of(queue, 'cancelled')
    prune_place(queue, P .. 'e:' .. queue, count, ended, limit - #ids, ids)
  end
  if dead and #ids < limit then
    prune_place(queue, P .. 'D:' .. queue, count_of(queue, 'dead'), dead, limit - #ids, ids, true)
  end
end

-- A lane without jobs or settings that has no claim saved up or lost: forgetting it changes no order. Of many lanes some,
-- by chance, are looked at: `look_max` at most. (looked at, whether there may be more)
local function prune_lanes(queue, look_max)
  local lanes, dropped = call('HRANDFIELD', P .. 'lt:' .. queue, look_max), 0
  for _, lane in ipairs(lanes) do
    local is_used = call('ZSCORE', P .. 'ln:' .. queue, lane) or limits_of(queue, lane)
    if not is_used and lane_time(queue, lane) <= number_field('times', 'q' .. queue) then
      dropped = dropped + 1
      call('HDEL', P .. 'lt:' .. queue, lane)
    end
  end
  return #lanes, dropped > 0 and dropped == look_max
end

-- Jobs and lanes, queue by queue, on from where the last call ended. True: there may be more.
local function prune_queues(limit, ids)
  local left, is_more = LANES_MAX, false
  local from = call('HGET', P .. 'meta', 'prune_from')
  local queues = call('ZRANGEBYLEX', P .. 'queues', from and '(' .. from or '-', '+', 'LIMIT', 0, QUEUES_MAX)
  for i, queue in ipairs(queues) do
    prune_queue(queue, limit, ids)
    if left > 0 then
      local looked, more_lanes = prune_lanes(queue, left)
      left, is_more = left - looked, is_more or more_lanes
    end
    if #ids >= limit then
      local before = queues[i - 1] or from
      if before then
        call('HSET', P .. 'meta', 'prune_from', before)
      end
      return true
    end
  end
  if #queues == QUEUES_MAX then
    call('HSET', P .. 'meta', 'prune_from', queues[#queues])
    return true
  end
  call('HDEL', P .. 'meta', 'prune_from')
  return is_more
end

-- What stands in the sorted set `index` up to `score`; `drop(member)` takes it away. True: there may be more.
local function prune_index(index, score, limit, drop)
  local members = call('ZRANGEBYSCORE', P .. index, '-inf', score, 'LIMIT', 0, limit)
  for _, member in ipairs(members) do
    if drop(member) ~= false then
      call('ZREM', P .. index, member)
    end
  end
  return #members >= limit
end

-- The index knows a use of the channel, the record its last one.
local function drop_op(name)
  local head = checked(pcall_('GETRANGE', P .. 'o:' .. name, 0, 99))
  local used_ms = type(head) == 'string' and string.match(head, '^%d+ %S+ (%d+) ')
  if used_ms and tonumber(used_ms) > mono_ms - OPS_KEPT_MS then
    call('ZADD', P .. 'ops', used_ms, name)
    return false
  end
  call('UNLINK', P .. 'o:' .. name)
end

local function drop_record(member)
  local seq, stream = string.match(member, '^(%d+):(.*)$')
  call('XDEL', P .. 's:' .. stream, seq .. '-0')
end
