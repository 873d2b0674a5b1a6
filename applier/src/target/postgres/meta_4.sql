-- Version 4: which local table a position is about, and which tables are held up together.
ALTER TABLE {s}.data_sync_table_state
    ADD COLUMN local_oid OID,        -- the table that the position is about; 0: its rows are not those of its position
    ADD COLUMN local_parts OID[],    -- its leaves, when it is partitioned
    ADD COLUMN noted_in OID,         -- of this table, when that was noted: a restored dump has other numbers for all
    ADD COLUMN held_with TEXT[] NOT NULL DEFAULT '{}';   -- one TRUNCATE named them together

-- A table that was off the whitelist for a while has to catch up before it is live.
CREATE OR REPLACE VIEW {s}.data_sync_freshness AS
SELECT known.table_name, known.state, known.data_as_of, known.lsn, now() - known.data_as_of AS age,
    known.state <> 'live' OR known.data_as_of IS NULL OR now() - known.data_as_of > known.stale_after
        OR known.data_as_of - now() > known.stale_after AS stale
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
) AS known;
