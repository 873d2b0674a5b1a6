-- Version 15: what the columns of the local tables were when their rows were right.
ALTER TABLE {s}.data_sync_table_state
    ADD COLUMN local_columns TEXT;   -- their types by their numbers, and which one of the source's each holds
