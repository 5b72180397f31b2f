-- What the server says of itself, as it holds for this connection: settings may differ by role and database.
SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding'),
    current_setting('default_transaction_isolation'), pg_is_in_recovery(), current_setting('fsync'),
    current_setting('synchronous_commit'), current_setting('full_page_writes'),
    current_setting('synchronous_standby_names'), current_database()::text,
    (SELECT source FROM pg_settings WHERE name = 'synchronous_commit'),
    -- Everybody may count them; which of them are waited for is not shown to everybody.
    (SELECT count(*) FROM pg_stat_replication),
    (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')),
    (SELECT bool_and(sync_state IS NOT NULL) FROM pg_stat_replication);
