-- phase: pre
-- The whole store. Every name begins with psyqueue_, so that it can live in the user's own database file.
-- Statuses are the places in psyqueue.job.STATUSES: 0 waiting, 1 scheduled, 2 pending, 3 active, 4 completed, 5 dead,
-- 6 cancelled. Instants are milliseconds: *_at_ms of the wall clock, *_mono_ms of the store's monotone clock.

CREATE TABLE psyqueue_meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    made INTEGER NOT NULL DEFAULT 0,            -- the last creation number given
    ready INTEGER NOT NULL DEFAULT 0,           -- the last ready number given
    follower INTEGER NOT NULL DEFAULT 0,        -- the last ticket of left-over follow-through given
    mode TEXT NOT NULL DEFAULT 'open',
    epoch INTEGER NOT NULL DEFAULT 0,
    moved_to TEXT NOT NULL DEFAULT '',
    test_clock_ms INTEGER,                      -- a store of tests: its clock stands here; NULL = the wall clock
    shift_ms INTEGER NOT NULL DEFAULT 0,        -- monotone clock = wall clock + shift
    mono_ms INTEGER NOT NULL DEFAULT 0,         -- the highest monotone instant that a change was made at
    reaped_mono_ms INTEGER NOT NULL
);

-- What changes while a job lives: short rows, since a row is written anew with every delivery.
CREATE TABLE psyqueue_job (
    n INTEGER PRIMARY KEY,                      -- creation number
    queue TEXT NOT NULL,
    lane TEXT NOT NULL,
    status INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    ready_number INTEGER,
    attempt INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0,
    links INTEGER NOT NULL DEFAULT 0,           -- what has to be looked at when the job moves: rows.py
    held INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    needs_left INTEGER NOT NULL DEFAULT 0,
    has_place INTEGER NOT NULL DEFAULT 0,
    token TEXT,                                 -- active: seed of the delivery's token; else: of the one that settled it
    session INTEGER,                            -- active: who holds it; else: of no meaning
    run_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,
    started_at_ms INTEGER,
    completed_at_ms INTEGER,
    reason TEXT NOT NULL DEFAULT '',
    gate TEXT
);

-- What is written once: apart, so that a status change does not write the payload again.
CREATE TABLE psyqueue_body (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    max_retries INTEGER NOT NULL,
    max_lost INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    digest BLOB NOT NULL,
    extras BLOB,                                -- keys, gate, needs as they were enqueued (msgpack); NULL = none
    cold BLOB NOT NULL,
    payload BLOB NOT NULL
);
CREATE UNIQUE INDEX psyqueue_body_id ON psyqueue_body (id);

CREATE INDEX psyqueue_job_ready ON psyqueue_job (queue, lane, priority DESC, ready_number)
    WHERE status = 2 AND held = 0;
CREATE INDEX psyqueue_job_unstarted ON psyqueue_job (queue, status, n) WHERE status <= 2;
CREATE INDEX psyqueue_job_due ON psyqueue_job (queue, run_at_ms, n) WHERE status = 1 AND held = 0;
CREATE INDEX psyqueue_job_active ON psyqueue_job (session, n) WHERE status = 3;
CREATE INDEX psyqueue_job_cancel ON psyqueue_job (session, n) WHERE cancel_requested = 1;
CREATE INDEX psyqueue_job_ended ON psyqueue_job (queue, status, completed_at_ms, n) WHERE status >= 4;
CREATE INDEX psyqueue_job_expiring ON psyqueue_job (queue, expires_at_ms, n)
    WHERE expires_at_ms IS NOT NULL AND status <= 2 AND held = 0;
CREATE INDEX psyqueue_job_line ON psyqueue_job (gate, n)
    WHERE gate IS NOT NULL AND status = 0 AND needs_left = 0;

CREATE TABLE psyqueue_result (n INTEGER PRIMARY KEY, result BLOB NOT NULL);
CREATE TABLE psyqueue_error (n INTEGER NOT NULL, number INTEGER NOT NULL, error BLOB NOT NULL, PRIMARY KEY (n, number));

CREATE TABLE psyqueue_tally (
    queue TEXT NOT NULL,
    status INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (queue, status)
) WITHOUT ROWID;

-- Lanes other than the default one, while they are used. The default lane has a row (without counts) once it took turns.
CREATE TABLE psyqueue_lane (
    queue TEXT NOT NULL,
    lane TEXT NOT NULL,
    turn INTEGER NOT NULL DEFAULT 0,            -- virtual time
    pending INTEGER NOT NULL DEFAULT 0,
    unstarted INTEGER NOT NULL DEFAULT 0,
    active INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, lane)
) WITHOUT ROWID;
CREATE INDEX psyqueue_lane_turn ON psyqueue_lane (queue, turn, lane) WHERE pending > 0;

CREATE TABLE psyqueue_queue (queue TEXT PRIMARY KEY, turn INTEGER NOT NULL) WITHOUT ROWID;

