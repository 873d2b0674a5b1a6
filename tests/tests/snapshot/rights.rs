//! A copy is complete or it is not made.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process;
use std::time::Duration;

use syncdata_tests::WorldOptions;
use syncdata_tests::process::Account;

use crate::scene::{self, files, lines, newest, refused};

const TABLES: &str = "CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users VALUES (1), (2);
    CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY, buyer text)";

#[tokio::test]
async fn a_table_that_may_not_be_read_is_refused_with_the_statements_that_allow_it() {
    let world = WorldOptions::default().without_sftp().start().await;
    world.source.execute(TABLES).await;
    world.source.execute(scene::SLOT).await;
    world.source.execute("REVOKE pg_read_all_data FROM syncdata_user").await;
    let run = refused(&world, &[]).await;
    for statement in [
        "GRANT SELECT ON \"public\".\"users\" TO \"syncdata_user\";",
        "GRANT USAGE ON SCHEMA \"sales\" TO \"syncdata_user\";",
        "GRANT SELECT ON \"sales\".\"orders\" TO \"syncdata_user\";",
    ] {
        assert!(run.stderr.contains(statement), "{run}");
        world.source.execute(statement).await;
    }
    scene::take(&world).await;
    assert_eq!(lines(world.archive_dir(), &newest(world.archive_dir()), "users"), ["1", "2"]);
}

#[tokio::test]
async fn row_level_security_that_would_hide_rows_is_refused() {
    let world = scene::world(TABLES).await;
    world
        .source
        .execute(
            "ALTER ROLE syncdata_user NOBYPASSRLS; ALTER TABLE users ENABLE ROW LEVEL SECURITY;
             CREATE POLICY first_row ON users USING (id = 1)",
        )
        .await;
    let run = refused(&world, &["--tables", "users"]).await;
    assert!(run.stderr.contains("row level security would hide rows of users"), "{run}");
    assert!(run.stderr.contains("ALTER ROLE \"syncdata_user\" BYPASSRLS;"), "{run}");
    assert!(files(world.archive_dir()).is_empty(), "{run}");
    // The others are copied, and nobody takes the copy for a whole one.
    let run = world.archiver(["snapshot"]).run().await.expect_code(1);
    assert!(run.stderr.contains("left out: users: row level security would hide rows of users"), "{run}");
    let tables = newest(world.archive_dir()).tables.into_keys().map(|table| table.to_string());
    assert_eq!(tables.collect::<Vec<_>>(), ["sales.orders"]);
    world.source.execute("ALTER ROLE syncdata_user BYPASSRLS").await;
    scene::take(&world).await;
    assert_eq!(lines(world.archive_dir(), &newest(world.archive_dir()), "users"), ["1", "2"]);
}

#[tokio::test]
async fn names_that_match_nothing_that_is_captured_are_refused() {
    let mut world = scene::world(TABLES).await;
    world.set_archiver("tables", vec!["users"]);
    for (tables, says) in
        [("orders", "orders is no table"), ("sales.orders", "add the table to `tables`"), ("users,", "list")]
    {
        let run = refused(&world, &["--tables", tables]).await;
        assert!(run.stderr.contains(says), "{run}");
    }
    let taken = scene::take_with(&world, &["--tables", "users"]).await;
    assert_eq!(taken["tables"], 1);
    world.set_archiver("tables", vec!["*"]);
    let taken = scene::take_with(&world, &["--tables", "sales.*", "users"]).await;
    assert_eq!(taken["tables"], 2);
}

