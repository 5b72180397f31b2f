-- What every verb runs under. The path is pinned; plans are made once, since they are short and made for these indexes:
-- on a young table without statistics the planner would read all of it, and keep to that.
LANGUAGE plpgsql VOLATILE
SET search_path = @schema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
