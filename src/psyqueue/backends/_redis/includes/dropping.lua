-- What goes without a trace: items by their id, if they are what is meant. As _memory/moving.py.
-- An item: { kind, … }; bytes are numbers of arguments, false stands where there is nothing.
--   job { id, digest }: its needs and its place among those of others go with it · limits { queue, lane, settings }
--   schedule { id, version, next at, last nominal, paused, spec } · fire { id, nominal } · state { key, version, value }
--   stream { stream, seq } · record { stream, seq, at, body } · lock { name, fence } · key { key, job id }
local drop_items
do
  local drop = {}
  local unlimited -- queues whose limits were dropped
  local streams -- numbers of records that were dropped, by stream

  local free -- jobs that may go: while not all stands still, held ones that nobody waited for before the call

  local function may_go(row)
    return row.status ~= 'active' and (mode == 'frozen' or row.held and not row.kids)
  end

  local function find_free(items)
    free = {}
    for _, item in ipairs(items) do
      local row = item[1] == 'job' and row_of(item[2])
      if row and may_go(row) then
        free[row.id] = true
      end
    end
  end

  function drop.job(id, digest)
    local row = row_of(id)
    local body = row and body_of(row)
    if not row or body and digest_of(body) ~= ARGV[digest] or not free[id] then
      return false
    end
    leave_line(row)
    if row.placed then
      count_field('gates', row.gate, -1)
    end
    drop_edges(row)
    if row.kids then
      for _, child_id in ipairs(call('ZRANGE', P .. 'n:' .. id, 0, -1)) do
        defer('HDEL', P .. 'nd:' .. child_id, id)
      end
    end
    drop_job(row)
    return true
  end

  function drop.limits(queue, lane, settings)
    local name = limit_name(queue, lane or nil)
    if field('limits', name) ~= cmsgpack.pack(settings) then
      return false
    end
    forget_limits(queue, lane or nil)
    unlimited[queue] = true
    return true
  end

  function drop.schedule(id, version, next_at, last_nominal, is_paused_, spec)
    if field('schedules', id) ~= cmsgpack.pack({ version, ARGV[spec], next_at, last_nominal, is_paused_ }) then
      return false
    end
    set_field('schedules', id, false)
    defer('ZREM', P .. 'schedules:k', id)
    return true
  end

  function drop.fire(id, nominal_ms)
    local member = text_of(nominal_ms) .. ':' .. id
    if not call('ZSCORE', P .. 'fires', member) then
      return false
    end
    defer('ZREM', P .. 'fires', member)
    return true
  end

  function drop.state(key, version, value)
    local packed = field('state', key)
    local found = packed and cmsgpack.unpack(packed)
    if not found or found[1] ~= version or found[5] ~= ARGV[value] then
      return false
    end
    set_field('state', key, false)
    defer('ZREM', P .. 'state:k', key)
    defer('ZREM', P .. 'state:x', key)
    return true
  end

  function drop.stream(stream, seq)
    if number_field('streams', stream) ~= seq then
      return false
    end
    set_field('streams', stream, false)
    return true
  end

  function drop.record(stream, seq, at_ms, body)
    local number = text_of(seq)
    local found = call('XRANGE', P .. 's:' .. stream, number .. '-0', number .. '-0')[1]
    if not found or tonumber(found[2][2]) ~= at_ms or found[2][4] ~= ARGV[body] then
      return false
    end
    streams[stream] = (streams[stream] or 0) + 1
    defer('XDEL', P .. 's:' .. stream, number .. '-0')
    defer('ZREM', P .. 'records:x', number .. ':' .. stream)
    return true
  end

  function drop.lock(name, fence)
    local packed = field('locks', name)
    if not packed or cmsgpack.unpack(packed)[2] ~= fence then
      return false
    end
    set_field('locks', name, false)
    return true
  end

  function drop.key(key, id)
    local packed = field('keys', key)
    if not packed or cmsgpack.unpack(packed)[1] ~= id then
      return false
    end
    set_field('keys', key, false)
    defer('ZREM', P .. 'keys:x', key)
    return true
  end

  -- How many were there.
  function drop_items(items)
    unlimited, streams = {}, {}
    find_free(items)
    local count = 0
    for _, item in ipairs(items) do
      count = count + (drop[item[1]](unpack(item, 2)) and 1 or 0)
    end
    for stream, dropped in pairs(streams) do
      -- An empty stream would remember its last number, and take none below it.
      if call('XLEN', P .. 's:' .. stream) <= dropped then
        defer('UNLINK', P .. 's:' .. stream)
      end
    end
    flush()
    note_unlimited(unlimited)
    return count
  end
end
