//! What keeps a table from going on is noted with the rows of the others.

use syncdata_tests::Forge;

use super::file::File;
use super::forged::{delete, insert, truncate, update};

const COLUMNS: &[&str] = &["id integer not null", "v text"];

fn row(table: &str, id: u32) -> String {
    insert(table, &format!(r#""id":{id},"v":"{table}""#))
}

#[test]
fn a_gap_makes_a_table_stale_where_it_begins_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("a", COLUMNS, &["id"]);
    forge.relation("b", COLUMNS, &["id"]);
    forge.segment(&[vec![row("a", 1), row("b", 1)]]);
    forge.gap(&["a"]);
    forge.segment(&[vec![row("a", 2), row("b", 2)]]);
    for batch in [1, 100] {
        let file = File::new();
        let said = file.life(folder.path(), &["a", "b"]).batch(batch).run();
        assert!(said.starts_with("a\tstale\tchanges from "), "{said}");
        assert!(said.ends_with("b\tlive\t\n"), "{said}");
        assert_eq!(file.lines("SELECT id FROM a"), ["1"]);
        assert_eq!(file.lines("SELECT id FROM b ORDER BY id"), ["1", "2"]);
        let view = "SELECT state, stale, gap IS NOT NULL FROM syncdata.data_sync_freshness \
            JOIN syncdata.data_sync_table_state s USING (table_name, state) ORDER BY table_name";
        // What is forged is old.
        assert_eq!(file.lines(view), ["stale|t|t", "live|t|f"]);
        let again = file.life(folder.path(), &["a", "b"]).run();
        assert_eq!(again, said);
    }
}

#[test]
fn tables_that_one_truncate_names_wait_for_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("bad", &["id integer not null", "v date"], &["id"]);
    forge.relation("good", COLUMNS, &["id"]);
    let bad = |id: u32, day: &str| insert("bad", &format!(r#""id":{id},"v":{day}"#));
    forge.segment(&[vec![bad(1, "null"), row("good", 1)]]);
    forge.segment(&[vec![bad(2, r#""0044-03-15 BC""#)]]);
    forge.segment(&[vec![truncate("bad"), truncate("good"), row("good", 2)]]);
    let file = File::new();
    let said = file.life(folder.path(), &["bad", "good"]).batch(1).run();
    assert!(
        said.contains("good\tquarantined\tthe source truncated it together with bad, which is held up"),
        "{said}"
    );
    assert_eq!(file.lines("SELECT id FROM bad"), ["1"]);
    assert_eq!(file.lines("SELECT id FROM good"), ["1"]);
    let held = "SELECT table_name, held_with FROM syncdata.data_sync_table_state ORDER BY 1";
    assert_eq!(file.lines(held), ["bad|[]", r#"good|["bad"]"#]);
}

#[test]
fn numbers_that_arrive_as_null_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null", "r real", "d double precision"], &["id"]);
    forge.degraded(&["numeric-nan"]);
    forge.segment(&[vec![insert("t", r#""id":1,"r":null,"d":1.5"#)]]);
    forge.segment(&[vec![insert("t", r#""id":2,"r":null,"d":null"#)]]);
    let file = File::new();
    file.life(folder.path(), &["t"]).batch(1).stopping().run();
    assert_eq!(file.lines("SELECT nan_as_null FROM syncdata.data_sync_table_state"), [r#"["d","r"]"#]);
    assert_eq!(file.lines("SELECT * FROM t ORDER BY id"), ["1|NULL|1.5", "2|NULL|NULL"]);
}

#[test]
fn a_record_that_no_table_takes_is_kept_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null", "v date"], &["id"]);
    forge.segment(&[
        vec![insert("t", r#""id":1,"v":null"#)],
        vec![insert("t", r#""id":2,"v":"0044-03-15 BC""#)],
    ]);
    let file = File::new();
    let life = || file.life(folder.path(), &["t"]);
    life().run();
    assert_eq!(file.lines("SELECT * FROM t"), ["1|NULL"]);
    let kept = "SELECT attempts, seq, line, resolved_at IS NULL FROM syncdata.data_sync_quarantine";
    let first = file.lines(kept);
    assert_eq!(first.len(), 1);
    assert!(first[0].starts_with("1|1|") && first[0].ends_with("|t"), "{first:?}");
    // Stopped, it stays as it was, and says so at once.
    let stopped = File::new();
    let error = stopped.life(folder.path(), &["t"]).stopping().fail();
    assert!(error.contains("Failed to apply changes of t: segment 1, line "), "{error}");
    assert!(!error.contains("BC"), "{error}");
    assert_eq!(stopped.lines("SELECT seq FROM syncdata.data_sync_checkpoint"), ["0"]);
}

#[test]
fn a_table_that_is_described_anew_goes_on_within_one_transaction() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", COLUMNS, &["id"]);
    forge.segment(&[vec![row("t", 1), row("t", 2), row("t", 3)]]);
    // Another description, and so another batch, whose rows meet those of the one before.
    forge.relation("t", &["id integer not null", "v text not null"], &["id"]);
    forge.segment(&[vec![
        update("t", r#""id":1,"v":"again""#, r#""id":1"#),
        update("t", r#""id":20"#, r#""id":2"#),
        delete("t", r#""id":3"#),
    ]]);
    for batch in [1, 100] {
        let file = File::new();
        file.life(folder.path(), &["t"]).batch(batch).stopping().run();
        assert_eq!(file.lines("SELECT * FROM t ORDER BY id"), ["1|again", "20|t"], "{batch}");
        assert_eq!(file.lines("SELECT sum(rows_missing) FROM syncdata.data_sync_logs"), ["0"], "{batch}");
    }
}
