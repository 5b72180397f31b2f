-- Enqueue jobs, all or none, and what rides on them.
-- Params: 1 op; 2 jobs, packed; 3 effects or false, packed; 4 … the bodies of the jobs, then those of the effects' jobs;
-- or, if all are plain and there are no effects: 2 how many; 3 … the jobs, flat.
-- Shapes: includes/intake.lua, includes/effects.lua.
-- Returns: { 0 done | 1 again, { id, '+' new | '-' there before, initial of its status } … } | { 2, code, facts … };
-- the number of jobs instead of their replies if all are new and pending.
-- Index: j:<id> by id; unique and idempotency keys in hashes. Cost: some ten keys a call, three a job.
-- flags: deny-oom
-- function
--- @include head hashes wake bodies rows flush lifecycle limits intake effects follow turn
return once('enqueue', function()
  local jobs, effects
  local first, count = 4, tonumber(ARGV[2])
  if count then
    require_enqueue()
    local plain, to_keep, last_key, last_text = enqueue_plain(count)
    if plain then
      return plain, to_keep, last_key, last_text
    end
    first, jobs = 3, plain_jobs(count)
  else
    jobs, effects = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3])
    require_enqueue(jobs, effects and effects[2] or nil)
  end
  -- Writes come first: a failed precondition refuses the call before any job is looked at.
  if effects then
    apply_writes(effects[1])
  end
  local enqueued = apply_jobs(jobs, first, false)
  if effects then
    for _, reply in ipairs(apply_jobs(effects[2], effects[3], true)) do
      enqueued[#enqueued + 1] = reply
    end
    apply_records(effects[4])
  end
  flush()
  follow_through(FOLLOW_MAX)
  return enqueued
end)
