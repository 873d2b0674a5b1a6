-- Version 5: what the columns of the source were called when the table took its last change.
ALTER TABLE {s}.data_sync_table_state
    ADD COLUMN source_columns TEXT;   -- by their numbers in the source's catalog, which a new name leaves as they are
