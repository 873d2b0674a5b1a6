-- Version 14: what was done, and since when it is known that old lines go.
CREATE TABLE {s}.sync_executions (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    kind TEXT NOT NULL CHECK (kind IN ('pass', 'load', 'replay', 'check')),
    trigger TEXT NOT NULL CHECK (trigger IN ('schedule', 'command', 'api')),
    tables TEXT[],                   -- NULL: all of the whitelist
    started_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    ended_at TIMESTAMPTZ,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'abandoned')),
    counts JSONB NOT NULL DEFAULT '{}',
    error TEXT,
    idle_times INT,                  -- passes that found nothing to do share a line: so many, the newest of them
    server_process INT,              -- whose session it runs in
    process_started TIMESTAMPTZ
);
CREATE INDEX sync_executions_started_at ON {s}.sync_executions (started_at, id);
CREATE INDEX sync_executions_unfinished ON {s}.sync_executions (id) WHERE ended_at IS NULL;

ALTER TABLE {s}.data_sync_checkpoint
    ADD COLUMN keep_days INT,            -- log_keep_days, when it was announced that older lines go
    ADD COLUMN keep_announced_at TIMESTAMPTZ;
