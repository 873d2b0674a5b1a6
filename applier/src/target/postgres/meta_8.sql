-- Version 8: drills.

-- Each table that was restored from the archive alone, and held against a proof.
CREATE TABLE {s}.data_sync_drills (
    id BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    table_name TEXT NOT NULL,
    proof_id TEXT NOT NULL,
    cut_lsn PG_LSN NOT NULL,         -- the place in production's commit order that was restored
    base TEXT,                       -- where the first rows came from
    rows BIGINT,
    bytes BIGINT,                    -- on disk, with indexes
    verdict TEXT CHECK (verdict IN ('equal', 'differs', 'not_proved')),  -- NULL: under way
    detail TEXT,
    started_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    restored_at TIMESTAMPTZ,         -- the rows and their indexes were there; comparing them came after it
    finished_at TIMESTAMPTZ,
    time_to_restore INTERVAL GENERATED ALWAYS AS (restored_at - started_at) STORED,
    duration INTERVAL GENERATED ALWAYS AS (finished_at - started_at) STORED
);
