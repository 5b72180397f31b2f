-- Look at the namespace.
-- Params: none.
-- Returns: { schema or false, mode, epoch, moved to, now }.
-- Index: meta. Cost: one key.
-- flags: no-writes
--- @include head
local found = call('HMGET', P .. 'meta', 'schema', 'epoch', 'moved_to')
return { found[1], mode, tonumber(found[2] or '0'), found[3] or '', now_ms }
