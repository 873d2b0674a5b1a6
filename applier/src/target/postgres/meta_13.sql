-- Version 13: what tables could not take is kept as history; what was passed over, and what waits.

-- A record was kept once for every try: the newest is kept, with the number of tries and the first time.
ALTER TABLE {s}.data_sync_quarantine
    ADD COLUMN operation_id UUID NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN attempts INT NOT NULL DEFAULT 1,
    ADD COLUMN resolved_at TIMESTAMPTZ,
    ADD COLUMN resolution TEXT;      -- 'applied', 'resynced', 'cleared', 'removed', 'skipped: why'
UPDATE {s}.data_sync_quarantine q SET attempts = tries.number, at = tries.first
    FROM (SELECT max(id) AS newest, count(*)::int AS number, min(at) AS first
          FROM {s}.data_sync_quarantine GROUP BY table_name, seq, line) AS tries
    WHERE q.id = tries.newest;
DELETE FROM {s}.data_sync_quarantine
    WHERE id NOT IN (SELECT max(id) FROM {s}.data_sync_quarantine GROUP BY table_name, seq, line);
CREATE UNIQUE INDEX data_sync_quarantine_operation ON {s}.data_sync_quarantine (operation_id);
CREATE UNIQUE INDEX data_sync_quarantine_place ON {s}.data_sync_quarantine (table_name, seq, coalesce(line, -1));

ALTER TABLE {s}.data_sync_table_state
    ADD COLUMN incomplete_lsn PG_LSN,    -- a transaction that ends here was passed over, and nothing has made that good
    ADD COLUMN waiting BIGINT;           -- of a quarantined table: records from the failed one on; NULL: not counted yet
