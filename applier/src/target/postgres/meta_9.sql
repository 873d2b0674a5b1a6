-- Version 9: what was asked beside the digests.
ALTER TABLE {s}.data_sync_digests ADD COLUMN answers TEXT;  -- rows that refer to nothing or break a rule, as hashes
