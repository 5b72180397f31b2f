-- What another store is given: a page of one part. As _memory/moving.py.
-- A position is a list of texts, empty at the start of a part. Each function gives the one behind the page, nil at the end.
local export = {}
do
  local SCAN_COUNT, LOOK_MAX = 100, 1000
  -- How many bodies are read at once: few in the beginning.
  local RUN_MIN, RUN_MAX = 4, 128
  local page

  -- Whether one more of so many bytes has room; the first one always has.
  local function has_room(bytes)
    return page.count == 0 or page.count < page.limit and page.bytes + bytes <= page.bytes_max
  end

  local function count(bytes)
    if not has_room(bytes) then
      return false
    end
    page.bytes, page.count = page.bytes + bytes, page.count + 1
    return true
  end

  local function add(bytes, item)
    if not count(bytes) then
      return false
    end
    page.items[#page.items + 1] = item
    return true
  end

  local function left_of(until_ms)
    return until_ms and math.max(0, until_ms - mono_ms) or false
  end

  -- ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────
  -- Of a hash without an index: the server's own scan, each of its batches from where the page before left it. Sure to
  -- give each field once as long as the hash does not change.
  local function each_field(name, position, take)
    local scan, done = position[1] or '0', tonumber(position[2]) or 0
    repeat
      local reply = call('HSCAN', P .. name, scan, 'COUNT', SCAN_COUNT)
      local pairs_ = reply[2]
      for i = 2 * done + 1, #pairs_, 2 do
        if not take(pairs_[i], pairs_[i + 1]) then
          return { scan, text_of(done) }
        end
        done = done + 1
      end
      scan, done = reply[1], 0
    until scan == '0'
  end

  -- Of a sorted set in the order of its members.
  local function each_name(name, position, take)
    local last = position[1]
    local names = call('ZRANGEBYLEX', P .. name, last and '(' .. last or '-', '+', 'LIMIT', 0, LOOK_MAX)
    for _, each in ipairs(names) do
      if not take(each) then
        return { last }
      end
      last = each
    end
    return #names == LOOK_MAX and { last } or nil
  end

  -- Of a sorted set by score.
  local function each_member(name, position, take)
    local looked = 0
    repeat
      local entries, is_last = page_of_set(P .. name, unpack(position))
      for _, entry in ipairs(entries) do
        if not take(entry[1], tonumber(entry[2])) then
          return position
        end
        position = { entry[2], entry[3] }
      end
      looked = looked + #entries
    until is_last or looked >= LOOK_MAX
    return looked >= LOOK_MAX and position or nil
  end

  -- ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────
  function export.numbers()
    add(0, counter.number)
  end

  function export.limits(position)
    return each_field('limits', position, function(name, packed)
      local queue, lane = queue_and_lane(name)
      return add(0, { queue, lane or false, packed })
    end)
  end

  function export.schedules(position)
    return each_name('schedules:k', position, function(id)
      local v = cmsgpack.unpack(call('HGET', P .. 'schedules', id))
      return add(#v[2], { id, v[1], v[2], v[3], v[4], v[5] and 1 or 0 })
    end)
  end

  function export.fires(position)
    return each_member('fires', position, function(member)
      local nominal_ms, id = string.match(member, '^(-?%d+):(.*)$')
      return add(0, { id, nominal_ms })
    end)
  end

  function export.state(position)
    return each_name('state:k', position, function(key)
      local version, expires_ms, level, at_ms, value = unpack(cmsgpack.unpack(call('HGET', P .. 'state', key)))
      if expires_ms and expires_ms <= mono_ms then
        return true
      end
      return add(#value, { key, value, version, left_of(expires_ms), level, level and mono_ms - at_ms or 0 })
    end)
  end

  function export.streams(position)
    return each_field('streams', position, function(stream, seq)
      return add(0, { stream, seq })
    end)
  end

  -- From behind `after` to the end of the stream: nil; else the last one that had room.
  local function add_records(stream, after)
    repeat
      local entries = call('XRANGE', P .. 's:' .. stream, '(' .. after .. '-0', '+', 'COUNT', SCAN_COUNT)
      for _, entry in ipairs(entries) do
        local seq, body = string.match(entry[1], '^%d+'), entry[2][4]
        local until_ms = tonumber(call('ZSCORE', P .. 'records:x', seq .. ':' .. stream) or nil)
        if not add(#body, { stream, seq, entry[2][2], body, left_of(until_ms) }) then
          return after
        end
        after = seq
      end
    until #entries < SCAN_COUNT
  end

  -- The position: that of the stream, and the last record of it.
  function export.records(position)
    local after = position[3] or '0'
    local next_ = each_field('streams', position, function(stream)
      local last = add_records(stream, after)
      after = last or '0'
      return not last
    end)
    return next_ and { next_[1], next_[2], after }
  end

  function export.locks(position)
    return each_field('locks', position, function(name, packed)
      local holder, fence, until_ms = unpack(cmsgpack.unpack(packed))
      return add(0, { name, holder, fence, left_of(until_ms) })
    end)
  end

  function export.keys(position)
    return each_member('keys:x', position, function(key)
      local id, digest, expires_ms = unpack(cmsgpack.unpack(call('HGET', P .. 'keys', key)))
      return expires_ms <= mono_ms or add(0, { key, id, digest, expires_ms - mono_ms })
    end)
  end

  local function filter_by(statuses)
    return filter_of({ {}, {}, statuses, {}, {}, false, false, false, '', '' })
  end

  -- (ids, numbers, bodies, how many) of plain pending jobs that a list goes on with: as its entries and their bodies say
  -- (includes/bodies.lua), of rows only that they are there.
  local function plain_ones(key, index, wanted)
    local ids, numbers, names, rows_ = {}, {}, {}, {}
    for i, entry in ipairs(call('LRANGE', key, index, index + wanted - 1)) do
      local colon = find(entry, ':', 1, true) or 0
      local id = sub(entry, colon + 1)
      ids[i], numbers[i], names[i], rows_[i] = id, sub(entry, 1, colon - 1), P .. 'b:' .. id, P .. 'j:' .. id
    end
    if #ids == 0 or call('EXISTS', unpack(rows_)) < #ids then
      return ids, numbers, {}, 0
    end
    local bodies = call('MGET', unpack(names))
    for i = 1, #ids do
      if not bodies[i] or not is_fresh(bodies[i], numbers[i]) then
        return ids, numbers, bodies, i - 1
      end
    end
    return ids, numbers, bodies, #ids
  end

  -- From behind a position, in one item { id, body, id, body, … }. Gives the position behind them.
  local function add_plain(key, position)
    local index, run, largest, flat = index_behind(key, position[1]), RUN_MIN, 1, {}
    local wanted, taken
    repeat
      wanted = math.min(run, page.limit - page.count, 1 + math.floor((page.bytes_max - page.bytes) / largest))
      local ids, numbers, bodies, found = plain_ones(key, index, wanted)
      taken = 0
      while taken < found and count(#bodies[taken + 1]) do
        taken = taken + 1
        flat[#flat + 1], flat[#flat + 2] = ids[taken], bodies[taken]
        largest = math.max(largest, #bodies[taken])
      end
      position = taken > 0 and { numbers[taken] } or position
      index, run = index + taken, math.min(2 * run, RUN_MAX)
    until taken < wanted or page.count >= page.limit
    if #flat > 0 then
      page.items[#page.items + 1] = flat
    end
    return position
  end

  -- Plain pending ones as add_plain has it, others as { 1 if it has its unique key, id, body, result, errors, field, value, … }
  function export.jobs(position)
    local _, next_ = walk(filter_by({}), position[1], page.limit, false, function(row, raw)
      local body = call('GET', P .. 'b:' .. row.id) or ''
      local result, errors, has_key, bytes = false, {}, false, #body
      if row.special then
        result = row.status == 'completed' and call('GET', P .. 'r:' .. row.id)
        errors = call('LRANGE', P .. 'f:' .. row.id, 0, -1)
        has_key = row.unique and call('HGET', P .. 'unique', row.unique) == row.id
        for _, text in ipairs({ result or '', unpack(errors) }) do
          bytes = bytes + #text
        end
      end
      return add(bytes, { has_key and 1 or 0, row.id, body, result, errors, unpack(raw) })
    end, nil, add_plain)
    return next_ and { next_ }
  end

  -- The position: that of the job, and how many of its needs were given.
  function export.needs(position)
    local done, cursor = tonumber(position[2]) or 0, position[1] ~= '' and position[1]
    local unended = filter_by({ 'waiting', 'scheduled', 'pending', 'active' })
    local _, next_ = walk(unended, cursor, LOOK_MAX, false, function(row)
      local needs = call('HGETALL', P .. 'nd:' .. row.id)
      for i = 2 * done + 1, #needs, 2 do
        local is_met, mask = string.match(needs[i + 1], '^(%+?)(.*)$')
        if not add(0, { row.id, needs[i], mask, is_met == '+' and 1 or 0 }) then
          return false
        end
        done = done + 1
      end
      done = 0
      return true
    end, function(id)
      return call('HGET', P .. 'j:' .. id, 'special')
    end)
    return next_ and { next_, text_of(done) }
  end

  function export.page(part, position, limit, bytes_max)
    page = { items = {}, count = 0, bytes = 0, limit = limit, bytes_max = bytes_max }
    local next_ = export[part](position)
    return { page.items, next_ and cjson.encode(next_) or false }
  end
end
