-- Best-effort messages to whoever listens now.
-- Params: notices, each below 8,000 bytes and different from the others (topics.py makes them).
-- Returns: an empty text.
-- Index: none.
-- Cost: one commit that takes the database-wide lock of notifications.
-- Differs from the others: a body may take two notices.
CREATE FUNCTION @schema@.publish(p_notices text[]) RETURNS text @settings@ AS $$
BEGIN
    PERFORM pg_notify(@topic_channel_text@, u.notice) FROM unnest(p_notices) AS u (notice);
    RETURN '';
END $$;
