-- Version 17: when the whole archive was verified last from this host, and what was found.
ALTER TABLE {s}.data_sync_checkpoint
    ADD COLUMN verified_at TIMESTAMPTZ,
    ADD COLUMN verify_problems BIGINT;
