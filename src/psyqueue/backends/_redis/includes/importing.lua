-- What another store exported, written as it was: everything is looked at, then it is placed and written. As
-- _memory/moving.py. An item: { kind, … }; bytes are numbers of arguments, false stands where there is nothing.
--   plain { ids, queues, names, numbers, created at, first body }: jobs as they are right after their enqueue, a list of each;
--     at most one of these items, the first one, and not beside needs
--   job { fields, body, result, errors, 1 if it has its unique key }: the fields of its row
--   need { child, parent, initials, 1 if met }
--   numbers { number } · limits { queue, lane, settings } · schedule { id, version, next at, last nominal, paused, spec }
--   fire { id, nominal } · state { key, version, left, level, age, value } · stream { stream, seq }
--   record { stream, seq, at, left, body } · lock { name, holder, fence, left } · key { key, job id, left, digest }
local import_items
do
  local import = {}
  -- Bodies of the jobs that came with this call, by id. Jobs for lists, by key: { number, entry, row, that number as text
  -- if it is a plain one }.
  local bodies, lists
  local is_alone, are_new -- it brings nothing but plain jobs; none of these was there before
  local streams -- new records, by stream

  local highest -- number that was given, or came

  local function raise_number(number)
    local is_raised = number > highest
    highest = is_raised and number or highest
    return is_raised
  end

  local function until_of(left_ms)
    return left_ms and mono_ms + left_ms
  end

  -- ── jobs ───────────────────────────────────────────────────────────────────────────────────────────────────────────
  local function is_there(id, body, is_new)
    local kept = bodies[id]
    if not kept then
      local row = not is_new and row_of(id)
      if not row then
        bodies[id] = body
        return false
      end
      kept = body_of(row)
    end
    if kept and digest_of(kept) ~= digest_of(body) then
      refuse('ID_CONFLICT', id)
    end
    return true
  end

  local function require_still(what, id, is_held)
    if not is_held and not starts_nothing() then
      refuse('INVALID_STATE',
        what .. id .. ' cannot be taken in: it is not held, and the namespace is neither frozen nor filling')
    end
  end

  local function insert_row(row)
    put(rows, row.id, row)
    put(dirty, #dirty + 1, row)
    row.is_dirty = true
    tally(row.queue, row.lane, row.status, 1)
  end

  local function for_list(number, row, is_plain)
    local key, text = lane_key('p', row.queue, row.lane), text_of(number)
    local entries = lists[key]
    if not entries then
      entries = {}
      lists[key] = entries
    end
    entries[#entries + 1] = { number, text .. ':' .. row.id, row, is_plain and text }
  end

  local function import_plain(id, queue, name, number, created_at, body)
    if is_there(id, body, are_new) then
      return false
    end
    require_still('job ', id, false)
    raise_number(number)
    local row = { id = id, queue = queue, name = name, status = 'pending', number = number, created_at = created_at, body = body }
    for_list(number, row, true)
    return true
  end

  -- As enqueue_plain, in intake.lua. Columns: of each job one value in each list; numbers as texts.
  local function write_plain(ids, queues, names, numbers, created_at, bodies)
    local texts, counts = {}, {}
    local last_ms, created, instant -- jobs of one call of enqueue share it
    for i, id in ipairs(ids) do
      local queue, number = queues[i], numbers[i]
      if created_at[i] ~= last_ms then
        last_ms = created_at[i]
        created, instant = text_of(last_ms), instant_of(last_ms)
      end
      call('HSET', P .. 'j:' .. id, 'queue', queue, 'name', names[i], 'status', 'pending', 'number', number,
        'created_at', created)
      texts[2 * i - 1], texts[2 * i] = P .. 'b:' .. id, FRESH .. number .. instant .. bodies[i]
      counts[queue] = (counts[queue] or 0) + 1
    end
    if #texts > 0 then
      call('MSET', unpack(texts))
    end
    for queue, count in pairs(counts) do
      tally(queue, nil, 'pending', count)
    end
  end

  local function last_of(list)
    return tonumber(string.match(call('LINDEX', list, -1) or '', '^%d+')) or -1
  end

  -- The usual page: new jobs in the order of their numbers, behind all that their lists have. False if it is not that.
  local function write_page(ids, queues, names, numbers, created_at, first)
    local entries, lasts, seen, texts, bodies = {}, {}, {}, {}, {}
    for i, id in ipairs(ids) do
      local queue, number = queues[i], numbers[i]
      if not entries[queue] then
        entries[queue], lasts[queue] = {}, last_of(P .. 'p:' .. queue)
      end
      if seen[id] or number <= lasts[queue] then
        return false
      end
      seen[id], lasts[queue], texts[i], bodies[i] = true, number, text_of(number), ARGV[first + i - 1]
      local of_queue = entries[queue]
      of_queue[#of_queue + 1] = texts[i] .. ':' .. id
    end
    require_still('job ', ids[1], false)
    for queue, of_queue in pairs(entries) do
      raise_number(lasts[queue])
      call_many('RPUSH', P .. 'p:' .. queue, of_queue)
    end
    write_plain(ids, queues, names, texts, created_at, bodies)
    return true
  end

  function import.plain(ids, queues, names, numbers, created_at, first)
    if is_alone and are_new and write_page(ids, queues, names, numbers, created_at, first) then
      return #ids
    end
    local count = 0
    for i, id in ipairs(ids) do
      local is_new = import_plain(id, queues[i], names[i], numbers[i], created_at[i], ARGV[first + i - 1])
      count = count + (is_new and 1 or 0)
    end
    return count
  end

  function import.job(row, body, result, errors, has_key)
    row.body = ARGV[body]
    if is_there(row.id, row.body) then
      return false
    end
    if row.status == 'active' then
      refuse('INVALID_STATE', 'job ' .. row.id .. ' cannot be taken in: it is active')
    end
    require_still('job ', row.id, row.held)
    if has_key == 1 then
      local holder = field('unique', row.unique)
      if holder then
        refuse('KEY_CONFLICT', row.unique, holder, 'unique')
      end
      set_field('unique', row.unique, row.id)
    end
    if row.placed and number_field('gates', row.gate) >= row.gate_max then -- jobs of this store have the places
      row.status, row.placed, row.ready, row.sorted = 'waiting', nil, nil, nil
    end
    raise_number(math.max(row.number, ready_of(row)))
    insert_row(row)
    if row.placed then
      count_field('gates', row.gate, 1)
    elseif is_in_line(row) then
      join_line(row)
    end
    if result then
      defer('SET', P .. 'r:' .. row.id, ARGV[result])
      row.special = row.special or is_special(row) and '1' or HAS_RESULT
    end
    for _, error_ in ipairs(errors or {}) do
      defer('RPUSH', P .. 'f:' .. row.id, ARGV[error_])
    end
    if row.status == 'pending' and not row.sorted then
      for_list(ready_of(row), row, false)
    end
    return true
  end

  function import.need(child_id, parent_id, initials, is_met)
    local child, parent = row_of(child_id), row_of(parent_id)
    if not child or not parent then
      refuse('UNKNOWN_DEPENDENCY', child_id, child and parent_id or child_id)
    end
    local needs = 'nd:' .. child_id
    if field(needs, parent_id) then
      return false
    end
    require_still('a need of job ', child_id, child.held)
    set_field(needs, parent_id, (is_met == 1 and '+' or '') .. initials)
    defer('ZADD', P .. 'n:' .. parent_id, child.number, child_id)
    set(parent, 'kids', (parent.kids or 0) + 1)
    set(parent, 'special', '1')
    set(child, 'special', '1')
    return true
  end

  -- ── the rest ───────────────────────────────────────────────────────────────────────────────────────────────────────
  function import.numbers(number)
    return raise_number(number)
  end

  function import.limits(queue, lane, settings)
    local name = limit_name(queue, lane or nil)
    if field('limits', name) then
      return false
    end
    put_limits(queue, lane or nil, settings)
    return true
  end

  function import.schedule(id, version, next_at, last_nominal, is_paused_, spec)
    if field('schedules', id) then
      return false
    end
    set_field('schedules', id, cmsgpack.pack({ version, ARGV[spec], next_at, last_nominal, is_paused_ }))
    defer('ZADD', P .. 'schedules:k', 0, id)
    return true
  end

  function import.fire(id, nominal_ms)
    local member = text_of(nominal_ms) .. ':' .. id
    if call('ZSCORE', P .. 'fires', member) then
      return false
    end
    defer('ZADD', P .. 'fires', mono_ms, member)
    return true
  end

  function import.state(key, version, left_ms, level, age_ms, value)
    local packed = field('state', key)
    if packed and cmsgpack.unpack(packed)[1] >= version then
      return false
    end
    local expires_ms = until_of(left_ms)
    set_field('state', key, cmsgpack.pack({ version, expires_ms, level, mono_ms - age_ms, ARGV[value] }))
    defer('ZADD', P .. 'state:k', 0, key)
    if expires_ms then
      defer('ZADD', P .. 'state:x', expires_ms, key)
    else
      defer('ZREM', P .. 'state:x', key)
    end
    return true
  end

  function import.stream(stream, seq)
    if number_field('streams', stream) >= seq then
      return false
    end
    set_field('streams', stream, text_of(seq))
    return true
  end

  function import.record(stream, seq, at_ms, left_ms, body)
    local id = text_of(seq) .. '-0'
    if #call('XRANGE', P .. 's:' .. stream, id, id) > 0 then
      return false
    end
    streams[stream] = streams[stream] or {}
    local records = streams[stream]
    records[#records + 1] = { seq, at_ms, ARGV[body] }
    if left_ms then
      defer('ZADD', P .. 'records:x', mono_ms + left_ms, text_of(seq) .. ':' .. stream)
    end
    return true
  end

  function import.lock(name, holder, fence, left_ms)
    local packed = field('locks', name)
    if packed and cmsgpack.unpack(packed)[2] >= fence then
      return false
    end
    set_field('locks', name, cmsgpack.pack({ holder, fence, mono_ms + left_ms }))
    return true
  end

  function import.key(key, id, left_ms, digest)
    local packed = field('keys', key)
    if packed then
      local its_id, _, expires_ms = unpack(cmsgpack.unpack(packed))
      if expires_ms > mono_ms then
        if its_id ~= id then
          refuse('KEY_CONFLICT', key, its_id, 'idempotency')
        end
        return false
      end
    end
    set_field('keys', key, cmsgpack.pack({ id, ARGV[digest], mono_ms + left_ms }))
    defer('ZADD', P .. 'keys:x', mono_ms + left_ms, key)
    return true
  end

  -- ── placing and writing ────────────────────────────────────────────────────────────────────────────────────────────
  local function is_before(one, other)
    return one[1] < other[1]
  end

  -- By their numbers; mostly they come so.
  local function order(entries)
    for i = 2, #entries do
      if entries[i][1] < entries[i - 1][1] then
        table.sort(entries, is_before)
        return
      end
    end
  end

  -- A list takes what comes behind its last entry: plain jobs, and others in between. One that became pending after all
  -- that this call brings would bar the list to plain jobs of later calls, made before that; so it stands in the set.
  local function split(key, entries)
    local last, newest, listed = last_of(key), -1, {}
    order(entries)
    for i = #entries, 1, -1 do
      if entries[i][4] then
        newest = entries[i][1]
        break
      end
    end
    for _, entry in ipairs(entries) do
      local row = entry[3]
      if entry[1] > last and entry[1] <= newest then
        listed[#listed + 1] = entry
        if not entry[4] then
          row.is_listed = true
        end
      else
        row.sorted = '1'
        if entry[4] then
          insert_row(row)
        end
      end
    end
    return listed
  end

  local function write_lists()
    local ids, queues, names, numbers, created_at, bodies = {}, {}, {}, {}, {}, {}
    for key, entries in pairs(lists) do
      local texts = {}
      for i, entry in ipairs(split(key, entries)) do
        texts[i] = entry[2]
        if entry[4] then
          local n, row = #ids + 1, entry[3]
          ids[n], queues[n], names[n], numbers[n], created_at[n], bodies[n] =
            row.id, row.queue, row.name, entry[4], row.created_at, row.body
        end
      end
      call_many('RPUSH', key, texts)
    end
    write_plain(ids, queues, names, numbers, created_at, bodies)
  end

  -- A record below the last one of its stream: the stream is written anew, for the server takes growing numbers alone.
  local function write_records(stream, records)
    local key = P .. 's:' .. stream
    order(records)
    local last = call('EXISTS', key) == 1 and call('XINFO', 'STREAM', key)[8] or '0-0'
    if records[1][1] <= tonumber(string.match(last, '^%d+')) then
      for _, entry in ipairs(call('XRANGE', key, '-', '+')) do
        records[#records + 1] = { tonumber(string.match(entry[1], '^%d+')), entry[2][2], entry[2][4] }
      end
      order(records)
      call('UNLINK', key)
    end
    for _, record in ipairs(records) do
      call('XADD', key, text_of(record[1]) .. '-0', 'a', record[2], 'b', record[3])
    end
  end

  local function are_all_new(first)
    local names = {}
    for i, id in ipairs(first and first[1] == 'plain' and first[2] or {}) do
      names[i] = P .. 'j:' .. id
    end
    return #names > 0 and call('EXISTS', unpack(names)) == 0
  end

  -- How many were not there.
  function import_items(items)
    bodies, lists, streams, is_alone, are_new = {}, {}, {}, #items == 1, are_all_new(items[1])
    highest = counter.number
    local count = 0
    for _, item in ipairs(items) do
      local kind = item[1]
      if not starts_nothing() and kind ~= 'plain' and kind ~= 'job' and kind ~= 'need' then
        refuse('INVALID_STATE', kind .. ': is only taken while the namespace is frozen or filling')
      end
      local new = import[kind](unpack(item, 2))
      count = count + (tonumber(new) or new and 1 or 0)
    end
    if highest > counter.number then
      put(counter, 'number', highest)
    end
    write_lists()
    for stream, records in pairs(streams) do
      is_changed = true
      write_records(stream, records)
    end
    return count
  end
end
