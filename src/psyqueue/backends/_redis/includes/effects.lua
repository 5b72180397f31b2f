-- What rides on another step: state writes, follow-up jobs, records. As _memory/intake.py.
-- { writes { kind, key, value, number, expected, ttl, capacity, rate }, jobs, first, records { stream, body, ttl } };
-- values and bodies are numbers of arguments, `first` that of the first job's body.
-- `state` key → packed { version, expiry, level, level at, value }; `state:k` the keys in order; `state:x` by expiry.
local apply_writes, apply_jobs, apply_records, apply_effects
do
  local function cell_of(key)
    local packed = field('state', key)
    if not packed then
      return nil
    end
    local version, expires_ms, level, at_ms, value = unpack(cmsgpack.unpack(packed))
    if expires_ms and expires_ms <= mono_ms then
      return nil
    end
    return { version = version, level = level, at_ms = at_ms, value = value }
  end

  -- Whole numbers beyond what a Lua number holds are added by the server.
  local function sum_of(text, number)
    local sum = tonumber(text) + tonumber(number)
    if math.abs(sum) < EXACT_MAX and math.abs(tonumber(text)) < EXACT_MAX and math.abs(tonumber(number)) < EXACT_MAX then
      return text_of(sum)
    end
    local key = P .. 'sum'
    call('SET', key, text)
    local reply = pcall_('INCRBY', key, number)
    local exact = call('GET', key)
    call('DEL', key)
    return type(reply) == 'number' and exact
  end

  local function take_tokens(write, cell)
    local full, wanted, rate = write[7] * TOKEN_UNITS, tonumber(write[4]) * TOKEN_UNITS, write[8]
    local level, at_ms = full, mono_ms
    if cell and cell.level then
      level, at_ms = cell.level, cell.at_ms
    end
    level = refilled(level, mono_ms - at_ms, rate, full)
    if level < wanted then
      refuse('RATE_LIMIT_EXCEEDED', write[2], refill_wait_ms(wanted - level, rate))
    end
    level = level - wanted
    return level, text_of(math.floor(level / TOKEN_UNITS))
  end

  -- The number of the write as text.
  local function write_one(write)
    local kind, key, expected = write[1], write[2], write[5]
    local cell = cell_of(key)
    local version = cell and cell.version or 0
    if expected and (kind == 'put' or kind == 'delete') and expected ~= version then
      refuse('STATE_CONFLICT', key, expected, version)
    end
    if kind == 'delete' then
      if field('state', key) then
        set_field('state', key, false)
        defer('ZREM', P .. 'state:k', key)
        defer('ZREM', P .. 'state:x', key)
      end
      return '0'
    end
    local value, number, level = ARGV[write[3]], text_of(version + 1), false
    if kind == 'add' then
      local before = cell and cell.value or '0'
      number = string.match(before, '^[+-]?%d+$') and sum_of(before, write[4])
      if not number then
        refuse('STATE_CONFLICT', key, false, version)
      end
      value = number
    elseif kind == 'take' then
      level, number = take_tokens(write, cell)
      value = number
    end
    local expires_ms = write[6] and mono_ms + write[6]
    set_field('state', key, cmsgpack.pack({ version + 1, expires_ms, level, mono_ms, value }))
    defer('ZADD', P .. 'state:k', 0, key)
    if expires_ms then
      defer('ZADD', P .. 'state:x', expires_ms, key)
    else
      defer('ZREM', P .. 'state:x', key)
    end
    return number
  end

  -- s:<stream>, a stream of the server's whose ids are <seq>-0; `streams` → last seq; `records:x` by expiry.
  local function append_record(record)
    local stream = record[1]
    local seq = text_of(count_field('streams', stream, 1))
    defer('XADD', P .. 's:' .. stream, seq .. '-0', 'a', now_ms, 'b', ARGV[record[2]])
    if record[3] then
      defer('ZADD', P .. 'records:x', mono_ms + record[3], seq .. ':' .. stream)
    end
  end

  function apply_writes(writes)
    local numbers = {}
    for i, write in ipairs(writes) do
      numbers[i] = write_one(write)
    end
    return numbers
  end

  function apply_jobs(jobs, first, is_follow_up)
    local enqueued = {}
    for i, job in ipairs(jobs) do
      enqueued[i] = enqueue_one(job, ARGV[first + i - 1], is_follow_up)
    end
    return enqueued
  end

  function apply_records(records)
    for _, record in ipairs(records) do
      append_record(record)
    end
  end

  function apply_effects(effects)
    local numbers = apply_writes(effects[1])
    local enqueued = apply_jobs(effects[2], effects[3], true)
    apply_records(effects[4])
    return numbers, enqueued
  end
end
