//! Shapes of tables, and work on them.

use syncdata_tests::differential::not_yet;

/// `{t}` is the table's name; `;;` ends a transaction.
pub(super) struct Shape {
    pub name: &'static str,
    pub source: &'static str,
    /// As at the source, where nothing is said.
    pub here: Option<&'static str>,
    pub tables: &'static [&'static str],
    pub first: &'static str,
    pub then: &'static str,
    pub from_major: u32,
    pub not_yet: Option<not_yet::Shape>,
}

const fn shape(name: &'static str, source: &'static str, first: &'static str, then: &'static str) -> Shape {
    Shape { name, source, here: None, tables: &["{t}"], first, then, from_major: 0, not_yet: None }
}

const fn here(here: &'static str, shape: Shape) -> Shape {
    Shape { here: Some(here), ..shape }
}

const fn tables(tables: &'static [&'static str], shape: Shape) -> Shape {
    Shape { tables, ..shape }
}

const fn from_18(shape: Shape) -> Shape {
    Shape { from_major: 18, ..shape }
}

const PLAIN: &str = "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int)";
const ROWS: &str = "INSERT INTO {t} SELECT i, 'v' || i, i FROM generate_series(1, 6) i";
const WORK: &str = "UPDATE {t} SET v = 'new' WHERE id < 3;; UPDATE {t} SET id = id + 10 WHERE id = 3;; DELETE FROM {t} WHERE id = 4";