/// One table must not keep the others from being copied, whatever is wrong with it.
#[tokio::test]
async fn a_table_that_cannot_be_read_is_left_out_and_the_others_are_copied() {
    let mut world = scene::world(
        "CREATE TABLE closed (id int PRIMARY KEY); CREATE TABLE broken (id int);
         INSERT INTO broken VALUES (1); CREATE TABLE sound (id int PRIMARY KEY); INSERT INTO sound VALUES (1), (2)",
    )
    .await;
    world
        .source
        .execute("REVOKE pg_read_all_data FROM syncdata_user; GRANT SELECT ON broken, sound TO syncdata_user")
        .await;
    world.archiver(["run", "--once"]).succeed().await;
    let file = world.source.value("SELECT pg_relation_filepath('broken')").await;
    world.source.execute("CHECKPOINT").await;
    fs::remove_file(world.source.data_folder().join(file)).expect("it is there");
    // The server that has it open or in its cache does not know yet.
    world.source.crash();
    world.source.resume().await;
    let run = world.archiver(["snapshot", "--json"]).run().await.expect_code(1);
    let left = run.json()["left_out"].clone();
    let left: Vec<&str> =
        left.as_array().expect("a list").iter().filter_map(|left| left["table"].as_str()).collect();
    assert_eq!(left, ["closed", "broken"], "{run}");
    assert!(
        run.stderr.contains("left out: broken: ") && run.stderr.contains("closed may not be read"),
        "{run}"
    );
    assert_eq!(lines(world.archive_dir(), &newest(world.archive_dir()), "sound"), ["1", "2"]);
}

/// Its rows are there, in whatever order.
#[tokio::test]
async fn a_table_whose_key_has_a_broken_index_is_read_as_it_lies() {
    let mut world = scene::world(
        "CREATE TABLE items (id int PRIMARY KEY, text text); INSERT INTO items SELECT i, 'x' FROM generate_series(1, 5000) i;
         CREATE TABLE only_key (id int PRIMARY KEY); INSERT INTO only_key SELECT generate_series(1, 5000)",
    )
    .await;
    world.archiver(["run", "--once"]).succeed().await;
    for settle in ["VACUUM items", "VACUUM only_key", "CHECKPOINT"] {
        world.source.execute(settle).await;
    }
    for index in ["items_pkey", "only_key_pkey"] {
        let file = world.source.value(&format!("SELECT pg_relation_filepath('{index}')")).await;
        let path = world.source.data_folder().join(file);
        let bytes = fs::metadata(&path).expect("it is there").len();
        fs::write(&path, vec![0x5a; usize::try_from(bytes).expect("small")]).expect("ours");
    }
    world.source.crash();
    world.source.resume().await;
    let run = world.archiver(["snapshot", "--json"]).run().await.expect_code(0);
    assert!(run.stderr.contains("is read as it lies"), "{run}");
    for table in ["items", "only_key"] {
        assert_eq!(lines(world.archive_dir(), &newest(world.archive_dir()), table).len(), 5000);
    }
}

/// Columns that an index only carries along are no part of the key, and may have no order at all.
#[tokio::test]
async fn columns_that_a_key_includes_are_not_the_key() {
    let world = scene::world(
        "CREATE TABLE places (id int, spot point, name text, PRIMARY KEY (id) INCLUDE (spot, name));
         INSERT INTO places VALUES (2, '(1,2)', 'b'), (1, '(3,4)', 'a')",
    )
    .await;
    scene::take(&world).await;
    let manifest = newest(world.archive_dir());
    assert_eq!(lines(world.archive_dir(), &manifest, "places"), ["1\t(3,4)\ta", "2\t(1,2)\tb"]);
    let copy = &manifest.tables[&"places".parse().expect("a name")];
    assert_eq!(copy.relation.key, ["id"]);
    assert_eq!(copy.parts[0].first_key.as_deref(), Some("1"));
}

