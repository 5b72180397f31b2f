-- phase: pre
-- The tables. All of it lives in one schema of its own; @schema@ stands for its name, quoted.
-- Statuses are the places in psyqueue.job.STATUSES: 0 waiting, 1 scheduled, 2 pending, 3 active, 4 completed, 5 dead,
-- 6 cancelled. Instants are milliseconds: *_at_ms of the wall clock, *_mono_ms of the store's monotone clock.
-- Text is compared byte by byte (COLLATE "C"), so that every store sorts names alike.

CREATE TABLE @schema@.meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    mode text NOT NULL DEFAULT 'open',
    epoch bigint NOT NULL DEFAULT 0,
    moved_to text NOT NULL DEFAULT '',
    store_id uuid NOT NULL DEFAULT gen_random_uuid()    -- tells a connection to this database from one to a copy of its name
);

-- Apart from meta: it is written every second or so, meta hardly ever.
CREATE TABLE @schema@.clock (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    test_clock_ms bigint,                       -- a store of tests: its clock stands here; NULL = the wall clock
    shift_ms bigint NOT NULL DEFAULT 0,         -- monotone clock = wall clock + shift
    mono_ms bigint NOT NULL DEFAULT 0,          -- a monotone instant that was reached, at most a second or so ago
    reaped_mono_ms bigint NOT NULL
);

CREATE SEQUENCE @schema@.number AS bigint;      -- of creation and of readiness
CREATE SEQUENCE @schema@.ticket AS bigint;      -- of left-over follow-through

-- What changes while a job lives: short rows, since a row is written anew with every move, and so is its entry in each index.
CREATE TABLE @schema@.job (
    n bigint PRIMARY KEY,                       -- creation number
    created_at_ms bigint NOT NULL,
    run_at_ms bigint NOT NULL,
    ready_number bigint,
    expires_at_ms bigint,
    started_at_ms bigint,
    completed_at_ms bigint,
    session bigint,                             -- active: who holds it
    priority integer NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    max_retries integer NOT NULL,
    max_lost integer NOT NULL,
    lost integer NOT NULL DEFAULT 0,
    fence integer NOT NULL DEFAULT 0,
    generation integer NOT NULL DEFAULT 0,
    size integer NOT NULL,                      -- bytes of payload and cold
    needs_left integer NOT NULL DEFAULT 0,
    status smallint NOT NULL,
    links smallint NOT NULL DEFAULT 0,          -- what is looked at when it moves: 1 a unique key, 2 a gate, 4 needs, 8 needed
    held boolean NOT NULL DEFAULT false,
    cancel_requested boolean NOT NULL DEFAULT false,
    has_place boolean NOT NULL DEFAULT false,
    id text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    lane text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    token text COLLATE "C",                     -- active: seed of the delivery's token; else: of the one that settled it
    reason text NOT NULL DEFAULT '',
    unique_key text COLLATE "C",
    unique_mask smallint,                       -- statuses that keep the key, bit = status
    gate text COLLATE "C",
    gate_max integer,
    result bytea                                -- NULL = JSON null, or not completed
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05);

-- What is written once: apart, so that a move does not write the payload again. Found by id, then by number.
CREATE TABLE @schema@.body (
    n bigint PRIMARY KEY,
    id text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    extras bytea,                               -- keys, gate, needs as they were enqueued (msgpack); NULL = none
    cold bytea NOT NULL,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.1);
-- A step of the hot path has no CPU to spare for compressing.
ALTER TABLE @schema@.body ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX body_id ON @schema@.body (id);

