-- Version 25: groups of tables, each with a checkpoint of its own. That of `default` stays where it was.
CREATE TABLE {s}.sync_configurations (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    number INT GENERATED ALWAYS AS IDENTITY UNIQUE,  -- of its advisory lock
    name TEXT NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9_-]{1,63}$'),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
INSERT INTO {s}.sync_configurations (name) VALUES ('default');

-- What earlier tools insert is in `default`.
ALTER TABLE {s}.tables_to_sync
    ADD COLUMN group_name TEXT NOT NULL DEFAULT 'default' REFERENCES {s}.sync_configurations (name) ON UPDATE CASCADE;

-- No program of this version moves another group: there may be none, and no table in it, before one does.
ALTER TABLE {s}.sync_configurations ADD CONSTRAINT there_is_one_group_yet CHECK (name = 'default');

-- Of every group but `default`. The archive that the copy belongs to stands in data_sync_checkpoint for all.
CREATE TABLE {s}.data_sync_group_checkpoint (
    group_name TEXT PRIMARY KEY CHECK (group_name <> 'default')
        REFERENCES {s}.sync_configurations (name) ON UPDATE CASCADE ON DELETE CASCADE,
    seq BIGINT NOT NULL DEFAULT 0,
    manifest_sha256 TEXT,
    end_lsn PG_LSN NOT NULL DEFAULT '0/0',
    day DATE,
    commit_time TIMESTAMPTZ,
    covered_lsn PG_LSN,
    covered_at TIMESTAMPTZ,
    stale_after INTERVAL NOT NULL DEFAULT '30 minutes',
    applied_at TIMESTAMPTZ,
    capture_since TEXT
);

-- Of all groups.
CREATE VIEW {s}.data_sync_checkpoints AS
SELECT 'default' AS group_name, seq, manifest_sha256, end_lsn, day, commit_time, covered_lsn, covered_at, stale_after, applied_at,
    capture_since
FROM {s}.data_sync_checkpoint
UNION ALL
SELECT group_name, seq, manifest_sha256, end_lsn, day, commit_time, covered_lsn, covered_at, stale_after, applied_at, capture_since
FROM {s}.data_sync_group_checkpoint;

CREATE OR REPLACE VIEW {s}.data_sync_freshness AS
SELECT known.table_name, known.state, known.data_as_of, known.lsn, statement_timestamp() - known.data_as_of AS age,
    -- A time in the future is no freshness: then a clock is wrong.
    known.state <> 'live' OR known.data_as_of IS NULL OR statement_timestamp() - known.data_as_of > known.stale_after
        OR known.data_as_of - statement_timestamp() > known.stale_after AS stale,
    proved.finished_at AS proved_at, proved.cut_lsn AS proved_lsn, proved.score, known.group_name
FROM (
    SELECT w.table_name, w.group_name, c.stale_after,
        CASE WHEN t.state = 'live' AND coalesce(t.position_lsn, '0/0') < c.end_lsn THEN 'loading'
            ELSE coalesce(t.state, 'pending') END AS state,
        least(t.captured_until,
            CASE WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_at ELSE t.position_time END) AS data_as_of,
        -- What left the capture, or lacks a part of a transaction, is as of no position.
        CASE WHEN t.captured_until IS NOT NULL OR t.incomplete_lsn IS NOT NULL THEN NULL
            WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_lsn ELSE t.position_lsn END AS lsn
    FROM {s}.tables_to_sync w LEFT JOIN {s}.data_sync_table_state t USING (table_name)
        JOIN {s}.data_sync_checkpoints c USING (group_name)
) AS known
LEFT JOIN LATERAL (
    SELECT p.finished_at, p.cut_lsn, p.score FROM {s}.data_sync_consistency p
    WHERE p.table_name = known.table_name AND p.check_type = 'data_hash' AND p.verdict IN ('equal', 'differs')
    ORDER BY p.ordinal DESC LIMIT 1
) AS proved ON true;
