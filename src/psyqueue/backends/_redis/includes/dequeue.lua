-- Which job is next: queue by queue, lane by lane, priority, then age; within what limits allow. As _memory/dequeue.py.
--
-- Pending jobs of priority 0 stand in a list, in order of their ready numbers, as "<number>:<id>". An entry is stale
-- unless the job still is pending at that very number, neither sorted nor held; stale ones are dropped in passing, so
-- that whatever takes a job out of the line need not look for it. Jobs of other priorities, and those that came back to
-- an old place, stand in a sorted set that is always exact: `sorted`, by minus priority, then ready number.
-- A function of its own for what is named in it: all around it share 200 names.
local add_delivery, dequeue = (function()
  -- A fetch passes over LOOK_MAX entries or lanes at most that start nothing; then the next one goes on.
  local LOOK_MAX, BODIES_MAX = 1000, 64
  -- Tickets of one fetch that may stand in a listpack.
  local LISTED_MAX = 32
  -- Jobs that are not plain are started in runs of so many, before the short way is tried again.
  local ODD_MAX = 8
  local LANE_TURN = 2 ^ 20

  -- The row behind an entry, nil if the entry is stale.
  local function row_at(id, number, is_sorted)
    local row = whole_row(id)
    local is_there = row and row.status == 'pending' and not row.held and not row.sorted == not is_sorted
      and ready_of(row) == number
    return is_there and row or nil
  end

  -- An expired job is not started, and must not lose its place should the clock go back: it is set apart.
  local function set_apart(key, row)
    call('HSET', P .. 'j:' .. row.id, 'sorted', '1')
    call('ZADD', key, -priority_of(row), ordered(ready_of(row), row.id))
    call('ZADD', P .. 'pn:' .. row.queue, row.number, ordered(row.number, row.id))
  end

  local function is_expired(row)
    return row.expires_at and row.expires_at <= now_ms
  end

  local function give_back(list, entries, first)
    for i = #entries, first, -1 do
      call('LPUSH', list, entries[i])
    end
  end

  -- Up to `wanted` startable rows in order; those of the list are taken out of it.
  local function heads(queue, lane, wanted, budget)
    local list, set_ = lane_key('p', queue, lane), lane_key('z', queue, lane)
    local found, passed = {}, 0
    while #found < wanted and budget.looked < LOOK_MAX do
      local missing = wanted - #found
      local sorted = call('ZRANGE', set_, passed, passed + missing - 1, 'WITHSCORES')
      local is_more_sorted = #sorted == 2 * missing
      local listed = call('LPOP', list, missing) or {}
      local is_more_listed = #listed == missing
      if #sorted == 0 and #listed == 0 then
        return found
      end
      local s, l = 1, 1
      while #found < wanted and (sorted[s] or listed[l]) do
        local number, id, is_sorted
        local listed_number, listed_id
        if listed[l] then
          listed_number, listed_id = string.match(listed[l], '^(%d+):(.*)$')
          listed_number, listed_id = tonumber(listed_number) or 0, listed_id or '' -- a foreign entry is nobody's
        end
        local score = tonumber(sorted[s + 1])
        if not sorted[s] and is_more_sorted or not listed[l] and is_more_listed and score >= 0 then
          break -- what comes next may stand where we have not read on
        elseif sorted[s] and (score < 0 or not listed[l]
            or score == 0 and (number_of(sorted[s]) or 0) < listed_number) then
          number, id, is_sorted = number_of(sorted[s]), id_of(sorted[s]), true
          s, passed = s + 2, passed + 1
        else
          number, id, is_sorted = listed_number, listed_id, false
          l = l + 1
        end
        local row = row_at(id, number, is_sorted)
        if row and not is_expired(row) then
          found[#found + 1] = row
        else
          budget.looked = budget.looked + 1
          if row and not is_sorted then
            set_apart(set_, row)
          end
        end
      end
      give_back(list, listed, l)
    end
    return found
  end

  local function put_back_heads(queue, lane, rows_)
    for i = #rows_, 1, -1 do
      local row = rows_[i]
      if not row.sorted then
        call('LPUSH', lane_key('p', queue, lane), text_of(ready_of(row)) .. ':' .. row.id)
      end
    end
  end

  -- To ids, bodies and facts: of a job that does not start as a plain one, which delivery it is and what is to know of it.
  local function add_delivery(row, body, deliveries)
    local n, facts = #deliveries.ids + 1, deliveries.facts
    local at = #facts
    deliveries.ids[n], deliveries.bodies[n] = row.id, body
    facts[at + 1] = n
    facts[at + 2] = cmsgpack.pack({
      row.number, row.created_at, row.attempt, fence_of(row), row.lost or 0, priority_of(row), run_at_of(row),
      row.generation or 0,
    })
  end

  local function activate(row, budget)
    row.attempt = (row.attempt or 0) + 1
    local key = P .. 'j:' .. row.id
    call('HSET', key, 'status', 'active', 'attempt', row.attempt, 'token', budget.seed, 'session', budget.session,
      'started_at', budget.now)
    if row.fence then
      row.fence = row.fence + 1
      call('HSET', key, 'fence', row.fence)
    end
    if row.reason then
      call('HDEL', key, 'reason')
    end
    if row.sorted then
      call('ZREM', lane_key('z', row.queue, row.lane), ordered(ready_of(row), row.id))
    end
    if is_odd(row) then
      call('ZREM', P .. 'pn:' .. row.queue, ordered(row.number, row.id))
    end
    if row.expires_at then
      call('ZREM', P .. 'x:' .. row.queue, ordered(row.number, row.id))
    end
    row.status = 'active'
    let_go_key(row)
    local tickets = budget.tickets
    local n = #tickets
    tickets[n + 1] = row.id
    tickets[n + 2] = row.special and '' or text_of(row.number) .. ticket_tail(budget.seed, row.queue)
  end

  -- What a body costs of the fetch's bytes. Of one that is gone, or not ours, the client says so.
  local function cost_of(body)
    local at = body and client_part_at(body)
    if not at then
      return 0
    end
    local payload, cold = struct_unpack('<I4I4', body, at)
    return payload + cold
  end

  local function length_of(body)
    return body and #body or 0
  end

  -- Whether there are bytes for one that is longer than what is left. A body is charged by its length, which costs nothing
  -- to learn; when it matters, those given since the last time are charged what they cost. The first one is always given.
  local function fits(body, budget)
    local bodies, bytes = budget.deliveries.bodies, budget.bytes
    for i = budget.weighed + 1, #bodies do
      bytes = bytes + length_of(bodies[i]) - cost_of(bodies[i])
    end
    budget.bytes, budget.weighed = bytes, #bodies
    budget.is_spent = #bodies > 0 and cost_of(body) > bytes
    return not budget.is_spent
  end

  local function charge_body(body, budget)
    local length = length_of(body)
    budget.bytes = budget.bytes - length
    if length > budget.largest then
      budget.largest = length
    end
  end

  -- How many bodies to read at once: with large ones, hardly more than fit.
  local function bodies_wanted(missing, budget)
    local fitting = 1 + math.floor(math.max(0, budget.bytes) / budget.largest)
    return math.min(missing, budget.largest == 1 and 4 or BODIES_MAX, fitting)
  end

  -- A first start adds four fields to a row, at most: five, and the row is gone; an error, and it is somebody else's. Either
  -- is left as it was.
  local function is_started(key, added)
    if checked(added) == 5 then
      call('HDEL', key, 'status', 'attempt', 'token', 'session', 'started_at')
    end
    return type(added) == 'number' and added < 5
  end

  -- (ids, numbers, keys of the bodies) of a list's entries; a foreign one names no body of ours.
  local function split(entries)
    local ids, numbers, names, prefix = {}, {}, {}, P .. 'b:'
    for i = 1, #entries do
      local entry = entries[i]
      local colon = find(entry, ':', 1, true) or 0
      local id = sub(entry, colon + 1)
      ids[i], numbers[i], names[i] = id, sub(entry, 1, colon - 1), prefix .. id
    end
    return ids, numbers, names
  end

  -- The usual case: all of the line is in the list, and plain, as entries and bodies say. Stops at the first job that is
  -- not.
  local function start_plain(queue, wanted, budget)
    local list, rows_, tail, started = P .. 'p:' .. queue, P .. 'j:', ticket_tail(budget.seed, queue), 0
    local given_ids, given_bodies, tickets = budget.deliveries.ids, budget.deliveries.bodies, budget.tickets
    local seed, session, now, n, t = budget.seed, budget.session, budget.now, #given_ids, #tickets
    while started < wanted and not budget.is_spent and budget.looked < LOOK_MAX do
      local entries = call('LPOP', list, math.min(budget.run, bodies_wanted(wanted - started, budget)))
      if not entries then
        break
      end
      local ids, numbers, names = split(entries)
      local texts = call('MGET', unpack(names))
      for i = 1, #ids do
        local id, body, number = ids[i], texts[i], numbers[i]
        local is_plain = body and is_fresh(body, number)
        if not is_plain or #body > budget.bytes and not fits(body, budget) then
          give_back(list, entries, i)
          budget.run = is_plain and budget.run or ODD_MAX
          return started
        end
        local key = rows_ .. id
        local added = pcall_('HSET', key, 'status', 'active', 'attempt', '1', 'token', seed, 'session', session,
          'started_at', now)
        if added == 4 or is_started(key, added) then
          started, n = started + 1, n + 1
          given_ids[n], given_bodies[n] = id, body
          t = t + 2
          tickets[t - 1], tickets[t] = id, number .. tail
          charge_body(body, budget)
        else
          budget.looked = budget.looked + 1
        end
      end
      budget.run = math.min(BODIES_MAX, 2 * budget.run)
    end
    return started
  end

  -- Start up to `wanted` of the lane: how many were started.
  local function start_some(queue, lane, wanted, budget)
    local started = 0
    local is_listed = lane == '' and call('EXISTS', P .. 'z:' .. queue) == 0
    while started < wanted and not budget.is_spent do
      if is_listed then
        started = started + start_plain(queue, wanted - started, budget)
      end
      local missing = math.min(wanted - started, is_listed and ODD_MAX or BODIES_MAX)
      local rows_ = {}
      if missing > 0 and not budget.is_spent then
        rows_ = heads(queue, lane, bodies_wanted(missing, budget), budget)
      end
      if #rows_ == 0 then
        break
      end
      local keys = {}
      for i, row in ipairs(rows_) do
        keys[i] = P .. 'b:' .. row.id
      end
      local texts = call('MGET', unpack(keys))
      for i, row in ipairs(rows_) do
        if length_of(texts[i]) > budget.bytes and not fits(texts[i], budget) then
          put_back_heads(queue, lane, { unpack(rows_, i) })
          break
        end
        started = started + 1
        activate(row, budget)
        add_delivery(row, texts[i], budget.deliveries)
        charge_body(texts[i], budget)
      end
    end
    if started > 0 then
      is_changed = true
      local named = lane ~= '' and lane or nil
      if named then
        tally(queue, named, 'pending', -started)
        tally(queue, named, 'active', started)
      else
        recount(queue, 'pending', 'active', started)
      end
      charge(queue, nil, started)
      charge(queue, lane, started)
      budget.left = budget.left - started
      budget.is_spent = budget.is_spent or budget.left <= 0
    end
    return started
  end

  -- ── lanes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
  -- Start-time fair queueing: a lane that was idle starts at the queue's time and saves up no claim.
  local function take_turn(queue, lane)
    local limits = limits_of(queue, lane)
    local start = math.max(lane_time(queue, lane), number_field('times', 'q' .. queue))
    local after = start + math.floor(LANE_TURN / (limits and limits.weight or 1))
    set_field('times', 'q' .. queue, text_of(start))
    set_lane_time(queue, lane, after)
    if lane ~= '' then
      call('ZADD', P .. 'lp:' .. queue, 'XX', after, lane)
    end
    return after
  end

  local function is_before(one, other)
    return one[1] < other[1] or one[1] == other[1] and one[2] < other[2]
  end

  local function insert_lane(lanes, entry)
    local i = 1
    while lanes[i] and is_before(lanes[i], entry) do
      i = i + 1
    end
    table.insert(lanes, i, entry)
  end

  -- Lanes with pending jobs as { time, name }, from the `from`-th on, by turn.
  local function lanes_by_turn(queue, from, count)
    local lanes = {}
    local raw = call('ZRANGE', P .. 'lp:' .. queue, from, from + count - 1, 'WITHSCORES')
    for i = 1, #raw, 2 do
      lanes[#lanes + 1] = { tonumber(raw[i + 1]), raw[i] }
    end
    if from == 0 and lane_count(queue, '', 'p') > 0 then
      insert_lane(lanes, { lane_time(queue, ''), '' })
    end
    return lanes
  end

  -- Lanes that may not start now keep their turn. So that many of them hide no other for ever, a fetch that looked at
  -- nothing else leaves in `times`, f<queue>, where the next one goes on.
  local function start_by_turn(queue, room, budget)
    local step, from = budget.left + 100, number_field('times', 'f' .. queue)
    local lanes, passed, has_started = lanes_by_turn(queue, from, step), from, false
    while room > 0 and not budget.is_spent and budget.looked < LOOK_MAX do
      if #lanes == 0 then
        from = from + step
        lanes = lanes_by_turn(queue, from, step)
        if #lanes == 0 then
          passed = 0
          break
        end
      end
      local lane = table.remove(lanes, 1)[2]
      if room_of(queue, lane) > 0 and start_some(queue, lane, 1, budget) == 1 then
        room, has_started = room - 1, true
        local after = take_turn(queue, lane)
        if lane_count(queue, lane, 'p') > 0 then
          insert_lane(lanes, { after, lane })
        end
      elseif budget.looked < LOOK_MAX then
        budget.looked = budget.looked + 1
        passed = passed + (lane ~= '' and 1 or 0)
      end
    end
    passed = not has_started and budget.looked >= LOOK_MAX and passed or 0
    if passed ~= number_field('times', 'f' .. queue) then
      set_field('times', 'f' .. queue, passed > 0 and text_of(passed))
    end
  end

  -- fetch: { queues, count, seed, bytes_max }. Fills `deliveries`; whether a bound ended it.
  local function dequeue(session_id, fetch, deliveries)
    local budget = {
      left = fetch[2], bytes = fetch[4], weighed = 0, seed = fetch[3], session = session_id, tickets = {},
      deliveries = deliveries, is_spent = fetch[2] == 0, looked = 0, largest = 1, now = text_of(now_ms), run = BODIES_MAX,
    }
    for _, queue in ipairs(fetch[1]) do
      if not budget.is_spent and peek('c:' .. queue, 'pending') then
        local room = room_of(queue)
        if call('EXISTS', P .. 'lt:' .. queue) == 1 then
          start_by_turn(queue, room, budget)
        elseif room > 0 then
          room = math.min(room, room_of(queue, ''))
          start_some(queue, '', math.min(room, budget.left), budget)
        end
      end
    end
    local tickets = budget.tickets
    if #tickets > 2 * LISTED_MAX then
      -- In a hash of short values the server looks for fields one by one, among up to 512 of them; one longer value ends
      -- that. No name of a queue holds a line feed.
      tickets[2] = tickets[2] .. string.rep('\n', 65)
    end
    call_many('HSET', P .. 'a:' .. session_id, tickets)
    flush()
    local is_bounded = fetch[2] > 0 and (budget.is_spent or budget.looked >= LOOK_MAX)
    if is_bounded then
      for _, queue in ipairs(fetch[1]) do
        if peek('c:' .. queue, 'pending') then
          arm(queue)
        end
      end
    end
    return is_bounded
  end

  return add_delivery, dequeue
end)()
