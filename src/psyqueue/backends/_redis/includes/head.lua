-- What every step begins with: the names of things, the clock, and a journal of changes that can be taken back.
--
-- A step has two halves. In the first, which may be refused, nothing is written: changes gather in Lua tables (`put`)
-- and as commands for later (`defer`), and a savepoint takes them back. `flush` writes them all. What follows cannot
-- fail any more. So a script is all or nothing without a transaction of the server's.
--
-- Everything here is a definition: where the server keeps functions, it reads them once and not with each call. What
-- a call needs afresh is set up by `begin`.
local call, P, meta
-- Hot loops name these: in a function of the server each global is looked up behind several tables.
local try, sub, find, struct_unpack
local now_ms, mono_ms, shift_ms, kept_mono_ms
local mode, epoch, moved_to
-- Settings of any queue or lane were ever put.
local has_limits
local journal, journaled, later, counter
-- Something was changed by now: in the journal, or written.
local is_changed
-- What other files set up for each call.
local begins = {}

-- The monotone clock is wall + kept shift. While the wall goes back it stands still, then it runs on.
local function read_clock()
  now_ms = tonumber(meta[4])
  if not now_ms then
    local time = call('TIME')
    now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  shift_ms, kept_mono_ms = tonumber(meta[2]) or 0, tonumber(meta[3]) or 0
  if now_ms + shift_ms < kept_mono_ms then
    shift_ms = kept_mono_ms - now_ms
  end
  mono_ms = now_ms + shift_ms
end

local function begin()
  call, try, P = redis.call, redis.pcall, KEYS[1]
  sub, find, struct_unpack = string.sub, string.find, struct.unpack
  meta = call('HMGET', P .. 'meta', 'number', 'shift', 'mono', 'test', 'mode', 'epoch', 'moved_to', 'limits')
  read_clock()
  mode, epoch, moved_to = meta[5] or 'open', tonumber(meta[6]) or 0, meta[7] or ''
  has_limits = meta[8]
  journal, journaled, later, is_changed = {}, 0, {}, false
  counter = { number = tonumber(meta[1]) or 0 }
  for _, set_up in ipairs(begins) do
    set_up()
  end
end

-- ── refusals ───────────────────────────────────────────────────────────────────────────────────────────────────────
local function refuse(...)
  error({ refused = { ... } })
end

local function require_mode(is_enqueue)
  if mode == 'open' or (mode == 'draining' and not is_enqueue) then
    return
  end
  if mode == 'moved' or moved_to ~= '' then
    refuse('NAMESPACE_MOVED', moved_to)
  end
  refuse('NAMESPACE_FROZEN', mode)
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

local function text_of(number)
  return string.format('%.0f', number)
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
  if counter.number ~= (tonumber(meta[1]) or 0) then
    call('HSET', P .. 'meta', 'number', counter.number, 'mono', mono_ms, 'shift', shift_ms)
  elseif mono_ms >= kept_mono_ms + 1000 or shift_ms ~= (tonumber(meta[2]) or 0) then
    call('HSET', P .. 'meta', 'mono', mono_ms, 'shift', shift_ms)
  end
end

-- Commands with many arguments, in pieces that fit on Lua's stack.
local function call_many(command, key, arguments)
  for i = 1, #arguments, 4000 do
    call(command, key, unpack(arguments, i, math.min(i + 3999, #arguments)))
  end
end
