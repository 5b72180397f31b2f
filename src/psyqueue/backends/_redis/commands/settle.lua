-- Apply the outcomes of deliveries in order, then what time and they set free, then dequeue: the heart of a worker.
-- Params: 1 op, 2 session, 3 outcomes, 4 fetch { queues, count, seed, bytes_max, counts } or false, packed (session: text);
-- 5 … results, errors and bodies that the outcomes point at. Shapes: includes/outcomes.lua.
-- Returns: { 0 | 1, { verdicts, effects { outcome number, { id, flag, initial } … } …, deliveries, asked to cancel,
-- 1 if there is more, milliseconds until time alone brings something or false, now, jobs that the session holds or false
-- without a fetch that counts } } | { 2, code, facts … }. For an empty list there is false: the server looks at each table of a
-- reply seven times.
-- Deliveries: { ids, a line each; their bodies; of those that are not the first attempt of a plain job: which one it is, then
-- packed { number, created at, attempt, fence, lost, priority, run at, generation }, false if there is none }. `now` of the
-- deliveries is the reply's.
-- Index: j:<id>; per queue the list p:, the sorted sets z:, d:, x:. Cost: one command an ack, one a delivery, some forty a
-- call; of those that are not plain a dozen each.
-- flags: allow-oom
-- function
--- @include head hashes wake bodies rows flush lifecycle limits intake effects follow times sessions outcomes dequeue turn
local session_id = ARGV[2]
local outcomes, fetch = cmsgpack.unpack(ARGV[3]), cmsgpack.unpack(ARGV[4])

local function earlier(in_ms, other_ms)
  return in_ms and other_ms and math.min(in_ms, other_ms) or in_ms or other_ms
end

local function no_deliveries()
  return { ids = {}, bodies = {}, facts = {} }
end

-- Ids as one text: the server is quicker to write it than as many texts, and it is kept, too.
local function reply_of(deliveries, ids)
  return ids ~= '' and { ids, deliveries.bodies, #deliveries.facts > 0 and deliveries.facts }
end

local function held_by(session)
  return call('HLEN', P .. 'a:' .. session)
end

local function act()
  if fetch and starts_nothing() then
    if #outcomes == 0 then
      refuse_mode()
    end
    fetch = false
  end
  require_session(session_id)
  local verdicts, followed = settle_all(session_id, outcomes)
  local deliveries, is_more, next_ms = no_deliveries(), false, false
  if fetch then
    local _, more_expired = expire(fetch[1], EXPIRE_MAX)
    local _, more_due = promote(fetch[1], PROMOTE_MAX)
    local is_left_over = follow_through(FOLLOW_MAX)
    local is_bounded = dequeue(session_id, fetch, deliveries)
    is_more = is_bounded or more_expired or more_due or is_left_over
    next_ms = earlier(next_due_in_ms(fetch[1]), next_start_in_ms(fetch[1]))
  else
    is_more = follow_through(FOLLOW_MAX)
  end
  local asked = cancel_requested(session_id)
  local ids = table.concat(deliveries.ids, '\n')
  local reply = {
    verdicts, #followed > 0 and followed, reply_of(deliveries, ids), #asked > 0 and asked, is_more and 1 or 0,
    next_ms, now_ms, fetch and fetch[5] and held_by(session_id),
  }
  return reply, { verdicts, followed, fetch and fetch[3] or '' }, nil, ids
end

-- The first reply again, with those of its deliveries that the session still holds.
local function recall(kept, ids)
  local deliveries, started_ms = no_deliveries(), {}
  for id in string.gmatch(ids, '[^\n]+') do
    local row = row_of(id)
    if row and row.status == 'active' and row.token == kept[3] then
      add_delivery(row, call('GET', P .. 'b:' .. id), deliveries)
      started_ms[#started_ms + 1] = row.started_at
    end
  end
  local again = reply_of(deliveries, table.concat(deliveries.ids, '\n'))
  return { kept[1], kept[2], again, cancel_requested(session_id), 1, false, started_ms[1] or now_ms, false }
end

return once('settle', act, recall)
