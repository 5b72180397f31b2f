-- Hashes of the whole namespace (keys, places, tallies, …): read when asked for, changed in the journal.
local hashes = {}

begins[#begins + 1] = function()
  hashes = emptied(hashes)
end

local function hash_of(name)
  local hash = hashes[name]
  if not hash then
    hash = { known = {}, changed = {} }
    hashes[name] = hash
  end
  return hash
end

-- The text of a field, false if it is absent.
local function field(name, key)
  local known = hash_of(name).known
  local value = known[key]
  if value == nil then
    value = call('HGET', P .. name, key)
    known[key] = value
  end
  return value
end

-- As `field`, for whoever will not change it: nothing is kept.
local function peek(name, key)
  local hash = hashes[name]
  if hash and hash.known[key] ~= nil then
    return hash.known[key]
  end
  return call('HGET', P .. name, key)
end

-- `value` false: the field goes.
local function set_field(name, key, value)
  local hash = hash_of(name)
  if not hash.known[key] ~= not value then
    hash.is_reshaped = true -- a field comes or goes
  end
  put(hash.known, key, value)
  put(hash.changed, key, true)
end

local function count_field(name, key, by)
  local number = (tonumber(field(name, key)) or 0) + by
  set_field(name, key, number ~= 0 and text_of(number))
  return number
end

local function number_field(name, key)
  return tonumber(field(name, key)) or 0
end

-- `look(name, hash)` is called for each hash that changed, after it was written.
local function flush_hashes(look)
  for name, hash in pairs(hashes) do
    local sets, drops = {}, {}
    for key in pairs(hash.changed) do
      local value = hash.known[key]
      if value then
        sets[#sets + 1] = key
        sets[#sets + 1] = value
      else
        drops[#drops + 1] = key
      end
    end
    call_many('HSET', P .. name, sets)
    call_many('HDEL', P .. name, drops)
    look(name, hash)
    hash.changed = {}
  end
end
