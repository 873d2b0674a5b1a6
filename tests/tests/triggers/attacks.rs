//! What production may do to be misunderstood: each time the copy is right, or a gap says that it may not be.

use std::collections::BTreeSet;

use crate::copy::{follow, world};
use crate::script::{install, server, succeeded};
use crate::troubles::{gaps, missed};

#[tokio::test]
async fn a_table_that_is_filled_and_attached_in_one_transaction_is_a_gap() {
    let world = world(
        "CREATE TABLE p (a int PRIMARY KEY, b text) PARTITION BY RANGE (a);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
    )
    .await;
    follow(&world, &["p"]).await;
    world
        .source
        .execute(
            "BEGIN; CREATE TABLE p2 (a int PRIMARY KEY, b text); INSERT INTO p2 VALUES (11, 'unseen');
             ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20); COMMIT; INSERT INTO p VALUES (12, 'seen')",
        )
        .await;
    world.run_as_told(["setup", "--create-triggers"]).await;
    assert_eq!(missed(&world).await, BTreeSet::from(["p: partition changed".to_owned()]));
    // One that was made as such has nothing that nobody saw.
    world
        .source
        .execute("BEGIN; CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30); INSERT INTO p3 VALUES (21); COMMIT")
        .await;
    assert_eq!(missed(&world).await, BTreeSet::new());
}

#[tokio::test]
async fn columns_may_be_called_what_they_like() {
    let world = world(
        "CREATE TABLE t (came int, went int, k int, r text, n text, key text, PRIMARY KEY (came, went, k));
         CREATE TABLE \"K\" (\"k\"\"1\" text PRIMARY KEY, k1 int, \"select\" int)",
    )
    .await;
    follow(&world, &["t", "\"K\""]).await;
    world
        .source
        .execute(
            "INSERT INTO t VALUES (1, 2, 3, 'r', 'n', 'key'), (4, 5, 6, NULL, NULL, NULL); INSERT INTO \"K\" VALUES ('a', 1, 2);
             UPDATE t SET went = 7 WHERE came = 4",
        )
        .await;
    world.carry().await;
    world.source.execute("DELETE FROM t WHERE k = 3; UPDATE \"K\" SET \"k\"\"1\" = 'b'").await;
    world.carry().await;
    world.assert_same(&["t", "\"K\""]).await;
}

/// The key was noted by a transaction that committed after its label had another name.
#[tokio::test]
async fn a_key_that_nobody_understands_any_more_is_a_gap_and_stops_no_poll() {
    let world = world("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (m mood PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY)").await;
    follow(&world, &["t", "u"]).await;
    let late = world.source.connect().await;
    late.batch_execute("BEGIN; INSERT INTO t VALUES ('sad', 1)").await.expect("ours");
    world.source.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; INSERT INTO u VALUES (1)").await;
    missed(&world).await;
    late.batch_execute("COMMIT").await.expect("ours");
    world.source.execute("INSERT INTO u VALUES (2)").await;
    let found = missed(&world).await;
    assert_eq!(found, BTreeSet::from(["t: keys of its rows could not be noted".to_owned()]));
    world.applier(["sync"]).run().await;
    world.assert_same(&["u"]).await;
    assert_eq!(missed(&world).await, BTreeSet::new());
}

/// While something is left out, a base copy would pass for the end of it.
#[tokio::test]
async fn no_base_copy_is_taken_while_notes_are_left_out() {
    let mut world = world("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    world.set_archiver("wal_guard", "200000");
    follow(&world, &["t"]).await;
    world.source.execute("INSERT INTO t SELECT i FROM generate_series(1, 9000) i").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    let refused = world.archiver(["snapshot"]).run().await;
    assert_eq!(refused.code(), Some(2), "{refused}");
    assert!(refused.stderr.contains("setup --create-triggers"), "{refused}");
    world.run_as_told(["setup", "--create-triggers"]).await;
    // Which transactions were open when all was noted again, the first of them finds out.
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).run().await;
    world.applier(["resync", "t"]).succeed().await;
    world.source.execute("UPDATE t SET v = 'after' WHERE id < 5").await;
    world.carry().await;
    world.assert_same(&["t"]).await;
}

