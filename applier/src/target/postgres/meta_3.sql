-- Version 3: since when production captures each table.
ALTER TABLE {s}.data_sync_checkpoint
    ADD COLUMN capture_since TEXT;   -- as the newest manifest that says it has it
