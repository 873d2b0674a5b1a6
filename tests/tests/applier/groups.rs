//! Groups of tables, each with a checkpoint of its own. There is one yet, `default`, which every table is in; what another
//! one would be told by is there, and a pass of `default` leaves it alone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use syncdata_applier::apply::acks::Acks;
use syncdata_applier::apply::transaction::Rules;
use syncdata_applier::archive::silence::Silence;
use syncdata_applier::pass::{Pass, PassContext, PostgresCopy, Report};
use syncdata_applier::plan::group::GroupName;
use syncdata_applier::target::postgres::cursor::Cursor;
use syncdata_applier::target::postgres::local::Local;
use syncdata_applier::{archive, load};
use syncdata_formats::error::{Kind, Result};
use syncdata_service::config::{Config, OnError, Overrides};
use syncdata_service::daemon::Stop;
use syncdata_tests::LocalCopy;

use super::dead_letters::earlier;
use super::{rename, two_tables};

async fn synced() -> LocalCopy {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    copy
}

/// Our tables as version 24 had them, with all that is in them.
async fn back_to_version_24(copy: &LocalCopy) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../applier/src/target/postgres");
    let view = fs::read_to_string(folder.join("meta_23.sql")).expect("it is there").replace("{s}", "public");
    let (_, view) = view.split_once("CREATE OR REPLACE VIEW").expect("it makes the view anew");
    copy.server
        .execute(&format!(
            "DROP VIEW data_sync_freshness, data_sync_checkpoints; DROP TABLE data_sync_group_checkpoint;
             ALTER TABLE tables_to_sync DROP COLUMN group_name; DROP TABLE sync_configurations;
             DELETE FROM data_sync_version WHERE version = 25; CREATE VIEW {view}"
        ))
        .await;
}

#[tokio::test]
async fn a_copy_that_had_no_groups_is_in_one_once_although_that_is_killed() {
    let mut copy = synced().await;
    back_to_version_24(&copy).await;
    let known =
        "SELECT (SELECT c::text FROM data_sync_checkpoint c), string_agg(s::text, ' ' ORDER BY table_name)
        FROM data_sync_table_state s";
    let before = copy.rows(known).await;
    let killed = copy.applier(&["dead-letters", "list"]).fault("meta.migrated=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    let there = "SELECT max(version), to_regclass('sync_configurations'), to_regclass('data_sync_checkpoints'),
        (SELECT count(*) FROM pg_attribute WHERE attrelid = 'tables_to_sync'::regclass AND attname = 'group_name')
        FROM data_sync_version";
    assert_eq!(copy.rows(there).await, "24,NULL,NULL,0");

    let (one, other) = (copy.applier(&["dead-letters", "list"]), copy.applier(&["dead-letters", "list"]));
    tokio::join!(one.succeed(), other.succeed());
    assert_eq!(copy.rows(there).await, "25,sync_configurations,data_sync_checkpoints,1");
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_version WHERE version = 25").await, "1");
    assert_eq!(copy.rows(known).await, before, "nothing has moved");
    assert_eq!(copy.rows("SELECT number, name FROM sync_configurations").await, "1,default");

    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT name FROM users ORDER BY id").await, "Eve Bob");
    let fresh = "SELECT table_name, state, stale, group_name FROM data_sync_freshness ORDER BY 1";
    assert_eq!(copy.rows(fresh).await, "orders,live,f,default users,live,f,default");
    let same = "SELECT g.group_name, g.seq, (c.seq, c.manifest_sha256, c.end_lsn, c.day, c.commit_time, c.covered_lsn, c.covered_at,
            c.stale_after, c.applied_at, c.capture_since) IS NOT DISTINCT FROM
        (g.seq, g.manifest_sha256, g.end_lsn, g.day, g.commit_time, g.covered_lsn, g.covered_at, g.stale_after, g.applied_at,
            g.capture_since) FROM data_sync_checkpoints g, data_sync_checkpoint c";
    assert_eq!(copy.rows(same).await, "default,2,t");
    // As earlier tools write it.
    let insert = "INSERT INTO tables_to_sync (table_name, creator) VALUES ('x', 'they') RETURNING group_name";
    assert_eq!(copy.rows(insert).await, "default");
}

