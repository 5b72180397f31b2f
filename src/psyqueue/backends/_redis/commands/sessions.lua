-- Look at open sessions by id.
-- Params: 1 cursor or ''; 2 limit.
-- Returns: { { id, held, lease left in ms, worker, queues packed, lease in ms, meta, opened at } …, cursor or false };
-- not those whose record is gone or foreign: they end with their next renewal.
-- Index: leases. Cost: all open sessions for the order, three keys for each of the page.
-- flags: no-writes
--- @include head
local cursor, limit = ARGV[1], tonumber(ARGV[2])
local ids, found = call('ZRANGE', P .. 'leases', 0, -1), {}
table.sort(ids)
for _, id in ipairs(ids) do
  if cursor == '' or id > cursor then
    if #found == limit then
      return { found, found[limit][1] }
    end
    local v = checked(pcall_('HMGET', P .. 'S:' .. id, 'worker', 'queues', 'lease_ms', 'meta', 'opened_at'))
    if v[1] and v[2] and v[3] and v[4] and v[5] then
      local left_ms = tonumber(call('ZSCORE', P .. 'leases', id)) - mono_ms
      found[#found + 1] = { id, call('HLEN', P .. 'a:' .. id), left_ms, unpack(v) }
    end
  end
end
return { found, false }
