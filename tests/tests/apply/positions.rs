//! Tables at their own positions: those that start from now, those that wait while the archive is pruned, and groups
//! of segments of which one is bad.

use std::fs;

use syncdata_formats::digest::Digest;
use syncdata_formats::floor::Floor;
use syncdata_formats::identity::ArchiveIdentity;
use syncdata_formats::manifest::{FORMAT, Link, Manifest};
use syncdata_tests::LocalCopy;
use syncdata_tests::forge::Forged;

const TABLES: &str =
    "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text)";

async fn two_tables() -> LocalCopy {
    let mut copy = LocalCopy::start(TABLES).await;
    for table in ["a", "b"] {
        copy.forge.relation(table, &["id integer not null", "v text"], &["id"]);
    }
    copy
}

fn insert(table: &str, id: u32) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"v":"v{id}"}}}}"#)
}

fn bad(table: &str, id: u32) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"v":"bad"}}}}"#)
}

/// What a prune does: the floor first, then the files below it.
fn prune(copy: &LocalCopy, gone: &[&Forged]) {
    let identity = fs::read(copy.archive_dir().join("archive.json")).expect("forged");
    let archive_id = ArchiveIdentity::decode(&identity).expect("sound").archive_id;
    let last = fs::read(&gone.last().expect("one at least").manifest).expect("forged");
    let seq = Manifest::decode(&last).expect("sound").seq;
    let floor = Floor {
        format: FORMAT,
        archive_id,
        seq: seq.next(),
        previous: Some(Link { seq, sha256: Digest::of(&last) }),
        pruned_at: "2026-03-01T00:00:00Z".parse().expect("a time"),
    };
    fs::write(copy.archive_dir().join("floor.json"), floor.encode()).expect("ours");
    for forged in gone {
        fs::remove_file(&forged.manifest).expect("forged");
        fs::remove_file(&forged.file).expect("forged");
    }
}

