-- One step under its op: done, replayed, or refused as a late duplicate. o:<client>:<channel> → "turn verb time reply", of a
-- settle then the ids that it delivered, a line each; `ops` those keys, each by a use of it.
local once
do
  local DONE, AGAIN, REFUSED = 0, 1, 2

  -- One job, as a kept reply: to pack it anew costs as much as half of a command.
  local PACKED_ONE = '\1'
  -- Turn, verb and time are shorter.
  local HEAD_LAST = 99

  -- The op is the first argument of each such verb: "turn client:channel".
  -- `act()` → what goes to the caller, what is kept for a repeat (the same by default); then, of the shortest way, which
  -- leaves nothing behind in any table, key and text of a string to be written, or without a key a text to be kept as well.
  -- `recall(kept, text)` → what a repeated call gets.
  function once(verb, act, recall)
    local op = ARGV[1]
    local space = find(op, ' ', 1, true)
    local turn, channel = sub(op, 1, space - 1), sub(op, space + 1)
    local key = P .. 'o:' .. channel
    -- What a repeat recalls is long, and hardly ever asked for.
    local head = recall and call('GETRANGE', key, 0, HEAD_LAST) or call('GET', key) or ''
    local space_in_head = find(head, ' ', 1, true)
    local its_turn = space_in_head and tonumber(sub(head, 1, space_in_head - 1))
    if its_turn and tonumber(turn) <= its_turn then
      local kept = recall and call('GET', key) or head
      local its_verb, start = string.match(kept, '^%d+ (%S+) %d+ ()')
      if its_verb and (tonumber(turn) < its_turn or its_verb ~= verb) then
        return { REFUSED, 'STALE_OP', text_of(its_turn) }
      end
      local is_ours, at, reply = pcall(cmsgpack.unpack_one, kept, start and start - 1 or #kept)
      if its_verb and is_ours then
        return { AGAIN, recall and recall(reply, at >= 0 and sub(kept, at + 1) or '') or reply }
      end -- else somebody wrote there: nothing is known of earlier calls
    end
    local is_good, reply, to_keep, last_key, last_text = pcall(act)
    if not is_good then
      if type(reply) == 'table' and reply.refused then
        return { REFUSED, unpack(reply.refused) }
      end
      error(reply, 0)
    end
    flush()
    if is_changed then
      to_keep = to_keep or reply
      local packed = to_keep == 1 and PACKED_ONE or pack_(to_keep)
      local record = turn .. ' ' .. verb .. ' ' .. text_of_ms(mono_ms) .. ' ' .. packed
      if last_key then
        call('MSET', last_key, last_text, key, record)
      else
        call('SET', key, record)
      end
      if last_text and not last_key then
        call('APPEND', key, last_text) -- a string made of both would be hashed anew, byte by byte
      end
      if head == '' then
        call('ZADD', P .. 'ops', mono_ms, channel)
      end
      arm_touched()
      is_clean = last_key and not has_limits
    end
    return { DONE, reply }
  end
end
