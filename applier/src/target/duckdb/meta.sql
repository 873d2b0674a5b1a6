-- Version 1 of our own tables in the file. Names and meanings are those of the PostgreSQL copy; positions are numbers, which
-- the view prints as PostgreSQL does, and lists are JSON. No constraints: nobody else writes.
CREATE SCHEMA {c}.syncdata;

-- The number tells this copy from every other one, wherever its file lies.
CREATE TABLE {c}.syncdata.data_sync_version (version INTEGER NOT NULL, copy_id UUID NOT NULL DEFAULT gen_random_uuid());
INSERT INTO {c}.syncdata.data_sync_version (version) VALUES (1);

CREATE TABLE {c}.syncdata.tables_to_sync (
    id BIGINT NOT NULL,
    table_name VARCHAR NOT NULL,
    creator VARCHAR,
    created_at TIMESTAMPTZ DEFAULT now()
);

-- Exactly one row, moved in the transaction of the rows that it stands for. seq 0: nothing applied yet.
CREATE TABLE {c}.syncdata.data_sync_checkpoint (
    archive_id VARCHAR,
    seq UBIGINT NOT NULL,
    manifest_sha256 VARCHAR,
    end_lsn UBIGINT NOT NULL,
    day VARCHAR,                     -- under which the segment lies in the archive
    commit_time TIMESTAMPTZ,         -- of the newest transaction applied
    covered_lsn UBIGINT,             -- what head.json said when everything was applied
    covered_at TIMESTAMPTZ,
    stale_after INTERVAL NOT NULL,
    applied_at TIMESTAMPTZ,
    capture_since VARCHAR            -- as the newest manifest that says it has it
);
INSERT INTO {c}.syncdata.data_sync_checkpoint (seq, end_lsn, stale_after) VALUES (0, 0, INTERVAL '30 minutes');

CREATE TABLE {c}.syncdata.data_sync_table_state (
    table_name VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    position_lsn UBIGINT,            -- all that committed up to here is in the table
    position_time TIMESTAMPTZ,
    reason VARCHAR,
    since TIMESTAMPTZ NOT NULL DEFAULT now(),
    gap VARCHAR,                     -- FROM..TO that keeps a stale table back
    accepted_gaps VARCHAR NOT NULL DEFAULT '[]',
    load VARCHAR,                    -- the base that it waits for
    load_asked BIGINT NOT NULL DEFAULT 0,
    held_with VARCHAR NOT NULL DEFAULT '[]',  -- one TRUNCATE named them together
    source_columns VARCHAR,          -- what the source called the columns when the table took its last change
    source_key VARCHAR,              -- by which its rows were taken last
    base_lsn UBIGINT,                -- where the base copy began that its rows came with
    captured_until TIMESTAMPTZ,      -- the source captures it no more
    incomplete_lsn UBIGINT,          -- it lacks what somebody skipped
    nan_as_null VARCHAR NOT NULL DEFAULT '[]',
    waiting BIGINT,                  -- records that wait for a quarantined table, once they are counted
    changed_lsn UBIGINT,
    changed_at TIMESTAMPTZ,
    is_disowned BOOLEAN NOT NULL DEFAULT false,  -- its rows may be others than the source has
    relation VARCHAR,                -- the description by which the table is as it is
    gone VARCHAR NOT NULL DEFAULT '[]'  -- columns that it had and the source has not: older records may name them
);

CREATE TABLE {c}.syncdata.data_sync_quarantine (
    id BIGINT NOT NULL,
    operation_id UUID NOT NULL DEFAULT gen_random_uuid(),
    table_name VARCHAR NOT NULL,
    seq UBIGINT NOT NULL,
    line UBIGINT,
    lsn UBIGINT,
    sqlstate VARCHAR,
    reason VARCHAR NOT NULL,
    record VARCHAR,
    "at" TIMESTAMPTZ NOT NULL DEFAULT now(),
    attempts INTEGER NOT NULL DEFAULT 1,
    resolved_at TIMESTAMPTZ,
    resolution VARCHAR
);

CREATE TABLE {c}.syncdata.data_sync_logs (
    id UUID NOT NULL DEFAULT gen_random_uuid(),
    table_name VARCHAR NOT NULL,
    status VARCHAR NOT NULL,         -- 'SUCCESS' or 'FAILED'
    rows_synced UBIGINT,
    archive_ref VARCHAR,             -- file name or LSN
    error_detail VARCHAR,
    sync_time TIMESTAMPTZ NOT NULL DEFAULT now(),
    rows_missing UBIGINT,            -- updates and deletes of rows that were not here
    transfer_ms UBIGINT,             -- of the segment, from the backup host
    apply_ms UBIGINT                 -- of the transaction
);

CREATE TABLE {c}.syncdata.data_sync_metrics (
    table_name VARCHAR NOT NULL,
    period_start TIMESTAMPTZ NOT NULL,
    period_end TIMESTAMPTZ NOT NULL,
    period_type VARCHAR NOT NULL,    -- 'FREQ', 'WEEK', 'MONTH'
    records_added UBIGINT NOT NULL,
    records_updated UBIGINT NOT NULL,
    records_deleted UBIGINT NOT NULL
);

-- Ages are counted in microseconds: the arithmetic of times with a zone is that of an extension.
CREATE VIEW {c}.syncdata.data_sync_freshness AS
SELECT known.table_name, known.state, known.data_as_of,
    format('{:X}/{:X}', known.lsn >> 32, known.lsn & 4294967295) AS lsn,
    to_microseconds(epoch_us(now()) - epoch_us(known.data_as_of)) AS age,
    -- A time in the future is no freshness: then a clock is wrong.
    known.state <> 'live' OR known.data_as_of IS NULL
        OR to_microseconds(abs(epoch_us(now()) - epoch_us(known.data_as_of))) > known.stale_after AS stale
FROM (
    SELECT w.table_name, c.stale_after,
        CASE WHEN t.state = 'live' AND coalesce(t.position_lsn, 0) < c.end_lsn THEN 'loading'
            ELSE coalesce(t.state, 'pending') END AS state,
        least(t.captured_until,
            CASE WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_at ELSE t.position_time END) AS data_as_of,
        -- What left the capture, or lacks a part of a transaction, is as of no position.
        CASE WHEN t.captured_until IS NOT NULL OR t.incomplete_lsn IS NOT NULL THEN NULL
            WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_lsn ELSE t.position_lsn END AS lsn
    FROM syncdata.tables_to_sync w LEFT JOIN syncdata.data_sync_table_state t USING (table_name)
        CROSS JOIN syncdata.data_sync_checkpoint c
) AS known;
