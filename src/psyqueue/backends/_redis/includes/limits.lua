-- Limits of queues and lanes: pauses, rates, most active, most unstarted.
-- `limits` q:<queue> or l:<length>:<queue><lane> → packed; `buckets` the same fields → "level at".
local TOKEN_UNITS, NO_LIMIT = 60000, 2 ^ 30

local function limit_name(queue, lane)
  return lane and 'l:' .. #queue .. ':' .. queue .. lane or 'q:' .. queue
end

local unpacked = {}

begins[#begins + 1] = function()
  unpacked = emptied(unpacked)
end

-- The settings of a queue (no lane) or lane as a table, false if there are none.
local function limits_of(queue, lane)
  local packed = has_limits and field('limits', limit_name(queue, lane))
  if not packed then
    return false
  end
  local limits = unpacked[packed]
  if not limits then
    local v = cmsgpack.unpack(packed)
    limits = {
      paused_until = v[1], weight = v[2], active_max = v[3], rate = v[4], burst = v[5], pending_max = v[6],
      retain_ended = v[7], retain_dead = v[8],
    }
    unpacked[packed] = limits
  end
  return limits
end

local function is_paused(limits)
  local until_ms = limits and limits.paused_until
  return until_ms and (until_ms == -1 or until_ms > now_ms)
end

local function active_of(queue, lane)
  return lane and lane_count(queue, lane, 'a') or count_of(queue, 'active')
end

is_crowded = function(row)
  local of_queue, of_lane = limits_of(row.queue), limits_of(row.queue, row.lane or '')
  return of_queue and of_queue.active_max or of_lane and of_lane.active_max
end

local function refilled(level, elapsed_ms, per_minute, full)
  return math.min(full, level + math.max(0, elapsed_ms) * per_minute)
end

local function refill_wait_ms(missing, per_minute)
  return per_minute > 0 and math.ceil(missing / per_minute) or 86400000
end

-- A rate's bucket as of now, in 1/60,000 of a start; one that was never used is full.
local function level_of(queue, lane, limits)
  local full = limits.burst * TOKEN_UNITS
  local kept = field('buckets', limit_name(queue, lane))
  local level, at_ms = string.match(kept or '', '^(%S+) (%S+)$')
  return refilled(tonumber(level) or full, mono_ms - (tonumber(at_ms) or mono_ms), limits.rate, full)
end

-- How many starts the limits allow now.
local function room_of(queue, lane)
  local limits = limits_of(queue, lane)
  if not limits then
    return NO_LIMIT
  end
  if is_paused(limits) then
    return 0
  end
  local room = NO_LIMIT
  if limits.active_max then
    room = math.min(room, limits.active_max - active_of(queue, lane))
  end
  if limits.rate then
    room = math.min(room, math.floor(level_of(queue, lane, limits) / TOKEN_UNITS))
  end
  return room
end

local function charge(queue, lane, starts)
  local limits = limits_of(queue, lane)
  if limits and limits.rate then
    local level = level_of(queue, lane, limits) - starts * TOKEN_UNITS
    set_field('buckets', limit_name(queue, lane), text_of(level) .. ' ' .. text_of(mono_ms))
  end
end

-- The default lane and those of `lp`: with pending jobs. Whoever waits for a later one looks again anyway.
local function lanes_pending(queue)
  local lanes = call('ZRANGE', P .. 'lp:' .. queue, 0, 999)
  if lane_count(queue, '', 'p') > 0 then
    table.insert(lanes, 1, '')
  end
  return lanes
end

-- When the first pause or rate that keeps pending jobs back lets go; false: none does, by time alone.
local function next_start_in_ms(queues)
  local first = false
  local function within(wait_ms)
    first = first and math.min(first, wait_ms) or wait_ms
  end
  local function look(queue, lane)
    local limits = limits_of(queue, lane)
    if limits and limits.paused_until and limits.paused_until > now_ms then
      within(limits.paused_until - now_ms)
    end
    if limits and limits.rate then
      local missing = TOKEN_UNITS - level_of(queue, lane, limits)
      if missing > 0 then
        within(refill_wait_ms(missing, limits.rate))
      end
    end
  end
  if has_limits then
    for _, queue in ipairs(queues) do
      local lanes = call('SISMEMBER', P .. 'limited', queue) == 1 and lanes_pending(queue) or {}
      if #lanes > 0 then
        look(queue)
        for _, lane in ipairs(lanes) do
          look(queue, lane)
        end
      end
    end
  end
  return first
end
