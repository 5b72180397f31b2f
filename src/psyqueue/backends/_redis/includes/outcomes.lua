-- Outcomes of deliveries. As _memory/settle.py.
-- An outcome: { kind, id, seed of its token, number of its token, argument of its bytes, milliseconds, reason, effects },
-- false or absent where nothing is. Acks without result and effects come in runs: { 'A', seed, id, number, id, number … }.
local ERRORS_KEPT = 20

local function add_error(row, error_)
  local key = P .. 'f:' .. row.id
  defer('RPUSH', key, error_)
  defer('LTRIM', key, -ERRORS_KEPT, -1)
  set(row, 'special', '1') -- retention has more to delete
end

-- Active → pending at its old place, or scheduled without one. Its token stays: it tells a repeat from a loss.
local function put_back(row, status, gives_attempt_back)
  if gives_attempt_back then
    set(row, 'fence', fence_of(row))
    set(row, 'attempt', row.attempt - 1)
  end
  set(row, 'session', nil)
  if status == 'pending' then
    set(row, 'sorted', '1')
  else
    set(row, 'ready', nil)
    set(row, 'sorted', nil)
  end
  move(row, status)
end

local function postpone(row, delay_ms)
  set(row, 'run_at', now_ms + delay_ms)
  put_back(row, 'scheduled')
end

local function cancel_if_asked(row)
  if row.cancel then
    end_job(row, 'cancelled', row.reason)
    return true
  end
end

local apply = {
  k = function() end,
  a = function(row, outcome)
    end_job(row, 'completed', '', outcome[5] and ARGV[outcome[5]])
  end,
  c = function(row, outcome)
    end_job(row, 'cancelled', outcome[7] or row.reason)
  end,
  d = function(row, outcome)
    add_error(row, ARGV[outcome[5]])
    end_job(row, 'dead', outcome[7])
  end,
  r = function(row, outcome)
    add_error(row, ARGV[outcome[5]])
    if cancel_if_asked(row) then
      return
    elseif row.attempt > (row.max_retries or MAX_RETRIES) then
      end_job(row, 'dead', 'exhausted')
    else
      postpone(row, outcome[6])
    end
  end,
  s = function(row, outcome)
    if cancel_if_asked(row) then
      return
    end
    set(row, 'fence', fence_of(row))
    set(row, 'attempt', row.attempt - 1)
    set(row, 'reason', outcome[7] or nil)
    postpone(row, outcome[6])
  end,
  l = function(row)
    if not cancel_if_asked(row) then
      put_back(row, 'pending', true)
    end
  end,
}

