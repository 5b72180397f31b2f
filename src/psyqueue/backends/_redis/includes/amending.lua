-- What an operator does to one job. As _memory/operating.py. Each returns whether it was changed.
local function drop_job(row)
  if row.unique and field('unique', row.unique) == row.id then
    set_field('unique', row.unique, false)
  end
  tally(row.queue, row.lane, row.status, -1)
  set(row, 'is_gone', true)
  put(rows, row.id, false)
end

local function replay(row)
  if row.unique then
    local holder_id = field('unique', row.unique)
    if holder_id and holder_id ~= row.id then
      return false
    end
    set_field('unique', row.unique, row.id)
  end
  set(row, 'fence', fence_of(row))
  for _, name in ipairs({ 'attempt', 'lost', 'needs_left', 'reason', 'completed_at', 'started_at', 'ready', 'expires_at' }) do
    set(row, name, nil)
  end
  set(row, 'generation', (row.generation or 0) + 1)
  set(row, 'run_at', now_ms)
  move(row, 'waiting')
  enter_gate(row)
  return true
end

local function reschedule(row, run_at_ms)
  set(row, 'run_at', run_at_ms)
  if row.status == 'pending' and run_at_ms > now_ms then
    set(row, 'ready', nil)
    set(row, 'sorted', nil)
    move(row, 'scheduled')
  else
    move(row, row.status)
  end
end

local function reprioritise(row, priority)
  set(row, 'priority', priority ~= 0 and priority or nil)
  if row.status == 'pending' then
    set(row, 'sorted', '1')
  end
  move(row, row.status)
end

local function hold(row)
  leave_line(row)
  if row.status == 'pending' then
    set(row, 'sorted', '1')
  end
  set(row, 'held', '1')
end

-- Startable again; needs and places that came free meanwhile are looked at now.
local function unhold(row)
  if not row.held then
    return false
  end
  set(row, 'held', nil)
  if row.gate and row.status == 'waiting' and not row.needs_left then
    join_line(row)
  end
  if row.special then
    local needs = call('HGETALL', P .. 'nd:' .. row.id)
    for i = 1, #needs, 2 do
      local parent = row_of(needs[i])
      local is_over = parent and IS_ENDED[parent.status]
      if is_over and string.sub(needs[i + 1], 1, 1) ~= '+' and row.status == 'waiting' then
        meet_need(row, parent)
      end
    end
  end
  if row.gate and row.status == 'waiting' then
    follow('g:' .. row.gate)
  end
  move(row, row.status)
  return true
end

-- change: { kind, priority, run_at, reason }
local function amend_one(row, change, result)
  local kind, status = change[1], row.status
  if kind == 'unhold' then
    return unhold(row)
  elseif row.held then
    return false
  elseif kind == 'cancel' and IS_UNSTARTED[status] then
    end_job(row, 'cancelled', change[4])
  elseif kind == 'cancel' and status == 'active' and not row.cancel then
    set(row, 'cancel', '1')
    set(row, 'special', '1')
    set(row, 'reason', change[4] ~= '' and change[4] or nil)
  elseif kind == 'finish' and IS_UNSTARTED[status] then
    end_job(row, 'completed', change[4], result)
  elseif kind == 'replay' and status == 'dead' then
    return replay(row)
  elseif kind == 'delete' and IS_ENDED[status] and not row.kids then
    drop_job(row)
  elseif kind == 'priority' and IS_UNSTARTED[status] then
    reprioritise(row, change[2])
  elseif kind == 'run_at' and IS_UNSTARTED[status] then
    reschedule(row, change[3])
  elseif kind == 'hold' and status ~= 'active' then
    hold(row)
  else
    return false
  end
  return true
end
