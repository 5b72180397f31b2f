-- phase: pre
-- No two jobs have one key in these: to look for equal ones, whenever a page is full, merges nothing.
ALTER INDEX @schema@.job_ready SET (deduplicate_items = off);
ALTER INDEX @schema@.job_unstarted SET (deduplicate_items = off);
ALTER INDEX @schema@.job_due SET (deduplicate_items = off);
ALTER INDEX @schema@.job_running SET (deduplicate_items = off);
ALTER INDEX @schema@.job_ended SET (deduplicate_items = off);
