-- Takes away all that scripts/triggers.sql made in a database:
--
--   psql -X -f scripts/triggers-remove.sql app
--
-- One table a transaction, which gives up soon when somebody holds the table: then nothing is half done, and it is run again.
\set ON_ERROR_STOP on
SET search_path = pg_catalog, pg_temp;
SET client_min_messages = warning;

SELECT statement FROM (
-- tables
SELECT t.tgrelid AS oid, format('BEGIN; SET LOCAL lock_timeout = ''2s''; DROP TRIGGER %I ON %I.%I; COMMIT', t.tgname, n.nspname, c.relname) AS statement
FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid JOIN pg_namespace s ON s.oid = f.pronamespace AND s.nspname = 'syncdata'
  JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgparentid = 0
ORDER BY t.tgrelid, t.tgname
-- end of tables
) each
\gexec

-- objects
BEGIN;
SET LOCAL lock_timeout = '2s';
DROP SCHEMA IF EXISTS syncdata CASCADE;
COMMIT;
-- end of objects
