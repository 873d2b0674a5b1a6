-- Version 18: what is asked for over HTTP.
ALTER TABLE {s}.sync_executions
    ADD COLUMN request_path TEXT,    -- what was asked for
    ADD COLUMN request_key TEXT,     -- its Idempotency-Key
    ADD COLUMN request_sha256 TEXT,  -- of its body
    ADD COLUMN asked_at TIMESTAMPTZ;
CREATE INDEX sync_executions_asked ON {s}.sync_executions (request_path, request_key) WHERE request_key IS NOT NULL;
