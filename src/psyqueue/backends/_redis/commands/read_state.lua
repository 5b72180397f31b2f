-- Look at state keys.
-- Params: the keys.
-- Returns: for each { value, version }, or false.
-- Index: `state` by key. Cost: one key each.
-- flags: no-writes
--- @include head
local found = {}
for i, key in ipairs(ARGV) do
  local packed = call('HGET', P .. 'state', key)
  local version, expires_ms, _, _, value = unpack(packed and cmsgpack.unpack(packed) or {})
  found[i] = packed and not (expires_ms and expires_ms <= mono_ms) and { value, version }
end
return found
