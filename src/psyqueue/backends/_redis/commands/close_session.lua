-- Close a session and release what it holds.
-- Params: 1 op; 2 session; 3 limit.
-- Returns: { 0 | 1, { ids, 1 if there is more } } | { 2, code, facts … }.
-- Index: a:<session>. Cost: that of the jobs it holds, `limit` at most.
-- flags: allow-oom
--- @include head hashes wake bodies rows flush lifecycle limits intake effects follow outcomes sessions turn
local session_id, limit = ARGV[2], tonumber(ARGV[3])
return once('close_session', function()
  local was_open = is_open(session_id)
  if not was_open and call('EXISTS', P .. 'S:' .. session_id) == 0 then
    return { {}, 0 }
  end
  if was_open then
    close(session_id)
    local _, queues = record_of(session_id)
    for _, queue in ipairs(queues or {}) do
      touched[queue] = true -- a signal may have ended with it
    end
  end
  local held, ids = rows_held_by(session_id), {}
  for i = 1, math.min(limit, #held) do
    ids[i] = held[i].id
    if not cancel_if_asked(held[i]) then
      put_back(held[i], 'pending', true)
    end
  end
  flush()
  forget_if_empty(session_id)
  follow_through(FOLLOW_MAX)
  return { ids, #held > limit and 1 or 0 }
end)
