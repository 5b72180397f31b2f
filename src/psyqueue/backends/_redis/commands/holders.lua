-- Who has keys: the live holder of a unique key, and who opened the window of an idempotency key.
-- Params: 1 unique keys, 2 idempotency keys, packed.
-- Returns: { for each unique key the id of its job, or false }, { for each idempotency key { id, digest }, or false }.
-- Index: `unique` and `keys` by key. Cost: one command a kind, one field a key.
-- flags: no-writes
--- @include head
local function fields(name, keys)
  return #keys > 0 and call('HMGET', P .. name, unpack(keys)) or {}
end

local kept = fields('keys', cmsgpack.unpack(ARGV[2]))
for i, packed in ipairs(kept) do
  local id, digest, expires_ms = unpack(packed and cmsgpack.unpack(packed) or {})
  kept[i] = packed and expires_ms > mono_ms and { id, digest }
end
return { fields('unique', cmsgpack.unpack(ARGV[1])), kept }
