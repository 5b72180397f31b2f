-- Look at jobs by id.
-- Params: the ids.
-- Returns: for each { id, body, result, errors, worker, codes, field, value … } (includes/views.lua), or false.
-- Index: j:<id>. Cost: five keys a job.
-- flags: no-writes
--- @include head hashes wake bodies rows limits views
local found = {}
for i, id in ipairs(ARGV) do
  local raw = call('HGETALL', P .. 'j:' .. id)
  found[i] = #raw > 0 and view_of(row_of_fields(id, raw), raw)
end
return found
