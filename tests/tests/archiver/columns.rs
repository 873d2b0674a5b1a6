//! Columns that are renamed, come, or get other types before anybody has looked at them: what rows said until then is not
//! what the catalog would say of them.

use std::collections::BTreeSet;

use syncdata_tests::cases;
use syncdata_tests::world::{Plugin, World, WorldOptions};

use crate::scene;

/// At the source and, with what they become, in the copy.
const KNOWN: &str =
    "CREATE TABLE s1 (k int, id int, w text, v text, PRIMARY KEY (k, id)) PARTITION BY LIST (k);
    CREATE TABLE s1_1 PARTITION OF s1 FOR VALUES IN (1); INSERT INTO s1 VALUES (1, 1, 'w', 'v');
    CREATE TABLE s2 (k int DEFAULT 7, id int, v text DEFAULT 'v', PRIMARY KEY (k, id)) PARTITION BY LIST (k);
    CREATE TYPE mq AS ENUM ('old', 'ok', 'new'); CREATE TABLE x6 (id int PRIMARY KEY, m mq);
    INSERT INTO x6 VALUES (1, 'old'), (2, 'ok');
    DO $$ DECLARE t text; BEGIN FOREACH t IN ARRAY '{e1,e2,e3,e4,e8,e9}'::text[] LOOP
      EXECUTE format('CREATE TABLE %s (id int PRIMARY KEY); INSERT INTO %1$s VALUES (1), (2), (3)', t);
    END LOOP; END $$";

const COPIES: &str = "CREATE TABLE s1 (k int, id int, w text, v text, PRIMARY KEY (k, id));
    CREATE TABLE s2 (k int, id int, v text, PRIMARY KEY (k, id));
    CREATE TYPE mq AS ENUM ('old', 'ok', 'new'); CREATE TABLE x6 (id bigint PRIMARY KEY, m mq);
    CREATE TYPE m8 AS ENUM ('b', 'a'); CREATE TYPE m9 AS ENUM ('unhappy', 'ok', 'sad');
    CREATE TABLE e1 (id int PRIMARY KEY, m text); CREATE TABLE e2 (id int PRIMARY KEY, c text);
    CREATE TABLE e3 (id int PRIMARY KEY, m text); CREATE TABLE e4 (id int PRIMARY KEY, m text);
    CREATE TABLE e8 (id int PRIMARY KEY, m m8); CREATE TABLE e9 (id int PRIMARY KEY, m m9)";

const NEW_COPIES: &str =
    "CREATE TABLE f1 (id int PRIMARY KEY, old_v int, v text); CREATE TABLE f2 (id int PRIMARY KEY, old_v int, v text);
    CREATE TABLE f3 (id int PRIMARY KEY, old_v int, v text); CREATE TABLE f4 (id int PRIMARY KEY, v int);
    CREATE TABLE d3 (id int PRIMARY KEY, m text); CREATE TABLE d4 (id int PRIMARY KEY, m text);
    CREATE TABLE n1 (id int PRIMARY KEY, long text, n int); CREATE TABLE n2 (id int PRIMARY KEY, v text, w int);
    CREATE TABLE n3 (id int PRIMARY KEY, v text); CREATE TABLE n4 (id int PRIMARY KEY, v text, x text)";

