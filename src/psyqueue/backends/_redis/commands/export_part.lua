-- Look at a page of one part of all there is, as another store takes it in.
-- Params: 1 part; 2 position, a list of texts as JSON, [] to begin; 3 limit; 4 most bytes of bodies.
-- Returns: { items, position behind them or false }. Their shapes: includes/exporting.lua.
-- Index: the places of jobs (includes/walk.lua), for needs too; sorted sets where there are, else a scan of one hash.
-- Cost: three keys a job, one for each job passed in search of needs (1,000 a call), two for each other item; of plain
-- pending jobs three commands for a hundred.
-- flags: no-writes
--- @include head hashes wake bodies rows limits settings views walk exporting
return export.page(ARGV[1], cjson.decode(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
