-- Look for broken invariants.
-- Params: 1 cursor or ''; 2 limit.
-- Returns: { words …, cursor or false }.
-- Index: the places of each status (includes/walk.lua). Cost: `limit` jobs looked at, and with the first page what all
-- queues hold.
-- flags: no-writes
--- @include head hashes wake bodies rows limits sessions views walk checks
local cursor, limit = ARGV[1] ~= '' and ARGV[1], tonumber(ARGV[2])
local words = cursor and {} or of_store()
local found, next_cursor = walk(filter_of({ {}, {}, {}, {}, {}, false, false, false, '', '' }), cursor, limit, false)
for _, entry in ipairs(found) do
  for _, problem in ipairs(of_row(entry[1])) do
    words[#words + 1] = 'job ' .. entry[1].id .. ': ' .. problem
  end
end
return { words, next_cursor }
