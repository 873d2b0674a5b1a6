-- Version 10: positions that come from another moment than the rows; labels that got another name at the source.
ALTER TABLE {s}.data_sync_table_state
    ADD COLUMN noted_at TEXT,        -- the server and the database in which local_oid was noted
    ADD COLUMN source_labels TEXT,   -- the labels that the source had, by the columns, when the table took its last change
    ADD COLUMN old_labels TEXT;      -- those of them that are called otherwise by now, with the new names where they are known
