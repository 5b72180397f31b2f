-- Look at the records of a stream behind a number.
-- Params: 1 stream; 2 number; 3 limit.
-- Returns: { seq, at ms, body } …
-- Index: the server's stream by id. Cost: the records read.
-- flags: no-writes
local entries = redis.call('XRANGE', KEYS[1] .. 's:' .. ARGV[1], '(' .. ARGV[2] .. '-0', '+', 'COUNT', ARGV[3])
local found = {}
for i, entry in ipairs(entries) do
  found[i] = { string.match(entry[1], '^%d+'), entry[2][2], entry[2][4] }
end
return found
