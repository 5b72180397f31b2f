-- Who sleeps is woken: one client per queue by its signal, the watchers of a job by a note to each of them.
local touched
local NOTE_KEPT_MS = 60000 -- a client that is gone reads no notes

begins[#begins + 1] = function()
  touched = {}
end

-- One element at most: a signal says "look", not how much there is. Who takes it and leaves work behind arms it anew.
local function arm(queue)
  local key = P .. 'w:' .. queue
  if call('LLEN', key) == 0 then
    call('RPUSH', key, '1')
  end
end

local function arm_touched()
  for queue in pairs(touched) do
    arm(queue)
  end
  touched = {}
end

local function defer_note(client, text)
  defer('RPUSH', P .. 'c:' .. client, text)
  defer('PEXPIRE', P .. 'c:' .. client, NOTE_KEPT_MS)
end

local function wake_everybody()
  for _, client in ipairs(call('ZRANGE', P .. 'listeners', 0, -1)) do
    defer_note(client, '')
  end
end
