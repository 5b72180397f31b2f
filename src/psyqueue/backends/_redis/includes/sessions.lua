-- Worker sessions. S:<id> what it is; `leases` the open ones by the end of their lease (monotone clock); a:<id> the jobs
-- it holds, each with its ticket (rows.lua); `closing` closed ones that hold jobs; `closed` closed ones by the time they closed.
local function is_open(session_id)
  return call('ZSCORE', P .. 'leases', session_id)
end

-- (lease in ms, its queues); nothing if its record is gone or foreign.
local function record_of(session_id)
  local found = checked(pcall_('HMGET', P .. 'S:' .. session_id, 'lease_ms', 'queues'))
  local lease_ms = tonumber(found[1] or nil)
  if lease_ms and found[2] then
    return lease_ms, cmsgpack.unpack(found[2])
  end
end

local function require_session(session_id)
  if not is_open(session_id) then
    refuse('SESSION_LOST', session_id)
  end
end

local function close(session_id)
  is_changed = true
  call('ZREM', P .. 'leases', session_id)
  call('ZADD', P .. 'closed', mono_ms, session_id)
  if call('EXISTS', P .. 'a:' .. session_id) == 1 then
    call('ZADD', P .. 'closing', 0, session_id)
  end
end

-- Without a record nobody knows how long its lease is: it is closed, and its worker opens another one.
local function extend(session_id)
  local lease_ms = record_of(session_id)
  if not lease_ms then
    close(session_id)
    return
  end
  local until_ms = math.max(mono_ms + lease_ms, tonumber(is_open(session_id)))
  call('ZADD', P .. 'leases', until_ms, session_id)
end

-- In order of creation. Entries without a job that runs there go.
local function rows_held_by(session_id)
  local held, key = {}, P .. 'a:' .. session_id
  for _, id in ipairs(call('HKEYS', key)) do
    local row = row_of(id)
    if row and row.session == session_id and row.status == 'active' then
      held[#held + 1] = row
    else
      defer('HDEL', key, id)
    end
  end
  table.sort(held, function(one, other)
    return one.number < other.number
  end)
  return held
end

local function forget_if_empty(session_id)
  if call('EXISTS', P .. 'a:' .. session_id) == 0 then
    call('ZREM', P .. 'closing', session_id)
  end
end

local function cancel_requested(session_id)
  return call('SMEMBERS', P .. 'cr:' .. session_id)
end

-- { is open, asked to cancel, its queues that are paused, now }
local function renewal_of(session_id)
  if not is_open(session_id) then
    return { 0, {}, {}, now_ms }
  end
  local paused, _, queues = {}, record_of(session_id)
  for _, queue in ipairs(queues) do
    if is_paused(limits_of(queue)) then
      paused[#paused + 1] = queue
    end
  end
  return { 1, cancel_requested(session_id), paused, now_ms }
end
