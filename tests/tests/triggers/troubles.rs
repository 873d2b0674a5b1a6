//! Kills at every step, what the triggers cannot see, and triggers that are not ours.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use syncdata_tests::workload::Prng;
use syncdata_tests::world::World;

use crate::copy::{follow, world};

/// Every step of a poll at which something is on disk that was not before.
const STEPS: [&str; 18] = [
    "archive.after_rename",
    "archive.before_rename",
    "archive.part_written",
    "batch.published",
    "read.answer_complete",
    "ship.after_head",
    "ship.before_head",
    "ship.changes_there",
    "ship.manifest_there",
    "ship.marked",
    "slot.after_advance",
    "slot.before_advance",
    "spool.before_manifest",
    "spool.before_rename",
    "spool.changes_renamed",
    "spool.changes_synced",
    "spool.manifest_written",
    "spool.state_written",
];

/// `t: reason` of every gap in the archive.
pub(crate) fn gaps(world: &World) -> BTreeSet<String> {
    let mut gaps = BTreeSet::new();
    let Ok(days) = fs::read_dir(world.archive_dir().join("segments")) else { return gaps };
    for day in days {
        for file in fs::read_dir(day.expect("a day").path()).expect("files") {
            let path = file.expect("a file").path();
            if !path.to_string_lossy().ends_with(".manifest.json") {
                continue;
            }
            let manifest: Value =
                serde_json::from_slice(&fs::read(path).expect("it is there")).expect("JSON");
            for gap in manifest["gaps"].as_array().into_iter().flatten() {
                let words = format!("{}: {}", gap["tables"], gap["reason"]);
                gaps.insert(words.replace(['"', '[', ']'], ""));
            }
        }
    }
    gaps
}

async fn write_at_random(world: &World, random: &mut Prng) {
    let id = random.below(30);
    let other = random.below(30);
    let statement = match random.below(12) {
        0..4 => format!(
            "INSERT INTO t VALUES ({id}, 'v{other}') ON CONFLICT (id) DO UPDATE SET v = excluded.v || 'x'"
        ),
        4..6 => format!("UPDATE t SET v = v || '{other}' WHERE id < {id}"),
        6..8 => format!("DELETE FROM t WHERE id = {id}"),
        8 => format!(
            "UPDATE t SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT FROM t WHERE id = {other})"
        ),
        9 => format!("INSERT INTO p VALUES ({id}, {other}) ON CONFLICT DO NOTHING"),
        10 => format!(
            "UPDATE p SET a = (a + {other}) % 40 WHERE NOT EXISTS (SELECT FROM p o WHERE o.a = (p.a + {other}) % 40)"
        ),
        _ => "TRUNCATE p".to_owned(),
    };
    world.source.execute(&statement).await;
}

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE p (a int, b int, PRIMARY KEY (a)) PARTITION BY RANGE (a);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (20); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (20) TO (40)";

#[tokio::test]
async fn killed_anywhere_nothing_is_lost_and_nothing_is_left_over() {
    let world = world(TABLES).await;
    follow(&world, &["t", "p"]).await;
    let mut random = Prng::new(7);
    let mut killed = BTreeSet::new();
    for round in 0..STEPS.len() {
        world.source.execute(&format!("INSERT INTO t VALUES ({}, 'new')", 100 + round)).await;
        for _ in 0..1 + random.below(6) {
            write_at_random(&world, &mut random).await;
        }
        let step = STEPS[round % STEPS.len()];
        let run = world.archiver(["run", "--once"]).fault(&format!("{step}=kill@1")).run().await;
        assert!(run.was_killed() || run.code() == Some(0), "{step}: {run}");
        if run.was_killed() {
            killed.insert(step);
        }
        if random.below(2) == 0 {
            write_at_random(&world, &mut random).await;
        }
        world.carry().await;
        for table in ["t", "p"] {
            if let Some(difference) = world.difference(table).await {
                panic!("round {round}, {step}: {difference}");
            }
        }
    }
    assert_eq!(killed, STEPS.into_iter().collect(), "some step is never reached");
    assert_eq!(gaps(&world), BTreeSet::new());
}

/// A poll that publishes a gap, and what it is.
pub(crate) async fn missed(world: &World) -> BTreeSet<String> {
    let before = gaps(world);
    let ran = world.archiver(["run", "--once"]).run().await;
    let now = gaps(world);
    let new: BTreeSet<String> = now.difference(&before).cloned().collect();
    assert_eq!(ran.code(), Some(i32::from(!new.is_empty())), "{new:?} {ran}");
    new
}