/// The server loses its last moments, and gives their numbers again.
#[tokio::test]
async fn what_a_crash_takes_back_is_in_no_batch() {
    let mut world = world("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    follow(&world, &["t"]).await;
    for round in 0..4 {
        let sql = format!(
            "SET synchronous_commit = off; INSERT INTO t VALUES ({}, 'r{round}'); UPDATE t SET v = v || '{round}'; SELECT pg_current_xact_id()",
            round * 10
        );
        world.source.execute(&sql).await;
        if round % 2 == 0 {
            world.archiver(["run", "--once"]).succeed().await;
        }
        world.source.crash();
        world.source.resume().await;
        world
            .source
            .execute(&format!(
                "INSERT INTO t VALUES ({}, 'after'); DELETE FROM t WHERE id = {}",
                round * 10 + 1,
                (round - 1) * 10
            ))
            .await;
        world.carry().await;
        world.assert_same(&["t"]).await;
    }
    assert_eq!(gaps(&world), BTreeSet::new());
}

#[tokio::test]
async fn a_key_is_compared_as_its_type_does() {
    let world = world("CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE t (id text COLLATE nocase PRIMARY KEY, v int); CREATE TABLE c (id char(4) PRIMARY KEY, f float8 UNIQUE)").await;
    follow(&world, &["t", "c"]).await;
    world
        .source
        .execute("INSERT INTO t VALUES ('Abc', 1), ('x', 2); INSERT INTO c VALUES ('a', 0), ('b', 1)")
        .await;
    world.carry().await;
    world.source.execute("UPDATE t SET id = 'aBC', v = 3 WHERE v = 1; DELETE FROM t WHERE id = 'X'; UPDATE c SET id = 'c', f = '-0' WHERE id = 'a'").await;
    world.carry().await;
    world.assert_same(&["t", "c"]).await;
}

/// Of a partition too that had triggers of its own, whatever became of it; and no statement of production fails for them.
#[tokio::test]
async fn what_came_from_elsewhere_is_noted_for_what_it_is_now() {
    let schema = "CREATE TABLE orders (id int, d int, v text, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);
        CREATE TABLE o1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
        CREATE TABLE users (id int PRIMARY KEY, v text); CREATE TABLE codes (code text NOT NULL UNIQUE, v text)";
    let world = world(schema).await;
    world.source.execute("INSERT INTO users VALUES (1, 'x'), (2, 'x')").await;
    follow(&world, &["orders", "users", "codes"]).await;
    // A table of its own first, with its own triggers; then a partition, taken out and in again.
    world.source.execute("CREATE TABLE o2 (LIKE orders INCLUDING ALL)").await;
    world.run_as_told(["setup", "--create-triggers"]).await;
    let attach = "ALTER TABLE orders ATTACH PARTITION o2 FOR VALUES FROM (10) TO (20)";
    world.source.execute(attach).await;
    world.target.execute("CREATE TABLE o2 PARTITION OF orders FOR VALUES FROM (10) TO (20)").await;
    let gaps = missed(&world).await;
    assert!(gaps.is_subset(&["orders: partition changed".to_owned()].into()), "{gaps:?}");
    world
        .source
        .execute("INSERT INTO orders VALUES (1, 11, 'y'), (2, 1, 'y'); UPDATE orders SET v = 'z'")
        .await;
    assert_eq!(missed(&world).await, BTreeSet::new());
    world.source.execute("ALTER TABLE orders DETACH PARTITION o2").await;
    world.run_as_told(["setup", "--create-triggers"]).await;
    world.archiver(["run", "--once"]).run().await;
    world.source.execute(attach).await;

    // A table that a dump brought back has the triggers of the one that it was a dump of.
    let arguments = "SELECT 'syncdata.note_' || 'users'::regclass::oid || '(' || (SELECT string_agg(quote_literal(a), ', ')
        FROM unnest(string_to_array(encode(tgargs, 'escape'), '\\000')) a WHERE a <> '') || ')'
        FROM pg_trigger WHERE tgrelid = 'users'::regclass AND tgname LIKE 'syncdata_note%'";
    let function = world.source.value(arguments).await;
    let name =
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'users'::regclass AND tgname LIKE 'syncdata_note%'";
    let name = world.source.value(name).await;
    world
        .source
        .execute(&format!(
            "DROP TABLE users; CREATE TABLE users (id int PRIMARY KEY, v text); INSERT INTO users VALUES (1, 'x');
             CREATE TRIGGER {name} AFTER INSERT OR UPDATE OR DELETE ON users FOR EACH ROW EXECUTE FUNCTION {function};
             ALTER TABLE users ENABLE ALWAYS TRIGGER {name};
             CREATE TRIGGER syncdata_truncate AFTER TRUNCATE ON users EXECUTE FUNCTION syncdata.note_truncate();
             ALTER TABLE users ENABLE ALWAYS TRIGGER syncdata_truncate"
        ))
        .await;
    let refused = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("not all is noted of users"), "{refused}");
    world.run_as_told(["setup", "--create-triggers"]).await;
    let gaps = missed(&world).await;
    assert!(gaps.contains("users: another table of this name"), "{gaps:?}");
    let ours =
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'users'::regclass AND tgname LIKE 'syncdata_note%'";
    assert_eq!(world.source.value(ours).await, "1", "what notes for nobody is gone");

    // What names a row may be NULL from now on.
    world
        .source
        .execute("ALTER TABLE codes ALTER code DROP NOT NULL; INSERT INTO codes VALUES (NULL, 'n')")
        .await;
    let run = world.archiver(["run", "--once"]).run().await;
    assert!(matches!(run.code(), Some(1 | 2)) && run.stderr.contains("codes"), "{run}");
}

/// Of a copy of the database, made with or without its rows, nobody reads the notes; and who removes those that were read is not
/// waited for.
#[tokio::test]
async fn a_copy_of_the_database_notes_nothing_for_long_and_nobody_waits_for_the_fuse() {
    for copied in ["DELETE FROM syncdata.reader", "UPDATE syncdata.reader SET database = 1"] {
        let server = server("CREATE TABLE t (id int PRIMARY KEY)").await;
        succeeded(&install(&server, "public.t"));
        let holder = server.connect().await;
        holder.batch_execute("BEGIN; LOCK syncdata.changes_1").await.expect("it is ours");
        server.execute("SET lock_timeout = '1ms'; INSERT INTO t SELECT generate_series(-3000, -1)").await;
        holder.batch_execute("COMMIT").await.expect("it is ours");
        server.execute(copied).await;
        server.execute("INSERT INTO t SELECT generate_series(1, 3000)").await;
        let blown = "SELECT last_value >= 4611686018427387904 FROM syncdata.change_id";
        assert_eq!(server.value(blown).await, "t", "{copied}");
    }
}
