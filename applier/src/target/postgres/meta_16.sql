-- Version 16: alerts.
CREATE TABLE {s}.data_sync_alerts (
    id UUID PRIMARY KEY,
    kind TEXT NOT NULL,              -- 'sync_lag', 'consistency_score', 'dead_letter_queue'
    subject TEXT NOT NULL,           -- a table; '*': the copy as a whole
    value NUMERIC NOT NULL,          -- minutes, percent, records; as it was when it began
    threshold NUMERIC NOT NULL,
    since TIMESTAMPTZ NOT NULL,
    resolved_at TIMESTAMPTZ,
    delivered_at TIMESTAMPTZ,        -- when the newest of both events had reached everybody
    delivered TEXT[] NOT NULL DEFAULT '{}'   -- what has reached whom: 'webhook fired'
);
CREATE INDEX data_sync_alerts_open ON {s}.data_sync_alerts (since) WHERE resolved_at IS NULL;
