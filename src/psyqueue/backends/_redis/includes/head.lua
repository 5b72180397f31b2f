-- What every step begins with: the names of things, the clock, and a journal of changes that can be taken back.
--
-- A step has two halves. In the first, which may be refused, nothing is written: changes gather in Lua tables (`put`)
-- and as commands for later (`defer`), and a savepoint takes them back. `flush` writes them all. What follows cannot
-- fail any more. So a script is all or nothing without a transaction of the server's.
--
-- Everything here is a definition: where the server keeps functions, it reads them once and not with each call. What
-- a call needs afresh is set up by `begin`.
-- Hot loops name functions: in a function of the server each global is looked up behind several tables.
local call, pcall_, P, META, meta
local sub, find, format, floor, struct_unpack, pack_
local now_ms, mono_ms, shift_ms, kept_mono_ms
-- How whole numbers are written: '%d' costs a quarter of '%.0f', but not where C's long has 32 bits.
local digits
local mode
-- Settings of any queue or lane were ever put.
local has_limits
local journal, journaled, later, counter = {}, 0, {}, {}
-- Something was changed by now: in the journal, or written.
local is_changed
-- What other files set up for each call. `is_clean`: the last one has left nothing behind for them.
local begins, is_clean = {}, false

-- A table that is known to be empty: a new one only where the last call left something behind.
local function emptied(table_)
  return next(table_) ~= nil and {} or table_
end

-- A reply of `pcall_`; of a key of another type it is a table with `err`. What else is refused ends the step: a user that
-- lost its rights must not make jobs look as if they were gone.
local function checked(reply)
  if type(reply) == 'table' and reply.err and not find(reply.err, 'WRONGTYPE', 1, true) then
    error(reply.err, 0)
  end
  return reply
end

-- Numbers from text cost as much as a third of a command. Of each place the last is kept, since it comes again: seconds with
-- all calls of a second, the highest number with the next call.
local number_at, keep_number
do
  local texts, numbers = {}, {}

  function keep_number(place, text, number)
    texts[place], numbers[place] = text, number
  end

  function number_at(place, text)
    if texts[place] ~= text then
      keep_number(place, text, tonumber(text))
    end
    return numbers[place]
  end
end

-- The monotone clock is wall + kept shift. While the wall goes back it stands still, then it runs on.
local function read_clock()
  now_ms = meta[4] and tonumber(meta[4])
  if not now_ms then
    local time = call('TIME')
    now_ms = number_at('seconds', time[1]) * 1000 + floor(time[2] / 1000)
  end
  shift_ms = meta[2] and number_at('shift', meta[2]) or 0
  kept_mono_ms = meta[3] and number_at('mono', meta[3]) or 0
  if now_ms + shift_ms < kept_mono_ms then
    shift_ms = kept_mono_ms - now_ms
  end
  mono_ms = now_ms + shift_ms
end

local function name_functions()
  call, pcall_ = redis.call, redis.pcall
  sub, find, format, floor = string.sub, string.find, string.format, math.floor
  struct_unpack, pack_ = struct.unpack, cmsgpack.pack
  digits = format('%d', 2 ^ 40) == '1099511627776' and '%d' or '%.0f'
end

local function begin()
  if not call then
    name_functions()
  end
  if KEYS[1] ~= P then
    P = KEYS[1]
    META = P .. 'meta'
  end
  meta = call('HMGET', META, 'number', 'shift', 'mono', 'test', 'mode', 'limits')
  read_clock()
  mode, has_limits = meta[5] or 'open', meta[6]
  is_changed = false
  counter.number = meta[1] and number_at('number', meta[1]) or 0
  if is_clean then
    is_clean = false
    return
  end
  journal, journaled, later = emptied(journal), 0, emptied(later)
  for i = 1, #begins do
    begins[i]()
  end
end

-- ── refusals ───────────────────────────────────────────────────────────────────────────────────────────────────────
local function refuse(...)
  error({ refused = { ... } })
end

-- Nothing becomes due, expires or is pruned either: jobs may be on their way into it.
local function starts_nothing()
  return mode == 'filling' or mode == 'frozen' or mode == 'moved'
end

local function moved_to_of()
  return call('HGET', P .. 'meta', 'moved_to') or ''
end

local function refuse_mode()
  local moved_to = moved_to_of()
  if mode == 'moved' or moved_to ~= '' then
    refuse('NAMESPACE_MOVED', moved_to)
  end
  refuse('NAMESPACE_FROZEN', mode)
end

local function takes_new()
  return mode == 'open' or mode == 'filling'
end

local function require_new()
  if not takes_new() then
    refuse_mode()
  end
end

local function require_change()
  if mode == 'frozen' or mode == 'moved' then
    refuse_mode()
  end
end

-- ── the journal ────────────────────────────────────────────────────────────────────────────────────────────────────
local function put(table_, key, value)
  journaled = journaled + 1
  journal[journaled] = { table_, key, table_[key] }
  table_[key] = value
end

-- A command that `flush` runs, in the order given.
local function defer(...)
  put(later, #later + 1, { ... })
end

local function roll_back(mark)
  for i = journaled, mark + 1, -1 do
    local entry = journal[i]
    entry[1][entry[2]] = entry[3]
    journal[i] = nil
  end
  journaled = mark
end

-- ── numbers ────────────────────────────────────────────────────────────────────────────────────────────────────────
-- The one sequence of the namespace: creation numbers and ready numbers are drawn from it.
local function next_number()
  put(counter, 'number', counter.number + 1)
  return counter.number
end

local EXACT_MAX = 2 ^ 53
local text_of, text_of_ms
do
  local last_ms, last_text

  function text_of(number)
    return format(number < EXACT_MAX and number > -EXACT_MAX and digits or '%.0f', number)
  end

  -- Of an instant: most often the one that was asked for before.
  function text_of_ms(at_ms)
    if at_ms ~= last_ms then
      last_ms, last_text = at_ms, text_of(at_ms)
    end
    return last_text
  end
end

-- A member of a sorted set that sorts by number among equal scores. Its kind is a letter for whoever reads it there.
local ZEROS = '0000000000000000'
local function ordered(number, id, kind)
  local digits = type(number) == 'string' and number or text_of(number)
  return sub(ZEROS, #digits + 1) .. digits .. (kind or '-') .. id
end

local function number_of(member)
  return tonumber(string.sub(member, 1, 16))
end

local function id_of(member)
  return string.sub(member, 18)
end

local function kind_of(member)
  return string.sub(member, 17, 17)
end

local function write_meta()
  local number = counter.number
  if number ~= (meta[1] and number_at('number', meta[1]) or 0) then
    local text = text_of(number)
    call('HSET', META, 'number', text)
    keep_number('number', text, number)
  end
  if not meta[3] then
    call('HSETNX', META, 'schema', SCHEMA) -- somebody emptied the server under its clients
  end
  if mono_ms >= kept_mono_ms + 1000 or shift_ms ~= (meta[2] and number_at('shift', meta[2]) or 0) then
    call('HSET', META, 'mono', mono_ms, 'shift', shift_ms)
  end
end

-- Commands with many arguments, in pieces that fit on Lua's stack.
local function call_many(command, key, arguments)
  for i = 1, #arguments, 4000 do
    call(command, key, unpack(arguments, i, math.min(i + 3999, #arguments)))
  end
end
