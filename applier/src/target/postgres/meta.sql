-- Version 1 of our own tables. {s} is the schema. The first three are those of earlier tools: columns may be
-- added to them, none may change.

CREATE TABLE IF NOT EXISTS {s}.data_sync_logs (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    table_name TEXT NOT NULL,
    status TEXT NOT NULL,            -- 'SUCCESS' or 'FAILED'
    rows_synced INT DEFAULT 0,
    archive_ref TEXT,                -- file name or LSN
    error_detail TEXT,
    sync_time TIMESTAMPTZ DEFAULT now()
);
ALTER TABLE {s}.data_sync_logs
    ADD COLUMN IF NOT EXISTS rows_missing BIGINT,   -- updates and deletes of rows that were not here
    ADD COLUMN IF NOT EXISTS transfer_ms BIGINT,    -- of the segment, from the backup host
    ADD COLUMN IF NOT EXISTS apply_ms BIGINT;       -- of the local transaction

CREATE TABLE IF NOT EXISTS {s}.data_sync_metrics (
    id SERIAL PRIMARY KEY,
    table_name TEXT NOT NULL,
    period_start TIMESTAMPTZ NOT NULL,
    period_end TIMESTAMPTZ NOT NULL,
    period_type TEXT NOT NULL,       -- 'FREQ', 'WEEK', 'MONTH'
    records_added BIGINT DEFAULT 0,
    records_updated BIGINT DEFAULT 0,
    records_deleted BIGINT DEFAULT 0,
    UNIQUE (table_name, period_start, period_type)
);

CREATE TABLE IF NOT EXISTS {s}.tables_to_sync (
    id SERIAL PRIMARY KEY,
    table_name TEXT NOT NULL,
    creator TEXT DEFAULT NULL,
    created_at TIMESTAMPTZ DEFAULT now(),
    UNIQUE (table_name)
);

-- Exactly one row, moved in the transaction of the rows that it stands for. seq 0: nothing applied yet.
CREATE TABLE {s}.data_sync_checkpoint (
    only_row BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_row),
    archive_id UUID,
    seq BIGINT NOT NULL DEFAULT 0,
    manifest_sha256 TEXT,
    end_lsn PG_LSN NOT NULL DEFAULT '0/0',
    day DATE,                        -- under which the segment lies in the archive
    commit_time TIMESTAMPTZ,         -- of the newest transaction applied
    covered_lsn PG_LSN,              -- what head.json said when everything was applied
    covered_at TIMESTAMPTZ,
    stale_after INTERVAL NOT NULL DEFAULT '30 minutes',
    applied_at TIMESTAMPTZ
);
INSERT INTO {s}.data_sync_checkpoint DEFAULT VALUES;

CREATE TABLE {s}.data_sync_table_state (
    table_name TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('pending', 'loading', 'live', 'quarantined', 'stale')),
    position_lsn PG_LSN,             -- all that committed up to here is in the table
    position_time TIMESTAMPTZ,
    reason TEXT,
    since TIMESTAMPTZ NOT NULL DEFAULT now(),
    gap TEXT,                        -- FROM..TO that keeps a stale table back
    accepted_gaps TEXT[] NOT NULL DEFAULT '{}'  -- gaps that an operator has gone over: kept for ever
);

CREATE TABLE {s}.data_sync_quarantine (
    id BIGSERIAL PRIMARY KEY,
    table_name TEXT NOT NULL,
    seq BIGINT NOT NULL,
    line BIGINT,
    lsn PG_LSN,
    sqlstate TEXT,
    reason TEXT NOT NULL,
    record TEXT,
    at TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE VIEW {s}.data_sync_freshness AS
SELECT known.table_name, known.state, known.data_as_of, known.lsn, now() - known.data_as_of AS age,
    -- A time in the future is no freshness: then a clock is wrong.
    known.state <> 'live' OR known.data_as_of IS NULL OR now() - known.data_as_of > known.stale_after
        OR known.data_as_of - now() > known.stale_after AS stale
FROM (
    SELECT w.table_name, coalesce(t.state, 'pending') AS state, c.stale_after,
        CASE WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_at ELSE t.position_time END AS data_as_of,
        CASE WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_lsn ELSE t.position_lsn END AS lsn
    FROM {s}.tables_to_sync w LEFT JOIN {s}.data_sync_table_state t USING (table_name)
        CROSS JOIN {s}.data_sync_checkpoint c
) AS known;

-- For reports: SELECT data_sync_require_fresh('1 hour'); or with the tables that the report reads.
CREATE OR REPLACE FUNCTION {s}.data_sync_require_fresh(max_age INTERVAL, tables TEXT[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
    bad TEXT;
BEGIN
    SELECT string_agg(f.table_name || ' (' || f.state || ', ' || coalesce('as of ' || f.data_as_of, 'no data') || ')', ', ')
    INTO bad
    FROM {s}.data_sync_freshness f
    WHERE (tables IS NULL OR f.table_name = ANY (tables))
      AND (f.state <> 'live' OR f.age IS NULL OR f.age > max_age OR -f.age > max_age);
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'data is older than %: %', max_age, bad USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT string_agg(t, ', ') INTO bad FROM unnest(tables) AS t
    WHERE NOT EXISTS (SELECT FROM {s}.data_sync_freshness f WHERE f.table_name = t);
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'not synchronized: %', bad USING ERRCODE = 'undefined_table';
    END IF;
    -- Of nothing all is fresh; nobody who asks means that.
    IF tables IS NULL AND NOT EXISTS (SELECT FROM {s}.data_sync_freshness) THEN
        RAISE EXCEPTION 'No tables in whitelist' USING ERRCODE = 'undefined_table';
    END IF;
END
$$;
