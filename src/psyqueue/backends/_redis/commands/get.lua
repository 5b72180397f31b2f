-- Look at jobs by id.
-- Params: the ids.
-- Returns: for each { id, body, result, errors, worker, codes, field, value … } (includes/views.lua), or false;
-- { id } of one whose row is broken.
-- Index: j:<id>. Cost: five keys a job.
-- flags: no-writes
--- @include head hashes wake bodies rows limits views
local found = {}
for i, id in ipairs(ARGV) do
  local row, raw = whole_row(id)
  found[i] = row and view_of(row, raw) or broken[id] and { id } or false
end
return found
