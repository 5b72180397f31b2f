-- One step under its op: done, replayed, or refused as a late duplicate. o:<client>:<channel> → "turn verb time reply",
-- `ops` those keys, each by a use of it.
local DONE, AGAIN, REFUSED = 0, 1, 2

local function remember(op, verb, reply, is_first)
  local name = op[1] .. ':' .. op[2]
  call('SET', P .. 'o:' .. name, op[3] .. ' ' .. verb .. ' ' .. text_of(mono_ms) .. ' ' .. cmsgpack.pack(reply))
  if is_first then
    call('ZADD', P .. 'ops', mono_ms, name)
  end
end

-- `act()` → what goes to the caller, what is kept for a repeat (the same by default).
-- `recall(kept)` → what a repeated call gets.
local function once(op, verb, act, recall)
  local kept = call('GET', P .. 'o:' .. op[1] .. ':' .. op[2])
  if kept then
    local turn, its_verb, start = string.match(kept, '^(%d+) (%S+) %d+ ()')
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
    remember(op, verb, to_keep or reply, not kept)
    arm_touched()
  end
  return { DONE, reply }
end
