-- Look at the namespace.
-- Params: none.
-- Returns: { schema or false, mode, epoch, moved to, now }.
-- Index: meta. Cost: one key.
-- flags: no-writes
--- @include head
return { call('HGET', P .. 'meta', 'schema'), mode, epoch, moved_to, now_ms }