-- Settings of a queue (is_lane = 0) or of a lane in it, and the bucket of its start rate.
CREATE TABLE psyqueue_limits (
    queue TEXT NOT NULL,
    is_lane INTEGER NOT NULL,
    lane TEXT NOT NULL,
    paused_until_ms INTEGER,
    weight INTEGER NOT NULL,
    active_max INTEGER,
    starts_per_minute INTEGER,
    starts_burst INTEGER NOT NULL,
    pending_max INTEGER,
    retain_ended TEXT,                          -- JSON [milliseconds, count]; NULL = keep all
    retain_dead TEXT,
    bucket_level INTEGER,
    bucket_mono_ms INTEGER,
    PRIMARY KEY (queue, is_lane, lane)
) WITHOUT ROWID;

CREATE TABLE psyqueue_unique (key TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE psyqueue_idempotency (
    key TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    digest BLOB NOT NULL,
    expires_mono_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX psyqueue_idempotency_expires ON psyqueue_idempotency (expires_mono_ms);

-- `child` needs `parent` to end in one of the statuses of `mask` (bit = status). Gone when the child ended.
CREATE TABLE psyqueue_edge (
    parent INTEGER NOT NULL,
    child INTEGER NOT NULL,
    mask INTEGER NOT NULL,
    met INTEGER NOT NULL,
    PRIMARY KEY (parent, child)
) WITHOUT ROWID;
CREATE INDEX psyqueue_edge_child ON psyqueue_edge (child);

CREATE TABLE psyqueue_gate (key TEXT PRIMARY KEY, places INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE psyqueue_follower (ticket INTEGER PRIMARY KEY, parent INTEGER, gate TEXT);

CREATE TABLE psyqueue_session (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    worker TEXT NOT NULL,
    queues TEXT NOT NULL,
    lease_ms INTEGER NOT NULL,
    meta BLOB NOT NULL,
    opened_at_ms INTEGER NOT NULL,
    until_mono_ms INTEGER NOT NULL,
    closed_mono_ms INTEGER
);
CREATE INDEX psyqueue_session_open ON psyqueue_session (until_mono_ms, id) WHERE closed_mono_ms IS NULL;
CREATE INDEX psyqueue_session_closed ON psyqueue_session (closed_mono_ms) WHERE closed_mono_ms IS NOT NULL;

-- The last op of a channel that changed something, and its compact reply.
CREATE TABLE psyqueue_turn (
    client TEXT NOT NULL,
    channel INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    verb TEXT NOT NULL,
    reply BLOB NOT NULL,
    mono_ms INTEGER NOT NULL,
    PRIMARY KEY (client, channel)
) WITHOUT ROWID;

CREATE TABLE psyqueue_schedule (
    id TEXT PRIMARY KEY,
    spec BLOB NOT NULL,
    version INTEGER NOT NULL,
    next_at_ms INTEGER,
    last_nominal_ms INTEGER NOT NULL,
    paused INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE psyqueue_fire (
    schedule_id TEXT NOT NULL,
    nominal_ms INTEGER NOT NULL,
    mono_ms INTEGER NOT NULL,
    PRIMARY KEY (schedule_id, nominal_ms)
) WITHOUT ROWID;
CREATE INDEX psyqueue_fire_age ON psyqueue_fire (mono_ms);

CREATE TABLE psyqueue_state (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    expires_mono_ms INTEGER,
    bucket_level INTEGER,
    bucket_mono_ms INTEGER
);
CREATE INDEX psyqueue_state_expires ON psyqueue_state (expires_mono_ms) WHERE expires_mono_ms IS NOT NULL;

CREATE TABLE psyqueue_stream (stream TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE psyqueue_record (
    stream TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    expires_mono_ms INTEGER,
    body BLOB NOT NULL,
    PRIMARY KEY (stream, seq)
) WITHOUT ROWID;
CREATE INDEX psyqueue_record_expires ON psyqueue_record (expires_mono_ms) WHERE expires_mono_ms IS NOT NULL;

CREATE TABLE psyqueue_lock (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    fence INTEGER NOT NULL,
    until_mono_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- For people with a database shell. Nothing in psyqueue reads it.
CREATE VIEW psyqueue_jobs AS
SELECT
    body.id, job.queue, body.name,
    CASE job.status WHEN 0 THEN 'waiting' WHEN 1 THEN 'scheduled' WHEN 2 THEN 'pending' WHEN 3 THEN 'active'
        WHEN 4 THEN 'completed' WHEN 5 THEN 'dead' ELSE 'cancelled' END AS status,
    job.priority, job.lane, job.attempt, body.max_retries, job.lost, job.reason,
    CAST(body.payload AS TEXT) AS payload, CAST(body.cold AS TEXT) AS cold, CAST(result.result AS TEXT) AS result,
    body.created_at_ms, job.run_at_ms, job.started_at_ms, job.completed_at_ms, session.worker
FROM psyqueue_job AS job
JOIN psyqueue_body AS body ON body.n = job.n
LEFT JOIN psyqueue_result AS result ON result.n = job.n
LEFT JOIN psyqueue_session AS session ON session.n = job.session AND job.status = 3;
