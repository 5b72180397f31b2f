-- Delete what no rule keeps: ended jobs, keys, state, records, ops, sessions, lanes. Nothing while filling, frozen or moved.
-- Params: 1 limit of each kind.
-- Returns: { ids of the jobs, 1 if there is more }.
-- Index: e: and D: of each queue by time of end; the others by expiry. Cost: four keys a job, 200 queues a call.
-- flags: allow-oom
--- @include head hashes wake bodies rows flush lifecycle limits settings amending pruning
if starts_nothing() then
  return { {}, 0 }
end
local limit, ids = tonumber(ARGV[1]), {}
local is_more = prune_queues(limit, ids)
local function more(has_more)
  is_more = is_more or has_more
end
more(prune_index('keys:x', mono_ms, limit, function(key)
  local packed = call('HGET', P .. 'keys', key)
  -- The key may have been taken anew since, for longer.
  if packed and cmsgpack.unpack(packed)[3] <= mono_ms then
    call('HDEL', P .. 'keys', key)
  end
end))
more(prune_index('state:x', mono_ms, limit, function(key)
  call('HDEL', P .. 'state', key)
  call('ZREM', P .. 'state:k', key)
end))
more(prune_index('records:x', mono_ms, limit, drop_record))
more(prune_index('ops', mono_ms - OPS_KEPT_MS, limit, drop_op))
more(prune_index('fires', mono_ms - FIRES_KEPT_MS, limit, function() end))
more(prune_index('closed', mono_ms - CLOSED_KEPT_MS, limit, function(session_id)
  if call('EXISTS', P .. 'a:' .. session_id) == 1 then
    return false
  end
  call('UNLINK', P .. 'S:' .. session_id, P .. 'cr:' .. session_id)
end))
more(prune_index('listeners', mono_ms - CLOSED_KEPT_MS, limit, function() end))
return { ids, is_more and 1 or 0 }