#[tokio::test]
async fn configurations_of_somebody_else_are_left_alone_and_both_ways_out_work() {
    let mut copy = two_tables().await;
    let theirs = "CREATE TABLE sync_configurations (mine int); INSERT INTO sync_configurations VALUES (7)";
    copy.server.execute(theirs).await;
    let refused = copy.applier(&["add-tables", "users"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("sync_configurations that is not ours"), "{refused}");
    assert!(refused.stderr.contains("meta_schema = \"syncdata\""), "{refused}");
    assert_eq!(copy.rows("SELECT to_regclass('data_sync_checkpoint')").await, "NULL", "nothing was made");
    copy.set("SYNCDATA_META_SCHEMA", "syncdata");
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT name FROM syncdata.sync_configurations").await, "default");
    assert_eq!(copy.rows("SELECT mine FROM public.sync_configurations").await, "7");

    // Where our tables are there already, of an earlier version.
    copy.set("SYNCDATA_META_SCHEMA", "public");
    earlier(&copy.server, 24).await;
    let refused = copy.applier(&["dead-letters", "list"]).run().await.expect_code(2);
    let remedy = "ALTER TABLE \"public\".sync_configurations RENAME TO sync_configurations_old";
    assert!(refused.stderr.contains(remedy), "{refused}");
    assert_eq!(copy.rows("SELECT max(version) FROM public.data_sync_version").await, "24");
    copy.server.execute(remedy).await;
    copy.applier(&["dead-letters", "list"]).succeed().await;
    // What was theirs is still there when ours go.
    copy.applier(&["uninstall", "--yes", "--as", "postgres"]).run().await;
    let left =
        "SELECT to_regclass('public.sync_configurations'), to_regclass('public.sync_configurations_old')";
    assert_eq!(copy.rows(left).await, "NULL,sync_configurations_old");
}

#[tokio::test]
async fn nobody_makes_a_group_that_no_program_would_move() {
    let copy = synced().await;
    for (statement, constraint) in [
        ("INSERT INTO sync_configurations (name) VALUES ('night')", "there_is_one_group_yet"),
        ("UPDATE sync_configurations SET name = 'night'", "there_is_one_group_yet"),
        ("UPDATE tables_to_sync SET group_name = 'night'", "tables_to_sync_group_name_fkey"),
        (
            "INSERT INTO tables_to_sync (table_name, group_name) VALUES ('x', 'night')",
            "tables_to_sync_group_name_fkey",
        ),
        (
            "INSERT INTO data_sync_group_checkpoint (group_name) VALUES ('night')",
            "data_sync_group_checkpoint_group_name_fkey",
        ),
        ("DELETE FROM sync_configurations", "tables_to_sync_group_name_fkey"),
    ] {
        let refused = copy.server.connect().await.batch_execute(statement).await;
        let refused = refused.expect_err(statement);
        let refused = refused.as_db_error().expect("the server said it");
        assert_eq!(refused.constraint(), Some(constraint), "{statement}: {refused}");
    }
    copy.sync(0).await;
}

/// As a program that knows groups will leave it.
const ANOTHER_GROUP: &str = "ALTER TABLE orders DROP CONSTRAINT orders_user_id_fkey;
    ALTER TABLE sync_configurations DROP CONSTRAINT there_is_one_group_yet;
    INSERT INTO sync_configurations (name) VALUES ('night');
    INSERT INTO data_sync_group_checkpoint SELECT 'night', seq, manifest_sha256, end_lsn, day, commit_time, covered_lsn, covered_at,
        stale_after, applied_at, capture_since FROM data_sync_checkpoint;
    UPDATE tables_to_sync SET group_name = 'night' WHERE table_name = 'orders'";

#[tokio::test]
async fn a_pass_moves_no_table_of_another_group_and_waits_for_none() {
    let mut copy = synced().await;
    copy.server.execute(ANOTHER_GROUP).await;
    let order = |id: u32| format!(r#"{{"table":"orders","op":"INSERT","data":{{"id":{id},"user_id":1}}}}"#);
    let emptied = |table: &str| format!(r#"{{"table":"{table}","op":"TRUNCATE"}}"#);
    let night =
        "SELECT seq, (SELECT position_lsn = end_lsn FROM data_sync_table_state WHERE table_name = 'orders')
        FROM data_sync_group_checkpoint";
    let fresh = "SELECT table_name, state, group_name, lsn = (SELECT covered_lsn FROM data_sync_checkpoint)
        FROM data_sync_freshness ORDER BY 1";

    // Also with a transaction over both.
    copy.forge.segment(&[vec![rename(1, "Eve"), order(8)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT name FROM users ORDER BY id").await, "Eve Bob");
    assert_eq!(copy.rows("SELECT id FROM orders").await, "7");
    assert_eq!(copy.rows(night).await, "1,t");
    assert_eq!(copy.rows(fresh).await, "orders,live,night,f users,live,default,t");

    // One statement over both waits for nobody, though the other table is quarantined.
    copy.server
        .execute("UPDATE data_sync_table_state SET state = 'quarantined' WHERE table_name = 'orders'")
        .await;
    copy.forge.segment(&[vec![emptied("users"), emptied("orders")], vec![order(9)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "0");
    assert_eq!(copy.rows("SELECT id FROM orders").await, "7");
    assert_eq!(copy.rows(night).await, "1,t");
    assert_eq!(copy.state("users").await, "live");
    let waiting = "SELECT waiting FROM data_sync_table_state WHERE table_name = 'orders'";
    assert_eq!(copy.rows(waiting).await, "NULL", "it is that group's to count");

    // A table that comes into a group that is further takes what it lacks, each change once.
    copy.server
        .execute(
            "UPDATE data_sync_table_state SET state = 'live' WHERE table_name = 'orders';
             UPDATE tables_to_sync SET group_name = 'default' WHERE table_name = 'orders'",
        )
        .await;
    assert_eq!(copy.rows(fresh).await, "orders,loading,default,f users,live,default,t");
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT id FROM orders").await, "9");
    assert_eq!(copy.rows(fresh).await, "orders,live,default,t users,live,default,t");
}

#[tokio::test]
async fn starting_over_forgets_the_checkpoint_of_every_group() {
    let copy = synced().await;
    copy.server.execute(ANOTHER_GROUP).await;
    // What is left of a checkpoint that somebody has thrown away.
    copy.server
        .execute("UPDATE tables_to_sync SET group_name = 'default'; DELETE FROM data_sync_checkpoint")
        .await;
    copy.applier(&["resync", "--all"]).succeed().await;
    let night = "SELECT seq, manifest_sha256, end_lsn, covered_at FROM data_sync_group_checkpoint";
    assert_eq!(copy.rows(night).await, "0,NULL,0/0,NULL");
}

/// Of the transactions over both groups, each in a segment of its own.
const TRANSACTIONS: u32 = 12;
/// Passes that are cut off; the last ones are not.
const CUT_OFF: u32 = 40;

#[tokio::test]
async fn each_group_is_a_state_that_the_source_had_wherever_passes_are_cut_off() {
    let mut copy = synced().await;
    copy.server.execute(ANOTHER_GROUP).await;
    for number in 1..=TRANSACTIONS {
        let id = 100 + number;
        let order = format!(r#"{{"table":"orders","op":"INSERT","data":{{"id":{id},"user_id":1}}}}"#);
        copy.forge.segment(&[vec![rename(1, &format!("n{number}")), order]]);
    }
    let config = settings(&copy);
    let groups = [GroupName::DEFAULT, "night".parse().expect("a name")];
    let (mut dice, mut cut_off) = (0x2545_F491_u32, 0);
    for round in 0..CUT_OFF + 2 {
        dice ^= dice << 13;
        dice ^= dice >> 17;
        dice ^= dice << 5;
        // The one and the other, in no order; both at the end.
        let is_last = round >= CUT_OFF;
        let group = &groups[if is_last { (round % 2) as usize } else { (dice >> 8) as usize % 2 }];
        let before = stands(&copy).await;
        let patience = if is_last { 60_000 } else { 20 + u64::from(dice % 160) };
        let passed = tokio::time::timeout(Duration::from_millis(patience), pass_of(&config, group)).await;
        match passed {
            Ok(passed) => {
                let unhealthy = passed.expect("nothing is in its way").unhealthy;
                assert!(unhealthy.is_empty(), "{group}: {unhealthy:?}");
            }
            Err(_) => cut_off += 1,
        }
        // What was cut off may still be committing: the next pass waits for it.
        let local = Local::open(&config).await.expect("a session");
        local.lock_pass().await.expect("nobody applies any more");
        let after = stands(&copy).await;
        let other = usize::from(*group == GroupName::DEFAULT);
        assert_eq!(before[other], after[other], "round {round}: {group} has moved the other group");
    }
    assert!(cut_off > 0, "no pass was under way when it was to be cut off");
    assert_eq!(stands(&copy).await, [u64::from(TRANSACTIONS) + 1; 2]);
}

/// Up to which segment each group is applied. Its tables are as the source was then.
async fn stands(copy: &LocalCopy) -> [u64; 2] {
    let found = copy
        .rows(
            "SELECT d.seq, (SELECT name FROM users WHERE id = 1), n.seq, (SELECT count(*) || '/' || max(id) FROM orders),
                (SELECT bool_and(t.state = 'live' AND t.position_lsn =
                    CASE t.table_name WHEN 'orders' THEN n.end_lsn ELSE d.end_lsn END) FROM data_sync_table_state t)
             FROM data_sync_checkpoint d, data_sync_group_checkpoint n",
        )
        .await;
    let numbers: Vec<&str> = found.split(',').collect();
    let [first, second] = [numbers[0], numbers[2]].map(|text| text.parse::<u64>().expect("a number"));
    let name = if first == 1 { "Ann".to_owned() } else { format!("n{}", first - 1) };
    let last = if second == 1 { 7 } else { 99 + second };
    assert_eq!(found, format!("{first},{name},{second},{second}/{last},t"));
    [first, second]
}

fn settings(copy: &LocalCopy) -> Config {
    let (host, user) = (copy.server.host().to_owned(), copy.server.user().to_owned());
    let (port, database) = (copy.server.port().to_string(), copy.server.database().to_owned());
    let archive = copy.archive_dir().display().to_string();
    let state = copy.folder().join("state").display().to_string();
    let env = move |name: &str| match name {
        "PG_HOST" => Some(host.clone()),
        "PG_PORT" => Some(port.clone()),
        "PG_USER_NAME" => Some(user.clone()),
        "PG_DB_NAME" => Some(database.clone()),
        "SYNCDATA_ARCHIVE_DIR" => Some(archive.clone()),
        "STATE_DIRECTORY" => Some(state.clone()),
        _ => None,
    };
    Config::load(None, env, &Overrides::default()).expect("settings")
}

async fn pass_of(config: &Config, group: &GroupName) -> Result<Report> {
    let local = Local::open_for_pass(config).await?;
    local.lock_pass_of(group).await?;
    let source = archive::open::open(config, group)?;
    let rules =
        Rules { apply_batch_changes: 1, on_error: OnError::Stop, metric_freq: Duration::from_secs(3600) };
    let copy = PostgresCopy::new(&local, Cursor::of_group(&local.meta, group), None);
    Pass::new(PassContext::new(copy, &source, &rules)).run().await
}

#[tokio::test]
async fn passes_of_groups_go_side_by_side_and_commands_keep_all_of_them_out() {
    let copy = synced().await;
    copy.server.execute(ANOTHER_GROUP).await;
    let (config, night) = (settings(&copy), "night".parse().expect("a name"));
    let [first, second, third] = [
        Local::open(&config).await.expect("a session"),
        Local::open(&config).await.expect("a session"),
        Local::open(&config).await.expect("a session"),
    ];
    first.lock_pass_of(&night).await.expect("it is free");
    second.lock_pass_of(&GroupName::DEFAULT).await.expect("it is free");
    second.unlock_pass_of(&GroupName::DEFAULT).await.expect("it was ours");
    let all = tokio::time::timeout(Duration::from_secs(1), third.lock_pass()).await;
    assert!(all.is_err(), "a pass of one of the groups is under way");
    first.unlock_pass_of(&night).await.expect("it was ours");
    third.lock_pass().await.expect("all are free");
    for group in [night, GroupName::DEFAULT] {
        let held = tokio::time::timeout(Duration::from_secs(1), second.lock_pass_of(&group)).await;
        assert!(held.is_err(), "{group} is kept out");
    }
    let unknown = second.lock_pass_of(&"day".parse().expect("a name")).await;
    assert_eq!(unknown.expect_err("nobody has made it").kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_table_of_a_group_is_loaded_up_to_the_checkpoint_of_its_group() {
    let mut copy = synced().await;
    copy.server.execute(ANOTHER_GROUP).await;
    let order = |id: u32| format!(r#"{{"table":"orders","op":"INSERT","data":{{"id":{id},"user_id":1}}}}"#);
    copy.forge.segment(&[vec![order(8)]]);
    copy.sync(0).await;
    // Somebody has lost a row of it. The rest comes with the passes of its group.
    copy.server.execute("DELETE FROM orders").await;
    copy.applier(&["resync", "orders"]).run().await.expect_code(1);
    let config = settings(&copy);
    let (stop, turn, acks) = (Stop::new(), tokio::sync::Mutex::new(()), Acks::default());
    let loaded = load::run(&config, &stop, &turn, &acks, Silence::default()).await.expect("it has a base");
    assert_eq!(loaded.loaded.len(), 1, "{loaded:?}");
    assert_eq!(copy.rows("SELECT id FROM orders ORDER BY id").await, "7");
    let position = "SELECT state, load, position_lsn = (SELECT end_lsn FROM data_sync_group_checkpoint)
        FROM data_sync_table_state WHERE table_name = 'orders'";
    assert_eq!(copy.rows(position).await, "live,NULL,t");
    pass_of(&config, &"night".parse().expect("a name")).await.expect("nothing is in its way");
    assert_eq!(copy.rows("SELECT id FROM orders ORDER BY id").await, "7 8");
    assert_eq!(copy.rows(position).await, "live,NULL,t");
    // What is about one moment is refused of tables that stand at several.
    let both = ["replay", "--from", "2020-01-01", "--to", "2030-01-01", "--dry-run"];
    let refused = copy.applier(&both).run().await.expect_code(2);
    assert!(refused.stderr.contains("of several groups (default, night)"), "{refused}");
    let one = [&both[..], &["--tables", "orders"]].concat();
    copy.applier(&one).succeed().await;
}
