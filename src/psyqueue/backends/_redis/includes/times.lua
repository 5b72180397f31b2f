-- What time alone does: due jobs become pending, jobs that were not started in time end. An entry whose job is gone (the
-- server was full, or somebody deleted it) is dropped: nobody else would ever get past it.
local EXPIRE_MAX, PROMOTE_MAX = 100, 500

-- (ids, whether the limit was reached)
local function expire(queues, limit)
  local ids = {}
  for _, queue in ipairs(queues) do
    local left = limit - #ids
    if left > 0 then
      local key = P .. 'x:' .. queue
      for _, member in ipairs(call('ZRANGEBYSCORE', key, '-inf', now_ms, 'LIMIT', 0, left)) do
        local row = row_of(id_of(member))
        if row and row.expires_at and IS_UNSTARTED[row.status] then
          end_job(row, 'dead', 'expired')
          ids[#ids + 1] = row.id
        else
          defer('ZREM', key, member)
        end
      end
    end
  end
  flush()
  return ids, #ids >= limit
end

-- As `expire`; earliest first.
local function promote(queues, limit)
  local ids = {}
  for _, queue in ipairs(queues) do
    local left = limit - #ids
    if left > 0 then
      local key = P .. 'd:' .. queue
      for _, member in ipairs(call('ZRANGEBYSCORE', key, '-inf', now_ms, 'LIMIT', 0, left)) do
        local row = row_of(id_of(member))
        if row and row.status == 'scheduled' then
          set(row, 'ready', next_number())
          set(row, 'sorted', priority_of(row) ~= 0 and '1' or nil)
          move(row, 'pending')
          ids[#ids + 1] = row.id
        else
          defer('ZREM', key, member)
        end
      end
    end
  end
  flush()
  return ids, #ids >= limit
end

-- Milliseconds until the next scheduled job is due, false if there is none.
local function next_due_in_ms(queues)
  local first = false
  for _, queue in ipairs(queues) do
    local head = call('ZRANGE', P .. 'd:' .. queue, 0, 0, 'WITHSCORES')
    if head[2] then
      local wait_ms = math.max(0, tonumber(head[2]) - now_ms)
      first = first and math.min(first, wait_ms) or wait_ms
    end
  end
  return first
end
