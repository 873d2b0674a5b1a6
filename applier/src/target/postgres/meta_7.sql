-- Version 7: proofs.

-- What became of each check of each proof; a row for every table of the whitelist.
CREATE TABLE {s}.data_sync_consistency (
    proof_id TEXT NOT NULL,
    table_name TEXT NOT NULL,
    check_type TEXT NOT NULL
        CHECK (check_type IN ('row_count', 'data_hash', 'referential_integrity', 'business_rules')),
    cut_lsn PG_LSN,                  -- the place in production's commit order that it speaks of
    source_rows BIGINT,
    local_rows BIGINT,
    differing BIGINT,                -- NULL: nobody knows how many
    score NUMERIC(5, 2),             -- percent of rows that agree, at least; NULL: not compared
    verdict TEXT NOT NULL CHECK (verdict IN ('equal', 'differs', 'not_proved', 'waiting')),
    blame TEXT,                      -- 'local', 'stream', 'both', 'unknown', once somebody has looked
    detail TEXT,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    finished_at TIMESTAMPTZ,
    repaired_at TIMESTAMPTZ,         -- a repair was compared with the archive afterwards
    PRIMARY KEY (proof_id, table_name, check_type)
);

-- Digests of the newest mark, while they wait for the proof.
CREATE TABLE {s}.data_sync_digests (
    table_name TEXT PRIMARY KEY,
    proof_id TEXT NOT NULL,
    cut_seq BIGINT NOT NULL,
    cut_sha256 TEXT NOT NULL,
    cut_lsn PG_LSN NOT NULL,
    marked TEXT,                     -- as the manifest has it; NULL: the mark does not name the table
    rows BIGINT,
    buckets BYTEA,                   -- as a file of a proof; NULL: not yet, or the reason says why not
    reason TEXT,
    judged BOOLEAN NOT NULL DEFAULT false,  -- held against the proof; kept for whoever asks which rows differ
    started_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE {s}.data_sync_digests ALTER COLUMN buckets SET STORAGE EXTERNAL;

CREATE OR REPLACE VIEW {s}.data_sync_freshness AS
SELECT known.table_name, known.state, known.data_as_of, known.lsn, now() - known.data_as_of AS age,
    -- A time in the future is no freshness: then a clock is wrong.
    known.state <> 'live' OR known.data_as_of IS NULL OR now() - known.data_as_of > known.stale_after
        OR known.data_as_of - now() > known.stale_after AS stale,
    proved.finished_at AS proved_at, proved.cut_lsn AS proved_lsn, proved.score
FROM (
    SELECT w.table_name, c.stale_after,
        CASE WHEN t.state = 'live' AND coalesce(t.position_lsn, '0/0') < c.end_lsn THEN 'loading'
            ELSE coalesce(t.state, 'pending') END AS state,
        CASE WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_at ELSE t.position_time END AS data_as_of,
        CASE WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_lsn ELSE t.position_lsn END AS lsn
    FROM {s}.tables_to_sync w LEFT JOIN {s}.data_sync_table_state t USING (table_name)
        CROSS JOIN {s}.data_sync_checkpoint c
) AS known
LEFT JOIN LATERAL (
    SELECT p.finished_at, p.cut_lsn, p.score FROM {s}.data_sync_consistency p
    WHERE p.table_name = known.table_name AND p.check_type = 'data_hash' AND p.verdict IN ('equal', 'differs')
    ORDER BY p.finished_at DESC LIMIT 1
) AS proved ON true;
