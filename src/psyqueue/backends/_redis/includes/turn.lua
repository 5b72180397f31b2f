-- One step under its op: done, replayed, or refused as a late duplicate. o:<client>:<channel> → "turn verb reply",
-- `ops` those keys by their last use.
local DONE, AGAIN, REFUSED = 0, 1, 2

local function remember(op, verb, reply)
  local name = op[1] .. ':' .. op[2]
  call('SET', P .. 'o:' .. name, op[3] .. ' ' .. verb .. ' ' .. cmsgpack.pack(reply))
  call('ZADD', P .. 'ops', mono_ms, name)
end

-- `act()` → what goes to the caller, what is kept for a repeat (the same by default).
-- `recall(kept)` → what a repeated call gets.
local function once(op, verb, act, recall)
  local kept = call('GET', P .. 'o:' .. op[1] .. ':' .. op[2])
  if kept then
    local turn, its_verb, start = string.match(kept, '^(%d+) (%S+) ()')
    if tonumber(op[3]) <= tonumber(turn) then
      if turn ~= op[3] or its_verb ~= verb then
        return { REFUSED, 'STALE_OP', turn }
      end
      local reply = cmsgpack.unpack(string.sub(kept, start))
      return { AGAIN, recall and recall(reply) or reply }
    end
  end
  local is_good, reply, to_keep = pcall(act)
  if not is_good then
    if type(reply) == 'table' and reply.refused then
      return { REFUSED, unpack(reply.refused) }
    end
    error(reply, 0)
  end
  flush()
  if is_changed then
    remember(op, verb, to_keep or reply)
    arm_touched()
  end
  return { DONE, reply }
end
