-- Version 6: the log is kept for a while; what a table cannot be told.
CREATE INDEX IF NOT EXISTS data_sync_logs_sync_time ON {s}.data_sync_logs (sync_time);
ALTER TABLE {s}.data_sync_table_state
    ADD COLUMN nan_as_null TEXT[] NOT NULL DEFAULT '{}';   -- columns in which NaN and infinities have arrived as NULL
