-- Look at one page of the jobs that match, by queue, then status.
-- Params: 1 filter, packed (includes/views.lua); 2 cursor or ''; 3 limit; 4 '1' to get the ids alone; 5 '1' to walk
-- statuses and places in the other order.
-- Returns: { views or ids, cursor or false }.
-- Index: the places of each status (includes/walk.lua). Cost: 1,000 jobs looked at.
-- flags: no-writes
--- @include head hashes wake bodies rows limits views walk
local where = filter_of(cmsgpack.unpack(ARGV[1]))
local cursor, limit = ARGV[2] ~= '' and ARGV[2], tonumber(ARGV[3])

-- Of given ids: all are looked at, and ordered, each time.
local function listed_ids()
  local found = {}
  for id in pairs(where.id_set) do
    local row, raw = whole_row(id)
    if row and matches(row, where) then
      for number, status in ipairs(STATUSES) do
        if status == row.status then
          found[#found + 1] = { row, raw, { row.queue, number, row.number } }
        end
      end
    end
  end
  local function is_before(one, other)
    for i = 1, 3 do
      if one[i] ~= other[i] then
        return one[i] < other[i]
      end
    end
    return false
  end
  table.sort(found, function(one, other)
    return is_before(one[3], other[3])
  end)
  local after, page = cursor and cjson.decode(cursor), {}
  for _, entry in ipairs(found) do
    if not after or is_before(after, entry[3]) then
      if #page == limit then
        return page, cjson.encode(page[limit][3])
      end
      page[#page + 1] = entry
    end
  end
  return page, false
end

local found, next_cursor
if where.id_set then
  found, next_cursor = listed_ids()
else
  found, next_cursor = walk(where, cursor, limit, ARGV[5] == '1')
end
local page = {}
for i, entry in ipairs(found) do
  page[i] = ARGV[4] == '1' and entry[1].id or view_of(entry[1], entry[2])
end
return { page, next_cursor }
