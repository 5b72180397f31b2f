-- The end of the first half of a step: what gathered is written, and read anew by whoever asks next.
local flush, note_queue
do
  -- A queue is known while it has jobs or limits.
  function note_queue(queue)
    if call('EXISTS', P .. 'c:' .. queue) == 1 then
      call('ZADD', P .. 'queues', 0, queue)
    elseif call('SISMEMBER', P .. 'limited', queue) == 0 then
      call('ZREM', P .. 'queues', queue)
    end
  end

  -- lp:<queue>: lanes with pending jobs, by their virtual time. ln:<queue>: lanes with unstarted or active jobs, by name.
  -- The list of a lane without pending jobs holds stale entries alone, maybe very many: it goes.
  local function note_lanes(queue, name, changed)
    for key in pairs(changed) do
      local kind, lane = string.sub(key, 1, 1), string.sub(key, 2)
      if lane ~= '' and kind == 'p' then
        if number_field(name, key) > 0 then
          call('ZADD', P .. 'lp:' .. queue, lane_time(queue, lane), lane)
        else
          call('ZREM', P .. 'lp:' .. queue, lane)
          call('UNLINK', lane_key('p', queue, lane))
        end
      elseif lane ~= '' then
        local is_used = number_field(name, 'u' .. lane) + number_field(name, 'a' .. lane) > 0
        if is_used then
          call('ZADD', P .. 'ln:' .. queue, 0, lane)
        else
          call('ZREM', P .. 'ln:' .. queue, lane)
        end
      end
    end
  end

  local function note_change(name, hash)
    if hash.is_reshaped and string.sub(name, 1, 2) == 'c:' then
      local queue = string.sub(name, 3)
      note_queue(queue)
      if hash.changed.pending and not hash.known.pending then
        call('UNLINK', lane_key('p', queue))
      end
    elseif string.sub(name, 1, 3) == 'lc:' then
      note_lanes(string.sub(name, 4), name, hash.changed)
    end
  end

  function flush()
    if journaled == 0 then
      return
    end
    is_changed = true
    write_meta()
    flush_rows()
    for _, command in ipairs(later) do
      call(unpack(command))
    end
    -- The scripts that follow the flush read from the server again: nothing that is cached is older than it.
    flush_hashes(note_change)
    hashes, later, journal, journaled = {}, {}, {}, 0
  end
end