#[tokio::test]
async fn the_first_table_may_start_from_now() {
    let mut copy = two_tables().await;
    copy.forge.segment(&[vec![insert("a", 1)]]);
    copy.server.execute("INSERT INTO a VALUES (1, 'dumped')").await;
    copy.applier(&["add-tables", "a", "--from", "now"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM a").await, "1,dumped", "what the dump holds is not applied again");
    copy.forge.segment(&[vec![insert("a", 2)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM a ORDER BY id").await, "1,dumped 2,v2");
    assert_eq!(copy.rows("SELECT state FROM data_sync_table_state").await, "live");
}

#[tokio::test]
async fn a_table_that_waited_longer_than_the_archive_reaches_back_is_stale_and_never_a_mixture() {
    let mut copy = two_tables().await;
    copy.server.execute("ALTER TABLE a ADD CONSTRAINT good CHECK (v <> 'bad')").await;
    copy.forge.segment(&[vec![insert("a", 1), insert("b", 1)]]);
    copy.applier(&["add-tables", "a", "b"]).succeed().await;
    copy.sync(0).await;
    let mut gone = vec![copy.forge.segment(&[vec![insert("a", 2)], vec![bad("a", 3)]])];
    gone.push(copy.forge.segment(&[vec![insert("a", 4)]]));
    copy.forge.segment(&[vec![insert("a", 5), insert("b", 5)]]);
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT id FROM a ORDER BY id").await, "1 2");
    let first = fs::read_dir(copy.archive_dir().join("segments/2026-02-05")).expect("the day");
    for entry in first.map(|entry| entry.expect("a file")) {
        if entry.file_name().to_string_lossy().starts_with("0000000001") {
            fs::remove_file(entry.path()).expect("ours");
        }
    }
    prune(&copy, &gone.iter().collect::<Vec<_>>());
    copy.server.execute("ALTER TABLE a DROP CONSTRAINT good").await;
    let said = copy.applier(&["retry", "a"]).run().await.expect_code(1);
    assert!(said.stdout.contains("a: stale: ") && said.stdout.contains("resync"), "{said}");
    assert_eq!(copy.rows("SELECT id FROM a ORDER BY id").await, "1 2", "segments 2 and 3 are gone");
    let position = "SELECT position_lsn < (SELECT end_lsn FROM data_sync_checkpoint) FROM data_sync_table_state \
                    WHERE table_name = 'a'";
    assert_eq!(copy.rows(position).await, "t");
    // The other one goes on.
    copy.forge.segment(&[vec![insert("a", 6), insert("b", 6)]]);
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT id FROM b ORDER BY id").await, "1 5 6");
    // An operator may know better.
    copy.applier(&["retry", "a", "--accept-gap"]).succeed().await;
    assert_eq!(copy.rows("SELECT id FROM a ORDER BY id").await, "1 2 5 6");
    assert_eq!(
        copy.rows("SELECT state, cardinality(accepted_gaps) FROM data_sync_table_state ORDER BY table_name")
            .await,
        "live,1 live,0"
    );
}

#[tokio::test]
async fn a_new_table_whose_load_was_interrupted_by_a_prune_takes_no_part_of_the_history() {
    let mut copy = two_tables().await;
    let gone = copy.forge.segment(&[vec![insert("a", 1), insert("b", 1)]]);
    copy.applier(&["add-tables", "a"]).succeed().await;
    copy.forge.segment(&[vec![insert("a", 2), insert("b", 2)]]);
    copy.sync(0).await;
    copy.applier(&["add-tables", "b"]).succeed().await;
    let killed = copy.applier(&["sync"]).fault("load.filled=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    assert_eq!(copy.rows("SELECT state FROM data_sync_table_state WHERE table_name = 'b'").await, "loading");
    prune(&copy, &[&gone]);
    let said = copy.sync(0).await;
    assert!(said.contains("b: pending: needs a base copy"), "{said}");
    assert_eq!(copy.rows("SELECT * FROM b").await, "", "without its beginning it takes nothing");
}

#[tokio::test]
async fn sound_segments_before_a_bad_one_are_applied_although_they_would_share_its_transaction() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "a", "b"]).succeed().await;
    copy.forge.segment(&[vec![insert("a", 1)]]);
    copy.forge.segment(&[vec![insert("a", 2)]]);
    let last = copy.forge.segment(&[vec![insert("a", 3)]]);
    // The file is the one that its manifest names; what the manifest says of the content is wrong.
    let manifest = fs::read_to_string(&last.manifest).expect("forged");
    let lie = manifest.replace(r#""a":{"insert":1,"#, r#""b":{"insert":1,"#);
    assert_ne!(manifest, lie);
    fs::write(&last.manifest, lie).expect("ours");
    fs::remove_file(copy.archive_dir().join("head.json")).expect("forged");
    let said = copy.sync(2).await;
    assert!(said.contains("0000000003") && said.contains("hint:"), "{said}");
    assert_eq!(copy.rows("SELECT id FROM a ORDER BY id").await, "1 2");
    assert_eq!(copy.rows("SELECT seq FROM data_sync_checkpoint").await, "2");
}

#[tokio::test]
async fn a_table_that_cannot_catch_up_holds_nobody_up() {
    let mut copy = two_tables().await;
    copy.server.execute("ALTER TABLE b ADD CONSTRAINT good CHECK (v <> 'bad')").await;
    copy.applier(&["add-tables", "a", "b"]).succeed().await;
    copy.forge.segment(&[vec![insert("a", 1), insert("b", 1)]]);
    copy.sync(0).await;
    let second = copy.forge.segment(&[vec![insert("a", 2), bad("b", 2)]]);
    copy.sync(1).await;
    // What it lacks is damaged in the archive, and the copy no longer has it.
    let sound = fs::read(&second.file).expect("forged");
    fs::write(&second.file, &sound[..sound.len() - 1]).expect("ours");
    copy.server.execute("ALTER TABLE b DROP CONSTRAINT good").await;
    let said = copy.applier(&["retry", "b"]).run().await.expect_code(2);
    assert!(said.stderr.contains("0000000002"), "{said}");
    copy.forge.segment(&[vec![insert("a", 3), insert("b", 3)]]);
    let said = copy.sync(2).await;
    assert!(said.contains("0000000002"), "{said}");
    assert_eq!(copy.rows("SELECT id FROM a ORDER BY id").await, "1 2 3");
    assert_eq!(copy.rows("SELECT id FROM b ORDER BY id").await, "1");
    fs::write(&second.file, sound).expect("ours");
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT id FROM b ORDER BY id").await, "1 2 3");
}

/// Each segment is a transaction, and the next one is read while the server works.
async fn a_transaction_each() -> LocalCopy {
    let mut copy = two_tables().await;
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    copy.applier(&["add-tables", "a", "b"]).succeed().await;
    copy
}

#[tokio::test]
async fn what_was_read_ahead_is_not_applied_to_a_table_that_was_removed_meanwhile() {
    let mut copy = a_transaction_each().await;
    copy.forge.segment(&[vec![insert("a", 1), insert("b", 1)]]);
    copy.sync(0).await;
    copy.server
        .execute(
            "CREATE FUNCTION remove() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN DELETE FROM public.tables_to_sync WHERE table_name = 'b'; RETURN NEW; END $$;
             CREATE TRIGGER remove AFTER UPDATE ON data_sync_checkpoint FOR EACH ROW WHEN (NEW.seq = 5) EXECUTE FUNCTION remove();
             ALTER TABLE data_sync_checkpoint ENABLE ALWAYS TRIGGER remove",
        )
        .await;
    for id in 2..=9 {
        copy.forge.segment(&[vec![insert("a", id), insert("b", id)]]);
    }
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT max(id), count(*) FROM a").await, "9,9");
    assert_eq!(copy.rows("SELECT max(id), count(*) FROM b").await, "5,5");
}

#[tokio::test]
async fn what_was_read_ahead_is_not_applied_to_a_table_that_was_set_aside_meanwhile() {
    let mut copy = a_transaction_each().await;
    copy.server.execute("ALTER TABLE b ADD UNIQUE (v) DEFERRABLE INITIALLY DEFERRED").await;
    for id in 1..=9 {
        let value = if id == 5 { 4 } else { id };
        let row = format!(r#"{{"table":"b","op":"INSERT","data":{{"id":{id},"v":"v{value}"}}}}"#);
        copy.forge.segment(&[vec![insert("a", id), row]]);
    }
    let said = copy.sync(1).await;
    assert!(said.contains("b: quarantined"), "{said}");
    assert_eq!(copy.rows("SELECT max(id), count(*) FROM a").await, "9,9");
    assert_eq!(copy.rows("SELECT max(id), count(*) FROM b").await, "4,4");
    copy.server.execute("ALTER TABLE b DROP CONSTRAINT b_v_key").await;
    copy.applier(&["retry", "b"]).succeed().await;
    assert_eq!(copy.rows("SELECT max(id), count(*) FROM b").await, "9,9");
}

#[tokio::test]
async fn a_truncate_of_several_tables_stays_one_statement_when_segments_share_a_transaction() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)",
    )
    .await;
    copy.forge.relation("p", &["id integer not null"], &["id"]);
    copy.forge.relation("c", &["id integer not null", "p integer"], &["id"]);
    let parent = |id: u32| format!(r#"{{"table":"p","op":"INSERT","data":{{"id":{id}}}}}"#);
    let child = |id: u32| format!(r#"{{"table":"c","op":"INSERT","data":{{"id":{id},"p":1}}}}"#);
    copy.forge.segment(&[vec![parent(1)]]);
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.sync(0).await;
    // The first one is applied alone; those that follow have time to wait for each other.
    copy.forge.segment(&[vec![parent(3)]]);
    copy.forge.segment(&[vec![child(1)]]);
    // The table has another shape from here on, so that its rows cannot share a batch with those before.
    copy.forge.relation("c", &["id integer not null", "p integer", "note text"], &["id"]);
    copy.server.execute("ALTER TABLE c ADD note text").await;
    copy.forge.segment(&[vec![
        r#"{"table":"p","op":"TRUNCATE"}"#.to_owned(),
        r#"{"table":"c","op":"TRUNCATE"}"#.to_owned(),
        parent(2),
    ]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT id FROM p").await, "2");
    assert_eq!(copy.rows("SELECT count(*) FROM c").await, "0");
}

#[tokio::test]
async fn a_truncate_counts_the_partitions_of_a_table_as_that_table() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE p (id int PRIMARY KEY);
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p) PARTITION BY RANGE (id);
         CREATE TABLE c1 PARTITION OF c FOR VALUES FROM (0) TO (100)",
    )
    .await;
    copy.forge.relation("p", &["id integer not null"], &["id"]);
    copy.forge.relation("c", &["id integer not null", "p integer"], &["id"]);
    copy.forge.segment(&[
        vec![
            r#"{"table":"p","op":"INSERT","data":{"id":1}}"#,
            r#"{"table":"c","op":"INSERT","data":{"id":1,"p":1}}"#,
        ],
        vec![r#"{"table":"p","op":"TRUNCATE"}"#, r#"{"table":"c","op":"TRUNCATE"}"#],
    ]);
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c)").await, "0,0");
}

#[tokio::test]
async fn the_cache_holds_nothing_that_was_applied_and_never_more_than_its_bound() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "a", "b"]).succeed().await;
    for id in 1..4 {
        copy.forge.segment(&[vec![insert("a", id)]]);
    }
    let killed = copy.applier(&["sync"]).fault("apply.after_commit=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    // A folder of its own for each copy.
    let cached = |copy: &LocalCopy| {
        let copies = fs::read_dir(copy.folder().join("state/cache")).expect("the cache");
        let files = copies.flat_map(|copy| fs::read_dir(copy.expect("a folder").path()).expect("a copy's"));
        files.map(|entry| entry.expect("a file").file_name()).collect::<Vec<_>>()
    };
    assert!(!cached(&copy).is_empty());
    copy.sync(0).await;
    assert!(cached(&copy).is_empty(), "{:?}", cached(&copy));
    // Room for one small file only, and a table that has to catch up over several.
    copy.set("SYNCDATA_CACHE_MAX", "1KiB");
    copy.applier(&["remove-tables", "b"]).succeed().await;
    copy.applier(&["add-tables", "b"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT DISTINCT state FROM data_sync_table_state").await, "live");
}
