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
  local space_in_kept = kept and find(kept, ' ', 1, true)
  local its_turn = space_in_kept and tonumber(sub(kept, 1, space_in_kept - 1))
  if its_turn and tonumber(turn) <= its_turn then
    local its_verb, start = string.match(kept, '^%d+ (%S+) %d+ ()')
    if its_verb and (tonumber(turn) < its_turn or its_verb ~= verb) then
      return { REFUSED, 'STALE_OP', text_of(its_turn) }
    end
    local is_ours, reply = pcall(cmsgpack.unpack, sub(kept, start or #kept + 1))
    if its_verb and is_ours then
      return { AGAIN, recall and recall(reply) or reply }
    end -- else somebody wrote there: nothing is known of earlier calls
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
