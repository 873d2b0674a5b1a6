//! What ends the stream, and what a stream does not say: polls go on, and gaps are those of polls.

use std::collections::BTreeSet;

use syncdata_tests::World;
use syncdata_tests::proxy::{Direction, Proxy};
use syncdata_tests::workload::TABLES;
use syncdata_tests::world::Plugin;

use crate::follow::{FOLLOWED, carried, follower, options, senders, until, with_workload, world};
use crate::{operator, replay, scene};

const CANCEL: &str = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_replication";

#[tokio::test]
async fn a_stream_that_the_server_ends_is_begun_again() {
    let (world, mut workload) = with_workload(options(Plugin::Pgoutput)).await;
    let daemon = follower(&world).await;
    for n in 1..=4 {
        workload.run(&world.source, 10).await;
        assert_eq!(world.source.value(CANCEL).await, "1");
        workload.run(&world.source, 10).await;
        carried(&world, n).await;
        until("it is followed again", async || senders(&world).await == "1").await;
    }
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world), Vec::<serde_json::Value>::new());
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn a_connection_that_is_cut_in_the_middle_loses_and_repeats_nothing() {
    let (mut world, mut workload) = with_workload(options(Plugin::Wal2json)).await;
    let proxy = Proxy::start(([127, 0, 0, 1], world.source.port()).into());
    world.set_archiver("pg_host", "127.0.0.1");
    world.set_archiver("pg_port", i64::from(proxy.port()));
    let daemon = follower(&world).await;
    for n in 1..=6 {
        proxy.cut_after(Direction::Down, 3000 * u64::from(n));
        while proxy.cut_is_due() {
            workload.run(&world.source, 5).await;
        }
        workload.run(&world.source, 5).await;
        carried(&world, n).await;
    }
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world), Vec::<serde_json::Value>::new());
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn who_would_become_a_synchronous_standby_polls_instead() {
    let options = options(Plugin::Wal2json).source(|server| {
        server.setting("synchronous_standby_names", "*").setting("synchronous_commit", "local")
    });
    let world = world(options, "").await;
    let mut daemon = world.archiver(["run"]).spawn();
    daemon.says("would make us a synchronous standby").await;
    assert_eq!(senders(&world).await, "0");
    world.source.execute("INSERT INTO marks VALUES (0)").await;
    assert_eq!(operator::poll(&world).await.exit_code, 0);
    let follow = operator::status(&world).await["follow"].to_string();
    assert!(follow.contains("polls: ") && follow.contains("synchronous_standby_names"), "{follow}");
    let check = world.archiver(["check"]).run().await.expect_code(1);
    assert!(check.stdout.contains("synchronous_standby_names = '*'"), "{check}");

    set(&world, "synchronous_standby_names", "''").await;
    let check = world.archiver(["check"]).run().await;
    assert!(!check.stdout.contains("synchronous_standby_names"), "{check}");
    assert_eq!(operator::poll(&world).await.exit_code, 0);
    daemon.says(FOLLOWED).await;
    carried(&world, 1).await;
    // While it is followed, too: the next commit ends it.
    set(&world, "synchronous_standby_names", "'FIRST 1 (a, \"syncdata-archiver follow\")'").await;
    carried(&world, 2).await;
    until("nobody reads the stream", async || senders(&world).await == "0").await;
    daemon.stop().await.expect_code(0);
}

async fn set(world: &World, name: &str, value: &str) {
    world.source.execute(&format!("ALTER SYSTEM SET {name} = {value}")).await;
    world.source.execute("SELECT pg_reload_conf()").await;
    let wanted = value.trim_matches('\'').to_owned();
    until("the setting holds", async || world.source.value(&format!("SHOW {name}")).await == wanted).await;
}

#[tokio::test]
async fn a_check_beside_a_follower_finds_nothing_wrong() {
    for plugin in [Plugin::Wal2json, Plugin::Pgoutput] {
        let world = world(options(plugin), "").await;
        let daemon = follower(&world).await;
        let check = world.archiver(["check"]).run().await;
        assert!(check.stdout.contains("is followed just now"), "{check}");
        assert!(!check.stdout.contains("fail"), "{check}");
        // A command's poll, too, has its answer from the stream.
        let poll = world.archiver(["run", "--once"]).run().await.expect_code(0);
        assert!(!poll.stderr.contains("in use"), "{poll}");
        assert_eq!(senders(&world).await, "1");
        daemon.stop().await.expect_code(0);
    }
}

#[tokio::test]
async fn a_second_archiver_is_refused_beside_a_follower() {
    let world = world(options(Plugin::Wal2json), "").await;
    let daemon = follower(&world).await;
    let spool = world.folder().join("second");
    let path = scene::settings(
        &world,
        "second.toml",
        &[("spool_dir", spool.to_str().expect("text")), ("slot_name", "syncdata_slot")],
    );
    let second = world.archiver(["--config", path.to_str().expect("text"), "run", "--once"]);
    let second =
        second.env("XDG_RUNTIME_DIR", world.folder()).env("RUNTIME_DIRECTORY", world.folder()).run().await;
    assert_ne!(second.code(), Some(0), "{second}");
    carried(&world, 1).await;
    daemon.stop().await.expect_code(0);
}

