-- Version 24: local_writes. Who may write while it is refused to others: transactions of an applier that may not take the replica
-- role. A line counts in its own transaction alone: one that others can see is of no use, and a later one takes it away.
CREATE TABLE {s}.data_sync_writers (
    transaction XID8 PRIMARY KEY,
    pid INT NOT NULL                 -- the server process that it runs in
);
REVOKE ALL ON {s}.data_sync_writers FROM PUBLIC;

-- A role that was granted all tables of the schema is not taken for the applier.
DROP FUNCTION IF EXISTS {s}.data_sync_writer_named();
CREATE FUNCTION {s}.data_sync_writer_named() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_catalog.pg_has_role(current_user, (SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid = TG_RELID), 'USAGE') THEN
        RAISE EXCEPTION 'only the role of syncdata-applier may write into data_sync_writers'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER data_sync_writer_named BEFORE INSERT OR UPDATE ON {s}.data_sync_writers
    FOR EACH ROW EXECUTE FUNCTION {s}.data_sync_writer_named();
