-- Close sessions whose lease ended, then take back their jobs.
-- Params: 1 limit.
-- Returns: { ids of the jobs, 1 if there is more }.
-- Index: leases by their end, closing, a:<session>. Cost: that of the jobs taken back, `limit` at most.
-- flags: allow-oom
--- @include head hashes wake bodies rows flush lifecycle limits intake effects follow outcomes sessions
local limit = tonumber(ARGV[1])
local SILENCE_MS, LOST_BACKOFF_MS, LOST_BACKOFF_CAP_MS = 60000, 5000, 60000
local last_ms = tonumber(call('HGET', P .. 'meta', 'reaped')) or mono_ms
call('HSET', P .. 'meta', 'reaped', mono_ms)
write_meta()
if mono_ms - last_ms > SILENCE_MS then
  -- The store stood still, or its clock jumped: nobody could renew.
  for _, session_id in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
    extend(session_id)
  end
  return { {}, 0 }
end

-- Of a session whose record is gone or foreign.
local UNKNOWN_WORKER = '{"type":"WorkerLost","message":"its worker is not known any more","session":""'

local function lost_of(session_id)
  local lost = checked(pcall_('HGET', P .. 'S:' .. session_id, 'lost'))
  return type(lost) == 'string' and lost or UNKNOWN_WORKER
end

-- A lost delivery: its token is void at once, so that a late outcome is `lost`.
local function take_back(row, lost)
  add_error(row, lost .. ',"attempt":' .. row.attempt .. ',"at_ms":' .. text_of(now_ms) .. '}')
  set(row, 'token', nil)
  set(row, 'lost', (row.lost or 0) + 1)
  if cancel_if_asked(row) then
    return
  elseif row.lost > (row.max_lost or MAX_LOST) then
    end_job(row, 'dead', 'lost')
  elseif row.attempt > (row.max_retries or MAX_RETRIES) then
    end_job(row, 'dead', 'exhausted')
  elseif row.lost == 1 then
    put_back(row, 'pending')
  else
    postpone(row, math.min(LOST_BACKOFF_CAP_MS, LOST_BACKOFF_MS * 2 ^ math.min(row.lost, 20)))
  end
end

local expired = call('ZRANGEBYSCORE', P .. 'leases', '-inf', mono_ms, 'LIMIT', 0, limit + 1)
for i = 1, math.min(limit, #expired) do
  close(expired[i])
end
local ids, is_more = {}, #expired > limit
for _, session_id in ipairs(call('ZRANGE', P .. 'closing', 0, -1)) do
  local lost = lost_of(session_id)
  for _, row in ipairs(rows_held_by(session_id)) do
    if #ids >= limit then
      is_more = true
      break
    end
    ids[#ids + 1] = row.id
    take_back(row, lost)
  end
  flush()
  forget_if_empty(session_id)
  if is_more and #ids >= limit then
    break
  end
end
follow_through(FOLLOW_MAX)
arm_touched()
return { ids, is_more and 1 or 0 }
