
DECLARE
    -- A foreign key writes whether or not there is a row for it: the trigger of rows sees those that there are.
    passes boolean := TG_LEVEL = 'STATEMENT' AND TG_OP IN ('UPDATE', 'DELETE') AND pg_trigger_depth() > 1;
BEGIN
    IF NOT passes AND to_regclass($name${s}.data_sync_writers$name$) IS NOT NULL THEN
        passes := EXISTS (SELECT FROM {s}.data_sync_writers w
                          WHERE w.transaction = pg_current_xact_id_if_assigned() AND w.pid = pg_backend_pid());
    END IF;
    IF NOT passes THEN
        -- In another database, which was made of a dump of this one, it refuses nothing.
        passes := TG_ARGV[1] IS DISTINCT FROM (SELECT s.system_identifier || '/' || d.oid FROM pg_control_system() s, pg_database d
                                               WHERE d.datname = current_database());
    END IF;
    -- What is on the whitelist no more is everybody's, and all is where our tables are gone.
    IF NOT passes THEN
        passes := to_regclass($name${s}.tables_to_sync$name$) IS NULL;
    END IF;
    IF NOT passes THEN
        passes := NOT EXISTS (SELECT FROM {s}.tables_to_sync t WHERE t.table_name = TG_ARGV[0]);
    END IF;
    IF passes THEN
        -- Whatever trigger somebody makes of it changes no row.
        IF TG_OP = 'DELETE' THEN
            RETURN OLD;
        END IF;
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '{message}', TG_ARGV[0], TG_OP
        USING ERRCODE = 'read_only_sql_transaction', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
        HINT = '{hint}';
END
