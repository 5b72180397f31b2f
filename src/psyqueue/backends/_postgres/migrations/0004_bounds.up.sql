-- phase: pre
-- The active jobs by session and queue, so that a limit on what runs looks at the jobs of its own queue only. Older
-- releases read it where they read the one that it replaces.
CREATE INDEX job_running ON @schema@.job (session, queue, n) WHERE status = 3;
DROP INDEX @schema@.job_active;

-- Where the next look of maintenance goes on, of what it looks at in pieces: queues with ended jobs, lanes, gates.
CREATE TABLE @schema@.round (
    what text COLLATE "C" PRIMARY KEY,
    queue text COLLATE "C" NOT NULL DEFAULT '',
    key text COLLATE "C" NOT NULL DEFAULT ''
);
INSERT INTO @schema@.round (what) VALUES ('ended'), ('lane'), ('gate');
