-- Version 21: a wish for a base that comes while an older one is fulfilled stays; and which key of the source a table's
-- rows were taken by.
ALTER TABLE {s}.data_sync_table_state ADD COLUMN load_asked BIGINT NOT NULL DEFAULT 0, ADD COLUMN source_key TEXT;
