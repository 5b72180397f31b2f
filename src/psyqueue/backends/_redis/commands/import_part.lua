-- Write what another store exported, all or none.
-- Params: 1 op; 2 items, packed (includes/importing.lua); 3 … their bytes.
-- Returns: { 0 | 1, how many were not there } | { 2, code, facts … }.
-- Index: each by its key. Cost: three commands a plain pending job, some fifteen another one, three each other item; of a
-- record below the last one of its stream the whole stream.
-- flags: deny-oom
--- @include head hashes wake bodies rows flush lifecycle limits settings intake turn importing
return once('import_part', function()
  if mode == 'moved' then
    refuse('NAMESPACE_MOVED', moved_to_of())
  end
  return import_items(cmsgpack.unpack(ARGV[2]))
end)
