-- How jobs move: to pending, to their end, into and out of gates and needs. As _memory/lifecycle.py says it.

-- Waiting (or new) → pending or scheduled, by run_at.
local function admit(row)
  if run_at_of(row) > now_ms then
    move(row, 'scheduled')
    return
  end
  -- A job that is pending from its creation on needs no second number.
  set(row, 'ready', not row.is_fresh and next_number() or nil)
  set(row, 'sorted', priority_of(row) ~= 0 and '1' or nil)
  move(row, 'pending')
end

-- ── gates ──────────────────────────────────────────────────────────────────────────────────────────────────────────
-- `gates` key → places taken; gl:<key> who waits for a place alone, by creation number, held ones left out.
local lines = {}

begins[#begins + 1] = function()
  lines = emptied(lines)
end

local function line_of(key)
  local line = lines[key]
  if not line then
    line = { length = call('ZCARD', P .. 'gl:' .. key) }
    lines[key] = line
  end
  return line
end

local function join_line(row)
  local line = line_of(row.gate)
  put(line, 'length', line.length + 1)
  set(row, 'special', '1')
  defer('ZADD', P .. 'gl:' .. row.gate, row.number, row.id)
end

local function is_in_line(row)
  return row.gate and row.status == 'waiting' and not row.held and (row.needs_left or 0) == 0
end

local function leave_line(row)
  if is_in_line(row) then
    local line = line_of(row.gate)
    put(line, 'length', line.length - 1)
    defer('ZREM', P .. 'gl:' .. row.gate, row.id)
  end
end

local function take_place(row)
  count_field('gates', row.gate, 1)
  set(row, 'placed', '1')
  admit(row)
end

-- Its needs are met: take a place of its gate and be admitted, or stand in line. First come, first served.
local function enter_gate(row)
  if not row.gate then
    admit(row)
  elseif line_of(row.gate).length > 0 or number_field('gates', row.gate) >= row.gate_max then
    join_line(row)
  else
    take_place(row)
  end
end

-- ── keys, needs, the end ───────────────────────────────────────────────────────────────────────────────────────────
-- Its unique key is free as soon as its status is none of those that keep it.
local function let_go_key(row)
  if row.unique and not string.find(row.unique_while, INITIAL[row.status], 1, true) then
    if field('unique', row.unique) == row.id then
      set_field('unique', row.unique, false)
    end
  end
end

-- nd:<child> parent → the initials of the statuses it waits for, with a + before them once met.
-- n:<parent> its live children, by creation number.
local function drop_edges(row)
  local needs = P .. 'nd:' .. row.id
  if not row.special then
    return
  end
  for _, parent_id in ipairs(row.parents or call('HKEYS', needs)) do
    local parent = row_of(parent_id)
    if parent then
      set(parent, 'kids', (parent.kids or 0) > 1 and parent.kids - 1 or nil)
    end
    defer('ZREM', P .. 'n:' .. parent_id, row.id)
  end
  defer('UNLINK', needs)
end

-- What ended jobs set free, oldest end first: `g:<key>`, or `n<last child looked at>:<parent>`.
local function follow(ticket)
  defer('RPUSH', P .. 'followers', ticket)
end

local function end_job(row, status, reason, result)
  leave_line(row)
  move(row, status)
  set(row, 'reason', reason ~= '' and reason or nil)
  set(row, 'completed_at', now_ms)
  set(row, 'cancel', nil)
  set(row, 'session', nil)
  if result and result ~= 'null' then
    defer('SET', P .. 'r:' .. row.id, result)
    set(row, 'special', '1')
  end
  let_go_key(row)
  if row.placed then
    set(row, 'placed', nil)
    count_field('gates', row.gate, -1)
    follow('g:' .. row.gate)
  end
  drop_edges(row)
  if row.kids then
    follow('n0:' .. row.id)
  end
  if row.watched then
    for client in string.gmatch(row.watched, '[^,]+') do
      defer_note(client, 'j' .. row.id)
    end
    set(row, 'watched', nil)
  end
end
