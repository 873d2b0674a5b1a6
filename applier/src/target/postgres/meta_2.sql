-- Version 2: base copies.
ALTER TABLE {s}.data_sync_table_state
    ADD COLUMN load TEXT CHECK (load IN ('auto', 'snapshot', 'start', 'rebuild'));   -- the base that it waits for
