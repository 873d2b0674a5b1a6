-- Lets a database note which rows were touched, for servers where nobody gives us a replication slot.
--
--   psql -X -v owner=syncdata_user -v tables='public.users,sales.orders' -f scripts/triggers.sql app
--
-- Names with their schemas, and quoted where SQL would want it. -v slot=NAME, where slot_name is not syncdata_slot.
--
-- Run it as somebody who may create a schema for the owner, and triggers on these tables. Run again, it adds the
-- tables that are named then, and writes down that all is noted again; a table whose triggers are made anew has a gap. scripts/triggers-remove.sql takes all of it away.
--
-- What it makes, in the schema syncdata, for the owner, who needs no right on your tables for it and should be no superuser:
-- - changes_0 and changes_1: the keys of rows that were inserted, updated or deleted, and truncated tables. Only one of them is
--   written at a time, so that the other one can be emptied without anybody waiting. About 100 bytes a
--   key, with the index.
-- - change_id, a sequence: its number decides which of the two is written, and it is the fuse. Past `guard_bytes` it jumps past
--   2^62, and nothing is noted any more: what is changed then is missing, and known to be, until this is run again. A sequence, because everybody sees at once what it says, and nobody waits for it.
-- - a function and two triggers for each table, ENABLE ALWAYS: what replication or a role with session_replication_role =
--   replica writes is noted too. No error of ours in reading a key keeps a statement of yours from its end.
\set ON_ERROR_STOP on
\if :{?slot}
\else
  \set slot syncdata_slot
\endif

SET search_path = pg_catalog, pg_temp;
SET client_min_messages = warning;

-- objects
SET syncdata.owner = :'owner';
SET syncdata.slot = :'slot';
DO $make$
DECLARE
  made text;
BEGIN
  -- What is there is left alone: whoever writes is never waited for.
  IF pg_catalog.to_regclass('syncdata.reader') IS NOT NULL THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE SCHEMA IF NOT EXISTS syncdata AUTHORIZATION %I', current_setting('syncdata.owner'));
  CREATE SEQUENCE syncdata.change_id CACHE 1;
  CREATE TABLE syncdata.changes_0 (
    change_id bigint NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    relid oid NOT NULL,
    op "char" NOT NULL,
    key text[],
    changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
  );
  CREATE TABLE syncdata.changes_1 (LIKE syncdata.changes_0 INCLUDING DEFAULTS);
  CREATE INDEX changes_0_xid ON syncdata.changes_0 (xid);
  CREATE INDEX changes_1_xid ON syncdata.changes_1 (xid);
  CREATE VIEW syncdata.changes AS SELECT * FROM syncdata.changes_0 UNION ALL SELECT * FROM syncdata.changes_1;
  CREATE TABLE syncdata.reader (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    slot text NOT NULL,
    system_identifier text NOT NULL,
    database oid NOT NULL,
    guard_bytes bigint NOT NULL DEFAULT 8589934592,
    batch bigint NOT NULL DEFAULT 0,
    rearmed bigint NOT NULL DEFAULT 0,
    snapshot text NOT NULL
  );
  INSERT INTO syncdata.reader (slot, system_identifier, database, snapshot)
    SELECT current_setting('syncdata.slot'), c.system_identifier::text, d.oid, pg_catalog.pg_current_snapshot()::text
    FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database();
  CREATE FUNCTION syncdata.fuse() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '10ms' AS $fuse$
  BEGIN
    -- A copy of the database, of which nobody reads the notes, may note nothing.
    IF pg_total_relation_size('syncdata.changes_0') + pg_total_relation_size('syncdata.changes_1')
        > coalesce((SELECT r.guard_bytes FROM syncdata.reader r, pg_control_system() c, pg_database d
            WHERE d.datname = current_database() AND r.database = d.oid
              AND r.system_identifier = c.system_identifier::text), 0) THEN
      PERFORM setval('syncdata.change_id', 4611686018427387904);
    END IF;
  EXCEPTION WHEN lock_not_available THEN
    -- Notes that were read are being removed: the next one looks.
    NULL;
  WHEN OTHERS THEN
    -- Nobody can tell: nothing is noted, which the reader sees, and no statement of yours fails.
    PERFORM setval('syncdata.change_id', 4611686018427387904);
  END $fuse$;
  CREATE FUNCTION syncdata.note_truncate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $note$
  DECLARE
    number bigint := nextval('syncdata.change_id');
  BEGIN
    IF number >= 4611686018427387904 THEN
      RETURN NULL;
    ELSIF (number >> 32) & 1 = 0 THEN
      INSERT INTO syncdata.changes_0 (change_id, relid, op) VALUES (number, TG_RELID, 'T');
    ELSE
      INSERT INTO syncdata.changes_1 (change_id, relid, op) VALUES (number, TG_RELID, 'T');
    END IF;
    RETURN NULL;
  END $note$;
  REVOKE ALL ON FUNCTION syncdata.fuse(), syncdata.note_truncate() FROM PUBLIC;
  FOREACH made IN ARRAY ARRAY['SEQUENCE syncdata.change_id', 'TABLE syncdata.changes_0', 'TABLE syncdata.changes_1',
      'VIEW syncdata.changes', 'TABLE syncdata.reader', 'FUNCTION syncdata.fuse()', 'FUNCTION syncdata.note_truncate()'] LOOP
    EXECUTE format('ALTER %s OWNER TO %I', made, current_setting('syncdata.owner'));
  END LOOP;