CREATE INDEX job_ready ON @schema@.job (queue, lane, priority DESC, ready_number) WHERE status = 2 AND NOT held;
CREATE INDEX job_unstarted ON @schema@.job (queue, status, n) WHERE status <= 2;
CREATE INDEX job_due ON @schema@.job (queue, run_at_ms, n) WHERE status = 1 AND NOT held;
CREATE INDEX job_active ON @schema@.job (session, n) WHERE status = 3;
CREATE INDEX job_cancel ON @schema@.job (session, n) WHERE cancel_requested;
CREATE INDEX job_ended ON @schema@.job (queue, status, completed_at_ms, n) WHERE status >= 4;
CREATE INDEX job_expiring ON @schema@.job (queue, expires_at_ms, n)
    WHERE expires_at_ms IS NOT NULL AND status <= 2 AND NOT held;
CREATE INDEX job_line ON @schema@.job (gate, n) WHERE gate IS NOT NULL AND status = 0 AND needs_left = 0 AND NOT held;
CREATE INDEX job_lane ON @schema@.job (queue, lane, status) WHERE lane <> '' AND status <= 3;

CREATE TABLE @schema@.error (
    n bigint NOT NULL,
    number integer NOT NULL,
    error bytea NOT NULL,
    PRIMARY KEY (n, number)
);

-- Lanes other than the default one, while they are used, and their virtual time. The default lane has a row once it took turns.
CREATE TABLE @schema@.lane (
    queue text COLLATE "C" NOT NULL,
    lane text COLLATE "C" NOT NULL,
    turn bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, lane)
);
CREATE TABLE @schema@.queue_turn (queue text COLLATE "C" PRIMARY KEY, turn bigint NOT NULL);

-- Settings of a queue (NOT is_lane) or of a lane in it, and the bucket of its start rate.
CREATE TABLE @schema@.limits (
    queue text COLLATE "C" NOT NULL,
    is_lane boolean NOT NULL,
    lane text COLLATE "C" NOT NULL,
    paused_until_ms bigint,
    weight bigint NOT NULL,
    active_max bigint,
    starts_per_minute bigint,
    starts_burst bigint NOT NULL,
    pending_max bigint,
    retain_ended bigint[],                      -- milliseconds, count; NULL = keep all
    retain_dead bigint[],
    bucket_level bigint,
    bucket_mono_ms bigint,
    PRIMARY KEY (queue, is_lane, lane)
);