pub(super) const SHAPES: &[Shape] = &[
    shape("primary key", PLAIN, ROWS, WORK),
    shape(
        "primary key of several columns",
        "CREATE TABLE {t} (id int, v text, n int, PRIMARY KEY (n, id))",
        ROWS,
        WORK,
    ),
    shape(
        "primary key with INCLUDE",
        "CREATE TABLE {t} (id int, v text, n int, PRIMARY KEY (id) INCLUDE (n))",
        ROWS,
        WORK,
    ),
    shape("no key, only inserts", "CREATE TABLE {t} (id int, v text, n int)", ROWS, ROWS),
    shape(
        "no key, with updates: production does not say which rows",
        "CREATE TABLE {t} (id int, v text, n int)",
        ROWS,
        WORK,
    ),
    here(
        "CREATE TABLE {t} (id int, v text, n int)",
        shape(
            "no key, REPLICA IDENTITY FULL, rows that are equal",
            "CREATE TABLE {t} (id int, v text, n int); ALTER TABLE {t} REPLICA IDENTITY FULL",
            "INSERT INTO {t} SELECT i / 2, NULL, 1 FROM generate_series(1, 9) i",
            "UPDATE {t} SET v = 'new' WHERE ctid = (SELECT min(ctid) FROM {t} WHERE id = 2);; DELETE FROM {t} WHERE ctid = \
             (SELECT min(ctid) FROM {t} WHERE id = 3)",
        ),
    ),
    here(
        PLAIN,
        shape(
            "REPLICA IDENTITY NOTHING, with updates",
            "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int); ALTER TABLE {t} REPLICA IDENTITY NOTHING",
            ROWS,
            WORK,
        ),
    ),
    here(
        "CREATE TABLE {t} (id int NOT NULL, v text, n int); CREATE UNIQUE INDEX ON {t} (id)",
        shape(
            "REPLICA IDENTITY USING INDEX",
            "CREATE TABLE {t} (id int NOT NULL, v text, n int); CREATE UNIQUE INDEX {t}_i ON {t} (id); \
             ALTER TABLE {t} REPLICA IDENTITY USING INDEX {t}_i",
            ROWS,
            WORK,
        ),
    ),
    shape(
        "DEFERRABLE primary key, with updates: PostgreSQL does not take it as an identity",
        "CREATE TABLE {t} (id int PRIMARY KEY DEFERRABLE, v text, n int)",
        ROWS,
        WORK,
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY DEFERRABLE, v text, n int)",
        shape(
            "DEFERRABLE primary key, REPLICA IDENTITY FULL",
            "CREATE TABLE {t} (id int PRIMARY KEY DEFERRABLE, v text, n int); ALTER TABLE {t} REPLICA IDENTITY FULL",
            ROWS,
            "UPDATE {t} SET id = id + 1;; UPDATE {t} SET v = 'new' WHERE id < 3;; DELETE FROM {t} WHERE id = 4",
        ),
    ),
    from_18(shape(
        "key WITHOUT OVERLAPS",
        "CREATE EXTENSION IF NOT EXISTS btree_gist SCHEMA public; \
         CREATE TABLE {t} (id int, r int4range, v text, PRIMARY KEY (id, r WITHOUT OVERLAPS))",
        "INSERT INTO {t} SELECT i % 2, int4range(i, i + 1), 'v' FROM generate_series(1, 6) i",
        "UPDATE {t} SET v = 'new' WHERE id = 0;; DELETE FROM {t} WHERE r = '[3,4)'",
    )),
    shape(
        "unique values that two rows exchange, DEFERRABLE",
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        ROWS,
        "UPDATE {t} SET n = 3 - n WHERE n IN (1, 2)",
    ),
    shape(
        "unique values that two rows exchange through a third",
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int UNIQUE)",
        ROWS,
        "UPDATE {t} SET n = 100 WHERE n = 1; UPDATE {t} SET n = 1 WHERE n = 2; UPDATE {t} SET n = 2 WHERE n = 100",
    ),
    shape(
        "UNIQUE NULLS NOT DISTINCT",
        "CREATE TABLE {t} (id int PRIMARY KEY, v text UNIQUE NULLS NOT DISTINCT, n int)",
        ROWS,
        "UPDATE {t} SET v = NULL WHERE id = 1;; DELETE FROM {t} WHERE id = 1; UPDATE {t} SET v = NULL WHERE id = 2",
    ),
    shape(
        "exclusion constraint",
        "CREATE TABLE {t} (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&))",
        "INSERT INTO {t} SELECT i, int4range(i, i + 1) FROM generate_series(1, 6) i",
        "UPDATE {t} SET r = '[100,200)' WHERE id = 1; UPDATE {t} SET r = '[1,2)' WHERE id = 2; \
         UPDATE {t} SET r = '[2,3)' WHERE id = 1",
    ),
    tables(
        &["{t}", "{t}_child"],
        shape(
            "foreign key, ON DELETE CASCADE ON UPDATE CASCADE",
            "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int); \
             CREATE TABLE {t}_child (id int PRIMARY KEY, p int REFERENCES {t} ON DELETE CASCADE ON UPDATE CASCADE)",
            "INSERT INTO {t} SELECT i, 'v' || i, i FROM generate_series(1, 6) i; \
             INSERT INTO {t}_child SELECT i, i FROM generate_series(1, 6) i",
            WORK,
        ),
    ),
    tables(
        &["{t}", "{t}_child"],
        shape(
            "foreign key, TRUNCATE … CASCADE",
            "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int); \
             CREATE TABLE {t}_child (id int PRIMARY KEY, p int REFERENCES {t})",
            "INSERT INTO {t} SELECT i, 'v' || i, i FROM generate_series(1, 6) i; \
             INSERT INTO {t}_child SELECT i, i FROM generate_series(1, 6) i",
            "TRUNCATE {t} CASCADE; INSERT INTO {t} VALUES (1, 'again', 1)",
        ),
    ),
    shape(
        "identity column, ALWAYS",
        "CREATE TABLE {t} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, n int)",
        "INSERT INTO {t} (v, n) SELECT 'v', i FROM generate_series(1, 6) i",
        "UPDATE {t} SET v = 'new' WHERE id < 3;; UPDATE {t} SET id = DEFAULT WHERE id = 3;; DELETE FROM {t} WHERE id = 4",
    ),
    shape(
        "identity column, BY DEFAULT",
        "CREATE TABLE {t} (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text, n int)",
        ROWS,
        WORK,
    ),
    shape(
        "nothing but an identity column",
        "CREATE TABLE {t} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
        "INSERT INTO {t} DEFAULT VALUES;; INSERT INTO {t} DEFAULT VALUES",
        "UPDATE {t} SET id = DEFAULT WHERE id = 1",
    ),
    shape(
        "nothing but an identity column, REPLICA IDENTITY FULL",
        "CREATE TABLE {t} (id int GENERATED ALWAYS AS IDENTITY); ALTER TABLE {t} REPLICA IDENTITY FULL",
        "INSERT INTO {t} DEFAULT VALUES;; INSERT INTO {t} DEFAULT VALUES",
        "UPDATE {t} SET id = DEFAULT WHERE id = 1",
    ),
    shape(
        "generated column, STORED, in the primary key",
        "CREATE TABLE {t} (v text, n int, g int GENERATED ALWAYS AS (n * 2) STORED PRIMARY KEY)",
        "INSERT INTO {t} SELECT 'v' || i, i FROM generate_series(1, 6) i",
        "UPDATE {t} SET v = 'new' WHERE n < 3;; UPDATE {t} SET n = n + 10 WHERE n = 3;; DELETE FROM {t} WHERE n = 4",
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, n numeric, g numeric(5,1) GENERATED ALWAYS AS (n) STORED)",
        shape(
            "generated column, STORED, a narrower one here",
            "CREATE TABLE {t} (id int PRIMARY KEY, n numeric, g numeric(10,4) GENERATED ALWAYS AS (n) STORED)",
            "INSERT INTO {t} SELECT i, i + 0.1234 FROM generate_series(1, 6) i",
            "UPDATE {t} SET n = n + 1 WHERE id < 3",
        ),
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, n numeric, g numeric(5,1))",
        shape(
            "generated column, STORED, a narrower ordinary one here",
            "CREATE TABLE {t} (id int PRIMARY KEY, n numeric, g numeric(10,4) GENERATED ALWAYS AS (n) STORED)",
            "INSERT INTO {t} SELECT i, i + 0.1234 FROM generate_series(1, 6) i",
            "UPDATE {t} SET n = n + 1 WHERE id < 3",
        ),
    ),
    shape(
        "generated column, STORED",
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int, g int GENERATED ALWAYS AS (n * 2) STORED)",
        ROWS,
        "UPDATE {t} SET n = n + 1 WHERE id < 3;; DELETE FROM {t} WHERE id = 4",
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int, g int)",
        shape(
            "generated column, STORED, an ordinary one here",
            "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int, g int GENERATED ALWAYS AS (n * 2) STORED)",
            ROWS,
            "UPDATE {t} SET n = n + 1 WHERE id < 3;; DELETE FROM {t} WHERE id = 4",
        ),
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int GENERATED ALWAYS AS (id * 2) STORED)",
        shape("ordinary column, a generated one here", PLAIN, ROWS, WORK),
    ),
    from_18(shape(
        "generated column, VIRTUAL",
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int, g int GENERATED ALWAYS AS (n * 2) VIRTUAL)",
        ROWS,
        "UPDATE {t} SET n = n + 1 WHERE id < 3;; DELETE FROM {t} WHERE id = 4",
    )),
    from_18(here(
        "CREATE TABLE {t} (id int, v text, n int, g int GENERATED ALWAYS AS (n * 2) VIRTUAL)",
        shape(
            "generated column, VIRTUAL, REPLICA IDENTITY FULL",
            "CREATE TABLE {t} (id int, v text, n int, g int GENERATED ALWAYS AS (n * 2) VIRTUAL); \
             ALTER TABLE {t} REPLICA IDENTITY FULL",
            ROWS,
            "UPDATE {t} SET n = n + 1 WHERE id < 3;; DELETE FROM {t} WHERE id = 4",
        ),
    )),
    from_18(here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int, g int)",
        shape(
            "generated column, VIRTUAL, an ordinary one here",
            "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int, g int GENERATED ALWAYS AS (n * 2) VIRTUAL)",
            ROWS,
            WORK,
        ),
    )),
    here(
        PLAIN,
        shape(
            "partitions at the source, one table here",
            "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int) PARTITION BY RANGE (id); \
             CREATE TABLE {t}_low PARTITION OF {t} FOR VALUES FROM (MINVALUE) TO (5); \
             CREATE TABLE {t}_high PARTITION OF {t} FOR VALUES FROM (5) TO (MAXVALUE)",
            ROWS,
            WORK,
        ),
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int) PARTITION BY HASH (id); \
         CREATE TABLE {t}_a PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
         CREATE TABLE {t}_b PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        shape("one table at the source, partitions here", PLAIN, ROWS, WORK),
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int) PARTITION BY RANGE (id); \
         CREATE TABLE {t}_all PARTITION OF {t} FOR VALUES FROM (0) TO (5)",
        shape("a row for which there is no partition here", PLAIN, ROWS, WORK),
    ),
    here(
        PLAIN,
        shape(
            "TRUNCATE of one partition",
            "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int) PARTITION BY RANGE (id); \
             CREATE TABLE {t}_low PARTITION OF {t} FOR VALUES FROM (MINVALUE) TO (5); \
             CREATE TABLE {t}_high PARTITION OF {t} FOR VALUES FROM (5) TO (MAXVALUE)",
            ROWS,
            "TRUNCATE {t}_low",
        ),
    ),
    tables(
        &["{t}", "{t}_heir"],
        shape(
            "inheritance",
            "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int); \
             CREATE TABLE {t}_heir (PRIMARY KEY (id), extra int) INHERITS ({t})",
            "INSERT INTO {t} VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3), (4, 'd', 4); INSERT INTO {t}_heir VALUES (5, 'e', 5, 5)",
            "UPDATE {t} SET v = 'new' WHERE id IN (1, 5);; TRUNCATE ONLY {t}",
        ),
    ),
    here(
        "CREATE TABLE {t} (n int, v text, id int PRIMARY KEY)",
        shape("other order of columns here", PLAIN, ROWS, WORK),
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int, mine text DEFAULT 'x' NOT NULL)",
        shape("one column more here, with a default", PLAIN, ROWS, WORK),
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int, mine text NOT NULL)",
        shape("one column more here, NOT NULL without a default", PLAIN, ROWS, WORK),
    ),
    here("CREATE TABLE {t} (id int PRIMARY KEY, v text)", shape("one column less here", PLAIN, ROWS, WORK)),
    here("CREATE TABLE {t} (id int, v text, n int)", shape("no key here", PLAIN, ROWS, WORK)),
    here(
        "CREATE TABLE {t} (id bigint PRIMARY KEY, v varchar, n numeric)",
        shape(
            "wider types here",
            "CREATE TABLE {t} (id int PRIMARY KEY, v varchar(20), n numeric(12,3))",
            ROWS,
            WORK,
        ),
    ),
    here(
        "CREATE TABLE {t} (id text PRIMARY KEY, v text, n text)",
        shape(
            "text here",
            "CREATE TABLE {t} (id numeric PRIMARY KEY, v jsonb, n timestamptz)",
            "INSERT INTO {t} SELECT i + 0.10, to_jsonb(i), timestamptz '2026-01-01' + i * interval '1 day' FROM generate_series(1, 6) i",
            "UPDATE {t} SET v = '\"new\"' WHERE id < 3;; UPDATE {t} SET id = id + 10 WHERE id = 3.1;; DELETE FROM {t} WHERE id = 4.1",
        ),
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v text)",
        shape(
            "boolean, text here",
            "CREATE TABLE {t} (id int PRIMARY KEY, v bool)",
            "INSERT INTO {t} VALUES (1, true), (2, false)",
            "UPDATE {t} SET v = NOT v",
        ),
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v varchar(1), n int)",
        shape("narrower types here", PLAIN, ROWS, WORK),
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v timestamp(0))",
        shape(
            "types here that would round",
            "CREATE TABLE {t} (id int PRIMARY KEY, v timestamp)",
            "INSERT INTO {t} VALUES (1, '2026-01-01 00:00:00.7')",
            "UPDATE {t} SET v = '2026-01-01 00:00:00.2'",
        ),
    ),
    here(
        "CREATE DOMAIN {t}_d AS numeric(5,1); CREATE TABLE {t} (id int PRIMARY KEY, v {t}_d)",
        shape(
            "a domain of the source's name here that would round",
            "CREATE DOMAIN {t}_d AS numeric(10,4); CREATE TABLE {t} (id int PRIMARY KEY, v {t}_d)",
            "INSERT INTO {t} VALUES (1, 1.2345)",
            "UPDATE {t} SET v = 1.5",
        ),
    ),
    here(
        "CREATE COLLATION {t}_c (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         CREATE TABLE {t} (id text COLLATE {t}_c PRIMARY KEY, n int)",
        shape(
            "keys that only the collation here calls equal",
            "CREATE TABLE {t} (id text PRIMARY KEY, n int)",
            "INSERT INTO {t} VALUES ('a', 1), ('A', 2)",
            "UPDATE {t} SET n = 3 WHERE id = 'A'",
        ),
    ),
    here(
        "CREATE TABLE {t} (id smallint PRIMARY KEY, v text, n int)",
        shape("a number that is too large here", PLAIN, ROWS, "INSERT INTO {t} VALUES (100000, 'large', 0)"),
    ),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v text CHECK (v <> 'new'), n int)",
        shape("a constraint here that a row breaks", PLAIN, ROWS, WORK),
    ),
    shape(
        "values out of line that do not change",
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int); ALTER TABLE {t} ALTER v SET STORAGE EXTERNAL",
        "INSERT INTO {t} SELECT i, repeat(i::text, 5000), i FROM generate_series(1, 6) i",
        "UPDATE {t} SET n = 0 WHERE id < 3;; UPDATE {t} SET id = 30 WHERE id = 3;; DELETE FROM {t} WHERE id = 4",
    ),
    shape(
        "keys that are deleted and come again in one transaction",
        PLAIN,
        ROWS,
        "DELETE FROM {t} WHERE id < 3; INSERT INTO {t} VALUES (1, 'again', 1); UPDATE {t} SET v = v || '!' WHERE id = 1",
    ),
    shape(
        "savepoints and ROLLBACK",
        PLAIN,
        ROWS,
        "BEGIN; UPDATE {t} SET n = 7; SAVEPOINT a; DELETE FROM {t}; ROLLBACK TO a; UPDATE {t} SET n = 8 WHERE id = 1; COMMIT;; \
         BEGIN; DELETE FROM {t}; ROLLBACK",
    ),
    shape(
        "prepared transactions",
        PLAIN,
        ROWS,
        "BEGIN; UPDATE {t} SET n = 7; PREPARE TRANSACTION '{t}';; COMMIT PREPARED '{t}';; \
         BEGIN; DELETE FROM {t}; PREPARE TRANSACTION '{t}';; ROLLBACK PREPARED '{t}'",
    ),
    shape(
        "MERGE, ON CONFLICT, COPY-like inserts",
        PLAIN,
        ROWS,
        "INSERT INTO {t} VALUES (1, 'x', 0) ON CONFLICT (id) DO UPDATE SET n = 99;; MERGE INTO {t} USING generate_series(5, 8) i ON id = i \
         WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (i, 'merged', i)",
    ),
    shape("TRUNCATE", PLAIN, ROWS, "TRUNCATE {t} RESTART IDENTITY;; INSERT INTO {t} VALUES (1, 'after', 1)"),
    here(
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int); CREATE TABLE {t}_mine (p int REFERENCES {t})",
        shape("TRUNCATE, and a table that only this side has refers to it", PLAIN, ROWS, "TRUNCATE {t}"),
    ),
    shape(
        "row level security at the source",
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, n int); ALTER TABLE {t} ENABLE ROW LEVEL SECURITY",
        ROWS,
        WORK,
    ),
    shape(
        "columns with names that need quotes",
        "CREATE TABLE {t} (id int PRIMARY KEY, \"Größe \"\"1\"\"\" text, \"select\" int)",
        ROWS,
        "UPDATE {t} SET \"Größe \"\"1\"\"\" = 'new', \"select\" = 0 WHERE id < 3",
    ),
    here(
        PLAIN,
        shape(
            "unlogged table: PostgreSQL does not decode it",
            "CREATE UNLOGGED TABLE {t} (id int PRIMARY KEY, v text, n int)",
            ROWS,
            WORK,
        ),
    ),
    shape(
        "no columns at all",
        "CREATE TABLE {t} ()",
        "INSERT INTO {t} DEFAULT VALUES;; INSERT INTO {t} DEFAULT VALUES",
        "INSERT INTO {t} DEFAULT VALUES",
    ),
];