/// The spool is closed to them. (The socket is open to the group where there is one; here to all.)
#[tokio::test]
async fn a_member_of_the_daemons_group_has_it_taken_by_the_daemon() {
    const ROWS: &str = "CREATE TABLE many (id int PRIMARY KEY, text text);
        INSERT INTO many SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i";
    let world = scene::world(TABLES).await;
    world.source.execute(ROWS).await;
    let set_mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
    set_mode(world.folder(), 0o755);
    let folder = world.archiver_config().parent().expect("a folder");
    set_mode(folder, 0o755);
    set_mode(world.archiver_config(), 0o644);
    set_mode(world.archive_dir().parent().expect("a folder"), 0o755);
    // A backup host's account has the same rights, whoever uses its key.
    let open_archive = || {
        let chmod = process::Command::new("chmod").args(["-R", "a+rwX"]).arg(world.archive_dir()).status();
        assert!(chmod.expect("it is there").success());
    };
    let command = |arguments: &[&str]| world.archiver(arguments).account(Account::unprivileged());
    let member = |arguments: &[&str]| command(&[&["snapshot"], arguments].concat());
    world.archiver(["run", "--once"]).succeed().await;
    let daemon = scene::daemon(&world).await;
    let runtime = folder.join("run");
    for entry in fs::read_dir(&runtime).expect("a folder").flatten() {
        set_mode(&entry.path(), 0o666);
    }
    set_mode(&runtime, 0o755);
    // What the spool remembers, the daemon tells.
    let told = command(&["setup"]).succeed().await;
    assert!(told.stderr.contains("only a snapshot has the rows that were there before: users\n"), "{told}");
    open_archive();
    let told = command(&["check", "--deep"]).run().await.stdout;
    assert!(told.contains("ok    spool: ") && told.contains(", up to "), "{told}");
    assert!(!told.contains("fail"), "{told}");

    let taken = member(&["--tables", "many,sales.*", "--json"]).succeed().await.json();
    assert_eq!((&taken["tables"], &taken["rows"]), (&2.into(), &5000.into()), "{taken}");
    assert_eq!(taken["id"], newest(world.archive_dir()).id.as_str());
    let unknown = member(&["--tables", "nothing"]).run().await.expect_code(2);
    assert!(unknown.stderr.contains("nothing is no table"), "{unknown}");

    open_archive();
    let taken = command(&["setup", "--snapshot", "--json"]).succeed().await.json();
    assert_eq!((&taken["snapshot"]["tables"], &taken["snapshot"]["rows"]), (&1.into(), &2.into()), "{taken}");
    open_archive();
    let told = command(&["setup"]).succeed().await;
    assert!(!told.stderr.contains("only a snapshot"), "{told}");

    // Who does not wait any more gets none, and holds up nobody.
    let slow = member(&["--rate", "1KiB"]).spawn();
    let reads =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'syncdata-archiver snapshot'";
    while world.source.value(reads).await != "t" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    slow.kill().await;
    let taken = scene::take(&world).await;
    assert_eq!(taken["rows"], 5002);
    // Where somebody's settings name another spool, the daemon works in its own, and nobody begins a second one.
    let second = world.folder().join("second");
    let elsewhere = |arguments: &[&str]| {
        world.archiver(arguments).env("SYNCDATA_SPOOL_DIR", second.to_str().expect("plain"))
    };
    elsewhere(&["snapshot"]).succeed().await;
    let told = elsewhere(&["check"]).run().await;
    assert!(told.stdout.contains("never used"), "{told}");
    // A daemon of another archive is none that could be asked.
    let other = world.folder().join("other");
    let refused = elsewhere(&["snapshot"]).env("SYNCDATA_ARCHIVE_DIR", &other).run().await.expect_code(2);
    assert!(refused.stderr.contains("another archive than the settings: archive_dir"), "{refused}");
    daemon.stop().await;
    for arguments in
        [&["snapshot"][..], &["setup", "--snapshot"], &["setup", "--switch-source", "pgoutput"], &["proof"]]
    {
        let refused = elsewhere(arguments).run().await.expect_code(2);
        assert!(refused.stderr.contains("is new, and the archive"), "{refused}");
    }
    assert!(!second.exists());
    let refused = member(&[]).run().await.expect_code(2);
    assert!(refused.stderr.contains("belongs to user") && refused.stderr.contains("sudo -u"), "{refused}");
    // As where systemd keeps it.
    let private = folder.join("private");
    fs::create_dir(&private).expect("ours");
    fs::rename(world.spool_dir(), private.join("spool")).expect("ours");
    std::os::unix::fs::symlink(private.join("spool"), world.spool_dir()).expect("ours");
    set_mode(&private, 0o700);
    let told = command(&["setup"]).run().await.expect_code(1);
    assert!(told.stderr.contains("fail  tables: ") && told.stderr.contains("systemctl start"), "{told}");
    let refused = member(&[]).run().await.expect_code(2);
    assert!(refused.stderr.contains("belongs to another account, and no daemon answers"), "{refused}");
    assert!(refused.stderr.contains("with sudo"), "{refused}");
}