CREATE TABLE @schema@.unique_key (key text COLLATE "C" PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE @schema@.idempotency (
    key text COLLATE "C" PRIMARY KEY,
    id text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    expires_mono_ms bigint NOT NULL
);
CREATE INDEX idempotency_expires ON @schema@.idempotency (expires_mono_ms);

-- `child` needs `parent` to end in one of the statuses of `mask` (bit = status). Gone when the child ended.
CREATE TABLE @schema@.edge (
    parent bigint NOT NULL,
    child bigint NOT NULL,
    mask smallint NOT NULL,
    met boolean NOT NULL,
    PRIMARY KEY (parent, child)
);
CREATE INDEX edge_child ON @schema@.edge (child);

CREATE TABLE @schema@.gate (key text COLLATE "C" PRIMARY KEY, places bigint NOT NULL);
CREATE TABLE @schema@.follower (ticket bigint PRIMARY KEY, parent bigint, gate text COLLATE "C");

CREATE TABLE @schema@.session (
    n bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    id text COLLATE "C" NOT NULL UNIQUE,
    worker text NOT NULL,
    queues text[] NOT NULL,
    lease_ms bigint NOT NULL,
    meta bytea NOT NULL,
    lost_error bytea NOT NULL,                  -- begin of the error of a job that is lost with this session
    opened_at_ms bigint NOT NULL,
    until_mono_ms bigint NOT NULL,
    closed_mono_ms bigint
);
CREATE INDEX session_open ON @schema@.session (until_mono_ms, id) WHERE closed_mono_ms IS NULL;
CREATE INDEX session_closed ON @schema@.session (closed_mono_ms) WHERE closed_mono_ms IS NOT NULL;

-- The last op of a channel that changed something, and its compact reply. A new row takes the place of the old one:
-- an updated row would grow a chain of versions under an old snapshot, and each call would walk it.
CREATE TABLE @schema@.turn (
    client text COLLATE "C" NOT NULL,
    channel bigint NOT NULL,
    turn bigint NOT NULL,
    verb text NOT NULL,
    reply text NOT NULL,
    mono_ms bigint NOT NULL,
    PRIMARY KEY (client, channel, turn)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX turn_age ON @schema@.turn (mono_ms);

CREATE TABLE @schema@.schedule (
    id text COLLATE "C" PRIMARY KEY,
    spec bytea NOT NULL,
    version bigint NOT NULL,
    next_at_ms bigint,
    last_nominal_ms bigint NOT NULL,
    paused boolean NOT NULL
);
CREATE TABLE @schema@.fire (
    schedule_id text COLLATE "C" NOT NULL,
    nominal_ms bigint NOT NULL,
    mono_ms bigint NOT NULL,
    PRIMARY KEY (schedule_id, nominal_ms)
);
CREATE INDEX fire_age ON @schema@.fire (mono_ms);

CREATE TABLE @schema@.state (
    key text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL,
    version bigint NOT NULL,
    expires_mono_ms bigint,
    bucket_level bigint,
    bucket_mono_ms bigint
);
CREATE INDEX state_expires ON @schema@.state (expires_mono_ms) WHERE expires_mono_ms IS NOT NULL;

CREATE TABLE @schema@.stream (stream text COLLATE "C" PRIMARY KEY, seq bigint NOT NULL);
CREATE TABLE @schema@.record (
    stream text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    at_ms bigint NOT NULL,
    expires_mono_ms bigint,
    body bytea NOT NULL,
    PRIMARY KEY (stream, seq)
);
CREATE INDEX record_expires ON @schema@.record (expires_mono_ms) WHERE expires_mono_ms IS NOT NULL;

CREATE TABLE @schema@.lock (
    name text COLLATE "C" PRIMARY KEY,
    holder text NOT NULL,
    fence bigint NOT NULL,
    until_mono_ms bigint NOT NULL
);

-- Who sleeps and wants to be told: of a queue ('q') or of a job's end ('j'). Nothing of it is truth, so it needs no log.
CREATE UNLOGGED TABLE @schema@.sleeper (
    kind "char" NOT NULL,
    key text COLLATE "C" NOT NULL,
    client text COLLATE "C" NOT NULL,
    until_ms bigint NOT NULL,
    PRIMARY KEY (kind, key, client)
);

-- For people who ask. Nothing in psyqueue reads it.
CREATE VIEW @schema@.jobs AS
SELECT
    j.id, j.queue, j.name,
    (ARRAY['waiting', 'scheduled', 'pending', 'active', 'completed', 'dead', 'cancelled'])[j.status + 1] AS status,
    j.priority, j.lane, j.attempt, j.max_retries, j.lost, j.reason,
    convert_from(b.payload, 'UTF8')::json AS payload,
    convert_from(b.cold, 'UTF8')::json AS cold,
    convert_from(CASE WHEN j.status = 4 THEN coalesce(j.result, 'null') END, 'UTF8')::json AS result,
    to_timestamp(j.created_at_ms / 1000.0) AS created_at,
    to_timestamp(j.run_at_ms / 1000.0) AS run_at,
    to_timestamp(j.started_at_ms / 1000.0) AS started_at,
    to_timestamp(j.completed_at_ms / 1000.0) AS completed_at,
    s.worker
FROM @schema@.job AS j JOIN @schema@.body AS b ON b.n = j.n
LEFT JOIN @schema@.session AS s ON s.n = j.session AND j.status = 3;

CREATE VIEW @schema@.job_errors AS
SELECT j.id, j.queue, j.name, e.number, convert_from(e.error, 'UTF8')::json AS error
FROM @schema@.error AS e JOIN @schema@.job AS j ON j.n = e.n;

INSERT INTO @schema@.meta DEFAULT VALUES;
