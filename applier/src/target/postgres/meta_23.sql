-- Version 23: ages are those of the statement, and not of the transaction that it is in; and a table knows the base copy
-- of which it was made, which replays do not undo.
ALTER TABLE {s}.data_sync_table_state ADD COLUMN base_lsn PG_LSN;  -- where the base copy began that its rows came with

CREATE OR REPLACE VIEW {s}.data_sync_freshness AS
SELECT known.table_name, known.state, known.data_as_of, known.lsn, statement_timestamp() - known.data_as_of AS age,
    -- A time in the future is no freshness: then a clock is wrong.
    known.state <> 'live' OR known.data_as_of IS NULL OR statement_timestamp() - known.data_as_of > known.stale_after
        OR known.data_as_of - statement_timestamp() > known.stale_after AS stale,
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
