-- The low-water mark. Who starts a job leaves a dead entry at the head of the ready index, which stays there as long as some
-- transaction might still see it: with an old one open, each fetch walks over all that was done since. So a fetch may begin
-- where the last one found its first job.
--
-- A mark is the client's memory of a queue, and a hint: `l` { priority: lowest ready number of the last fetch }, `s` the count
-- of rewound jobs as of then, `t` what was due before was promoted, `f` look at the whole, in spite of it. The client
-- keeps one only where a whole look was dear, and then asks for one from time to time. A job that comes back to an older place
-- counts in `rewound`, which makes all marks void. What no count can tell, a transaction that took its number early and
-- commits late, or one that had started jobs and was taken back, waits for the next whole look: a second at most.
-- A queue with lanes has none: its turns are rows, which get as slow.

CREATE FUNCTION @schema@.note_rewound() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('rewound');
END $$;

-- What is pending in the default lane, in order, without what lies below the marks of its priorities. Between and beside the
-- known priorities everything is looked at: a job of a new one is nowhere else.
CREATE FUNCTION @schema@.seek(p_queue text, p_levels jsonb, p_wanted int, p_now bigint)
RETURNS TABLE (n bigint, tid tid, links smallint, size int, priority int, ready_number bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    s record;
    left_ int := p_wanted;
    got int;
BEGIN
    FOR s IN
        WITH known AS (SELECT k.key::bigint AS priority, k.value::bigint AS number FROM jsonb_each_text(p_levels) AS k)
        SELECT k.priority AS high, k.priority AS low, k.number FROM known AS k
        UNION ALL SELECT k.priority - 1, coalesce(lead(k.priority) OVER (ORDER BY k.priority DESC) + 1, -2147483648), NULL
        FROM known AS k
        UNION ALL SELECT 2147483647, coalesce(max(k.priority) + 1, -2147483648), NULL FROM known AS k
        ORDER BY high DESC
    LOOP
        CONTINUE WHEN s.high < s.low;
        IF s.number IS NULL THEN
            RETURN QUERY SELECT t.n, t.ctid, t.links, t.size, t.priority, t.ready_number FROM job AS t
            WHERE t.queue = p_queue AND t.lane = '' AND t.status = 2 AND NOT t.held
                AND t.priority <= s.high AND t.priority >= s.low AND (t.expires_at_ms IS NULL OR t.expires_at_ms > p_now)
            ORDER BY t.priority DESC, t.ready_number LIMIT left_ FOR NO KEY UPDATE SKIP LOCKED;
        ELSE
            RETURN QUERY SELECT t.n, t.ctid, t.links, t.size, t.priority, t.ready_number FROM job AS t
            WHERE t.queue = p_queue AND t.lane = '' AND t.status = 2 AND NOT t.held
                AND t.priority = s.high AND t.ready_number >= s.number
                AND (t.expires_at_ms IS NULL OR t.expires_at_ms > p_now)
            ORDER BY t.priority DESC, t.ready_number LIMIT left_ FOR NO KEY UPDATE SKIP LOCKED;
        END IF;
        GET DIAGNOSTICS got = ROW_COUNT;
        left_ := left_ - got;
        EXIT WHEN left_ <= 0;
    END LOOP;
END $$;

-- The levels of a mark after a fetch. p_before: those of the mark before (NULL: there was none). A whole look that did not
-- come to the end says nothing of the priorities below the last job that it brought: their marks are forgotten. p_brought: the
-- levels of what it brought, if that has one priority.
CREATE FUNCTION @schema@.levels_after(
    p_before jsonb, p_numbers bigint[], p_brought jsonb, p_is_whole boolean, p_is_to_the_end boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    brought jsonb := p_brought;
    lowest bigint;
BEGIN
    IF brought IS NULL THEN
        SELECT coalesce(jsonb_object_agg(l.priority, l.number), '{}') INTO brought FROM (
            SELECT t.priority, min(t.ready_number) AS number FROM @schema@.job AS t WHERE t.n = ANY (p_numbers) GROUP BY t.priority
        ) AS l;
    END IF;
    lowest := (SELECT min(k::bigint) FROM jsonb_object_keys(brought) AS k);
    IF p_before IS NOT NULL THEN
        brought := coalesce((
            SELECT jsonb_object_agg(k.key, k.value) FROM jsonb_each(p_before) AS k
            WHERE NOT p_is_whole OR p_is_to_the_end OR k.key::bigint > lowest
        ), '{}') || brought;
    END IF;
    -- Where each job has a priority of its own, a walk from one to the next would be dearer than the whole.
    IF (SELECT count(*) FROM jsonb_object_keys(brought)) > 16 THEN
        RETURN '{}';
    END IF;
    RETURN brought;
END $$;

-- p: pages that it cost; f: it was a whole look.
CREATE FUNCTION @schema@.mark_after(
    p_before jsonb, p_numbers bigint[], p_levels jsonb, p_is_whole boolean, p_is_to_the_end boolean, p_pages bigint,
    p_rewound bigint, p_is_all_promoted boolean, p_now bigint
) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN jsonb_build_object(
        's', p_rewound, 'f', p_is_whole, 'p', p_pages,
        't', CASE WHEN p_is_all_promoted AND coalesce((p_before->>'f')::boolean, true) THEN to_jsonb(p_now)
            ELSE p_before->'t' END,
        'l', @schema@.levels_after(p_before->'l', p_numbers, p_levels, p_is_whole, p_is_to_the_end)
    );
END $$;
