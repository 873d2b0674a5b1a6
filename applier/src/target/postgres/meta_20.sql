-- Version 20: a session can wait until what production has committed is here.
-- SELECT data_sync_wait_for('16/B374D848', '30 seconds'); or with the tables that come into question.
CREATE OR REPLACE FUNCTION {s}.data_sync_wait_for(lsn PG_LSN, timeout INTERVAL, tables TEXT[] DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog AS $$
DECLARE
    deadline TIMESTAMPTZ := clock_timestamp() + timeout;
    bad TEXT;
    missing BIGINT;
BEGIN
    IF lsn IS NULL OR timeout IS NULL THEN
        RAISE EXCEPTION 'which position is waited for, and for how long?' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- Its snapshot would never show a later pass.
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        RAISE EXCEPTION 'data_sync_wait_for needs READ COMMITTED: a snapshot that stands shows no later pass'
            USING ERRCODE = 'invalid_transaction_state', HINT = 'wait before the transaction begins';
    END IF;
    LOOP
        SELECT string_agg(t, ', ') INTO bad FROM unnest(tables) AS t
        WHERE NOT EXISTS (SELECT FROM {s}.data_sync_freshness f WHERE f.table_name = t);
        IF bad IS NOT NULL THEN
            RAISE EXCEPTION 'not synchronized: %', bad USING ERRCODE = 'undefined_table';
        END IF;
        IF tables IS NULL AND NOT EXISTS (SELECT FROM {s}.data_sync_freshness) THEN
            RAISE EXCEPTION 'No tables in whitelist' USING ERRCODE = 'undefined_table';
        END IF;
        SELECT count(*) INTO missing FROM {s}.data_sync_freshness f
        WHERE (tables IS NULL OR f.table_name = ANY (tables))
          AND (f.state <> 'live' OR f.lsn IS NULL OR f.lsn < data_sync_wait_for.lsn);
        IF missing = 0 THEN
            RETURN true;
        END IF;
        IF clock_timestamp() >= deadline THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(least(0.1, extract(epoch FROM deadline - clock_timestamp())::float8));
    END LOOP;
END
$$;
