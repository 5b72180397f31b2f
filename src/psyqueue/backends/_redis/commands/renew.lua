-- Extend the lease of an open session to now + lease; late but not reaped counts.
-- Params: 1 session.
-- Returns: { is open, ids asked to cancel, its queues that are paused, now in ms }.
-- Index: leases, S:<id>. Cost: five keys, one a queue.
-- flags: allow-oom
--- @include head hashes wake bodies rows limits sessions
if is_open(ARGV[1]) then
  extend(ARGV[1])
  write_meta()
end
return renewal_of(ARGV[1])
