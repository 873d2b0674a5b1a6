-- Version 22: a table that the source captures no more, or that lacks what somebody skipped, is as of no position, and
-- nobody waits for it in vain; and a proof that leaves columns out clears no alarm that may be about them.
ALTER TABLE {s}.data_sync_consistency ADD COLUMN left_out TEXT[];  -- columns that were not compared

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
        least(t.captured_until,
            CASE WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_at ELSE t.position_time END) AS data_as_of,
        -- What left the capture, or lacks a part of a transaction, is as of no position.
        CASE WHEN t.captured_until IS NOT NULL OR t.incomplete_lsn IS NOT NULL THEN NULL
            WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_lsn ELSE t.position_lsn END AS lsn
    FROM {s}.tables_to_sync w LEFT JOIN {s}.data_sync_table_state t USING (table_name)
        CROSS JOIN {s}.data_sync_checkpoint c
) AS known
LEFT JOIN LATERAL (
    SELECT p.finished_at, p.cut_lsn, p.score FROM {s}.data_sync_consistency p
    WHERE p.table_name = known.table_name AND p.check_type = 'data_hash' AND p.verdict IN ('equal', 'differs')
    ORDER BY p.ordinal DESC LIMIT 1
) AS proved ON true;
