//! Base copies and proofs: both stand exactly where a batch ends, while production writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use syncdata_tests::world::World;

use crate::copy::{follow, world};
use crate::troubles::gaps;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE);
    CREATE TABLE p (a int, b text, PRIMARY KEY (a)) PARTITION BY RANGE (a);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (500); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (500) TO (2000)";

/// Two sessions that write until they are told to stop.
async fn while_written(world: &World, what: impl AsyncFnOnce()) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut sessions = Vec::new();
    for number in 0..2 {
        let (client, stop) = (world.source.connect().await, Arc::clone(&stop));
        sessions.push(tokio::spawn(async move {
            for round in 0.. {
                let id = (round * 7 + number) % 900;
                let sql = format!(
                    "BEGIN; DELETE FROM t WHERE id = {id}; UPDATE p SET a = 1999 - a WHERE a IN ({id}, 1999 - {id}) AND {number} = 0; COMMIT;
                     INSERT INTO t VALUES ({id}, '{number} ' || {round}) ON CONFLICT (id) DO UPDATE SET v = excluded.v;
                     INSERT INTO t VALUES ({round} % 50 + 5000, NULL) ON CONFLICT (id) DO NOTHING; DELETE FROM t WHERE id = ({round} + 25) % 50 + 5000"
                );
                client.batch_execute(&sql).await.expect("ours");
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        }));
    }
    what().await;
    stop.store(true, Ordering::Relaxed);
    for session in sessions {
        session.await.expect("it ends");
    }
}

async fn assert_proved(world: &World) {
    let status = world.applier(["consistency", "status", "--json"]).run().await.expect_code(0).json();
    let tables = status["tables"].as_array().expect("tables").clone();
    assert_eq!(tables.len(), 2, "{tables:?}");
    for table in tables {
        assert_eq!(table["verdict"], "equal", "{table}");
    }
}

#[tokio::test]
async fn base_copies_and_proofs_stand_where_a_batch_ends() {
    let world = world(TABLES).await;
    world
        .source
        .execute(
            "INSERT INTO t SELECT i, 'old ' || i FROM generate_series(0, 999) i; INSERT INTO p SELECT i, md5(i::text) FROM generate_series(0, 999) i;
             UPDATE syncdata.reader SET snapshot = pg_current_snapshot()::text",
        )
        .await;
    // Of these rows nothing was noted, as of rows from before the triggers.
    world.source.execute("DELETE FROM syncdata.changes_0").await;
    let open = world.source.connect().await;
    open.batch_execute("BEGIN; UPDATE t SET v = 'late' WHERE id = 990").await.expect("ours");
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "t", "p"]).succeed().await;
    while_written(&world, async || {
        // Nobody waits for the transaction that stays open.
        world.archiver(["snapshot"]).succeed().await;
        world.archiver(["run", "--once"]).succeed().await;
        world.applier(["resync", "--all"]).succeed().await;
        world.applier(["sync"]).succeed().await;
        world.archiver(["proof"]).succeed().await;
        world.archiver(["run", "--once"]).succeed().await;
        world.applier(["sync"]).succeed().await;
        assert_proved(&world).await;
    })
    .await;
    open.batch_execute("COMMIT").await.expect("ours");
    world.archiver(["proof"]).succeed().await;
    world.carry().await;
    world.assert_same(&["t", "p"]).await;
    assert_proved(&world).await;
    assert_eq!(gaps(&world), BTreeSet::new());

    // What is missing is mended by a base that is newer.
    world.source.execute("TRUNCATE p1").await;
    assert_eq!(world.archiver(["run", "--once"]).run().await.code(), Some(1));
    world.archiver(["snapshot", "--tables", "p"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).run().await;
    world.applier(["resync", "p"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["t", "p"]).await;
}

/// A standby takes over, and then a copy of its disk from before what was archived since.
#[tokio::test]
async fn production_that_went_back_has_diverged_and_goes_on_where_it_is_told() {
    let mut world =
        world("CREATE TABLE users (id int PRIMARY KEY, name text); CREATE TABLE beside (id int)").await;
    world.set_archiver("tables", vec!["users", "steady"]);
    follow(&world, &["users"]).await;
    world.source.execute("INSERT INTO users VALUES (1, 'before')").await;
    world.carry().await;
    let mut after = world.source.copied(true).await;
    after.execute("GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO syncdata_user").await;
    // What nobody captures may be lost.
    world.source.execute("INSERT INTO beside SELECT generate_series(1, 20000)").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.set_archiver("pg_port", i64::from(after.port()));
    after.execute("UPDATE users SET name = 'after' WHERE id = 1; INSERT INTO users VALUES (2, 'new')").await;
    world.carry().await;
    let names = "SELECT string_agg(name, ',' ORDER BY id) FROM users";
    assert_eq!(world.target.value(names).await, "after,new");

    let back = after.copied(false).await;
    after.execute("DELETE FROM users WHERE id = 1").await;
    world.carry().await;
    assert_eq!(world.target.value(names).await, "new");
    // By its WAL it could have all of that.
    back.execute(
        "INSERT INTO users VALUES (3, 'other'); INSERT INTO beside SELECT generate_series(1, 90000)",
    )
    .await;
    world.set_archiver("pg_port", i64::from(back.port()));
    for _ in 0..2 {
        let diverged = world.archiver(["run", "--once"]).run().await;
        assert_eq!(diverged.code(), Some(2), "{diverged}");
        assert!(
            diverged.stderr.contains("diverged") && diverged.stderr.contains("its notes were read"),
            "{diverged}"
        );
    }
    let declare = async |upto: &str| {
        world.archiver(["declare-gap", "--upto", upto, "--reason", "the disk of the morning"]).run().await
    };
    let wal = back.value("SELECT pg_current_wal_flush_lsn()").await;
    let refused = declare(&wal).await;
    let (_, upto) = refused.stderr.split_once("use --upto ").unwrap_or_else(|| panic!("{refused}"));
    let upto: String = upto.chars().take_while(|at| at.is_ascii_hexdigit() || *at == '/').collect();
    declare(&upto).await.expect_code(0);
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).run().await;
    world.applier(["resync", "--all"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    assert_eq!(world.target.value(names).await, "after,new,other");
}
