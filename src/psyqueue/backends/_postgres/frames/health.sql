-- What `psyqueue doctor` looks at. Nothing is written. A role without pg_monitor is not shown what other roles do: NULL.
-- name: place
SELECT to_regnamespace($1) IS NOT NULL AS schema_exists,
    EXISTS (SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relname = 'migration') AS has_ledger,
    EXISTS (SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace($1)) AS has_relations,
    has_database_privilege(current_database(), 'CREATE') AS may_create, current_user::text AS role;

-- name: settings
SELECT name, setting FROM pg_settings WHERE name IN (
    'autovacuum', 'track_counts', 'statement_timeout', 'lock_timeout', 'idle_session_timeout', 'transaction_timeout'
);

-- Places for connections of this role, but for this one: the least that server, database and role leave.
-- name: connections
WITH sessions AS (
    SELECT datname, usename FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND usename IS NOT NULL AND backend_type IS DISTINCT FROM 'walsender'
)
SELECT current_setting('max_connections')::int AS most, (SELECT count(*) FROM sessions) AS used,
    least(
        current_setting('max_connections')::int - (SELECT count(*) FROM sessions)
            - CASE WHEN r.rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::int END,
        CASE WHEN d.datconnlimit >= 0 THEN d.datconnlimit - (SELECT count(*) FROM sessions WHERE datname = d.datname) END,
        CASE WHEN r.rolconnlimit >= 0 THEN r.rolconnlimit - (SELECT count(*) FROM sessions WHERE usename = r.rolname) END
    ) AS free
FROM pg_roles AS r, pg_database AS d WHERE r.rolname = current_user AND d.datname = current_database();

-- Transactions that keep dead rows alive in this database: those of others do not, but standbys' snapshots do.
-- name: transactions
SELECT pid, usename::text AS role, application_name AS application, state,
    extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_s
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND xact_start IS NOT NULL AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
    AND backend_type <> 'autovacuum worker' AND (datname = current_database() OR datname IS NULL)
ORDER BY xact_start LIMIT 5;

-- name: hidden
SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database() AND query = '<insufficient privilege>';

-- name: prepared
SELECT gid, owner::text AS role, extract(epoch FROM clock_timestamp() - prepared)::float8 AS age_s
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared LIMIT 5;

-- Slots, and standbys without one that tell of their snapshots.
-- name: slots
SELECT 'slot ' || slot_name AS name, active, greatest(age(xmin), age(catalog_xmin)) AS age,
    CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint END AS log_bytes
FROM pg_replication_slots
UNION ALL
SELECT 'standby ' || application_name, true, age(backend_xmin), NULL
FROM pg_stat_replication
WHERE backend_xmin IS NOT NULL AND NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE active_pid = pid)
ORDER BY 1;

-- name: tables
SELECT c.relname::text AS name, c.relpersistence::text = 'u' AS is_unlogged, pg_total_relation_size(c.oid) AS size,
    coalesce(s.n_live_tup, 0) AS live, coalesce(s.n_dead_tup, 0) AS dead,
    extract(epoch FROM clock_timestamp() - greatest(s.last_autovacuum, s.last_vacuum))::float8 AS vacuumed_s,
    EXISTS (
        SELECT 1 FROM unnest(c.reloptions) AS o WHERE o ~ '^autovacuum_enabled=' AND NOT split_part(o, '=', 2)::boolean
    ) AS is_left_alone
FROM pg_class AS c LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p')
ORDER BY pg_total_relation_size(c.oid) DESC, c.relname;

-- Rights that steps need and this role lacks, as `what: name`. The ledger is only read.
-- name: lacking
SELECT 'USAGE on schema ' || n.nspname AS lacks
FROM pg_namespace AS n WHERE n.oid = to_regnamespace($1) AND NOT has_schema_privilege(n.oid, 'USAGE')
UNION ALL
SELECT p.name || ' on ' || c.relname
FROM pg_class AS c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p (name)
WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p') AND NOT has_table_privilege(c.oid, p.name)
    AND (p.name = 'SELECT' OR c.relname NOT IN ('migration', 'function_set', 'meta', 'clock'))
UNION ALL
SELECT 'UPDATE (seen_at) on function_set'
FROM pg_class AS c WHERE c.relnamespace = to_regnamespace($1) AND c.relname = 'function_set'
    AND NOT has_column_privilege(c.oid, 'seen_at', 'UPDATE')
UNION ALL
SELECT p.name || ' on sequence ' || c.relname
FROM pg_class AS c, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS p (name)
WHERE (p.name <> 'UPDATE' OR c.relname = 'number') AND c.relnamespace = to_regnamespace($1)
    AND CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, p.name) END
UNION ALL
SELECT 'EXECUTE on function ' || f.proname
FROM pg_proc AS f WHERE f.pronamespace = to_regnamespace($1) AND right(f.proname, length($2)) = $2
    AND NOT has_function_privilege(f.oid, 'EXECUTE')
LIMIT 20;

-- Roles that may use the schema, and whose commits are said not to wait for the disk.
-- name: careless
SELECT DISTINCT coalesce(r.rolname::text, 'every role of this database') AS role
FROM pg_db_role_setting AS s LEFT JOIN pg_roles AS r ON r.oid = s.setrole
WHERE 'synchronous_commit=off' = ANY (s.setconfig)
    AND (s.setdatabase = 0 OR s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))
    AND (s.setrole = 0 OR has_schema_privilege(r.oid, to_regnamespace($1), 'USAGE'))
ORDER BY 1;

-- The way here: whether it crosses a network, and whether under TLS.
-- name: way
SELECT host(inet_server_addr()) AS address, inet_server_addr() <<= inet '127.0.0.0/8' OR inet_server_addr() <<= inet '::1/128'
    OR inet_server_addr() IS NULL AS is_near, coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS is_tls;

-- name: notify
SELECT pg_notify('psyqueue:doctor', $1);

-- name: ping
SELECT pg_backend_pid();
