-- Send a note to a client that sleeps.
-- Params: 1 client; 2 text: '' to look, r to ask the server again, or j<id of an ended job>.
-- Returns: nothing.
-- Index: i:<client>. Cost: one key.
-- flags: allow-oom
--- @include head wake
defer_note(ARGV[1], ARGV[2])
for _, command in ipairs(later) do
  call(unpack(command))
end
