//! What operators do by hand: lines of the whitelist, and the local tables themselves.

use syncdata_tests::LocalCopy;

use super::{rename, two_tables};

const USERS: &str = "SELECT * FROM users ORDER BY id";

async fn synced() -> LocalCopy {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    copy
}

fn insert(id: u32) -> String {
    format!(r#"{{"table":"users","op":"INSERT","data":{{"id":{id},"name":"n{id}"}}}}"#)
}

async fn state(copy: &LocalCopy) -> String {
    copy.rows("SELECT state FROM data_sync_table_state WHERE table_name = 'users'").await
}

#[tokio::test]
async fn a_table_that_was_off_the_whitelist_catches_up_before_it_goes_on() {
    for (away, back) in [
        (
            "UPDATE tables_to_sync SET table_name = 'aside' WHERE table_name = 'users'",
            "UPDATE tables_to_sync SET table_name = 'users' WHERE table_name = 'aside'",
        ),
        (
            "DELETE FROM tables_to_sync WHERE table_name = 'users'",
            "INSERT INTO tables_to_sync (table_name) VALUES ('users')",
        ),
    ] {
        for is_silent in [true, false] {
            let mut copy = synced().await;
            copy.server.execute(away).await;
            copy.forge.segment(&[vec![insert(3)], vec![rename(1, "Anne")]]);
            copy.applier(&["sync"]).run().await;
            copy.server.execute(back).await;
            assert_eq!(
                copy.rows("SELECT state FROM data_sync_freshness WHERE table_name = 'users'").await,
                "loading"
            );
            let expected = if is_silent { "1,Anne 2,Bob 3,n3" } else { "1,Anne 2,Bob 3,n3 4,n4" };
            if !is_silent {
                copy.forge.segment(&[vec![insert(4)]]);
            }
            copy.sync(0).await;
            assert_eq!(copy.rows(USERS).await, expected, "{away}");
            assert_eq!(state(&copy).await, "live");
        }
    }
}

#[tokio::test]
async fn a_table_that_comes_back_after_a_gap_is_stale() {
    let mut copy = synced().await;
    copy.server.execute("DELETE FROM tables_to_sync WHERE table_name = 'users'").await;
    copy.forge.gap(&["users"]);
    copy.forge.segment(&[vec![insert(3)]]);
    copy.sync(0).await;
    copy.server.execute("INSERT INTO tables_to_sync (table_name) VALUES ('users')").await;
    copy.sync(1).await;
    assert_eq!((copy.rows(USERS).await, state(&copy).await), ("1,Ann 2,Bob".into(), "stale".into()));
}

#[tokio::test]
async fn a_local_table_that_is_gone_or_another_one_is_noticed_while_the_archive_is_silent() {
    let make = "CREATE TABLE users (id int PRIMARY KEY, name text)";
    for (by_hand, says, mend) in [
        ("DROP TABLE users CASCADE", "Table not found locally: users", make),
        ("DROP TABLE users CASCADE; CREATE TABLE users (id int PRIMARY KEY, name text)", "another one", ""),
        (
            "ALTER TABLE users RENAME TO users_old; CREATE TABLE users (LIKE users_old INCLUDING ALL)",
            "another one",
            "",
        ),
        (
            "ALTER TABLE orders DROP CONSTRAINT orders_user_id_fkey; ALTER TABLE users SET UNLOGGED",
            "UNLOGGED",
            "ALTER TABLE users SET LOGGED",
        ),
    ] {
        let mut copy = synced().await;
        copy.server.execute(by_hand).await;
        let said = copy.sync(1).await;
        assert!(said.contains("users: quarantined") && said.contains(says), "{by_hand}: {said}");
        assert!(said.contains("resync users"), "{said}");
        let status = copy.applier(&["status"]).run().await.expect_code(1);
        assert!(status.stdout.contains(says), "{status}");
        // The others go on, and it is not said again and again.
        copy.forge.segment(&[vec![
            r#"{"table":"orders","op":"INSERT","data":{"id":8,"user_id":2}}"#.to_owned(),
            insert(3),
        ]]);
        copy.sync(1).await;
        assert_eq!(copy.rows("SELECT id FROM orders ORDER BY id").await, "7 8");
        assert_eq!(copy.rows("SELECT count(*) FROM data_sync_quarantine").await, "1");
        if !mend.is_empty() {
            copy.server.execute(mend).await;
        }
        // The rows that it had are not there, or may not be: trying again is not enough.
        let retried = copy.applier(&["retry", "users"]).run().await.expect_code(1);
        assert!(retried.stdout.contains("resync users"), "{retried}");
        assert_eq!(state(&copy).await, "quarantined");
        copy.applier(&["resync", "users"]).succeed().await;
        assert_eq!(copy.rows(USERS).await, "1,Ann 2,Bob 3,n3", "{by_hand}");
        copy.sync(0).await;
        assert_eq!(state(&copy).await, "live");
    }
}

#[tokio::test]
async fn a_partition_that_was_dropped_here_is_noticed_and_a_new_one_is_none() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE users (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF users FOR VALUES FROM (0) TO (10);
         CREATE TABLE high PARTITION OF users FOR VALUES FROM (10) TO (20)",
    )
    .await;
    copy.forge.relation("users", &["id integer not null", "name text"], &["id"]);
    copy.forge.segment(&[vec![insert(1), insert(11)]]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("CREATE TABLE higher PARTITION OF users FOR VALUES FROM (20) TO (30)").await;
    copy.sync(0).await;
    copy.server
        .execute("DROP TABLE low; CREATE TABLE low PARTITION OF users FOR VALUES FROM (0) TO (10)")
        .await;
    let said = copy.sync(1).await;
    assert!(said.contains("a partition of the local table is gone"), "{said}");
    copy.applier(&["resync", "users"]).succeed().await;
    assert_eq!(copy.rows(USERS).await, "1,n1 11,n11");
    copy.sync(0).await;
}

#[tokio::test]
async fn an_unlogged_table_is_not_loaded() {
    let copy = two_tables().await;
    copy.server.execute("DROP TABLE orders; ALTER TABLE users SET UNLOGGED").await;
    copy.applier(&["add-tables", "users"]).succeed().await;
    let said = copy.sync(1).await;
    assert!(said.contains("ALTER TABLE \"public\".\"users\" SET LOGGED"), "{said}");
    copy.server.execute("ALTER TABLE users SET LOGGED").await;
    copy.applier(&["resync", "users"]).succeed().await;
    assert_eq!(copy.rows(USERS).await, "1,Ann 2,Bob");
}

#[tokio::test]
async fn positions_of_another_moment_than_the_rows_are_noticed() {
    let mut copy = LocalCopy::start("CREATE TABLE loose (id int)").await;
    copy.forge.relation_with(
        "loose",
        &["id integer"],
        &[],
        syncdata_formats::manifest::ReplicaIdentity::Full,
    );
    let insert = |id: u32| format!(r#"{{"table":"loose","op":"INSERT","data":{{"id":{id}}}}}"#);
    copy.forge.segment(&[vec![insert(1)]]);
    copy.applier(&["add-tables", "loose"]).succeed().await;
    copy.sync(0).await;
    // As pg_dump of our tables alone, and pg_restore --clean of that after more has come.
    let (ours, kept) = (["data_sync_table_state", "data_sync_checkpoint"], "CREATE SCHEMA kept");
    copy.server.execute(kept).await;
    for table in ours {
        let keep = format!(
            "CREATE TABLE kept.{table} (LIKE {table} INCLUDING ALL); INSERT INTO kept.{table} SELECT * FROM {table}"
        );
        copy.server.execute(&keep).await;
    }
    copy.forge.segment(&[vec![insert(2)]]);
    copy.sync(0).await;
    let mut views = String::new();
    for view in ["data_sync_checkpoints", "data_sync_freshness"] {
        let definition = copy.rows(&format!("SELECT pg_get_viewdef('{view}'::regclass)")).await;
        views += &format!("CREATE VIEW {view} AS {definition}");
    }
    copy.server.execute("DROP VIEW data_sync_freshness, data_sync_checkpoints").await;
    for table in ours {
        let restore = format!("DROP TABLE {table} CASCADE; ALTER TABLE kept.{table} SET SCHEMA public");
        copy.server.execute(&restore).await;
    }
    copy.server.execute(&views).await;
    let said = copy.sync(1).await;
    assert!(said.contains("of another moment; run: syncdata-applier resync loose"), "{said}");
    assert_eq!(copy.rows("SELECT id FROM loose ORDER BY id").await, "1 2", "none comes twice");
    copy.applier(&["retry", "loose"]).run().await.expect_code(1);
    copy.applier(&["resync", "loose"]).succeed().await;
    assert_eq!(copy.rows("SELECT id FROM loose ORDER BY id").await, "1 2");
    copy.forge.segment(&[vec![insert(3)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT id FROM loose ORDER BY id").await, "1 2 3");
}

/// As `pg_dump --data-only` of our tables alone, restored after more has come: the tables are the same, and their lines are
/// copied.
#[tokio::test]
async fn lines_that_were_copied_into_our_tables_are_noticed() {
    let mut copy = LocalCopy::start("CREATE TABLE loose (id int)").await;
    let full = syncdata_formats::manifest::ReplicaIdentity::Full;
    copy.forge.relation_with("loose", &["id integer"], &[], full);
    let insert = |id: u32| format!(r#"{{"table":"loose","op":"INSERT","data":{{"id":{id}}}}}"#);
    copy.forge.segment(&[vec![insert(1)]]);
    copy.applier(&["add-tables", "loose"]).succeed().await;
    copy.sync(0).await;
    let mut expected = "1".to_owned();
    // --disable-triggers, and what that leaves of a trigger that is always on.
    let disabled = "ALTER TABLE data_sync_table_state DISABLE TRIGGER ALL";
    let enabled = "ALTER TABLE data_sync_table_state ENABLE TRIGGER ALL";
    for (id, before, after) in
        [(2, "", ""), (3, "SET session_replication_role = replica", ""), (4, disabled, enabled)]
    {
        copy.server
            .execute(
                "DROP SCHEMA IF EXISTS kept CASCADE; CREATE SCHEMA kept;
                 CREATE TABLE kept.state AS SELECT * FROM data_sync_table_state;
                 CREATE TABLE kept.checkpoint AS SELECT * FROM data_sync_checkpoint",
            )
            .await;
        copy.forge.segment(&[vec![insert(id)]]);
        copy.sync(0).await;
        expected = format!("{expected} {id}");
        let restore = format!(
            "{before}; DELETE FROM data_sync_table_state; DELETE FROM data_sync_checkpoint;
             INSERT INTO data_sync_table_state SELECT * FROM kept.state;
             INSERT INTO data_sync_checkpoint SELECT * FROM kept.checkpoint; {after}"
        );
        copy.server.execute(&restore).await;
        let said = copy.sync(1).await;
        assert!(said.contains("of another moment; run: syncdata-applier resync loose"), "{id}: {said}");
        assert_eq!(copy.rows("SELECT id FROM loose ORDER BY id").await, expected, "none comes twice");
        copy.applier(&["retry", "loose"]).run().await.expect_code(1);
        copy.applier(&["resync", "loose"]).succeed().await;
        assert_eq!(copy.rows("SELECT id FROM loose ORDER BY id").await, expected);
        copy.sync(0).await;
    }
}

#[tokio::test]
async fn where_our_tables_alone_are_lost_they_are_made_again_and_the_rows_loaded() {
    let mut copy = synced().await;
    copy.server
        .execute(
            "DO $$ DECLARE name text; BEGIN
               FOR name IN SELECT tablename FROM pg_tables
                   WHERE schemaname = 'public' AND (tablename LIKE 'data\\_sync%' OR tablename IN ('tables_to_sync', 'sync_executions', 'sync_configurations'))
               LOOP EXECUTE 'DROP TABLE ' || name || ' CASCADE'; END LOOP; END $$",
        )
        .await;
    copy.sync(0).await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows(USERS).await, "1,Ann 2,Bob");
    copy.forge.segment(&[vec![insert(3)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "3");
}

#[tokio::test]
async fn a_table_that_was_emptied_by_a_crash_is_not_live_because_a_pass_stops_at_errors() {
    let mut copy = synced().await;
    copy.set("SYNCDATA_ON_ERROR", "stop");
    copy.server
        .execute("ALTER TABLE orders DROP CONSTRAINT orders_user_id_fkey; ALTER TABLE users SET UNLOGGED")
        .await;
    let said = copy.sync(2).await;
    assert!(said.contains("UNLOGGED"), "{said}");
    copy.server.crash();
    copy.server.restart().await;
    assert_eq!(copy.rows(USERS).await, "");
    copy.server.execute("ALTER TABLE users SET LOGGED").await;
    let said = copy.sync(2).await;
    assert!(said.contains("resync users"), "{said}");
    copy.applier(&["resync", "users"]).succeed().await;
    assert_eq!(copy.rows(USERS).await, "1,Ann 2,Bob");
    copy.sync(0).await;
}

#[tokio::test]
async fn a_table_that_is_unlogged_for_a_while_in_quarantine_needs_a_new_base() {
    let mut copy = synced().await;
    // What nobody waits for is lost by the crash below.
    copy.server.execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    copy.server.execute("SELECT pg_reload_conf()").await;
    copy.server.execute("ALTER TABLE orders DROP CONSTRAINT orders_user_id_fkey").await;
    copy.server.execute("ALTER TABLE users ADD CHECK (id < 3)").await;
    copy.forge.segment(&[vec![insert(3)]]);
    copy.sync(1).await;
    copy.server.execute("ALTER TABLE users DROP CONSTRAINT users_id_check, SET UNLOGGED").await;
    copy.sync(1).await;
    copy.server.crash();
    copy.server.restart().await;
    copy.server.execute("ALTER TABLE users SET LOGGED").await;
    let retried = copy.applier(&["retry", "users"]).run().await.expect_code(1);
    assert!(retried.stdout.contains("resync users"), "{retried}");
    copy.applier(&["resync", "users"]).succeed().await;
    assert_eq!(copy.rows(USERS).await, "1,Ann 2,Bob 3,n3");
}

#[tokio::test]
async fn two_appliers_with_tables_of_their_own_do_not_write_into_the_same_table() {
    let mut copy = synced().await;
    copy.forge.segment(&[vec![insert(3)]]);
    let other = |arguments: &[&str]| copy.applier(arguments).env("SYNCDATA_META_SCHEMA", "second");
    other(&["add-tables", "users"]).succeed().await;
    let said = other(&["sync"]).run().await.expect_code(1);
    assert!(said.stdout.contains("users: quarantined") && said.stdout.contains("public"), "{said}");
    // The first one has it as before.
    copy.sync(0).await;
    assert_eq!(copy.rows(USERS).await, "1,Ann 2,Bob 3,n3");
    assert_eq!(state(&copy).await, "live");
    // What is said, carried out.
    copy.applier(&["remove-tables", "users"]).succeed().await;
    let other = |arguments: &[&str]| copy.applier(arguments).env("SYNCDATA_META_SCHEMA", "second");
    other(&["resync", "users"]).succeed().await;
    copy.forge.segment(&[vec![insert(4)]]);
    let other = |arguments: &[&str]| copy.applier(arguments).env("SYNCDATA_META_SCHEMA", "second");
    other(&["sync"]).succeed().await;
    assert_eq!(copy.rows(USERS).await, "1,Ann 2,Bob 3,n3 4,n4");
    // And taken back by hand: neither of them says that it is right.
    copy.server.execute("INSERT INTO tables_to_sync (table_name) VALUES ('users')").await;
    let said = copy.sync(1).await;
    assert!(said.contains("users: quarantined") && said.contains("second"), "{said}");
}

#[tokio::test]
async fn tables_of_another_applier_that_may_not_be_read_are_said() {
    let mut copy = synced().await;
    let other = copy.applier(&["list-tables"]).env("SYNCDATA_META_SCHEMA", "second");
    other.succeed().await;
    copy.applier(&["add-tables", "users"]).env("SYNCDATA_META_SCHEMA", "second").run().await;
    copy.server
        .execute(
            "CREATE ROLE reader LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO reader;
             GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO reader; GRANT CREATE, USAGE ON SCHEMA public TO reader; GRANT EXECUTE ON FUNCTION pg_control_system() TO reader",
        )
        .await;
    copy.set("PG_USER_NAME", "reader");
    copy.forge.segment(&[vec![insert(3)]]);
    let said = copy.sync(0).await;
    assert!(said.contains("another applier has its tables there"), "{said}");
    let checked = copy.applier(&["check", "--json"]).run().await;
    let grant = "GRANT USAGE ON SCHEMA \"second\" TO \"reader\"; GRANT SELECT ON \"second\".tables_to_sync, \
        \"second\".data_sync_table_state TO \"reader\";";
    let found = checked.json()["findings"].to_string();
    assert!(found.contains(&grant.replace('"', "\\\"")), "{checked}");
    copy.server.execute(grant).await;
    let checked = copy.applier(&["check", "--json"]).run().await;
    assert!(!checked.stdout.contains("another applier"), "{checked}");
    let said = copy.sync(0).await;
    assert!(!said.contains("another applier has its tables there"), "{said}");
}

#[tokio::test]
async fn what_the_archive_is_told_is_not_taken_back_by_a_crash() {
    let mut copy = synced().await;
    // What nobody waits for is lost by the crash below.
    copy.server.execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    copy.server.execute("SELECT pg_reload_conf()").await;
    for id in 3..6 {
        copy.forge.segment(&[vec![insert(id)]]);
        copy.sync(0).await;
        copy.server.crash();
        copy.server.restart().await;
        // No more may be pruned than what is here.
        let told = std::fs::read_dir(copy.archive_dir().join("acks")).expect("it was told");
        let told = told.map(|entry| std::fs::read_to_string(entry.expect("one").path()).expect("a document"));
        let told: Vec<serde_json::Value> =
            told.map(|text| serde_json::from_str(&text).expect("JSON")).collect();
        let applied = copy.rows("SELECT seq FROM data_sync_checkpoint").await;
        assert_eq!(told.len(), 1);
        assert!(told[0]["seq"].as_u64() <= applied.parse().ok(), "{told:?}, applied {applied}");
    }
    assert_eq!(copy.rows(USERS).await, "1,Ann 2,Bob 3,n3 4,n4 5,n5");
}
