-- Version 11: when tables changed last.
ALTER TABLE {s}.data_sync_table_state
    ADD COLUMN changed_lsn PG_LSN,       -- no change that is in the table committed after it
    ADD COLUMN changed_at TIMESTAMPTZ;   -- the same by production's clock
