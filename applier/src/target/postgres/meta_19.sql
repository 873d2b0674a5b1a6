-- Version 19: a line of data_sync_table_state that comes from a dump is told from one that was made here; and a table that
-- the source captures no more is no fresher than when it left.
ALTER TABLE {s}.data_sync_table_state
    ADD COLUMN made_in TEXT,               -- the transaction that made the line
    ADD COLUMN captured_until TIMESTAMPTZ; -- what committed after is in no archive: the source captures it no more

CREATE OR REPLACE FUNCTION {s}.data_sync_line_made() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    -- Another transaction's number, or none: its position is copied, and says nothing of the rows that are here.
    IF NEW.made_in IS DISTINCT FROM pg_current_xact_id()::text THEN
        NEW.noted_in := 0;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER data_sync_line_made BEFORE INSERT ON {s}.data_sync_table_state
    FOR EACH ROW EXECUTE FUNCTION {s}.data_sync_line_made();
ALTER TABLE {s}.data_sync_table_state ENABLE ALWAYS TRIGGER data_sync_line_made;

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
        least(t.captured_until,
            CASE WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_at ELSE t.position_time END) AS data_as_of,
        CASE WHEN t.state = 'live' AND t.position_lsn <= c.covered_lsn AND t.position_lsn >= c.end_lsn
            THEN c.covered_lsn ELSE t.position_lsn END AS lsn
    FROM {s}.tables_to_sync w LEFT JOIN {s}.data_sync_table_state t USING (table_name)
        CROSS JOIN {s}.data_sync_checkpoint c
) AS known
LEFT JOIN LATERAL (
    SELECT p.finished_at, p.cut_lsn, p.score FROM {s}.data_sync_consistency p
    WHERE p.table_name = known.table_name AND p.check_type = 'data_hash' AND p.verdict IN ('equal', 'differs')
    ORDER BY p.ordinal DESC LIMIT 1
) AS proved ON true;
