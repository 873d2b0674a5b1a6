//! The test world itself: its servers are real, know wal2json, and come back after a crash.

use syncdata_tests::workload::{self, Workload};
use syncdata_tests::{Installation, PostgresOptions, PostgresServer, World, WorldOptions};

async fn insert_through_a_slot(server: &PostgresServer) -> Vec<String> {
    server.execute("CREATE TABLE t (id int PRIMARY KEY)").await;
    server.value("SELECT pg_create_logical_replication_slot('s', 'wal2json')").await;
    server.execute("INSERT INTO t VALUES (7)").await;
    let peek = "SELECT data FROM pg_logical_slot_peek_changes('s', NULL, NULL, 'format-version', '2')";
    server.query(peek).await.into_iter().map(|row| row[0].clone().expect("data is not NULL")).collect()
}

#[tokio::test]
async fn a_server_hands_out_changes_through_wal2json() {
    let server = PostgresServer::start().await;
    let version = server.value("SHOW server_version_num").await;
    assert_eq!(version.parse::<u32>().expect("a number") / 10_000, server.installation().major());
    let changes = insert_through_a_slot(&server).await;
    assert_eq!(changes.len(), 3, "begin, insert, commit: {changes:?}");
    assert!(changes[1].contains(r#""value":7"#), "{changes:?}");
}

#[tokio::test]
async fn every_installation_of_this_machine_starts() {
    for installation in Installation::all() {
        let options = PostgresOptions::default().installation(installation.clone());
        let server = PostgresServer::start_with(options).await;
        assert_eq!(insert_through_a_slot(&server).await.len(), 3, "{installation:?}");
    }
}

#[tokio::test]
async fn source_and_target_run_side_by_side() {
    let options = |name| PostgresOptions::default().database(name);
    let (source, target) = tokio::join!(
        PostgresServer::start_with(options("app")),
        PostgresServer::start_with(options("Re\"porting"))
    );
    assert_eq!(source.value("SELECT current_database()").await, "app");
    assert_eq!(target.value("SELECT current_database()").await, "Re\"porting");
    assert_ne!(source.port(), target.port());
}

#[tokio::test]
async fn committed_rows_survive_a_crash() {
    let mut server = PostgresServer::start().await;
    server.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").await;
    server.crash();
    server.resume().await;
    assert_eq!(server.value("SELECT count(*) FROM t").await, "1");
    assert!(server.log().contains("automatic recovery in progress"), "{}", server.log());
}

#[tokio::test]
async fn settings_and_access_rules_are_the_test_s_own() {
    let options = PostgresOptions::default()
        .durable()
        .setting("application_name", r"it's \ here")
        .hba("host all nobody_else 127.0.0.1/32 trust");
    let server = PostgresServer::start_with(options).await;
    assert_eq!(server.value("SHOW fsync").await, "on");
    let mut config = tokio_postgres::Config::new();
    config.host(server.host()).port(server.port()).user(server.user()).dbname(server.database());
    let refused = syncdata_tests::postgres::connect(&config).await.expect_err("no rule lets it in");
    assert!(format!("{refused:?}").contains("pg_hba.conf"), "{refused:?}");
}

#[tokio::test]
async fn money_only_moves_and_transactions_commit_in_another_order_than_they_began() {
    let (one, two) = tokio::join!(PostgresServer::start(), PostgresServer::start());
    for server in [&one, &two] {
        let mut workload = Workload::new(7);
        workload.create_tables(server).await;
        workload.fill(server).await;
        server.value("SELECT pg_create_logical_replication_slot('s', 'wal2json')").await;
        let before = Workload::total(server).await;
        workload.run(server, 60).await;
        assert_eq!(Workload::total(server).await, before);
        let changed = "SELECT count(*) FROM accounts WHERE balance <> 1000";
        assert_ne!(server.value(changed).await, "0");
        let begins = "SELECT (data::json->>'xid')::bigint FROM pg_logical_slot_peek_changes('s', NULL, NULL,
             'format-version', '2', 'include-xids', '1', 'actions', 'insert,update,delete')
             WHERE data::json->>'action' = 'B'";
        let xids = server.query(begins).await;
        assert!(!xids.is_sorted_by_key(|xid| xid[0].as_deref().and_then(|xid| xid.parse::<u64>().ok())));
    }
    // The same seed does the same: what a failing seed found can be found again.
    let journal = "SELECT md5(string_agg(j::text, '' ORDER BY id)) FROM journal j";
    assert_eq!(one.value(journal).await, two.value(journal).await);
}

#[tokio::test]
async fn a_world_compares_both_sides_row_by_row() {
    let world = World::start().await;
    world.execute_on_both(r#"CREATE TABLE "T t" (id int PRIMARY KEY, v text)"#).await;
    world.execute_on_both(r#"INSERT INTO "T t" VALUES (1, NULL), (2, 'ü')"#).await;
    // A column of its own is the copy's business.
    world.target.execute(r#"ALTER TABLE "T t" ADD COLUMN extra int DEFAULT 7"#).await;
    world.assert_same(&[r#""T t""#]).await;
    world.target.execute(r#"UPDATE "T t" SET v = '' WHERE id = 1"#).await;
    let difference = world.difference(r#""T t""#).await.expect("NULL is not the empty text");
    assert!(
        difference.contains("missing: (1,)") && difference.contains(r#"surplus: (1,"")"#),
        "{difference}"
    );
}

#[tokio::test]
async fn the_backup_host_takes_files_from_whoever_has_the_key() {
    let world = World::start().await;
    let batch = world.folder().join("batch");
    std::fs::write(&batch, format!("put {} proof\n", batch.display())).expect("the folder is writable");
    let backup = &world.backup;
    let output = std::process::Command::new("sftp")
        .arg("-q")
        .args(["-b", &batch.display().to_string(), "-P", &backup.port().to_string()])
        .args(["-o", &format!("UserKnownHostsFile={}", backup.known_hosts().display())])
        .args(["-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-F", "/dev/null", "-i"])
        .arg(backup.identity_file())
        .arg(format!("{}@127.0.0.1:{}/", backup.user(), world.archive_dir().display()))
        .output()
        .expect("sftp is installed (openssh-client)");
    assert!(output.status.success(), "{output:?}\n{}", backup.log());
    assert_eq!(std::fs::read(world.archive_dir().join("proof")).ok(), std::fs::read(&batch).ok());
}

#[tokio::test]
async fn a_row_travels_from_production_through_sftp_into_the_copy() {
    let world = World::start().await;
    world.execute_on_both("CREATE TABLE users (id int PRIMARY KEY, name text)").await;
    world.archiver(["setup", "--create-slot"]).succeed().await;
    world.applier(["add-tables", "users"]).succeed().await;
    world.source.execute("INSERT INTO users VALUES (1, 'John'), (2, 'Ann')").await;
    world.carry().await;
    assert_eq!(world.target.value("SELECT count(*) FROM users").await, "2");
    world.source.execute("UPDATE users SET name = 'Jane' WHERE id = 1; DELETE FROM users WHERE id = 2").await;
    world.carry().await;
    world.assert_same(&["users"]).await;
    assert_eq!(world.target.value("SELECT users::text FROM users").await, "(1,Jane)");
}

#[tokio::test]
async fn the_programs_of_a_world_stop_at_its_fault_points() {
    let world = WorldOptions::default().without_sftp().start().await;
    let mut workload = Workload::new(3);
    world.archiver(["setup", "--create-slot"]).succeed().await;
    workload.create_tables(&world.source).await;
    workload.create_tables(&world.target).await;
    workload.fill(&world.source).await;
    let trace = world.folder().join("trace");
    world.archiver(["run", "--once"]).trace(&trace).succeed().await;
    let visited = std::fs::read_to_string(&trace).expect("the archiver has fault points");
    let point = visited.lines().last().expect("and visits them");
    let killed = world.archiver(["run", "--once"]).fault(&format!("{point}=kill")).run().await;
    assert!(killed.was_killed(), "{point}: {killed}");
    world.applier(["add-tables"].iter().chain(&workload::TABLES)).succeed().await;
    workload.run(&world.source, 20).await;
    world.carry().await;
    world.assert_same(&workload::TABLES).await;
}