/// Gaps that are found by looks at the catalog, and by what the server says.
async fn gaps(plugin: Plugin) -> BTreeSet<String> {
    let tables = "CREATE TABLE plain (id int PRIMARY KEY, v text);
        CREATE TABLE keyless (id int, v int);
        CREATE TABLE parted (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
        CREATE TABLE elsewhere (id int PRIMARY KEY, v int)";
    let world = world(options(plugin), tables).await;
    world
        .source
        .execute(
            "INSERT INTO elsewhere VALUES (100, 1);
             INSERT INTO plain VALUES (1, '1'), (2, '2');
             INSERT INTO keyless VALUES (1, 1);
             INSERT INTO parted VALUES (1, 1), (2, 2)",
        )
        .await;
    world.archiver(["run", "--once"]).run().await;
    let daemon = follower(&world).await;
    let steps = [
        "TRUNCATE plain; INSERT INTO plain VALUES (3, '3')",
        "ALTER TABLE parted ATTACH PARTITION elsewhere FOR VALUES FROM (100) TO (200)",
        "TRUNCATE parted_1",
        "INSERT INTO parted VALUES (5, 5)",
        "ALTER TABLE plain ALTER v TYPE int USING v::int * 2",
        "INSERT INTO plain VALUES (4, 4)",
        "ALTER TABLE plain RENAME TO renamed; CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1)",
    ];
    let keyless = "UPDATE keyless SET v = 2";
    let steps = steps.into_iter().chain((plugin == Plugin::Wal2json).then_some(keyless));
    for (n, sql) in steps.enumerate() {
        world.source.execute(sql).await;
        carried(&world, u32::try_from(n).expect("a few")).await;
    }
    operator::poll(&world).await;
    until("it is followed", async || senders(&world).await == "1").await;
    daemon.stop().await.expect_code(0);
    scene::gaps_with_reasons(&world)
}

/// DDL stands in transactions that change no row. What they are between tells what may be believed.
#[tokio::test]
async fn transactions_without_rows_count_in_the_stream_too() {
    let tables = "CREATE TABLE parted (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
        CREATE TABLE exact (id int PRIMARY KEY, v int); CREATE TABLE hidden (id int PRIMARY KEY, v int);
        INSERT INTO exact VALUES (1, 1); INSERT INTO hidden VALUES (1, 1)";
    let world = world(options(Plugin::Wal2json), tables).await;
    let daemon = follower(&world).await;
    world.source.execute("CREATE TABLE part (id int PRIMARY KEY, v int)").await;
    carried(&world, 1).await;
    for sql in [
        "ALTER TABLE parted ATTACH PARTITION part FOR VALUES FROM (0) TO (100)",
        "INSERT INTO parted VALUES (5, 5)",
        "BEGIN; SAVEPOINT s; TRUNCATE exact; RELEASE s; COMMIT",
        "BEGIN; SAVEPOINT s; TRUNCATE hidden; RELEASE s; COMMIT",
        "ALTER TABLE hidden SET UNLOGGED",
        "INSERT INTO hidden VALUES (2, 2)",
        "BEGIN; SAVEPOINT s; ALTER TABLE hidden SET LOGGED; RELEASE s; COMMIT",
    ] {
        world.source.execute(sql).await;
    }
    carried(&world, 2).await;
    operator::poll(&world).await;
    daemon.stop().await.expect_code(0);
    let gaps = scene::gaps_with_reasons(&world);
    assert!(!gaps.iter().any(|gap| gap.starts_with("parted") || gap.starts_with("exact")), "{gaps:?}");
    assert!(gaps.iter().any(|gap| gap.starts_with("hidden")), "{gaps:?}");
}

#[tokio::test]
async fn gaps_are_declared_as_by_polls() {
    let found = gaps(Plugin::Wal2json).await;
    let has =
        |table: &str, words: &str| found.iter().any(|gap| gap.starts_with(table) && gap.contains(words));
    assert!(has("plain: ", "rewritten by ALTER TABLE"), "{found:#?}");
    assert!(has("parted: ", "partition changed"), "{found:#?}");
    assert!(has("plain: ", "another table of this name"), "{found:#?}");
    assert!(has("keyless: ", ""), "{found:#?}");
}

#[tokio::test]
async fn gaps_are_declared_as_by_polls_through_pgoutput() {
    let found = gaps(Plugin::Pgoutput).await;
    let has =
        |table: &str, words: &str| found.iter().any(|gap| gap.starts_with(table) && gap.contains(words));
    assert!(has("plain: ", "rewritten by ALTER TABLE"), "{found:#?}");
    assert!(has("parted: ", "partition changed"), "{found:#?}");
    assert!(has("plain: ", "another table of this name"), "{found:#?}");
}

#[tokio::test]
async fn wal2json_of_a_database_in_another_encoding_is_not_followed() {
    for (plugin, is_followed) in [(Plugin::Wal2json, false), (Plugin::Pgoutput, true)] {
        let mut world = options(plugin).start().await;
        let database = "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
        world.source.execute(database).await;
        world.source.use_database("latin");
        world.set_archiver("pg_database", "latin");
        world
            .source
            .execute(
                "CREATE TABLE marks (id int PRIMARY KEY); CREATE TABLE words (id int PRIMARY KEY, v text)",
            )
            .await;
        world.make_slot().await;
        let mut daemon = world.archiver(["run"]).spawn();
        let words =
            if is_followed { FOLLOWED } else { "wal2json's stream has the database's encoding, LATIN1" };
        daemon.says(words).await;
        // As UTF-8 these bytes would be another word.
        world.source.execute("INSERT INTO words VALUES (1, 'Ã©tÃ©')").await;
        if is_followed {
            carried(&world, 1).await;
        } else {
            assert_eq!(operator::poll(&world).await.exit_code, 0);
            world.archiver(["check"]).run().await.expect_code(1);
        }
        replay::assert_equals(world.archive_dir(), &world.source, &["words"]).await;
        daemon.stop().await.expect_code(0);
    }
}
