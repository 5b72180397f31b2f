-- One step under its op: done, replayed, or refused as a late duplicate. o:<client>:<channel> → "turn verb time reply",
-- `ops` those keys, each by a use of it.
local DONE, AGAIN, REFUSED = 0, 1, 2

-- The op is the first argument of each such verb: "turn client:channel".
-- `act()` → what goes to the caller, what is kept for a repeat (the same by default).
-- `recall(kept)` → what a repeated call gets.
local function once(verb, act, recall)
  local op = ARGV[1]
  local space = find(op, ' ', 1, true)
  local turn, key = sub(op, 1, space - 1), P .. 'o:' .. sub(op, space + 1)
  local kept = call('GET', key)
  if kept then
    local its_turn = sub(kept, 1, find(kept, ' ', 1, true) - 1)
    if tonumber(turn) <= tonumber(its_turn) then
      local its_verb, start = string.match(kept, '^%d+ (%S+) %d+ ()')
      if turn ~= its_turn or its_verb ~= verb then
        return { REFUSED, 'STALE_OP', its_turn }
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
    call('SET', key, turn .. ' ' .. verb .. ' ' .. text_of(mono_ms) .. ' ' .. pack_(to_keep or reply))
    if not kept then
      call('ZADD', P .. 'ops', mono_ms, sub(op, space + 1))
    end
    arm_touched()
  end
  return { DONE, reply }
end
