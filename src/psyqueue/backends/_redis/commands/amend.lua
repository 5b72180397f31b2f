-- Change jobs by id; a filter is looked at once more in this step.
-- Params: 1 op; 2 filter; 3 change { kind, priority, run at, reason }; 4 ids; 5 effects or false, packed;
-- 6 cursor to give back, or ''; 7 result of `finish`; 8 … bytes of the effects.
-- Returns: { 0 | 1, { changed ids, skipped { id, initial or '-' } …, cursor or false } } | { 2, code, facts … }.
-- Index: j:<id>. Cost: that of the jobs changed.
-- flags: allow-oom
--- @include head hashes wake bodies rows flush lifecycle limits intake effects follow views amending turn
local where = filter_of(cmsgpack.unpack(ARGV[2]))
local change, ids, effects = cmsgpack.unpack(ARGV[3]), cmsgpack.unpack(ARGV[4]), cmsgpack.unpack(ARGV[5])
return once('amend', function()
  require_change()
  local found, changed, skipped = {}, {}, {}
  for _, id in ipairs(ids) do
    local row = row_of(id)
    if row then
      found[#found + 1] = row
    elseif where.id_set then
      skipped[#skipped + 1] = { id, '-' }
    end
  end
  if not where.id_set then
    table.sort(found, function(one, other)
      return one.number < other.number
    end)
  end
  for _, row in ipairs(found) do
    if matches(row, where) and amend_one(row, change, ARGV[7]) then
      changed[#changed + 1] = row.id
    else
      skipped[#skipped + 1] = { row.id, INITIAL[row.status] }
    end
  end
  local has_effects = #changed > 0 and effects
  if has_effects then
    -- Tried before anything is written, and done after what the changes set free: first come, first served.
    local mark = journaled
    apply_effects(effects)
    roll_back(mark)
  end
  flush()
  follow_through(FOLLOW_MAX)
  if has_effects then
    apply_effects(effects)
  end
  return { changed, skipped, ARGV[6] ~= '' and ARGV[6] }
end)
