-- Version 12: what was said last of a table is told by a number, since clocks go back.
ALTER TABLE {s}.data_sync_consistency ADD COLUMN ordinal BIGINT;
UPDATE {s}.data_sync_consistency AS c SET ordinal = o.n FROM (
    SELECT proof_id, table_name, check_type,
        row_number() OVER (ORDER BY started_at, proof_id) - count(*) OVER () AS n FROM {s}.data_sync_consistency
) AS o WHERE (c.proof_id, c.table_name, c.check_type) = (o.proof_id, o.table_name, o.check_type);
ALTER TABLE {s}.data_sync_consistency ALTER COLUMN ordinal SET NOT NULL,
    ALTER COLUMN ordinal ADD GENERATED ALWAYS AS IDENTITY;  -- the order in which the copy came to the marks

CREATE OR REPLACE VIEW {s}.data_sync_freshness AS
SELECT known.table_name, known.state, known.data_as_of, known.lsn, now() - known.data_as_of AS age,
    -- A time in the future is no freshness: then a clock is wrong.
    known.state <> 'live' OR known.data_as_of IS NULL OR now() - known.data_as_of > known.stale_after
        OR known.data_as_of - now() > known.stale_after AS stale,
    proved.finished_at AS proved_at, proved.cut_lsn AS proved_lsn, proved.score
FROM (
    SELECT w.table_name, c.stale_after,
        CASE WHEN t.state = 'live' AND coalesce(t.position_lsn, '0/0') < c.end_lsn THEN 'loading'
            ELSE coalesce(t.state, 'pending') END AS state,
        CASE WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_at ELSE t.position_time END AS data_as_of,
        CASE WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_lsn ELSE t.position_lsn END AS lsn
    FROM {s}.tables_to_sync w LEFT JOIN {s}.data_sync_table_state t USING (table_name)
        CROSS JOIN {s}.data_sync_checkpoint c
) AS known
LEFT JOIN LATERAL (
    SELECT p.finished_at, p.cut_lsn, p.score FROM {s}.data_sync_consistency p
    WHERE p.table_name = known.table_name AND p.check_type = 'data_hash' AND p.verdict IN ('equal', 'differs')
    ORDER BY p.ordinal DESC LIMIT 1
) AS proved ON true;
