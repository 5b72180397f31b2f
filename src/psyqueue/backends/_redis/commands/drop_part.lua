-- Forget what was imported, or exported to stay elsewhere.
-- Params: 1 op; 2 items, packed (includes/dropping.lua); 3 … their bytes.
-- Returns: { 0 | 1, how many were there } | { 2, code, facts … }.
-- Index: each by its key. Cost: some fifteen commands a job, one for each job that needs it, three each other item.
-- flags: allow-oom
--- @include head hashes wake bodies rows flush lifecycle limits settings lifting intake amending turn dropping
return once('drop_part', function()
  return drop_items(cmsgpack.unpack(ARGV[2]))
end)
