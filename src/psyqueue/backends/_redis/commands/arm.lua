-- Hand a queue's signal on to whoever sleeps for it next.
-- Params: 1 queue.
-- Returns: nothing.
-- Index: w:<queue>. Cost: one key.
-- flags: allow-oom
--- @include head wake
arm(ARGV[1])
