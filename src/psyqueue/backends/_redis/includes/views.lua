-- What people see of a job, and which jobs they mean.
local function limit_codes(codes, queue, lane, where)
  local limits = limits_of(queue, lane)
  if not limits then
    return
  end
  if is_paused(limits) then
    codes[#codes + 1] = 'paused:' .. where
  end
  if limits.active_max and active_of(queue, lane) >= limits.active_max then
    codes[#codes + 1] = 'limit:' .. where
  end
  if limits.rate and level_of(queue, lane, limits) < TOKEN_UNITS then
    codes[#codes + 1] = 'rate:' .. where
  end
end

-- Why the job is not running, as the codes of `JobView.blocked_by`.
local function blocks(row)
  local codes = {}
  if not IS_UNSTARTED[row.status] then
    return codes
  end
  if row.held then
    codes[1] = 'held'
  end
  if row.special then
    local needs = call('HGETALL', P .. 'nd:' .. row.id)
    for i = 1, #needs, 2 do
      if string.sub(needs[i + 1], 1, 1) ~= '+' then
        codes[#codes + 1] = 'needs:' .. needs[i]
      end
    end
  end
  if row.gate and row.status == 'waiting' and not row.needs_left then
    codes[#codes + 1] = 'gate:' .. row.gate
  end
  if row.status == 'scheduled' then
    codes[#codes + 1] = 'run_at'
  end
  limit_codes(codes, row.queue, nil, 'queue')
  limit_codes(codes, row.queue, row.lane or '', 'lane')
  if starts_nothing() then
    codes[#codes + 1] = 'mode:' .. mode
  end
  return codes
end

-- { id, body, result, errors, worker, codes, field, value, field, value … }
local function view_of(row, raw)
  local worker = row.status == 'active' and checked(pcall_('HGET', P .. 'S:' .. row.session, 'worker'))
  worker = type(worker) == 'string' and worker
  local result = row.status == 'completed' and call('GET', P .. 'r:' .. row.id)
  local errors = call('LRANGE', P .. 'f:' .. row.id, 0, -1)
  return { row.id, call('GET', P .. 'b:' .. row.id), result, errors, worker, blocks(row), unpack(raw) }
end

local function set_of(list)
  local set_ = {}
  for _, value in ipairs(list) do
    set_[value] = true
  end
  return #list > 0 and set_
end

-- where: { ids, queues, statuses, names, lanes, created_from, created_to, ended_before, text, reason }
local function filter_of(where)
  return {
    ids = where[1], id_set = set_of(where[1]), queues = where[2], queue_set = set_of(where[2]),
    status_set = set_of(where[3]), names = set_of(where[4]), lanes = set_of(where[5]), created_from = where[6],
    created_to = where[7], ended_before = where[8], text = where[9] ~= '' and where[9],
    reason = where[10] ~= '' and where[10],
  }
end

local function contains(text, part)
  return string.find(text, part, 1, true)
end

local function has_text(row, text)
  if contains(row.id, text) or contains(row.name, text) then
    return true
  end
  local body = call('GET', P .. 'b:' .. row.id)
  local payload_at, cold_at, digest_at = parts_of(body)
  return payload_at and (contains(string.sub(body, payload_at, cold_at - 1), text)
    or contains(string.sub(body, cold_at, digest_at - 1), text))
end

local function matches(row, where)
  return (not where.id_set or where.id_set[row.id])
    and (not where.queue_set or where.queue_set[row.queue])
    and (not where.status_set or where.status_set[row.status])
    and (not where.names or where.names[row.name])
    and (not where.lanes or where.lanes[row.lane or ''])
    and (not where.created_from or row.created_at >= where.created_from)
    and (not where.created_to or row.created_at < where.created_to)
    and (not where.ended_before or IS_ENDED[row.status] and row.completed_at < where.ended_before)
    and (not where.reason or row.reason == where.reason)
    and (not where.text or has_text(row, where.text))
end
