-- Broken invariants, in words.
local function count_problems(queue, words)
  local held = {}
  for _, id in ipairs(call('ZRANGE', P .. 'h:' .. queue, 0, -1)) do
    local status = call('HGET', P .. 'j:' .. id, 'status') or 'gone'
    held[status] = (held[status] or 0) + 1
  end
  local function expect(what, counted, found)
    if counted ~= found then
      words[#words + 1] = 'queue ' .. queue .. ': ' .. counted .. ' ' .. what .. ' are counted, ' .. found .. ' are there'
    end
  end
  local function at(kind)
    return call('ZCARD', P .. kind .. queue)
  end
  local ended = count_of(queue, 'completed') + count_of(queue, 'cancelled') + count_of(queue, 'dead')
  local held_ended = (held.completed or 0) + (held.cancelled or 0) + (held.dead or 0)
  expect('waiting', count_of(queue, 'waiting'), at('wt:') + (held.waiting or 0))
  expect('scheduled', count_of(queue, 'scheduled'), at('d:') + (held.scheduled or 0))
  local listed = at('z:') + call('LLEN', P .. 'p:' .. queue) + (held.pending or 0)
  if listed < lane_count(queue, '', 'p') then -- there may be more: stale ones
    expect('pending', lane_count(queue, '', 'p'), listed)
  end
  expect('ended', ended, at('e:') + at('D:') + at('k:') + held_ended)
end

local function of_store()
  local words, active, counted = {}, 0, 0
  for _, queue in ipairs(call('ZRANGE', P .. 'queues', 0, -1)) do
    count_problems(queue, words)
    counted = counted + count_of(queue, 'active')
  end
  for _, name in ipairs({ 'leases', 'closing' }) do
    for _, session_id in ipairs(call('ZRANGE', P .. name, 0, -1)) do
      if name == 'leases' and not record_of(session_id) then
        words[#words + 1] = 'session ' .. session_id .. ': its record is broken'
      end
      active = active + call('HLEN', P .. 'a:' .. session_id)
    end
  end
  if active ~= counted then
    words[#words + 1] = counted .. ' active jobs are counted, sessions hold ' .. active
  end
  return words
end

local function unmet_of(row)
  local unmet, needs = 0, call('HGETALL', P .. 'nd:' .. row.id)
  for i = 2, #needs, 2 do
    unmet = unmet + (string.sub(needs[i], 1, 1) ~= '+' and 1 or 0)
  end
  return unmet
end

local function is_own_ticket(row)
  local ticket = string.match(call('HGET', P .. 'a:' .. row.session, row.id) or '', '^[^\n]*')
  return ticket == '' or not row.special and ticket == text_of(row.number) .. ticket_tail(row.token, row.queue)
end

local function has_fresh_body(row)
  local body = call('GET', P .. 'b:' .. row.id)
  return body and is_fresh(body, text_of(row.number))
end

local function of_row(row)
  local problems = {}
  local function expect(words, holds)
    if not holds then
      problems[#problems + 1] = words
    end
  end
  local is_active, attempt = row.status == 'active', row.attempt or 0
  expect('its number is beyond the last one that was given out', row.number <= counter.number)
  expect('active, token and session go together', not is_active or row.token)
  expect('its session does not list it',
    not is_active or call('HEXISTS', P .. 'a:' .. row.session, row.id) == 1)
  expect('its ticket is that of another delivery', not is_active or is_own_ticket(row))
  expect('its body says that it is plain', row.status ~= 'pending' or not row.special or not has_fresh_body(row))
  expect('an ended job has its time of end', not IS_ENDED[row.status] == not row.completed_at)
  expect('attempt is within its retries', attempt >= 0 and attempt <= (row.max_retries or MAX_RETRIES) + 1)
  expect('fence is at least attempt', fence_of(row) >= attempt)
  expect('unmet needs are counted', row.status ~= 'waiting' or (row.needs_left or 0) == unmet_of(row))
  expect('an ended job holds no place', not (row.placed and IS_ENDED[row.status]))
  expect('errors are bounded', call('LLEN', P .. 'f:' .. row.id) <= 20)
  expect('active is not held', not (row.held and is_active))
  expect('it has a body', call('EXISTS', P .. 'b:' .. row.id) == 1)
  expect('its live children are counted', (row.kids or 0) == call('ZCARD', P .. 'n:' .. row.id))
  return problems
end