#[tokio::test]
async fn what_triggers_cannot_see_is_declared() {
    let schema = format!(
        "{TABLES}; CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, v text);
        CREATE TABLE c (id int PRIMARY KEY)"
    );
    let world = world(&schema).await;
    follow(&world, &["t", "p", "a", "b", "c"]).await;
    // Nothing of this changes what rows say.
    world.source.execute("VACUUM FULL t").await;
    world
        .source
        .execute(
            "ALTER TABLE t ADD more int DEFAULT 7; ALTER TABLE c RENAME TO c2; ALTER TABLE c2 RENAME TO c",
        )
        .await;
    assert_eq!(missed(&world).await, BTreeSet::new());
    world.source.execute("TRUNCATE p1").await;
    assert_eq!(
        missed(&world).await,
        ["p: TRUNCATE of a partition cannot be said of its parent".to_owned()].into()
    );
    // The copy keeps what rows had in a column that is gone, and takes a new one of its name for it, however late it comes.
    world.source.execute("ALTER TABLE b DROP v").await;
    assert_eq!(missed(&world).await, BTreeSet::new());
    world.source.execute("ALTER TABLE b ADD v text").await;
    assert_eq!(missed(&world).await, ["b: rewritten by ALTER TABLE".to_owned()].into());
    world.source.execute("ALTER TABLE a ALTER v TYPE boolean USING v > 0").await;
    assert_eq!(missed(&world).await, ["a: rewritten by ALTER TABLE".to_owned()].into());
    world
        .source
        .execute("ALTER TABLE b DISABLE TRIGGER ALL; DELETE FROM b; ALTER TABLE b ENABLE TRIGGER ALL")
        .await;
    let refused = world.archiver(["run", "--once"]).run().await;
    assert_eq!(refused.code(), Some(2), "{refused}");
    assert!(refused.stderr.contains("not all is noted of b"), "{refused}");
    let checked = world.archiver(["check"]).run().await;
    assert!(checked.stdout.contains("fail  triggers: not all is noted of b"), "{checked}");
    world.run_as_told(["setup", "--create-triggers"]).await;
    assert_eq!(missed(&world).await, ["b: its triggers were changed".to_owned()].into());
    world.source.execute("CREATE TABLE p3 (a int PRIMARY KEY, b int); INSERT INTO p3 VALUES (41)").await;
    world.source.execute("ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (40) TO (50)").await;
    world.run_as_told(["setup", "--create-triggers"]).await;
    assert_eq!(missed(&world).await, ["p: partition changed".to_owned()].into());
    assert_eq!(missed(&world).await, BTreeSet::new());
    world
        .source
        .execute("ALTER TABLE c RENAME id TO n; INSERT INTO c VALUES (8); ALTER TABLE c RENAME n TO id")
        .await;
    assert_eq!(missed(&world).await, ["c: keys of its rows could not be noted".to_owned()].into());
    world.source.execute("DROP TABLE c; CREATE TABLE c (id int PRIMARY KEY)").await;
    world.run_as_told(["setup", "--create-triggers"]).await;
    assert_eq!(missed(&world).await, ["c: another table of this name".to_owned()].into());
}

#[tokio::test]
async fn what_nobody_read_is_declared_and_so_is_what_was_left_out_since() {
    let mut world = world(TABLES).await;
    world.set_archiver("wal_guard", "200000");
    follow(&world, &["t", "p"]).await;
    world.source.execute("INSERT INTO t SELECT i FROM generate_series(1, 9000) i").await;
    assert_eq!(missed(&world).await.len(), 1);
    assert_eq!(missed(&world).await, BTreeSet::new(), "once");
    let checked = world.archiver(["check"]).run().await;
    assert!(checked.stdout.contains("they have stopped to note, because nobody read"), "{checked}");
    // It was open when notes were taken again, and left some out.
    let open = world.source.connect().await;
    open.batch_execute("BEGIN; INSERT INTO t VALUES (-1)").await.expect("ours");
    world.run_as_told(["setup", "--create-triggers"]).await;
    assert_eq!(missed(&world).await, BTreeSet::new(), "not before it has ended");
    open.batch_execute("COMMIT").await.expect("ours");
    let before = fs::read_dir(world.archive_dir().join("segments")).expect("days").count();
    assert!(before > 0);
    let ran = world.archiver(["run", "--once"]).run().await;
    assert_eq!(ran.code(), Some(1), "a gap up to here: {ran}");
    assert_eq!(missed(&world).await, BTreeSet::new());
}

#[tokio::test]
async fn a_dump_with_our_triggers_is_nobodys_source() {
    let world = world(TABLES).await;
    follow(&world, &["t", "p"]).await;
    world.source.execute("UPDATE syncdata.reader SET database = 1").await;
    let refused = world.archiver(["run", "--once"]).run().await;
    assert_eq!(refused.code(), Some(2), "{refused}");
    assert!(refused.stderr.contains("came here with a dump"), "{refused}");
}

#[tokio::test]
async fn drop_slot_leaves_nothing_of_ours() {
    let world = world(TABLES).await;
    follow(&world, &["t", "p"]).await;
    world.source.execute("INSERT INTO t VALUES (1); REVOKE pg_read_all_data FROM syncdata_user").await;
    let checked = world.archiver(["check"]).run().await;
    assert!(checked.stdout.contains("our role may not read all rows of p, steady, t"), "{checked}");
    world.source.execute("GRANT pg_read_all_data TO syncdata_user").await;
    let refused = world.archiver(["drop-slot"]).run().await;
    assert_eq!(refused.code(), Some(2), "{refused}");
    assert!(refused.stderr.contains("changes are noted that nobody has read"), "{refused}");
    world.archiver(["run", "--once"]).succeed().await;
    // Triggers of tables that are not ours to alter: their owner has to.
    world.run_as_told(["drop-slot"]).await;
    let ours =
        "SELECT count(*) FROM pg_namespace, pg_trigger WHERE nspname = 'syncdata' OR tgname LIKE 'syncdata%'";
    assert_eq!(world.source.value(ours).await, "0");
    world.source.execute("INSERT INTO t VALUES (2)").await;
}
