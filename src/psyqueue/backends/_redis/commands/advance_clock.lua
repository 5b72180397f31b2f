-- Move the clock of a test store.
-- Params: 1 milliseconds, back too.
-- Returns: the wall clock.
-- Index: meta. Cost: one key, and one for each client that sleeps.
-- flags: allow-oom
--- @include head hashes wake bodies rows
local moved_ms = now_ms + tonumber(ARGV[1])
-- The monotone clock takes note at once, so that a step back later does not undo what this one showed.
local after_shift_ms = math.max(shift_ms, mono_ms - moved_ms)
call('HSET', P .. 'meta', 'test', moved_ms, 'shift', after_shift_ms, 'mono', moved_ms + after_shift_ms)
wake_everybody()
flush_rows()
for _, command in ipairs(later) do
  call(unpack(command))
end
return moved_ms
