-- phase: pre
-- How many ended jobs a queue keeps, so that retention need not count them anew each time (includes/tally.sql).
CREATE TABLE @schema@.tally (
    queue text COLLATE "C" NOT NULL,
    status smallint NOT NULL,
    at_ms bigint NOT NULL,                      -- jobs that ended until then …
    count bigint NOT NULL,                      -- … are so many, or a few more
    since_mono_ms bigint NOT NULL,              -- when the count was begun
    from_ms bigint,                             -- no job that may be deleted ended before
    from_mono_ms bigint,                        -- as of then
    PRIMARY KEY (queue, status)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX tally_age ON @schema@.tally (since_mono_ms);

-- Whoever deletes jobs, of whatever release, and with whatever rights: the count never says more than there are.
CREATE FUNCTION @schema@.tally_deleted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = @schema@, pg_temp AS $$
DECLARE
    o record;
BEGIN
    FOR o IN SELECT g.queue, g.status, array_agg(g.completed_at_ms) AS ends FROM gone AS g
        WHERE g.status IN (4, 6) GROUP BY g.queue, g.status ORDER BY g.queue, g.status
    LOOP
        -- Compared with how far whoever has the row just now will have counted.
        UPDATE tally AS t SET count = t.count - (SELECT count(*) FROM unnest(o.ends) AS e (at_ms) WHERE e.at_ms <= t.at_ms)
        WHERE t.queue = o.queue AND t.status = o.status;
    END LOOP;
    RETURN NULL;
END $$;

CREATE TRIGGER tally_deleted AFTER DELETE ON @schema@.job REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT EXECUTE FUNCTION @schema@.tally_deleted();