local settle_all
do
  -- Two letters: the verdict (ok, already, lost, conflict) and the initial of the status.
  local function settle_one(session_id, outcome, followed, index)
    local row = row_of(outcome[2])
    if not row then
      is_changed = call('HDEL', P .. 'a:' .. session_id, outcome[2]) == 1 or is_changed
      return 'l-'
    end
    local is_its_token = row.token == outcome[3] and text_of(row.number) == outcome[4]
    if row.status ~= 'active' or not is_its_token or row.session ~= session_id then
      local is_repeat = row.status ~= 'active' and is_its_token
      return (is_repeat and 'a' or 'l') .. INITIAL[row.status]
    end
    if outcome[8] then
      local mark = journaled
      local is_good, numbers, enqueued = pcall(apply_effects, outcome[8])
      if not is_good then
        if type(numbers) ~= 'table' or not numbers.refused then
          error(numbers, 0)
        end
        roll_back(mark)
        return 'ca'
      end
      if #enqueued > 0 then
        followed[#followed + 1] = { index, enqueued }
      end
    end
    apply[outcome[1]](row, outcome)
    return 'o' .. INITIAL[row.status]
  end

  -- Whether it is the ticket of this delivery; of what queue stands in `acked`, mostly that of the one before.
  local function is_ticket(ticket, seed, number, acked)
    if ticket ~= number .. acked.tail then
      ticket = string.match(ticket, '^[^\n]*')
      local queue = sub(ticket, #number + #seed + 3)
      local tail = ticket_tail(seed, queue)
      if ticket ~= number .. tail then
        return false
      end
      acked.queue, acked.tail = queue, tail
    end
    return true
  end

  -- The usual end of the usual job: nobody waits for it, it holds no key and no place. Such acks are gathered per queue.
  local function ack_plain(acked, id, seed, number, result)
    local ticket = acked.tickets[id]
    if not ticket or ticket == '' or rows[id] ~= nil or not is_ticket(ticket, seed, number, acked) then
      return false
    end
    local key, added = P .. 'j:' .. id
    if result then
      added = try('HSET', key, 'status', 'completed', 'completed_at', acked.now, 'special', HAS_RESULT)
    else
      added = try('HSET', key, 'status', 'completed', 'completed_at', acked.now)
    end
    acked.tickets[id] = nil
    acked.ids[#acked.ids + 1] = id
    if added ~= (result and 2 or 1) then -- the row is gone, or somebody else's: left as it was
      try('HDEL', key, 'status', 'completed_at', 'special')
      return false
    end
    if result then
      call('SET', P .. 'r:' .. id, ARGV[result])
    end
    local of_queue = acked.queues[acked.queue] or {}
    acked.queues[acked.queue] = of_queue
    local n = #of_queue
    of_queue[n + 1], of_queue[n + 2] = acked.now, ordered(number, id, result and HAS_RESULT or COMPLETED)
    return true
  end

  -- Tickets of the deliveries that are acked, by job.
  local function tickets_of(session_id, outcomes)
    local ids, tickets = {}, {}
    for _, outcome in ipairs(outcomes) do
      if outcome[1] == 'A' then
        for k = 3, #outcome, 2 do
          ids[#ids + 1] = outcome[k]
        end
      elseif outcome[1] == 'a' and not outcome[8] then
        ids[#ids + 1] = outcome[2]
      end
    end
    for i = 1, #ids, 4000 do
      local last = math.min(i + 3999, #ids)
      for k, ticket in ipairs(call('HMGET', P .. 'a:' .. session_id, unpack(ids, i, last))) do
        tickets[ids[i + k - 1]] = ticket
      end
    end
    return tickets
  end

  local function finish_plain(session_id, acked)
    if #acked.ids == 0 then
      return
    end
    is_changed = true
    call_many('HDEL', P .. 'a:' .. session_id, acked.ids)
    for queue, entries in pairs(acked.queues) do
      call_many('ZADD', P .. 'e:' .. queue, entries)
      recount(queue, 'active', 'completed', #entries / 2)
      local limits = limits_of(queue)
      local of_lane = limits_of(queue, '')
      if limits and limits.active_max or of_lane and of_lane.active_max then
        put(touched, queue, true)
      end
    end
  end

  function settle_all(session_id, outcomes)
    if #outcomes == 0 then
      return '', {}
    end
    local verdicts, followed = {}, {}
    local acked = { ids = {}, queues = {}, now = text_of(now_ms), tickets = tickets_of(session_id, outcomes), tail = '' }
    local i = 0
    for _, outcome in ipairs(outcomes) do
      if outcome[1] == 'A' then
        local seed = outcome[2]
        for k = 3, #outcome, 2 do
          local id, number = outcome[k], outcome[k + 1]
          i = i + 1
          verdicts[i] = ack_plain(acked, id, seed, number) and 'oc'
            or settle_one(session_id, { 'a', id, seed, number }, followed, i)
        end
      else
        i = i + 1
        local is_plain = outcome[1] == 'a' and not outcome[8]
        verdicts[i] = is_plain and ack_plain(acked, outcome[2], outcome[3], outcome[4], outcome[5]) and 'oc'
          or settle_one(session_id, outcome, followed, i)
      end
    end
    finish_plain(session_id, acked)
    flush()
    return table.concat(verdicts), followed
  end
end
