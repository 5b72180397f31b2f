-- Outcomes of deliveries. As _memory/settle.py.
-- An outcome: { kind, id, seed of its token, number of its token, argument of its bytes, milliseconds, reason, effects },
-- false or absent where nothing is. Acks without result and effects come in runs: { 'A', seed, ids, numbers }.
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

-- A function of its own for what is named in it: all around it share 200 names.
local settle_all = (function()
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

  -- The usual end of the usual job: nobody waits for it, it holds no key and no place. Such acks are gathered per queue.
  -- `tail`: what followed the number on the ticket of the one before, mostly that of the next one, too; `entries`: what its
  -- queue gets, by now `filled`.
  local queues, entries, filled, tail, now
  local zeros, zeros_before

  local function turn_to(queue)
    if entries then
      entries.filled = filled
    end
    entries = queues[queue] or { filled = 0 }
    queues[queue], filled = entries, entries.filled
  end

  -- Whether it is the ticket of this delivery.
  local function is_ticket(ticket, seed, number)
    ticket = string.match(ticket, '^[^\n]*')
    local queue = sub(ticket, #number + #seed + 3)
    local its_tail = ticket_tail(seed, queue)
    if ticket ~= number .. its_tail then
      return false
    end
    if its_tail ~= tail then
      tail = its_tail
      turn_to(queue)
    end
    return true
  end

  -- Not one new field, or two with a result: it was acked before in this call. Or one more, and what stands there is gone or
  -- no row of ours: it is left as it was.
  local function undo_ack(key, added, result)
    added = checked(added)
    if added == (result and 3 or 2) then
      call('HDEL', key, 'status', 'completed_at', 'special')
    elseif result and added == 1 then
      call('HDEL', key, 'special')
    end
    return false
  end

  local function ack_plain(id, seed, number, ticket, result)
    if not ticket or rows[id] ~= nil or ticket ~= number .. tail and not is_ticket(ticket, seed, number) then
      return false
    end
    local key, kind, added = P .. 'j:' .. id, COMPLETED
    if result then
      kind, added = HAS_RESULT, pcall_('HSET', key, 'status', 'completed', 'completed_at', now, 'special', HAS_RESULT)
    else
      added = pcall_('HSET', key, 'status', 'completed', 'completed_at', now)
    end
    if added ~= (result and 2 or 1) then
      return undo_ack(key, added, result)
    end
    if result then
      call('SET', P .. 'r:' .. id, ARGV[result])
    end
    if #number ~= zeros_before then
      zeros, zeros_before = sub(ZEROS, #number + 1), #number
    end
    filled = filled + 2
    entries[filled - 1], entries[filled] = now, zeros .. number .. kind .. id
    return true
  end

  -- Of all outcomes, in order.
  local function ids_of(outcomes)
    if #outcomes == 1 and outcomes[1][1] == 'A' then
      return outcomes[1][3]
    end
    local ids, n = {}, 0
    for _, outcome in ipairs(outcomes) do
      local is_run = outcome[1] == 'A'
      for _, id in ipairs(is_run and outcome[3] or { outcome[2] }) do
        n = n + 1
        ids[n] = id
      end
    end
    return ids
  end

  -- `others`: the verdicts of those that did not take the short way.
  local function finish_plain(session_id, ids, others)
    local acked = ids
    if next(others) then
      acked = {}
      for i = 1, #ids do
        acked[#acked + 1] = not others[i] and ids[i] or nil
      end
    end
    if #acked == 0 then
      return
    end
    is_changed = true
    call('HDEL', P .. 'a:' .. session_id, unpack(acked))
    for queue, of_queue in pairs(queues) do
      call_many('ZADD', P .. 'e:' .. queue, of_queue)
      recount(queue, 'active', 'completed', #of_queue / 2)
      local limits = limits_of(queue)
      local of_lane = limits_of(queue, '')
      if limits and limits.active_max or of_lane and of_lane.active_max then
        put(touched, queue, true)
      end
    end
    queues, entries = nil, nil
  end

  local function verdicts_of(count, others)
    if not next(others) then
      return string.rep('oc', count)
    end
    for i = 1, count do
      others[i] = others[i] or 'oc'
    end
    return table.concat(others)
  end

  -- A call has 500 outcomes at most.
  return function(session_id, outcomes)
    if #outcomes == 0 then
      return '', {}
    end
    queues, entries, filled, tail, now = {}, nil, 0, '\n', text_of(now_ms)
    local ids = ids_of(outcomes)
    local tickets = call('HMGET', P .. 'a:' .. session_id, unpack(ids))
    local others, followed, i = {}, {}, 0
    for _, outcome in ipairs(outcomes) do
      local kind, seed = outcome[1], outcome[2]
      if kind == 'A' then
        local numbers = outcome[4]
        for k = 1, #numbers do
          i = i + 1
          local id, number = ids[i], numbers[k]
          if not ack_plain(id, seed, number, tickets[i]) then
            others[i] = settle_one(session_id, { 'a', id, seed, number }, followed, i)
          end
        end
      else
        i = i + 1
        local is_plain = kind == 'a' and not outcome[8]
        if not is_plain or not ack_plain(outcome[2], outcome[3], outcome[4], tickets[i], outcome[5]) then
          others[i] = settle_one(session_id, outcome, followed, i)
        end
      end
    end
    finish_plain(session_id, ids, others)
    flush()
    return verdicts_of(i, others), followed
  end
end)()
