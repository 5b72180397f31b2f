-- Jobs as rows: the hot fields of `j:<id>` in a Lua table, where a row has its place, and how a changed one is written.
-- Absent fields: ready = number, fence = attempt, run_at = created_at, lane = '', the rest 0, or as in `default_of`.
local MAX_RETRIES, MAX_LOST = 3, 2
-- In `special`: a plain job that ended with a result. Of members in `e:`: plain jobs, without one.
local HAS_RESULT, COMPLETED = 'r', 'c'
local INITIAL = {
  waiting = 'w', scheduled = 's', pending = 'p', active = 'a', completed = 'c', dead = 'd', cancelled = 'x',
}
local IS_ENDED = { completed = true, dead = true, cancelled = true }
local IS_UNSTARTED = { waiting = true, scheduled = true, pending = true }

local rows, dirty, broken = {}, {}, {}

begins[#begins + 1] = function()
  rows, dirty, broken = emptied(rows), emptied(dirty), emptied(broken)
end

local row_of_fields
do
  local IS_NUMBER = {
    number = true, ready = true, priority = true, attempt = true, fence = true, lost = true, max_retries = true,
    max_lost = true, created_at = true, run_at = true, expires_at = true, generation = true, started_at = true,
    completed_at = true, gate_max = true, needs_left = true, kids = true,
  }

  function row_of_fields(id, raw)
    local row, was = { id = id }, {}
    for i = 1, #raw, 2 do
      local name, value = raw[i], raw[i + 1]
      if IS_NUMBER[name] then
        value = tonumber(value)
      end
      row[name], was[name] = value, value
    end
    row.was = was
    return row
  end
end

-- (row, fields); false if there is no such job, or if what stands there is not ours, or the rest of one.
local function whole_row(id)
  local raw = checked(pcall_('HGETALL', P .. 'j:' .. id))
  if #raw > 0 then
    local row = row_of_fields(id, raw)
    if row.number and row.created_at and row.queue and row.name and INITIAL[row.status]
        and (row.status ~= 'active' or row.session and row.attempt) then
      return row, raw
    end
  end
  broken[id] = #raw > 0 or raw.err or nil
  return false
end

-- The row, or false if there is no such job.
local function row_of(id)
  local row = rows[id]
  if row == nil then
    row = whole_row(id)
    rows[id] = row
  end
  return row
end

local function set(row, name, value)
  if not row.is_dirty then
    put(row, 'is_dirty', true)
    put(dirty, #dirty + 1, row)
  end
  put(row, name, value)
end

local function priority_of(row)
  return row.priority or 0
end

local function ready_of(row)
  return row.ready or row.number
end

local function fence_of(row)
  return row.fence or row.attempt or 0
end

local function run_at_of(row)
  return row.run_at or row.created_at
end

-- ── counts ─────────────────────────────────────────────────────────────────────────────────────────────────────────
-- c:<queue> status → jobs. lc:<queue> for lanes other than '' alone: u (unstarted), p (pending), a (active), of each
-- lane and of all of them.
local function count_of(queue, status)
  return number_field('c:' .. queue, status)
end

local function lane_count(queue, lane, kind)
  if lane ~= '' then
    return number_field('lc:' .. queue, kind .. lane)
  end
  local all
  if kind == 'a' then
    all = count_of(queue, 'active')
  elseif kind == 'p' then
    all = count_of(queue, 'pending')
  else
    all = count_of(queue, 'waiting') + count_of(queue, 'scheduled') + count_of(queue, 'pending')
  end
  return all - number_field('lc:' .. queue, kind)
end

local function count_lane(queue, lane, kind, by)
  count_field('lc:' .. queue, kind .. lane, by)
  count_field('lc:' .. queue, kind, by)
end

-- Virtual time of a lane. Lanes other than '' stand in lt:<queue>, which is there while the queue has such lanes.
local function lane_time(queue, lane)
  if lane == '' then
    return number_field('times', 'l' .. queue)
  end
  return number_field('lt:' .. queue, lane)
end

local function set_lane_time(queue, lane, time)
  if lane == '' then
    set_field('times', 'l' .. queue, text_of(time))
  else
    set_field('lt:' .. queue, lane, text_of(time))
  end
end

local function tally(queue, lane, status, by)
  count_field('c:' .. queue, status, by)
  if lane then
    if status == 'active' then
      count_lane(queue, lane, 'a', by)
    elseif IS_UNSTARTED[status] then
      count_lane(queue, lane, 'u', by)
      if status == 'pending' then
        count_lane(queue, lane, 'p', by)
      end
    end
    if not field('lt:' .. queue, lane) then
      set_field('lt:' .. queue, lane, '0')
    end
  end
end

-- Jobs of the default lane that went from one status to another on the short ways: counted at once where the journal has
-- nothing of the queue's counts. The list of a queue without pending jobs holds stale entries alone, maybe very many: it goes.
local function recount(queue, from, to, jobs)
  if hashes['c:' .. queue] then
    tally(queue, nil, from, -jobs)
    tally(queue, nil, to, jobs)
    return
  end
  local key = P .. 'c:' .. queue
  is_changed = true
  call('HINCRBY', key, to, jobs)
  if call('HINCRBY', key, from, -jobs) == 0 then
    call('HDEL', key, from)
    if from == 'pending' then
      call('UNLINK', P .. 'p:' .. queue)
    end
  end
end

-- Whether a limit on running jobs covers the row: its end is then news to who waits for a start. Set by limits.lua.
local is_crowded = function()
  return false
end

local function move(row, status)
  if row.status ~= status then
    tally(row.queue, row.lane, row.status, -1)
    tally(row.queue, row.lane, status, 1)
    if row.status == 'active' and is_crowded(row) then
      put(touched, row.queue, true)
    end
    set(row, 'status', status)
  end
  if status == 'pending' or status == 'scheduled' then
    put(touched, row.queue, true)
  end
end

-- ── places ─────────────────────────────────────────────────────────────────────────────────────────────────────────
local function lane_key(kind, queue, lane)
  if not lane or lane == '' then
    return P .. kind .. ':' .. queue
  end
  return P .. kind .. 'l:' .. #queue .. ':' .. queue .. lane
end

-- a:<session> job → its ticket: number and seed of its token, then its queue, all that the ack of a plain job has to know.
-- '' for other jobs: their acks look at the row. Line feeds may follow (dequeue.lua). This is what follows the number.
local function ticket_tail(seed, queue)
  return '.' .. seed .. ' ' .. queue
end

local is_odd, is_special, flush_rows
do
  -- What retention finds behind an ended job: COMPLETED, a plain one; HAS_RESULT, with a result; else it has to look.
  local function kind_at_end(row)
    return row.status == 'completed' and (row.special or COMPLETED) or nil
  end

  -- Where a job with these fields is found: key, score, member. A list has no score. Held jobs lie apart: nothing that
  -- starts, expires or deletes jobs comes across them.
  local function place_of(id, row)
    local status, queue = row.status, row.queue
    if row.held then
      return P .. 'h:' .. queue, row.number, id
    elseif status == 'waiting' then
      return P .. 'wt:' .. queue, row.number, id
    elseif status == 'scheduled' then
      return P .. 'd:' .. queue, run_at_of(row), ordered(row.number, id)
    elseif status == 'pending' then
      if row.sorted then
        return lane_key('z', queue, row.lane), -priority_of(row), ordered(ready_of(row), id)
      end
      return lane_key('p', queue, row.lane), nil, text_of(ready_of(row)) .. ':' .. id
    elseif status == 'active' then
      return P .. 'a:' .. row.session, nil, id
    end
    -- Ended. One that a live child needs lies apart, so that retention never walks over it.
    local kind = (row.kids or 0) > 0 and 'k:' or status == 'dead' and 'D:' or 'e:'
    return P .. kind .. queue, row.completed_at, ordered(row.number, id, kind_at_end(row))
  end

  local function is_expiring(row)
    return row.expires_at and IS_UNSTARTED[row.status] and not row.held
  end

  -- Pending, and not at the place that its creation number says: the list alone does not tell the oldest one.
  function is_odd(row)
    return row.status == 'pending' and not row.held and (row.sorted or ready_of(row) ~= row.number)
  end

  local function unplace(id, was)
    local key, score, member = place_of(id, was)
    if score then
      call('ZREM', key, member)
    elseif was.status == 'active' then
      call('HDEL', key, member)
    end -- an entry of a list stays: its reader sees that it is stale
  end

  local function flush_place(row, lists)
    local id, was = row.id, row.was
    local key, score, member
    if not row.is_gone then
      key, score, member = place_of(id, row)
    end
    if was then
      local old_key, old_score, old_member = place_of(id, was)
      if old_key == key and old_score == score and old_member == member then
        key = nil
      else
        unplace(id, was)
      end
    end
    if key then
      if score then
        call('ZADD', key, score, member)
      elseif not row.is_listed then -- of a list: jobs start in dequeue.lua alone
        lists[#lists + 1] = { ready_of(row), key, member }
      end
    end
  end

  -- A sorted set in which a row stands for as long as `test` holds.
  local function flush_index(row, kind, test, score_of)
    local id, was = row.id, row.was
    local had = was and test(was)
    local has = not row.is_gone and test(row)
    if has and not (had and score_of(was) == score_of(row)) then
      call('ZADD', P .. kind .. row.queue, score_of(row), ordered(row.number, id))
    elseif had and not has then
      call('ZREM', P .. kind .. row.queue, ordered(row.number, id))
    end
  end

  -- Whatever makes a job more than a plain one that is pending at its creation number, runs, is acked and goes: the usual
  -- ways then leave it to those that look at all of its fields.
  function is_special(row)
    return row.ready or row.sorted or row.priority or row.lane or row.unique or row.gate or row.kids or row.needs_left or row.run_at
      or row.expires_at or row.fence or row.lost or row.generation or row.reason or row.held or row.cancel or row.watched
  end

  local FIELDS = {
    'number', 'ready', 'priority', 'attempt', 'fence', 'lost', 'max_retries', 'max_lost', 'created_at', 'run_at',
    'expires_at', 'generation', 'started_at', 'completed_at', 'gate_max', 'needs_left', 'kids', 'queue', 'name', 'status',
    'lane', 'token', 'session', 'reason', 'unique', 'unique_while', 'gate', 'placed', 'held', 'cancel', 'sorted', 'watched',
    'special',
  }

  local function flush_fields(row)
    local was, sets, drops = row.was or {}, {}, {}
    for _, name in ipairs(FIELDS) do
      local value = row[name]
      if value ~= was[name] then
        if value == nil then
          drops[#drops + 1] = name
        else
          sets[#sets + 1] = name
          sets[#sets + 1] = value
        end
      end
    end
    local key = P .. 'j:' .. row.id
    if #sets > 0 then
      call('HSET', key, unpack(sets))
    end
    if #drops > 0 then
      call('HDEL', key, unpack(drops))
    end
  end

  -- A new body; or the mark of one that says less than there is to know by now. So with the entry of a running job.
  local function flush_body(row)
    local was, is_plain = row.was, row.status == 'pending' and not row.special
    local key = P .. 'b:' .. row.id
    if row.body then
      local mark = is_plain and FRESH or OTHER
      call('SET', key, mark .. text_of(row.number) .. instant_of(row.created_at) .. row.body)
    elseif not was.special and (row.special or was.status == 'pending' and not is_plain) then
      checked(pcall_('SETRANGE', key, 0, OTHER)) -- or it is foreign
      if row.status == 'active' then
        call('HSET', P .. 'a:' .. row.session, row.id, '')
      end
    end
  end

  -- cr:<session> its jobs that somebody wants cancelled.
  local function flush_cancel(row)
    local was = row.was
    local had = was and was.cancel and was.status == 'active' and was.session
    local has = not row.is_gone and row.cancel and row.status == 'active' and row.session
    if had ~= has then
      if had then
        call('SREM', P .. 'cr:' .. had, row.id)
      end
      if has then
        call('SADD', P .. 'cr:' .. has, row.id)
      end
    end
  end

  local function number_score(row)
    return row.number
  end

  local function expiry_score(row)
    return row.expires_at
  end

  function flush_rows()
    local lists = {}
    for _, row in ipairs(dirty) do
      if not row.special and is_special(row) then
        row.special = '1'
      end
      flush_place(row, lists)
      flush_index(row, 'pn:', is_odd, number_score)
      flush_index(row, 'x:', is_expiring, expiry_score)
      flush_cancel(row)
      if row.is_gone then
        local id = row.id
        call('UNLINK', P .. 'j:' .. id, P .. 'b:' .. id, P .. 'r:' .. id, P .. 'f:' .. id, P .. 'n:' .. id)
      else
        flush_fields(row)
        flush_body(row)
      end
    end
    table.sort(lists, function(one, other)
      return one[1] < other[1]
    end)
    for _, entry in ipairs(lists) do
      call('RPUSH', entry[2], entry[3])
    end
    rows, dirty = {}, {}
  end
end
