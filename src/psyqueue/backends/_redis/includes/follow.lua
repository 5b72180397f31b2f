-- What ended jobs set free moves: at most `limit` jobs a step, the rest with the next one. As _memory/lifecycle.py.
local FOLLOW_MAX, CHILDREN_MAX, LOOKED_MAX = 500, 100, 1000

local meet_need, follow_through
do
  function meet_need(child, parent)
    local needs = P .. 'nd:' .. child.id
    local mask = call('HGET', needs, parent.id)
    if not string.find(mask, INITIAL[parent.status], 1, true) then
      end_job(child, 'cancelled', 'dependency')
      return
    end
    defer('HSET', needs, parent.id, '+' .. mask)
    local left = child.needs_left - 1
    set(child, 'needs_left', left > 0 and left or nil)
    if left == 0 then
      enter_gate(child)
    end
  end

  local function is_unmet(child_id, parent_id)
    local mask = call('HGET', P .. 'nd:' .. child_id, parent_id)
    return mask and string.sub(mask, 1, 1) ~= '+'
  end

  -- Jobs moved; the ticket is done if they are fewer than `limit`.
  local function free_places(key, limit)
    local moved = 0
    while moved < limit do
      local id = call('ZRANGE', P .. 'gl:' .. key, 0, 0)[1]
      local head = id and row_of(id)
      if head and number_field('gates', key) < head.gate_max then
        leave_line(head)
        take_place(head)
      elseif id and not head then
        defer('ZREM', P .. 'gl:' .. key, id) -- its job is gone without a word
      else
        break
      end
      flush()
      moved = moved + 1
    end
    return moved
  end

  -- As `free_places`; how far it came stands in the ticket, at the head of the line of tickets. Of children that do not
  -- move, such as held ones, a step looks at LOOKED_MAX.
  local function meet_needs(parent_id, last, limit)
    local moved, looked = 0, 0
    while moved < limit do
      if looked >= LOOKED_MAX then
        return limit
      end
      local ids = call('ZRANGEBYSCORE', P .. 'n:' .. parent_id, '(' .. last, '+inf', 'LIMIT', 0, CHILDREN_MAX)
      if #ids == 0 then
        break
      end
      looked = looked + #ids
      for _, id in ipairs(ids) do
        local child, parent = row_of(id), row_of(parent_id)
        if not child or not parent then
          defer('ZREM', P .. 'n:' .. parent_id, id) -- its job is gone without a word
          if parent then
            set(parent, 'kids', (parent.kids or 0) > 1 and parent.kids - 1 or nil)
          end
          moved = moved + 1
        else
          last = text_of(child.number)
          if child.status == 'waiting' and not child.held and is_unmet(id, parent_id) then
            meet_need(child, parent)
            moved = moved + 1
          end
        end
        if moved >= limit then
          break
        end
      end
      flush()
      call('LSET', P .. 'followers', 0, 'n' .. last .. ':' .. parent_id)
    end
    return moved
  end

  -- Everything before it is flushed. True: something is left for the next step.
  function follow_through(limit)
    local left = limit
    while true do
      local ticket = call('LINDEX', P .. 'followers', 0)
      if not ticket then
        return false
      end
      is_changed = true
      local kind, last, key = string.match(ticket, '^(.)(%d*):(.*)$')
      left = left - (kind == 'g' and free_places(key, left) or kind == 'n' and meet_needs(key, last, left) or 0)
      if left <= 0 then
        return true
      end
      call('LPOP', P .. 'followers')
    end
  end
end
