-- A walk over jobs: queue by queue, status by status, place by place; its cursor says where it stands.
-- { queue, status number, source, position … } as JSON; a source is a sorted set, a list, or the sessions.
local STATUSES = { 'waiting', 'scheduled', 'pending', 'active', 'completed', 'dead', 'cancelled' }
local WALK_MAX, CHUNK = 1000, 100

-- ── sources ────────────────────────────────────────────────────────────────────────────────────────────────────────
-- Each gives up to CHUNK entries { id, position … } behind a position; a position is one or two texts.
local function page_of_set(key, score, member)
  local start = 0
  if member then
    -- One that left and came back stands elsewhere: its rank is not the place of before.
    local its_score = call('ZSCORE', key, member)
    local is_there = its_score and tonumber(its_score) == tonumber(score)
    start = is_there and call('ZRANK', key, member) + 1 or call('ZCOUNT', key, '-inf', '(' .. score)
  end
  local found, raw = {}, call('ZRANGE', key, start, start + CHUNK - 1, 'WITHSCORES')
  for i = 1, #raw, 2 do
    -- Behind a member that is gone: what sorts before it among equal scores was seen.
    if not member or tonumber(raw[i + 1]) ~= tonumber(score) or raw[i] > member then
      found[#found + 1] = { raw[i], raw[i + 1], raw[i] }
    end
  end
  return found, #raw < 2 * CHUNK
end

local function page_of_ordered(key, score, member)
  local found, is_last = page_of_set(key, score, member)
  for _, entry in ipairs(found) do
    entry[1] = id_of(entry[1])
  end
  return found, is_last
end

-- That of the entry at `index`; of a foreign one that of the last before it, from `first` on.
local function listed_number(key, first, index)
  for i = index, first, -1 do
    local number = tonumber(string.match(call('LINDEX', key, i), '^(%d+):'))
    if number then
      return number
    end
  end
  return 0
end

-- Numbers grow along the list: the index behind one is found by halving.
local function index_behind(key, number)
  local low, high = 0, number and call('LLEN', key) or 0
  while low < high do
    local middle = math.floor((low + high) / 2)
    if listed_number(key, low, middle) <= tonumber(number) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function page_of_list(key, number)
  local found, low, last, entries = {}, index_behind(key, number), tonumber(number) or -1, nil
  repeat
    entries = call('LRANGE', key, low, low + CHUNK - 1)
    for _, entry in ipairs(entries) do
      local its_number, id = string.match(entry, '^(%d+):(.*)$')
      if id and tonumber(its_number) > last then -- else it is foreign, or a foreign one misled us
        found[#found + 1] = { id, its_number }
      end
    end
    low = low + CHUNK
  until #found > 0 or #entries < CHUNK
  return found, #entries < CHUNK
end

local function page_of_sessions(_, session, last)
  local sessions = call('ZRANGE', P .. 'leases', 0, -1)
  for _, each in ipairs(call('ZRANGE', P .. 'closing', 0, -1)) do
    sessions[#sessions + 1] = each
  end
  table.sort(sessions)
  local found = {}
  for _, each in ipairs(sessions) do
    if not session or each >= session then
      local ids = call('HKEYS', P .. 'a:' .. each)
      table.sort(ids)
      for _, id in ipairs(ids) do
        if each ~= session or id > last then
          found[#found + 1] = { id, each, id }
        end
      end
    end
    if #found >= CHUNK then
      return found, false
    end
  end
  return found, true
end

local function lanes_of(queue)
  local lanes = call('HKEYS', P .. 'lt:' .. queue)
  table.sort(lanes)
  table.insert(lanes, 1, '')
  return lanes
end

-- { name, page, key }; the name stands in the cursor.
local function sources_of(queue, status)
  local sources = {}
  local function add(name, page, key)
    sources[#sources + 1] = { name, page, key }
  end
  if status == 'pending' then
    for _, lane in ipairs(lanes_of(queue)) do
      add('p' .. lane, page_of_list, lane_key('p', queue, lane))
      add('z' .. lane, page_of_ordered, lane_key('z', queue, lane))
    end
  elseif status == 'waiting' then
    add('wt', page_of_set, P .. 'wt:' .. queue)
  elseif status == 'scheduled' then
    add('d', page_of_ordered, P .. 'd:' .. queue)
  elseif status == 'active' then
    add('a', page_of_sessions)
  else
    add('e', page_of_ordered, P .. (status == 'dead' and 'D:' or 'e:') .. queue)
    add('k', page_of_ordered, P .. 'k:' .. queue)
  end
  if status ~= 'active' then
    add('h', page_of_set, P .. 'h:' .. queue)
  end
  return sources
end

local function reversed(list)
  local other = {}
  for i = #list, 1, -1 do
    other[#other + 1] = list[i]
  end
  return other
end

-- ── the walk ───────────────────────────────────────────────────────────────────────────────────────────────────────
local function queues_from(where, queue)
  if #where.queues > 0 then
    local queues = {}
    for each in pairs(where.queue_set) do
      if not queue or each >= queue then
        queues[#queues + 1] = each
      end
    end
    table.sort(queues)
    return queues
  end
  return call('ZRANGEBYLEX', P .. 'queues', queue and '[' .. queue or '-', '+', 'LIMIT', 0, WALK_MAX)
end

-- Rows of one source. Returns the position at which the walk has to stop, nil at the end of the source.
local function walk_source(source, row_is, state, position)
  while true do
    if state.skip and source[2] == page_of_list then
      position = state.skip(source[3], position)
    end
    local entries, is_last = source[2](source[3], unpack(position))
    for _, entry in ipairs(entries) do
      local row, raw = false, nil
      if state.peeks(entry[1]) then
        row, raw = whole_row(entry[1])
      end
      state.looked = state.looked + 1
      local is_stale = source[2] == page_of_list and row and tonumber(entry[2]) ~= ready_of(row)
      if row and not is_stale and row_is(row, source[1]) then
        if not state.fits(row, raw) then
          return position
        end
        state.found[#state.found + 1] = { row, raw }
      end
      position = { unpack(entry, 2) }
      if #state.found >= state.limit or state.looked >= WALK_MAX then
        return position
      end
    end
    if is_last then
      return nil
    end
  end
end

local function start_index(sources, name)
  for i, source in ipairs(sources) do
    if source[1] == name then
      return i, true
    end
  end
  for i, source in ipairs(sources) do
    if string.sub(source[1], 2) > string.sub(name, 2) then
      return i, false -- the lane is forgotten: on with the one after it
    end
  end
  return #sources, false
end

-- Whether an entry of a source is the row's own place; one of a list may be stale.
local function is_in_place(row, name)
  if name == 'h' then
    return row.held
  end
  local kind = string.sub(name, 1, 1)
  return not row.held and not (row.status == 'pending' and (kind == 'z') == not row.sorted)
end

local function always()
  return true
end

-- (found { row, raw }, cursor or false). `is_backward`: statuses and places in the other order, for changes that move
-- jobs forward: what was changed does not come up again. `fits(row, raw)` false ends the walk before this row; `peeks(id)`
-- false spares a look at it; `skip(list, position)` gives the position behind entries of a list that need none.
local function walk(where, cursor, limit, is_backward, fits, peeks, skip)
  local state = { found = {}, looked = 0, limit = limit, fits = fits or always, peeks = peeks or always, skip = skip }
  local at = cursor and cjson.decode(cursor)
  local queues = queues_from(where, at and at[1])
  for _, queue in ipairs(queues) do
    local from = at and at[1] == queue and at
    local steps = is_backward and reversed(STATUSES) or STATUSES
    for number = from and from[2] or 1, #steps do
      local status = steps[number]
      if (not where.status_set or where.status_set[status]) and count_of(queue, status) > 0 then
        local sources = sources_of(queue, status)
        sources = is_backward and reversed(sources) or sources
        local first, position = 1, {}
        if from and from[2] == number then
          local is_there
          first, is_there = start_index(sources, from[3])
          position = is_there and { unpack(from, 4) } or {}
        end
        for i = first, #sources do
          local function row_is(row, name)
            return row.queue == queue and row.status == status and is_in_place(row, name) and matches(row, where)
          end
          local stop = walk_source(sources[i], row_is, state, position)
          position = {}
          if stop then
            return state.found, cjson.encode({ queue, number, sources[i][1], unpack(stop) })
          end
        end
      end
    end
  end
  return state.found, #queues == WALK_MAX and cjson.encode({ queues[WALK_MAX], #STATUSES + 1, '' }) or false
end