/// Each in a transaction of its own, if it does not say otherwise.
const WORK: &[&str] = &[
    // The rows of these said a name that another column has now.
    "BEGIN; CREATE TABLE f1 (id int PRIMARY KEY, v int); INSERT INTO f1 VALUES (1, 5), (2, 6);
     ALTER TABLE f1 RENAME v TO old_v; ALTER TABLE f1 ADD v text; COMMIT",
    "CREATE TABLE f2 (id int PRIMARY KEY, v int DEFAULT 0)",
    "INSERT INTO f2 VALUES (1, 5), (2, 6)",
    "BEGIN; ALTER TABLE f2 RENAME v TO old_v; ALTER TABLE f2 ADD v text NOT NULL DEFAULT 'x'; COMMIT",
    "BEGIN; SAVEPOINT s; CREATE TABLE f3 (id int PRIMARY KEY, v int); INSERT INTO f3 VALUES (1, 5);
     ALTER TABLE f3 RENAME v TO old_v; ALTER TABLE f3 ADD v text; RELEASE s; COMMIT",
    "BEGIN; CREATE TABLE f4 (id int PRIMARY KEY, v int, w int); INSERT INTO f4 VALUES (1, 5, 6);
     ALTER TABLE f4 DROP v; ALTER TABLE f4 RENAME w TO v; COMMIT",
    "BEGIN; CREATE TABLE s1_2 (k int NOT NULL, id int NOT NULL, v text, PRIMARY KEY (k, id));
     INSERT INTO s1_2 VALUES (2, 1, 'x'), (2, 2, 'x'); ALTER TABLE s1_2 RENAME v TO w; ALTER TABLE s1_2 ADD v text;
     ALTER TABLE s1 ATTACH PARTITION s1_2 FOR VALUES IN (2); COMMIT",
    // And of these, a text that means something else now.
    "BEGIN; CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE d3 (id int PRIMARY KEY, m mood);
     INSERT INTO d3 VALUES (1, 'sad'); ALTER TYPE mood RENAME VALUE 'sad' TO 'unhappy'; COMMIT",
    "CREATE TYPE m1 AS ENUM ('sad', 'ok'); ALTER TABLE e1 ADD m m1; UPDATE e1 SET m = 'sad' WHERE id < 3",
    "ALTER TYPE m1 RENAME VALUE 'sad' TO 'unhappy'",
    "CREATE TYPE c1 AS (a int, b int); ALTER TABLE e2 ADD c c1; UPDATE e2 SET c = (1, 2) WHERE id < 3",
    "ALTER TYPE c1 ADD ATTRIBUTE z int",
    "CREATE TYPE m8 AS ENUM ('a', 'b'); ALTER TABLE e8 ADD m m8; UPDATE e8 SET m = 'a' WHERE id = 1; UPDATE e8 SET m = 'b' WHERE id = 2",
    "ALTER TYPE m8 RENAME VALUE 'a' TO 'x'; ALTER TYPE m8 RENAME VALUE 'b' TO 'a'; ALTER TYPE m8 RENAME VALUE 'x' TO 'b'",
    "CREATE TYPE m9 AS ENUM ('sad', 'ok'); ALTER TABLE e9 ADD m m9; UPDATE e9 SET m = 'sad' WHERE id = 1",
    "ALTER TYPE m9 RENAME VALUE 'sad' TO 'unhappy'",
    "ALTER TYPE m9 ADD VALUE 'sad'",
    "BEGIN; ALTER TYPE mq RENAME TO mq_old; CREATE TYPE mq AS ENUM ('ok', 'new');
     ALTER TABLE x6 ALTER m TYPE mq USING (CASE m WHEN 'old' THEN 'new' ELSE m::text END)::mq, ALTER id TYPE bigint;
     DROP TYPE mq_old; COMMIT",
    // Nothing of these is lost.
    "CREATE TYPE m3 AS ENUM ('a', 'b'); ALTER TABLE e3 ADD m m3; UPDATE e3 SET m = 'a' WHERE id < 3",
    "ALTER TYPE m3 ADD VALUE 'c' BEFORE 'a'",
    "UPDATE e3 SET m = 'c' WHERE id = 3",
    "CREATE TYPE m4 AS ENUM ('sad', 'ok'); ALTER TABLE e4 ADD m m4; UPDATE e4 SET m = 'ok' WHERE id = 1",
    "ALTER TYPE m4 RENAME VALUE 'sad' TO 'unhappy'",
    "UPDATE e4 SET m = 'unhappy' WHERE id = 2",
    "BEGIN; CREATE TYPE mood4 AS ENUM ('sad', 'ok'); CREATE TABLE d4 (id int PRIMARY KEY, m mood4); INSERT INTO d4 VALUES (1, 'ok');
     ALTER TYPE mood4 ADD VALUE 'new'; COMMIT",
    "INSERT INTO d4 VALUES (2, 'new')",
    "BEGIN; CREATE TABLE n1 (id serial PRIMARY KEY, long text DEFAULT 'x', n int NOT NULL DEFAULT 1);
     INSERT INTO n1 (long) SELECT string_agg(md5(g::text || n), '') FROM generate_series(1, 400) g, generate_series(1, 3) n GROUP BY n;
     UPDATE n1 SET n = 2 WHERE id < 3; DELETE FROM n1 WHERE id = 2; UPDATE n1 SET id = 7 WHERE id = 3; COMMIT",
    "BEGIN; CREATE TABLE s2_2 (LIKE s2 INCLUDING ALL);
     INSERT INTO s2_2 SELECT 2, n, string_agg(md5(g::text || n), '') FROM generate_series(1, 400) g, generate_series(1, 3) n GROUP BY n;
     ALTER TABLE s2 ATTACH PARTITION s2_2 FOR VALUES IN (2); COMMIT",
    "UPDATE s2_2 SET id = 7 WHERE id = 1; DELETE FROM s2_2 WHERE id = 2",
    "CREATE TABLE n2 (id int PRIMARY KEY, v text)",
    "INSERT INTO n2 SELECT n, string_agg(md5(g::text || n), '') FROM generate_series(1, 400) g, generate_series(1, 3) n GROUP BY n",
    "ALTER TABLE n2 ADD w int DEFAULT 7",
    "UPDATE n2 SET w = 8 WHERE id = 1; DELETE FROM n2 WHERE id = 2; INSERT INTO n2 VALUES (4, 'v', 4)",
    "BEGIN; CREATE TABLE n3 AS SELECT n AS id, 'v'::text AS v FROM generate_series(1, 3) n; ALTER TABLE n3 ADD PRIMARY KEY (id); COMMIT",
    "UPDATE n3 SET id = 7 WHERE id = 2; DELETE FROM n3 WHERE id = 1",
    // Nor of this one, which needs a base copy: nobody can say that the column had this name from the first.
    "BEGIN; CREATE TABLE n4 (id int PRIMARY KEY, v text); INSERT INTO n4 VALUES (1, 'v'), (2, 'v'); ALTER TABLE n4 ADD x text;
     INSERT INTO n4 VALUES (3, 'v', 'x'); UPDATE n4 SET x = 'y' WHERE id = 1; DELETE FROM n4 WHERE id = 2; COMMIT",
];

