//! Each change arrives exactly once, wherever a process dies.

use std::time::Duration;

use syncdata_tests::{Forge, Prng};

use super::file::File;
use super::forged::{AFTER, SEGMENTS, Users, insert, update};

/// The steps of a transaction, and whether it is committed at each.
const STEPS: [(&str, bool); 5] = [
    ("apply.begun", false),
    ("apply.half_batch", false),
    ("apply.before_checkpoint", false),
    ("apply.before_commit", false),
    ("apply.after_commit", true),
];

const ROWS: &str = "SELECT id, note FROM users ORDER BY id";

#[test]
fn an_archive_arrives_whole_with_all_that_is_noted_of_it() {
    let (archive, file) = (Users::new(), File::new());
    let said = file.life(archive.archive(), &["users"]).batch(1).stopping().run();
    assert_eq!(said, "users\tlive\t\n");
    assert_eq!(file.lines(ROWS), AFTER[SEGMENTS]);

    let freshness =
        "SELECT table_name, state, lsn IS NOT NULL, data_as_of IS NOT NULL FROM syncdata.data_sync_freshness";
    assert_eq!(file.lines(freshness), ["users|live|t|t"]);
    assert_eq!(file.lines("SELECT seq FROM syncdata.data_sync_checkpoint"), ["5"]);
    let log = "SELECT count(*), sum(rows_synced), sum(rows_missing) FROM syncdata.data_sync_logs \
        WHERE status = 'SUCCESS' AND archive_ref <> 'add-tables'";
    assert_eq!(file.lines(log), ["5|10|0"]);
    let counts = "SELECT period_type, sum(records_added), sum(records_updated), sum(records_deleted) \
        FROM syncdata.data_sync_metrics GROUP BY ALL ORDER BY 1";
    assert_eq!(file.lines(counts), ["FREQ|5|4|1", "MONTH|5|4|1", "WEEK|5|4|1"]);
}

#[test]
fn every_change_arrives_once_wherever_a_kill_strikes() {
    let archive = Users::new();
    for (step, is_committed) in STEPS {
        for transaction in 1..=SEGMENTS {
            let file = File::new();
            let life = || file.life(archive.archive(), &["users"]).batch(1).stopping();
            life().fault(format!("{step}=kill@{transaction}")).die();
            let committed = if is_committed { transaction } else { transaction - 1 };
            // Until the first commit there is no table.
            if committed > 0 {
                assert_eq!(file.lines(ROWS), AFTER[committed], "{step} in {transaction}");
            }
            let seq = file.lines("SELECT seq FROM syncdata.data_sync_checkpoint");
            assert_eq!(seq, [committed.to_string()], "{step} in {transaction}");

            life().run();
            assert_eq!(file.lines(ROWS), AFTER[SEGMENTS], "{step} in {transaction}");
        }
    }
}

#[test]
fn lives_that_are_all_killed_in_their_first_transaction_get_there_too() {
    let (archive, file) = (Users::new(), File::new());
    let life = || file.life(archive.archive(), &["users"]).batch(1).stopping();
    for _ in 0..SEGMENTS {
        for (step, _) in STEPS {
            life().fault(format!("{step}=kill")).die();
        }
    }
    life().run();
    assert_eq!(file.lines(ROWS), AFTER[SEGMENTS]);
}

/// Rows of the archive that is applied while kills strike at any moment, also in the middle of DuckDB's own commit.
const MANY: usize = 4000;

#[test]
fn a_kill_at_any_moment_leaves_rows_and_checkpoint_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("many", &["id integer not null", "segment integer", "note text"], &["id"]);
    let note = "x".repeat(200);
    for segment in 1..=20_usize {
        let row = |id: usize| format!(r#""id":{id},"segment":{segment},"note":"{note}""#);
        let rows: Vec<String> = match segment {
            1 => (0..MANY).map(|id| insert("many", &row(id))).collect(),
            // Each segment writes every seventh row anew.
            _ => (0..MANY)
                .filter(|id| id % 7 == segment % 7)
                .map(|id| update("many", &row(id), &format!(r#""id":{id}"#)))
                .collect(),
        };
        forge.segment(&[rows]);
    }

    let file = File::new();
    let mut dice = Prng::new(17);
    let mut kills = 0;
    for _ in 0..40 {
        let time = Duration::from_millis(20 + dice.below(200));
        if !file.life(folder.path(), &["many"]).batch(1).stopping().die_after(time) {
            break;
        }
        kills += 1;
        if !file.path().exists() {
            continue;
        }
        let tables = "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'data_sync_checkpoint'";
        if file.lines(tables) == ["0"] {
            continue;
        }
        let seq = file.lines("SELECT seq FROM syncdata.data_sync_checkpoint").remove(0);
        let seq: usize = seq.parse().expect("a number");
        if seq > 0 {
            let found = "SELECT count(*), count(DISTINCT id), max(segment) FROM many";
            assert_eq!(file.lines(found), [format!("{MANY}|{MANY}|{seq}")]);
        }
    }
    assert!(kills > 0, "it was too quick for every kill");
    file.life(folder.path(), &["many"]).batch(1).stopping().run();
    let expected = |id: usize| (2..=20).rev().find(|segment| segment % 7 == id % 7).unwrap_or(1);
    let expected: Vec<String> = (0..MANY).map(|id| format!("{id}|{}", expected(id))).collect();
    assert_eq!(file.lines("SELECT id, segment FROM many ORDER BY id"), expected);
}
