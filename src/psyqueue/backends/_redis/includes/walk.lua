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

local PAGES = { wt = page_of_set, h = page_of_set, d = page_of_ordered, e = page_of_ordered, k = page_of_ordered }
local NAMES = { waiting = { 'wt', 'h' }, scheduled = { 'd', 'h' }, active = { 'a' } }
local ENDED_NAMES = { 'e', 'k', 'h' }

-- { name, page, key }; the name stands in the cursor. Of pending jobs it is p or z, and the lane.
local function source_of(queue, status, name)
  local kind, lane = string.sub(name, 1, 1), string.sub(name, 2)
  if status == 'active' then
    return { name, page_of_sessions }
  elseif kind == 'p' then
    return { name, page_of_list, lane_key('p', queue, lane) }
  elseif kind == 'z' then
    return { name, page_of_ordered, lane_key('z', queue, lane) }
  end
  local place = name == 'e' and status == 'dead' and 'D' or name
  return { name, PAGES[name], P .. place .. ':' .. queue }
end

-- Lane by lane, the default one first, held jobs last: one lane is looked up at a time, since there may be very many.
local function name_among_pending(queue, name)
  local kind, lane = string.sub(name or '', 1, 1), string.sub(name or '', 2)
  if not name then
    return 'p'
  elseif kind == 'p' then
    return 'z' .. lane
  elseif kind == 'z' then
    local behind = call('ZRANGEBYLEX', P .. 'ln:' .. queue, lane ~= '' and '(' .. lane or '-', '+', 'LIMIT', 0, 1)[1]
    return behind and 'p' .. behind or 'h'
  end
end

local function name_among_pending_before(queue, name)
  local kind, lane = string.sub(name or '', 1, 1), string.sub(name or '', 2)
  if not name then
    return 'h'
  elseif kind == 'z' then
    return 'p' .. lane
  elseif kind == 'h' or lane ~= '' then
    local high = kind == 'p' and '(' .. lane or '+'
    return 'z' .. (call('ZREVRANGEBYLEX', P .. 'ln:' .. queue, high, '-', 'LIMIT', 0, 1)[1] or '')
  end
end

local function reversed(list)
  local other = {}
  for i = #list, 1, -1 do
    other[#other + 1] = list[i]
  end
  return other
end

-- The source behind the one of that name, the first one for nil; nil at the end.
local function name_behind(queue, status, name, is_backward)
  if status == 'pending' then
    return (is_backward and name_among_pending_before or name_among_pending)(queue, name)
  end
  local names = NAMES[status] or ENDED_NAMES
  names = is_backward and reversed(names) or names
  if not name then
    return names[1]
  end
  for i, each in ipairs(names) do
    if each == name then
      return names[i + 1]
    end
  end
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
        local function row_is(row, name)
          return row.queue == queue and row.status == status and is_in_place(row, name) and matches(row, where)
        end
        local name, position = name_behind(queue, status, nil, is_backward), {}
        if from and from[2] == number then
          name, position = from[3], { unpack(from, 4) }
        end
        while name do
          local stop = walk_source(source_of(queue, status, name), row_is, state, position)
          if stop then
            return state.found, cjson.encode({ queue, number, name, unpack(stop) })
          end
          name, position = name_behind(queue, status, name, is_backward), {}
          -- A lane may be there with nothing that is wanted.
          state.looked = state.looked + 1
          if name and state.looked >= WALK_MAX then
            return state.found, cjson.encode({ queue, number, name })
          end
        end
      end
    end
  end
  return state.found, #queues == WALK_MAX and cjson.encode({ queues[WALK_MAX], #STATUSES + 1, '' }) or false
end
