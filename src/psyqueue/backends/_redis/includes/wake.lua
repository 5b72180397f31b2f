-- Who sleeps is woken: one client per queue by its signal, the watchers of a job by a note to each of them.
local touched = {}
local KEPT_MS = 60000 -- whoever may come later looks by itself

begins[#begins + 1] = function()
  touched = emptied(touched)
end

-- One element at most: a signal says "look", not how much there is. Who takes it and leaves work behind arms it anew.
local function arm(queue)
  local key = P .. 'w:' .. queue
  if call('LLEN', key) == 0 then
    call('RPUSH', key, '1')
    call('PEXPIRE', key, KEPT_MS)
  end
end

local function arm_touched()
  for queue in pairs(touched) do
    arm(queue)
  end
  touched = emptied(touched)
end

local function defer_note(client, text)
  defer('RPUSH', P .. 'i:' .. client, text)
  defer('PEXPIRE', P .. 'i:' .. client, KEPT_MS)
end

local function wake_everybody()
  for _, client in ipairs(call('ZRANGE', P .. 'listeners', 0, -1)) do
    defer_note(client, '')
  end
end