END $make$;
-- Whatever was left out is missing: also what transactions did that are still open now. Which are, the reader finds out.
UPDATE syncdata.reader SET rearmed = CASE WHEN pg_catalog.setval('syncdata.change_id', 1) > 0 THEN 9223372036854775807 END
  WHERE (SELECT last_value >= 4611686018427387904 FROM syncdata.change_id);
-- end of objects

-- For each table what is to be run, in a transaction of its own that gives up soon when somebody holds the table; or why it
-- cannot be. The key is the primary key, else the index of the replica identity, else another unique index without NULLs.
-- Keys whose text depends on settings are printed under ours. What the row trigger is given says to the reader which columns
-- the key has, by number and name: the function means what they were called.
-- The trigger has the table's number in its name: a partition may bring one of its own beside that of the table that takes it in.
SELECT coalesce(statement, format('DO %L', format('BEGIN RAISE WARNING USING MESSAGE = %L; END', refusal))) FROM (
-- tables
WITH RECURSIVE wanted AS (
  SELECT CASE WHEN trim(given) ~ '^[0-9]+$' THEN trim(given)::oid ELSE trim(given)::regclass::oid END AS oid FROM string_to_table(:'tables', ',') given
), tree(root, oid) AS (
  SELECT oid, oid FROM wanted
  UNION SELECT t.root, i.inhrelid FROM tree t JOIN pg_class c ON c.oid = t.oid AND c.relkind = 'p' JOIN pg_inherits i ON i.inhparent = t.oid
), keys AS (
  SELECT DISTINCT ON (w.oid) w.oid, x.indkey::int2[] AS numbers, x.indnkeyatts AS length
  FROM wanted w JOIN pg_index x ON x.indrelid = w.oid
  WHERE x.indisunique AND x.indisvalid AND x.indimmediate AND x.indpred IS NULL AND x.indexprs IS NULL
    AND NOT EXISTS (SELECT FROM unnest(x.indkey::int2[]) WITH ORDINALITY k(number, place)
      JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
      WHERE k.place <= x.indnkeyatts AND NOT a.attnotnull)
  ORDER BY w.oid, x.indisprimary DESC, x.indisreplident DESC, x.indnkeyatts, x.indexrelid
), columns AS (
  SELECT k.oid, n.place, a.attname, a.attnum,
    (WITH RECURSIVE below(type) AS (
        SELECT a.atttypid UNION ALL SELECT t.typbasetype FROM below b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd')
      SELECT bool_or(t.typtype = 'e' OR t.oid = ANY ('{int2,int4,int8,oid,numeric,bool,text,varchar,bpchar,name,uuid}'::regtype[]))
      FROM below b JOIN pg_type t ON t.oid = b.type) AS is_plain
  FROM keys k CROSS JOIN unnest(k.numbers) WITH ORDINALITY n(number, place)
    JOIN pg_attribute a ON a.attrelid = k.oid AND a.attnum = n.number
  WHERE n.place <= k.length
), texts AS (
  SELECT oid, string_agg(format('concat(OLD.%I)', attname), ', ' ORDER BY place) AS before,
    string_agg(format('concat(NEW.%I)', attname), ', ' ORDER BY place) AS after, bool_and(is_plain) AS is_plain,
    string_agg(format('OLD.%I', attname), ', ' ORDER BY place) AS values_before,
    string_agg(format('NEW.%I', attname), ', ' ORDER BY place) AS values_after,
    string_agg(format('''%s:%s''', attnum, md5(attname)), ', ' ORDER BY place) AS arguments
  FROM columns GROUP BY oid
), named AS (
  SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, t.before, t.after, t.is_plain, t.arguments,
    t.values_before, t.values_after,
    CASE WHEN c.relkind NOT IN ('r', 'p') OR c.relpersistence = 't' THEN 'it is no table that lasts'
      WHEN EXISTS (SELECT FROM tree JOIN pg_class p ON p.oid = tree.oid WHERE tree.root = c.oid AND p.relkind NOT IN ('r', 'p'))
        THEN 'a partition of it is a foreign table'
      WHEN t.oid IS NULL
        THEN 'it has neither a primary key nor a unique index whose columns are NOT NULL, that could name its rows' END AS refusal
  FROM wanted w JOIN pg_class c ON c.oid = w.oid JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN texts t ON t.oid = w.oid
)
SELECT oid, format('nothing is noted of %s: %s', name, refusal) AS refusal,
  CASE WHEN refusal IS NULL THEN format($statement$BEGIN;
SET LOCAL lock_timeout = '2s';
CREATE OR REPLACE FUNCTION syncdata.note_%1$s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp%2$s AS $note$
DECLARE
  number bigint := nextval('syncdata.change_id');
  first text[];
  last text[];
  what "char" := left(TG_OP, 1);
BEGIN
  IF number >= 4611686018427387904 THEN
    RETURN NULL;
  END IF;
  IF number & 1023 = 0 THEN
    PERFORM syncdata.fuse();
  END IF;
  BEGIN
    IF what <> 'I' THEN
      first := ARRAY[%3$s];
      IF num_nulls(%9$s) > 0 THEN
        RAISE null_value_not_allowed;
      END IF;
    END IF;
    IF what <> 'D' THEN
      last := ARRAY[%4$s];
      IF num_nulls(%10$s) > 0 THEN
        RAISE null_value_not_allowed;
      END IF;
    END IF;
  EXCEPTION WHEN OTHERS THEN
    -- A column was renamed or dropped, or may be NULL by now. Which row it was nobody knows: a key that is NULL is a gap of the table.
    first := NULL;
    last := NULL;
    what := '?';
  END;
  IF what = 'U' AND first IS DISTINCT FROM last THEN
    IF (number >> 32) & 1 = 0 THEN
      INSERT INTO syncdata.changes_0 (change_id, relid, op, key) VALUES (number, %1$s, 'D', first), (number, %1$s, 'I', last);
    ELSE
      INSERT INTO syncdata.changes_1 (change_id, relid, op, key) VALUES (number, %1$s, 'D', first), (number, %1$s, 'I', last);
    END IF;
  ELSIF (number >> 32) & 1 = 0 THEN
    INSERT INTO syncdata.changes_0 (change_id, relid, op, key) VALUES (number, %1$s, what, coalesce(last, first));
  ELSE
    INSERT INTO syncdata.changes_1 (change_id, relid, op, key) VALUES (number, %1$s, what, coalesce(last, first));
  END IF;
  RETURN NULL;
END $note$;
REVOKE ALL ON FUNCTION syncdata.note_%1$s() FROM PUBLIC;
ALTER FUNCTION syncdata.note_%1$s() OWNER TO %5$I;
%11$sCREATE OR REPLACE TRIGGER syncdata_note_%1$s AFTER INSERT OR UPDATE OR DELETE ON %6$s FOR EACH ROW
  EXECUTE FUNCTION syncdata.note_%1$s(%8$s);
ALTER TABLE %6$s ENABLE ALWAYS TRIGGER syncdata_note_%1$s;
%7$sCOMMIT$statement$,
    oid, CASE WHEN is_plain THEN '' ELSE $$ SET "DateStyle" = 'ISO, MDY' SET "TimeZone" = 'UTC' SET "IntervalStyle" = 'postgres'
  SET extra_float_digits = 3 SET bytea_output = 'hex' SET lc_monetary = 'C'$$ END, before, after, :'owner', name,
    (SELECT string_agg(format('CREATE OR REPLACE TRIGGER syncdata_truncate AFTER TRUNCATE ON %1$s EXECUTE FUNCTION syncdata.note_truncate();
ALTER TABLE ONLY %1$s ENABLE ALWAYS TRIGGER syncdata_truncate;
', format('%I.%I', n.nspname, p.relname)), '' ORDER BY p.oid)
      FROM tree JOIN pg_class p ON p.oid = tree.oid JOIN pg_namespace n ON n.oid = p.relnamespace WHERE tree.root = named.oid), arguments, values_before, values_after,
    (SELECT string_agg(format('DROP TRIGGER %I ON %s;
', t.tgname, name), '' ORDER BY t.oid) FROM pg_trigger t
      WHERE t.tgrelid = named.oid AND t.tgparentid = 0 AND t.tgname ~ '^syncdata_note(_|$)' AND t.tgname <> 'syncdata_note_' || named.oid)) END
    AS statement
FROM named
-- end of tables
) each
\gexec
