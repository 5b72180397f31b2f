-- Look at state keys in their order.
-- Params: 1 prefix; 2 cursor or ''; 3 limit.
-- Returns: { { key, value, version } …, cursor or false }.
-- Index: `state:k` in order of keys. Cost: one key each, 1,000 at most.
-- flags: no-writes
--- @include head
local prefix, cursor, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local LOOK_MAX = 1000
local low = cursor ~= '' and '(' .. cursor or '[' .. prefix
local keys = call('ZRANGEBYLEX', P .. 'state:k', low, '[' .. prefix .. '\255', 'LIMIT', 0, LOOK_MAX)
local found = {}
for i, key in ipairs(keys) do
  local version, expires_ms, _, _, value = unpack(cmsgpack.unpack(call('HGET', P .. 'state', key)))
  if not (expires_ms and expires_ms <= mono_ms) then
    if #found == limit then
      return { found, found[limit][1] }
    end
    found[#found + 1] = { key, value, version }
  end
  if i == LOOK_MAX then
    return { found, key }
  end
end
return { found, false }
