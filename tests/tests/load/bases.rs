//! First loads and resyncs: what a base brings.

use syncdata_formats::lsn::Lsn;
use syncdata_formats::snapshot::Seen;
use syncdata_tests::LocalCopy;
use syncdata_tests::world::WorldOptions;

use crate::{USERS, insert, state, update, users};

#[tokio::test]
async fn a_new_copy_of_a_pruned_archive_is_loaded_and_follows() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1, "one")], vec![insert(2, "two"), insert(3, "three")]]);
    copy.forge.snapshot(&[("users", &["1\tone", "2\ttwo", "3\tthree"])]);
    let kept = copy.forge.segment(&[vec![update(2, "zwei"), insert(4, "four")]]);
    copy.forge.prune_before(&kept);
    let added = copy.applier(&["add-tables", "users"]).succeed().await;
    assert!(added.stderr.contains("is loaded from snapshot"), "{added}");
    assert!(added.stderr.contains("(3 rows, 20 B), then 1 segments after it"), "{added}");
    let said = copy.sync(0).await;
    assert!(said.contains("loaded users from snapshot"), "{said}");
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,one 2,zwei 3,three 4,four");
    assert_eq!(state(&copy, "users").await, "live");
    copy.forge.segment(&[vec![update(1, "eins")]]);
    assert_eq!(copy.sync(0).await, "applied 1 records in 1 segments to 1 tables\n");
    assert_eq!(copy.rows("SELECT name FROM users WHERE id = 1").await, "eins");
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_logs WHERE status = 'FAILED'").await, "0");
}

#[tokio::test]
async fn changes_are_applied_over_a_copy_exactly_where_it_has_not_seen_them() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1, "0")]]);
    let (start, first) = (copy.forge.position(), copy.forge.next_xid());
    // Six transactions commit while the copy is taken; the first and the fourth are still running in its eyes.
    let names: Vec<String> = (1..=6).map(|n| format!("{n}")).collect();
    let transactions: Vec<Vec<String>> = names
        .iter()
        .map(|name| vec![update(1, name), insert(10 + name.parse::<u32>().expect("a number"), "new")])
        .collect();
    copy.forge.segment(&transactions);
    let end = copy.forge.position();
    let xid = |n: u32| u64::from(first + n - 1);
    let seen = Seen { xmin: xid(1), xmax: xid(6), xip: vec![xid(1), xid(4)] };
    copy.forge.snapshot_between(
        start,
        end,
        seen,
        &[("users", &["1\t5", "12\tnew", "13\tnew", "15\tnew", "2\tonly in the copy"])],
    );
    copy.forge.segment(&[vec![insert(20, "behind")]]);
    copy.applier(&["add-tables", "users", "--from", "snapshot"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(
        copy.rows("SELECT id, name FROM users ORDER BY id").await,
        "1,6 2,only in the copy 11,new 12,new 13,new 14,new 15,new 16,new 20,behind"
    );
    assert_eq!(copy.rows("SELECT sum(rows_missing) FROM data_sync_logs").await, "0");
}

#[tokio::test]
async fn a_resync_brings_the_difference_over_and_the_table_stays_the_table_it_is() {
    let mut copy = users().await;
    copy.server
        .execute(
            "CREATE TABLE notes (id int PRIMARY KEY, owner int REFERENCES users, note text);
             CREATE VIEW named AS SELECT name FROM users;
             CREATE TABLE audit (id int, was xid);",
        )
        .await;
    copy.forge.relation("notes", &["id integer not null", "owner integer", "note text"], &["id"]);
    copy.forge.segment(&[vec![
        insert(1, "one"),
        insert(2, "two"),
        insert(3, "three"),
        r#"{"table":"notes","op":"INSERT","data":{"id":1,"owner":1,"note":"a"}}"#.into(),
    ]]);
    copy.applier(&["add-tables", "users", "notes"]).succeed().await;
    copy.sync(0).await;
    let oid = copy.rows("SELECT 'users'::regclass::oid").await;
    copy.server
        .execute(
            "ALTER TABLE notes DISABLE TRIGGER ALL; ALTER TABLE users DISABLE TRIGGER ALL;
             UPDATE users SET name = 'changed' WHERE id = 1; DELETE FROM users WHERE id = 2;
             INSERT INTO users VALUES (99, 'surplus'); INSERT INTO audit SELECT id, xmin FROM users;
             ALTER TABLE notes ENABLE TRIGGER ALL; ALTER TABLE users ENABLE TRIGGER ALL;",
        )
        .await;
    copy.forge.snapshot(&[("users", &["1\tone", "2\ttwo", "3\tthree"]), ("notes", &["1\t1\ta"])]);
    let done = copy.applier(&["resync", "users", "notes"]).succeed().await;
    assert!(done.stdout.contains("1 rows inserted, 1 updated, 1 deleted"), "{done}");
    assert!(done.stdout.contains("0 rows inserted, 0 updated, 0 deleted"), "{done}");
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,one 2,two 3,three");
    assert_eq!(copy.rows("SELECT 'users'::regclass::oid").await, oid);
    assert_eq!(copy.rows("SELECT count(*) FROM named").await, "3");
    // A row that was right was not written.
    assert_eq!(copy.rows("SELECT users.xmin = was FROM users JOIN audit USING (id) WHERE id = 3").await, "t");
    assert_eq!(copy.rows("SELECT users.xmin = was FROM users JOIN audit USING (id) WHERE id = 1").await, "f");
}

#[tokio::test]
async fn no_reader_ever_sees_the_table_empty_or_half_made() {
    let mut copy = users().await;
    let rows: Vec<String> = (1..=4000).map(|id| format!("{id}\tname {id}")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    copy.forge.segment(&[vec![insert(1, "x")]]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("INSERT INTO users SELECT i, 'old' FROM generate_series(2, 4000) i").await;
    copy.forge.snapshot(&[("users", &rows)]);
    let reader = copy.server.connect().await;
    let resync = copy.applier(&["resync", "users"]).succeed();
    tokio::pin!(resync);
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let row = reader
            .query_one("SELECT count(*), count(*) FILTER (WHERE name LIKE 'name %') FROM users", &[])
            .await
            .expect("readers are never locked out");
        seen.insert((row.get::<_, i64>(0), row.get::<_, i64>(1)));
        tokio::select! {
            biased;
            _ = &mut resync => break,
            () = tokio::task::yield_now() => {}
        }
    }
    seen.remove(&(4000, 4000));
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(4000, 0)]);
    assert_eq!(copy.rows("SELECT count(*) FROM users WHERE name = 'name ' || id").await, "4000");
}

