-- Limits as they are set, moved and dropped: by queue and lane.
-- What is not set, in the order of the settings (commands/put_limits.lua).
local DEFAULTS = { false, 1, false, false, 1, false, { 86400000, 10000 }, { 7776000000, 100000 } }

-- What `limit_name` made a name of.
local function queue_and_lane(name)
  local length, at = string.match(name, '^l:(%d+):()')
  if not length then
    return string.sub(name, 3)
  end
  return string.sub(name, at, at + length - 1), string.sub(name, at + length)
end

-- The settings with those before in all places that are not in `only`.
local function settings_over(queue, lane, settings, only)
  local packed = only[1] and field('limits', limit_name(queue, lane))
  if not packed then
    return settings
  end
  local merged = cmsgpack.unpack(packed)
  for _, place in ipairs(only) do
    merged[place] = settings[place]
  end
  return merged
end

local function put_limits(queue, lane, settings)
  defer('HSET', P .. 'meta', 'limits', '1')
  set_field('limits', limit_name(queue, lane), cmsgpack.pack(settings))
  if lane then
    defer('ZADD', P .. 'll:' .. queue, 0, lane)
  end
  defer('SADD', P .. 'limited', queue)
  defer('ZADD', P .. 'queues', 0, queue)
  put(touched, queue, true)
end
