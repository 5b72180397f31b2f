-- Take, renew or let go of a lock.
-- Params: 1 op; 2 name; 3 holder; 4 lease in ms, 0 lets go.
-- Returns: { 0 | 1, { fence or false, holder, milliseconds left } } | { 2, code, facts … }.
-- Index: `locks` name → packed { holder, fence, until }. Cost: two keys.
-- flags: allow-oom
--- @include head hashes wake bodies rows flush turn
local name, holder, lease_ms = ARGV[2], ARGV[3], tonumber(ARGV[4])
return once('lock', function()
  require_change()
  local packed = field('locks', name)
  local its_holder, fence, until_ms = unpack(packed and cmsgpack.unpack(packed) or { '', 0, 0 })
  local is_taken = until_ms > mono_ms
  if is_taken and its_holder ~= holder then
    return { false, its_holder, until_ms - mono_ms }
  end
  if lease_ms <= 0 then
    if is_taken then
      set_field('locks', name, cmsgpack.pack({ holder, fence, mono_ms }))
    end
    return { false, '', 0 }
  end
  fence = is_taken and fence or fence + 1
  set_field('locks', name, cmsgpack.pack({ holder, fence, mono_ms + lease_ms }))
  return { fence, holder, lease_ms }
end)