#[tokio::test]
async fn rows_are_the_text_that_copy_prints() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE v (id int PRIMARY KEY, t text, n numeric, f float8, b bytea, a text[], extra text DEFAULT 'ours',
         twice numeric GENERATED ALWAYS AS (n * 2) STORED)",
    )
    .await;
    copy.forge.relation(
        "v",
        &[
            "id integer not null",
            "t text",
            "n numeric",
            "f double precision",
            "b bytea",
            "a text[]",
            "twice numeric generated",
        ],
        &["id"],
    );
    let rows = [
        "1\ta\\tb\\nc\\\\d\\r\t1.10\t-0\t\\\\x00ff\t{a,\"b c\",NULL}\t2.20",
        "2\t\\\\N\tNaN\t1e-310\t\\N\t\\N\tNaN",
        "3\t\t\\N\tInfinity\t\\\\x\t{}\t\\N",
    ];
    copy.forge.segment(&[vec![r#"{"table":"v","op":"INSERT","data":{"id":9}}"#]]);
    copy.forge.snapshot(&[("v", &rows)]);
    copy.applier(&["add-tables", "v", "--from", "snapshot"]).succeed().await;
    copy.sync(0).await;
    let found = copy
        .rows(
            "SELECT id, t = E'a\\tb\\nc\\\\d\\r' OR t = '\\N' OR t = '', n, f, b, a, extra, twice FROM v ORDER BY id",
        )
        .await;
    assert_eq!(
        found,
        r#"1,t,1.10,-0,\x00ff,{a,"b c",NULL},ours,2.20 2,t,NaN,1e-310,NULL,NULL,ours,NaN 3,t,NULL,Infinity,\x,{},ours,NULL"#
    );
}

#[tokio::test]
async fn tables_without_a_key_have_each_row_as_often_as_the_source() {
    let mut copy = LocalCopy::start("CREATE TABLE log (place box, image text, n numeric)").await;
    copy.forge.relation("log", &["place box", "image text", "n numeric"], &[]);
    copy.forge.segment(&[vec![r#"{"table":"log","op":"INSERT","data":{"image":"x"}}"#]]);
    copy.applier(&["add-tables", "log"]).succeed().await;
    copy.sync(0).await;
    copy.server
        .execute(
            "TRUNCATE log; INSERT INTO log VALUES (NULL, 'a', 1.0), (NULL, 'a', 1.0), (NULL, 'a', 1.0), \
             ('(1,1),(0,0)', 'b', 1.00), (NULL, NULL, NULL)",
        )
        .await;
    // A box of the same area is another box, 1.0 is not 1.00, and of three equal rows two stay.
    let rows = ["\\N\ta\t1.0", "\\N\ta\t1.0", "(2,0.5),(0,0)\tb\t1.0", "\\N\t\t\\N", "\\N\t\\N\t\\N"];
    copy.forge.snapshot(&[("log", &rows)]);
    let done = copy.applier(&["resync", "log"]).succeed().await;
    assert!(done.stdout.contains("2 rows inserted, 0 updated, 2 deleted"), "{done}");
    assert_eq!(
        copy.rows("SELECT place::text, image, n::text FROM log ORDER BY 1, 2, 3").await,
        "(2,0.5),(0,0),b,1.0 NULL,,NULL NULL,a,1.0 NULL,a,1.0 NULL,NULL,NULL"
    );
}

#[tokio::test]
async fn values_that_changed_places_and_identities_are_brought_over() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE u (id int PRIMARY KEY, code text UNIQUE);
         CREATE TABLE i (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text);
         CREATE TABLE c (id numeric PRIMARY KEY, v text)",
    )
    .await;
    copy.forge.relation("u", &["id integer not null", "code text"], &["id"]);
    copy.forge.relation("i", &["id integer not null", "n integer not null always", "v text"], &["id"]);
    copy.forge.relation("c", &["id numeric not null", "v text"], &["id"]);
    copy.forge.segment(&[vec![
        r#"{"table":"u","op":"INSERT","data":{"id":1,"code":"x"}}"#,
        r#"{"table":"i","op":"INSERT","data":{"id":1,"n":7,"v":"x"}}"#,
        r#"{"table":"c","op":"INSERT","data":{"id":1.0,"v":"x"}}"#,
    ]]);
    copy.applier(&["add-tables", "u", "i", "c"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("INSERT INTO u VALUES (2, 'y'); INSERT INTO c VALUES (2.0, 'two')").await;
    copy.forge.snapshot(&[
        ("u", &["1\ty", "2\tx"]),
        ("i", &["1\t8\tx", "2\t9\ty"]),
        ("c", &["1.00\tx", "2.0\ttwo"]),
    ]);
    copy.applier(&["resync", "--all"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM u ORDER BY id").await, "1,y 2,x");
    assert_eq!(copy.rows("SELECT * FROM i ORDER BY id").await, "1,8,x 2,9,y");
    assert_eq!(copy.rows("SELECT * FROM c ORDER BY id").await, "1.00,x 2.0,two");
}

#[tokio::test]
async fn a_snapshot_that_the_archive_does_not_cover_yet_is_waited_for() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1, "one")]]);
    let ahead = Lsn::from_u64(copy.forge.position().as_u64() + 0x180);
    let xid = u64::from(copy.forge.next_xid());
    let seen = Seen { xmin: xid + 1, xmax: xid + 1, xip: Vec::new() };
    copy.forge.snapshot_between(ahead, ahead, seen, &[("users", &["1\tone", "2\ttwo"])]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    let said = copy.sync(0).await;
    assert!(said.contains("waits until the archive covers snapshot"), "{said}");
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "0");
    copy.forge.segment(&[vec![insert(2, "two")], vec![insert(3, "three")]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,one 2,two 3,three");
}

#[tokio::test]
async fn a_gap_is_mended_by_a_newer_snapshot_and_by_no_older_one() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1, "one")]]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.sync(0).await;
    copy.forge.snapshot(&[("users", &["1\told"])]);
    copy.forge.gap(&["users"]);
    copy.forge.segment(&[vec![insert(2, "two")]]);
    copy.sync(1).await;
    assert_eq!(state(&copy, "users").await, "stale");
    let older = copy.applier(&["resync", "users"]).run().await.expect_code(1);
    assert!(older.stdout.contains("a base that is newer is needed"), "{older}");
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,one");
    assert_eq!(state(&copy, "users").await, "stale");
    copy.forge.snapshot(&[("users", &["1\tlost", "2\ttwo"])]);
    copy.applier(&["resync", "users"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,lost 2,two");
    copy.forge.segment(&[vec![insert(3, "three")]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "3");
}

#[tokio::test]
async fn a_table_that_cannot_hold_its_base_is_left_as_it_is() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE users (id int PRIMARY KEY, name varchar(3)); CREATE TABLE t (id int PRIMARY KEY, v text CHECK (v <> 'bad'))",
    )
    .await;
    copy.forge.relation("users", USERS, &["id"]);
    copy.forge.relation("t", &["id integer not null", "v text"], &["id"]);
    copy.forge.segment(&[vec![r#"{"table":"t","op":"INSERT","data":{"id":1,"v":"good"}}"#]]);
    copy.forge.snapshot(&[("users", &["1\tlonger"]), ("t", &["1\tbad"])]);
    copy.applier(&["add-tables", "users", "t"]).succeed().await;
    let said = copy.sync(1).await;
    assert!(said.contains("users: quarantined"), "{said}");
    assert!(said.contains("ALTER COLUMN \"name\" TYPE text"), "{said}");
    assert!(said.contains("t: quarantined"), "{said}");
    assert_eq!(copy.rows("SELECT count(*) FROM t").await, "0");
    // Nothing is tried again and again: not before somebody has mended it and says so.
    assert!(!copy.sync(1).await.contains("loaded"));
    copy.server
        .execute("ALTER TABLE users ALTER COLUMN name TYPE text; ALTER TABLE t DROP CONSTRAINT t_v_check")
        .await;
    let retried = copy.applier(&["retry", "users", "t"]).succeed().await;
    assert!(retried.stdout.contains("loaded users from snapshot"), "{retried}");
    assert_eq!(copy.rows("SELECT * FROM users, t").await, "1,longer,1,bad");
}

#[tokio::test]
async fn a_resync_ends_a_quarantine() {
    let mut copy = users().await;
    copy.server.execute("ALTER TABLE users ADD CHECK (name <> 'bad')").await;
    copy.forge.segment(&[vec![insert(1, "one")], vec![insert(2, "bad")]]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.sync(1).await;
    assert_eq!(state(&copy, "users").await, "quarantined");
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_quarantine").await, "1");
    copy.forge.segment(&[vec![update(2, "good")]]);
    copy.forge.snapshot(&[("users", &["1\tone", "2\tgood"])]);
    copy.sync(1).await;
    copy.applier(&["resync", "users"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,one 2,good");
    assert_eq!(state(&copy, "users").await, "live");
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_quarantine WHERE resolved_at IS NULL").await, "0");
}

#[tokio::test]
async fn tables_that_are_loaded_one_after_the_other_lend_each_other_no_types() {
    const ROWS: u32 = 600;
    let mut copy = LocalCopy::start(
        "CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, v text)",
    )
    .await;
    copy.forge.relation("a", &["id integer not null", "v integer"], &["id"]);
    copy.forge.relation("b", &["id integer not null", "v text"], &["id"]);
    let rows: Vec<String> = (1..=ROWS).map(|id| format!("{id}\t0")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    // A base each, and after it so many changes that they are staged.
    copy.forge.segment(&[vec![r#"{"table":"a","op":"INSERT","data":{"id":0,"v":0}}"#]]);
    copy.forge.snapshot(&[("a", &rows)]);
    copy.forge.segment(&[vec![r#"{"table":"b","op":"INSERT","data":{"id":0,"v":"0"}}"#]]);
    copy.forge.snapshot(&[("b", &rows)]);
    let change = |table: &str, id: u32, value: &str| {
        format!(r#"{{"table":"{table}","op":"UPDATE","data":{{"v":{value}}},"old_keys":{{"id":{id}}}}}"#)
    };
    let changes = (1..=ROWS).flat_map(|id| [change("a", id, "1"), change("b", id, "\"007\"")]);
    copy.forge.segment(&[changes.collect::<Vec<_>>()]);
    copy.applier(&["add-tables", "a", "b"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT v, count(*) FROM a GROUP BY v").await, "1,600");
    assert_eq!(copy.rows("SELECT v, count(*) FROM b GROUP BY v").await, "007,600");
}

#[tokio::test]
async fn a_table_without_columns_is_loaded_too() {
    let world = WorldOptions::default().without_sftp().start().await;
    world.execute_on_both("CREATE TABLE nothing ()").await;
    let two = "INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES";
    world.source.execute(two).await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.source.execute("INSERT INTO nothing DEFAULT VALUES").await;
    world.archiver(["run", "--once"]).succeed().await;
    let rows = "SELECT count(*) FROM nothing";
    // Rows that are too many go, those that are missing come.
    for before in ["0", "7"] {
        world
            .target
            .execute(&format!(
                "DELETE FROM nothing; INSERT INTO nothing SELECT FROM generate_series(1, {before})"
            ))
            .await;
        world.applier(["add-tables", "nothing"]).run().await;
        world.applier(["resync", "nothing"]).succeed().await;
        assert_eq!(world.target.value(rows).await, "3", "there were {before}");
        world.applier(["remove-tables", "nothing"]).succeed().await;
    }
}