const FIRST: &[&str] = &["s1", "s2", "x6", "e1", "e2", "e3", "e4", "e8", "e9"];
const NEW: &[&str] = &["f1", "f2", "f3", "f4", "d3", "d4", "n1", "n2", "n3", "n4"];
const NAMES: &[&str] = &["f1", "f2", "f3", "f4", "s1", "x6"];
const TYPES: &[&str] = &["d3", "e1", "e2", "e8", "e9"];

async fn state(world: &World, table: &str) -> String {
    let state = format!("SELECT state FROM data_sync_table_state WHERE table_name = '{table}'");
    world.target.value(&state).await
}

async fn never_unequal_and_live(world: &World) {
    let mut wrong = Vec::new();
    for table in FIRST.iter().chain(NEW) {
        if state(world, table).await == "live" {
            wrong.extend(world.difference(table).await);
        }
    }
    assert!(wrong.is_empty(), "live and unequal: {}", wrong.join("\n"));
}

#[tokio::test]
async fn columns_that_nobody_has_looked_at_yet_are_what_their_rows_said_or_a_gap() {
    for plugin in cases([Plugin::Wal2json, Plugin::Pgoutput]) {
        let world = scene::world_with(WorldOptions::default().without_sftp().plugin(plugin), KNOWN).await;
        world.target.execute(COPIES).await;
        world.archiver(["run", "--once"]).succeed().await;
        world.archiver(["snapshot"]).succeed().await;
        world.applier(["add-tables"].iter().chain(FIRST)).succeed().await;
        world.applier(["sync"]).succeed().await;
        for sql in WORK {
            world.source.execute(sql).await;
        }
        let polled = world.archiver(["run", "--once"]).run().await.expect_code(1);
        world.target.execute(NEW_COPIES).await;
        world.applier(["add-tables"].iter().chain(NEW)).run().await;
        world.applier(["sync"]).run().await;
        never_unequal_and_live(&world).await;
        for table in NAMES.iter().chain(TYPES) {
            assert_ne!(state(&world, table).await, "live", "{plugin:?} {table} {polled}");
        }
        if plugin == Plugin::Pgoutput {
            continue;
        }
        let words = |reason: &'static str| move |table: &&str| format!("{table}: {reason}");
        let mut expected: BTreeSet<String> = NAMES.iter().map(words("rewritten by ALTER TABLE")).collect();
        expected.extend(TYPES.iter().map(words("a type was altered")));
        assert_eq!(scene::gaps_with_reasons(&world), expected);
        for table in ["d4", "e3", "e4", "n1", "n2", "n3", "s2"] {
            assert_eq!(state(&world, table).await, "live", "{table} {polled}");
        }
        // What is said to mend it does.
        world.archiver(["snapshot"]).succeed().await;
        world.applier(["resync"].iter().chain(NAMES).chain(TYPES)).run().await;
        never_unequal_and_live(&world).await;
        for table in NAMES.iter().chain(TYPES) {
            assert_eq!(state(&world, table).await, "live", "{table}");
        }
    }
}
