-- A job on its way in: ids, keys, parents, limits, then its first place. As _memory/intake.py.
-- A job as it comes from the client: { id, queue, name, priority, max_retries, max_lost, lane, delay, run_at, expires_in,
-- unique { key, initials, on_conflict }, idempotency { key, window }, gate { key, capacity }, needs { { id, initials } } },
-- false where there is nothing; a plain one ends after its name. Its body: lengths of payload, cold, digest; these three;
-- then what no script reads.
local digest_of, body_of, insert, require_enqueue, plain_jobs, enqueue_plain, enqueue_one
do
  local UNIQUE, IDEMPOTENCY, GATE, NEEDS = 11, 12, 13, 14

  function digest_of(body)
    local payload, cold, digest = struct.unpack('<I4I4I4', body)
    return string.sub(body, 13 + payload + cold, 12 + payload + cold + digest)
  end

  -- What the client wrote, false if it is gone or somebody else wrote there.
  function body_of(row)
    local body = row.body or call('GET', P .. 'b:' .. row.id)
    local at = not row.body and body and client_part_at(body)
    return row.body or at and string.sub(body, at) or false
  end

  local function existing(id, row)
    return { id, '-', row and INITIAL[row.status] or '-' }
  end

  local function same_id(job, body, is_follow_up)
    local row = row_of(job[1])
    if not row then
      return broken[job[1]] and refuse('ID_CONFLICT', job[1]) or nil
    end
    local kept = not is_follow_up and body_of(row)
    if kept and digest_of(kept) ~= digest_of(body) then
      refuse('ID_CONFLICT', job[1])
    end
    return existing(row.id, row)
  end

  -- `keys` idempotency key → packed { job id, digest, expiry }; `keys:x` by expiry.
  local function same_key(job, body, is_follow_up)
    local wanted = job[IDEMPOTENCY]
    local packed = wanted and field('keys', wanted[1])
    if not packed then
      return nil
    end
    local id, digest, expires_ms = unpack(cmsgpack.unpack(packed))
    if expires_ms <= mono_ms then
      return nil
    end
    if digest ~= digest_of(body) and not is_follow_up then
      refuse('KEY_CONFLICT', wanted[1], id, 'idempotency')
    end
    return existing(id, row_of(id))
  end

  local function wanted_run_at(job)
    return math.max(now_ms + (job[8] or 0), job[9] or now_ms)
  end

  local function set_times(row, job)
    local run_at_ms = wanted_run_at(job)
    set(row, 'run_at', run_at_ms ~= row.created_at and run_at_ms or nil)
    set(row, 'expires_at', job[10] and now_ms + job[10] or nil)
  end

  -- A holder that has not started gets the content of the newcomer; its id, name, queue and place in line stay.
  local function replace_content(row, job, body)
    local payload, cold, digest = struct.unpack('<I4I4I4', body)
    local old = body_of(row) or body
    local old_payload, old_cold, old_digest = struct.unpack('<I4I4I4', old)
    set(row, 'body', string.sub(body, 1, 12 + payload + cold + digest)
      .. string.sub(old, 13 + old_payload + old_cold + old_digest))
    local priority = job[4] or 0
    if priority ~= priority_of(row) or row.expires_at then
      set(row, 'priority', priority ~= 0 and priority or nil)
      -- Its entry in the list may be gone already: it had expired when somebody passed it.
      set(row, 'sorted', row.status == 'pending' and '1' or nil)
    end
    set_times(row, job)
    if row.status == 'waiting' then
      return
    elseif run_at_of(row) > now_ms then
      set(row, 'ready', nil)
      set(row, 'sorted', nil)
      move(row, 'scheduled')
    elseif row.status == 'scheduled' then
      admit(row)
    else
      move(row, 'pending')
    end
  end

  local function unique_taken(job, body, holder, is_follow_up)
    local on_conflict = job[UNIQUE][3]
    if on_conflict == 'reject' and not is_follow_up then
      refuse('KEY_CONFLICT', job[UNIQUE][1], holder.id, 'unique')
    end
    if on_conflict == 'replace' and IS_UNSTARTED[holder.status] and not holder.held then
      replace_content(holder, job, body)
    end
    return existing(holder.id, holder)
  end

  local function has_bound(queue, lane)
    local limits = limits_of(queue, lane)
    return limits and limits.pending_max
  end

  local function check_room(job)
    local queue, lane = job[2], job[7] or ''
    local of_queue = limits_of(queue)
    if of_queue and of_queue.pending_max then
      local unstarted = count_of(queue, 'waiting') + count_of(queue, 'scheduled') + count_of(queue, 'pending')
      if unstarted >= of_queue.pending_max then
        refuse('QUEUE_FULL', queue, false, of_queue.pending_max)
      end
    end
    local of_lane = limits_of(queue, lane)
    if of_lane and of_lane.pending_max and lane_count(queue, lane, 'u') >= of_lane.pending_max then
      refuse('QUEUE_FULL', queue, lane, of_lane.pending_max)
    end
  end

  -- Count its needs against what its parents are by now; without unmet ones it goes straight to its gate.
  local function start_waiting(row, needs)
    local unmet, is_hopeless = 0, false
    for _, need in ipairs(needs or {}) do
      local parent = row_of(need[1])
      local is_met = string.find(need[2], INITIAL[parent.status], 1, true)
      is_hopeless = is_hopeless or (IS_ENDED[parent.status] and not is_met)
      unmet = unmet + (is_met and 0 or 1)
      set(parent, 'kids', (parent.kids or 0) + 1)
      set(parent, 'special', '1')
      defer('HSET', P .. 'nd:' .. row.id, parent.id, (is_met and '+' or '') .. need[2])
      defer('ZADD', P .. 'n:' .. parent.id, row.number, row.id)
      row.parents[#row.parents + 1] = parent.id
    end
    set(row, 'needs_left', unmet > 0 and unmet or nil)
    if is_hopeless then
      end_job(row, 'cancelled', 'dependency')
    elseif unmet == 0 then
      enter_gate(row)
    end
  end

  function insert(job, body)
    local id, idempotency, unique, gate = job[1], job[IDEMPOTENCY], job[UNIQUE], job[GATE]
    if idempotency then
      local expires_ms = mono_ms + idempotency[2]
      set_field('keys', idempotency[1], cmsgpack.pack({ id, digest_of(body), expires_ms }))
      defer('ZADD', P .. 'keys:x', expires_ms, idempotency[1])
    end
    local row = { id = id, queue = job[2], name = job[3], status = 'waiting', number = next_number(), created_at = now_ms }
    put(rows, id, row)
    put(dirty, #dirty + 1, row)
    row.is_dirty, row.is_fresh, row.parents = true, true, {}
    row.priority = job[4] and job[4] ~= 0 and job[4] or nil
    row.max_retries = job[5] and job[5] ~= MAX_RETRIES and job[5] or nil
    row.max_lost = job[6] and job[6] ~= MAX_LOST and job[6] or nil
    row.lane = job[7] and job[7] ~= '' and job[7] or nil
    if unique then
      row.unique, row.unique_while = unique[1], unique[2]
      set_field('unique', unique[1], id)
    end
    if gate then
      row.gate, row.gate_max = gate[1], gate[2]
    end
    row.special = (unique or gate or job[NEEDS] or row.lane) and '1' or nil
    row.body = body
    set_times(row, job)
    tally(row.queue, row.lane, 'waiting', 1)
    start_waiting(row, job[NEEDS])
    row.is_fresh = nil
    return { id, '+', INITIAL[row.status] }
  end

  -- Held jobs stand in no line that could be looked at: they are walked over, all of them.
  local function is_held_in_line(key)
    for _, queue in ipairs(call('ZRANGE', P .. 'queues', 0, -1)) do
      for _, id in ipairs(call('ZRANGE', P .. 'h:' .. queue, 0, -1)) do
        local status, gate, needs_left = unpack(call('HMGET', P .. 'j:' .. id, 'status', 'gate', 'needs_left'))
        if gate == key and status == 'waiting' and not needs_left then
          return true
        end
      end
    end
    return false
  end

  local function is_in_use(gate)
    local key = gate[1]
    return number_field('gates', key) > 0 or line_of(key).length > 0 or is_held_in_line(key)
  end

  local function belong_here(jobs)
    for _, job in ipairs(jobs) do
      if job[NEEDS] or job[GATE] and is_in_use(job[GATE]) then
        return true
      end
    end
    return false
  end

  -- Given the jobs of the call and those of its effects, plain ones apart. While draining only calls are taken that belong
  -- to jobs there: one of theirs needs another job, or stands at a gate that is in use.
  function require_enqueue(jobs, followers)
    local is_bound = mode == 'draining' and (belong_here(jobs or {}) or belong_here(followers or {}))
    if not takes_new() and not is_bound then
      refuse_mode()
    end
  end

  -- Plain jobs come flat: `count` bodies from the third argument on, as many ids, no two alike, then queue, name and length
  -- of each run of jobs that share them; of the last one without a length.
  local function runs_of(count)
    local runs, first = {}, 1
    for at = 3 + 2 * count, #ARGV, 3 do
      local last = ARGV[at + 2] and first + ARGV[at + 2] - 1 or count
      runs[#runs + 1] = { queue = ARGV[at], name = ARGV[at + 1], first = first, last = last }
      first = last + 1
    end
    return runs
  end

  -- As other jobs come.
  function plain_jobs(count)
    local jobs = {}
    for _, run in ipairs(runs_of(count)) do
      for i = run.first, run.last do
        jobs[i] = { ARGV[2 + count + i], run.queue, run.name }
      end
    end
    return jobs
  end

  -- A plain job that comes alone, as `enqueue_plain` and with hardly a table: false if it is not new or has limits, else 1
  -- as the reply of the step, and what it writes last.
  local function enqueue_lone(id, queue, name, body)
    local key = P .. 'j:' .. id
    if has_limits and (has_bound(queue) or has_bound(queue, '')) then
      return false
    end
    -- Two for the job, one for a signal that is armed.
    local found = call('EXISTS', key, key, P .. 'w:' .. queue)
    if found >= 2 then
      return false
    end
    counter.number, is_changed = counter.number + 1, true
    local number = text_of(counter.number)
    call('RPUSH', P .. 'p:' .. queue, number .. ':' .. id)
    if call('HINCRBY', P .. 'c:' .. queue, 'pending', 1) == 1 then
      call('ZADD', P .. 'queues', 0, queue)
    end
    call('HSET', key, 'queue', queue, 'name', name, 'status', 'pending', 'number', number, 'created_at', text_of_ms(now_ms))
    write_meta()
    if found == 0 then
      touched[queue] = true
    end
    return 1, nil, P .. 'b:' .. id, FRESH .. number .. instant_of(now_ms) .. body
  end

  -- Texts of `count` numbers in turn. Only hundreds are formatted: two digits behind one cost a fourth of that.
  local digits_of = {}
  local function texts_of_numbers(first, count)
    if not digits_of[99] then
      for i = 0, 99 do
        digits_of[i] = format('%02d', i)
      end
    end
    local texts, hundreds, hundreds_until = {}, nil, 0
    for i = 1, count do
      local number = first + i - 1
      if number >= hundreds_until then
        hundreds, hundreds_until = number >= 100 and text_of(floor(number / 100)), number - number % 100 + 100
      end
      texts[i] = hundreds and hundreds .. digits_of[number % 100] or text_of(number)
    end
    return texts
  end

  -- The usual call: new jobs without keys, needs, delays or limits, pending at once. How many and what else the step has to
  -- know, false if it is not that.
  function enqueue_plain(count)
    if count == 1 then
      return enqueue_lone(ARGV[4], ARGV[5], ARGV[6], ARGV[3])
    end
    local argv, ids, runs, entries = ARGV, 2 + count, runs_of(count), {}
    for _, run in ipairs(runs) do
      local queue = run.queue
      if has_limits and not entries[queue] and (has_bound(queue) or has_bound(queue, '')) then
        return false
      end
      entries[queue] = entries[queue] or {}
    end
    local keys, rows_, bodies = {}, P .. 'j:', P .. 'b:'
    for i = 1, count do
      keys[i] = rows_ .. argv[ids + i]
    end
    if count == 0 or call('EXISTS', unpack(keys)) > 0 then
      return false
    end
    local numbers, texts, now, instant = texts_of_numbers(counter.number + 1, count), {}, text_of(now_ms), instant_of(now_ms)
    for _, run in ipairs(runs) do
      local of_queue = entries[run.queue]
      local before = #of_queue + 1 - run.first
      for i = run.first, run.last do
        local id, number = argv[ids + i], numbers[i]
        of_queue[before + i] = number .. ':' .. id
        texts[2 * i - 1], texts[2 * i] = bodies .. id, FRESH .. number .. instant .. argv[2 + i]
      end
    end
    -- First what a foreign key in its place would refuse: entries without jobs are passed over, jobs without entries lost.
    for queue, of_queue in pairs(entries) do
      call('RPUSH', P .. 'p:' .. queue, unpack(of_queue))
      if call('HINCRBY', P .. 'c:' .. queue, 'pending', #of_queue) == #of_queue then
        call('ZADD', P .. 'queues', 0, queue)
      end
      touched[queue] = true
    end
    for _, run in ipairs(runs) do
      local queue, name = run.queue, run.name
      for i = run.first, run.last do
        call('HSET', keys[i], 'queue', queue, 'name', name, 'status', 'pending', 'number', numbers[i], 'created_at', now)
      end
    end
    call('MSET', unpack(texts))
    counter.number, is_changed = counter.number + count, true
    write_meta()
    return count
  end

  -- { id, '+' if it is new, the initial of its status }.
  function enqueue_one(job, body, is_follow_up)
    local found = same_id(job, body, is_follow_up) or same_key(job, body, is_follow_up)
    if found then
      return found
    end
    local holder_id = job[UNIQUE] and field('unique', job[UNIQUE][1])
    local holder = holder_id and row_of(holder_id)
    if holder then
      return unique_taken(job, body, holder, is_follow_up)
    end
    for _, need in ipairs(job[NEEDS] or {}) do
      if not row_of(need[1]) then
        refuse('UNKNOWN_DEPENDENCY', job[1], need[1])
      end
    end
    if not is_follow_up then
      check_room(job)
    end
    return insert(job, body)
  end
end
