//! A batch leaves what its changes one by one would have left.

use std::collections::BTreeMap;

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::{Forge, Prng};

use super::file::File;
use super::forged::{delete, insert, truncate, update};

/// A table as the changes one by one make it: number and part of the key, then two more values.
type Model = BTreeMap<(u64, String), (Option<String>, String)>;

const ROWS: &str = r#"SELECT n, "Part", note, "order" FROM keys ORDER BY n, "Part""#;

#[test]
fn keys_that_move_and_values_that_stay_are_as_one_by_one() {
    for seed in 1..=6 {
        let (folder, expected) = story(seed);
        for batch in [1, 40, 100_000] {
            let file = File::new();
            let said = file.life(folder.path(), &["keys"]).batch(batch).stopping().run();
            assert_eq!(said, "keys\tlive\t\n", "seed {seed}");
            assert_eq!(file.lines(ROWS), expected, "seed {seed}, {batch} records a transaction");
            let missing = "SELECT sum(rows_missing) FROM syncdata.data_sync_logs";
            assert_eq!(file.lines(missing), ["0"], "seed {seed}");
        }
    }
}

/// An archive of random changes, and the rows that they leave.
fn story(seed: u64) -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    let columns = ["n bigint not null", "Part text not null", "note text", "order integer not null"];
    forge.relation("keys", &columns, &["n", "Part"]);
    let (mut model, mut dice) = (Model::new(), Prng::new(seed));
    for _ in 0..12 {
        let mut transactions = Vec::new();
        for _ in 0..=dice.below(4) {
            let mut transaction = Vec::new();
            for _ in 0..=dice.below(10) {
                transaction.push(change(&mut model, &mut dice));
            }
            transactions.push(transaction);
        }
        forge.segment(&transactions);
    }
    let line = |((n, part), (note, order)): (&(u64, String), &(Option<String>, String))| {
        format!("{n}|{part}|{}|{order}", note.as_deref().unwrap_or("NULL"))
    };
    (folder, model.iter().map(line).collect())
}

fn change(model: &mut Model, dice: &mut Prng) -> String {
    let key = |dice: &mut Prng| (dice.below(6), (*dice.pick(&["a", "ab", "b", ""])).to_owned());
    let said = |(n, part): &(u64, String)| format!(r#""n":{n},"Part":"{part}""#);
    let there: Vec<_> = model.keys().cloned().collect();
    let free = (0..9).map(|_| key(dice)).find(|key| !model.contains_key(key));
    let note = if dice.chance(20) { None } else { Some(format!("it's \\\"{}\\\"", dice.below(1000))) };
    let kept = note.as_deref().map(|note| note.replace('\\', ""));
    let note = note.map_or("null".to_owned(), |note| format!("\"{note}\""));
    let order = dice.below(100).to_string();
    match (dice.below(100), free) {
        (0..=1, _) => {
            model.clear();
            truncate("keys")
        }
        (2..=35, Some(free)) => {
            let text = insert("keys", &format!(r#"{},"note":{note},"order":{order}"#, said(&free)));
            model.insert(free, (kept, order));
            text
        }
        (36..=50, _) if !there.is_empty() => {
            let key = dice.pick(&there).clone();
            model.remove(&key);
            delete("keys", &said(&key))
        }
        // A key that moves, with a note that stays.
        (51..=75, Some(free)) if !there.is_empty() => {
            let old = dice.pick(&there).clone();
            let (note, _) = model.remove(&old).expect("there");
            model.insert(free.clone(), (note, order.clone()));
            update("keys", &format!(r#"{},"order":{order}"#, said(&free)), &said(&old))
        }
        _ if !there.is_empty() => {
            let key = dice.pick(&there).clone();
            let keeps_note = dice.chance(50);
            let row = model.get_mut(&key).expect("there");
            row.1.clone_from(&order);
            if keeps_note {
                return update("keys", &format!(r#"{},"order":{order}"#, said(&key)), &said(&key));
            }
            row.0 = kept;
            update("keys", &format!(r#"{},"note":{note},"order":{order}"#, said(&key)), &said(&key))
        }
        _ => {
            let key = (1000 + dice.below(1_000_000), "new".to_owned());
            let text = insert("keys", &format!(r#"{},"note":{note},"order":{order}"#, said(&key)));
            model.insert(key, (kept, order));
            text
        }
    }
}

#[test]
fn two_rows_exchange_their_keys_through_a_third() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null", "v text"], &["id"]);
    let to = |from: u32, to: u32| update("t", &format!(r#""id":{to}"#), &format!(r#""id":{from}"#));
    forge.segment(&[vec![insert("t", r#""id":1,"v":"one""#), insert("t", r#""id":2,"v":"two""#)]]);
    forge.segment(&[vec![to(1, 9), to(2, 1), to(9, 2)]]);
    // All of them at once, as `UPDATE t SET id = id + 1` does it from the last to the first.
    forge.segment(&[vec![to(2, 3), to(1, 2)]]);
    for batch in [1, 100] {
        let file = File::new();
        file.life(folder.path(), &["t"]).batch(batch).stopping().run();
        assert_eq!(file.lines("SELECT * FROM t ORDER BY id"), ["2|two", "3|one"]);
    }
}

#[test]
fn rows_that_are_not_here_are_counted_and_do_no_harm() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null", "v text"], &["id"]);
    let rows = [insert("t", r#""id":1,"v":"one""#), insert("t", r#""id":2,"v":"two""#)];
    forge.segment(&[rows.to_vec()]);
    forge.segment(&[vec![
        // An update, a delete and a move of rows that nobody has, and a row in the way of a key that moves.
        update("t", r#""id":7,"v":"seven""#, r#""id":7"#),
        delete("t", r#""id":8"#),
        update("t", r#""id":2,"v":"nine""#, r#""id":9"#),
        update("t", r#""id":2"#, r#""id":1"#),
    ]]);
    for batch in [1, 100] {
        let file = File::new();
        file.life(folder.path(), &["t"]).batch(batch).stopping().run();
        assert_eq!(file.lines("SELECT * FROM t ORDER BY id"), ["2|one"], "{batch}");
        let missing = "SELECT sum(rows_missing) FROM syncdata.data_sync_logs";
        assert_eq!(file.lines(missing), ["3"], "{batch}");
    }
}

#[test]
fn rows_without_a_key_are_told_apart_by_all_of_their_values() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation_with("t", &["a integer", "v text"], &[], ReplicaIdentity::Full);
    let row = |a: &str, v: &str| format!(r#""a":{a},"v":{v}"#);
    let same = || insert("t", &row("1", r#""same""#));
    forge.segment(&[vec![same(), same(), same(), insert("t", &row("null", "null"))]]);
    forge.segment(&[vec![
        update("t", &row("2", r#""other""#), &row("1", r#""same""#)),
        delete("t", &row("1", r#""same""#)),
        update("t", &row("null", r#""known""#), &row("null", "null")),
        delete("t", &row("5", r#""nobody""#)),
        insert("t", &row("7", "null")),
        update("t", &row("8", "null"), &row("7", "null")),
    ]]);
    for batch in [1, 100] {
        let file = File::new();
        file.life(folder.path(), &["t"]).batch(batch).stopping().run();
        let rows = file.lines("SELECT a, v FROM t ORDER BY a NULLS FIRST, v");
        assert_eq!(rows, ["NULL|known", "1|same", "2|other", "8|NULL"], "{batch}");
        assert_eq!(file.lines("SELECT sum(rows_missing) FROM syncdata.data_sync_logs"), ["1"], "{batch}");
    }
}

#[test]
fn tables_of_one_batch_keep_to_themselves() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    for table in ["a", "sales.a"] {
        forge.relation(table, &["id integer not null", "v text"], &["id"]);
    }
    let row = |table: &str, id: u32| insert(table, &format!(r#""id":{id},"v":"{table}""#));
    forge.segment(&[
        vec![row("a", 1), row("sales.a", 1), row("a", 2)],
        vec![truncate("sales.a"), row("sales.a", 3)],
    ]);
    forge.segment(&[vec![truncate("a"), row("a", 4)]]);
    let file = File::new();
    file.life(folder.path(), &["a", "sales.a"]).stopping().run();
    assert_eq!(file.lines("SELECT * FROM main.a"), ["4|a"]);
    assert_eq!(file.lines("SELECT * FROM sales.a"), ["3|sales.a"]);
}

/// Rows of a table that is large beside what changes in it.
const LARGE: u64 = 2_000_000;

#[test]
fn a_few_scattered_changes_write_no_large_table_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("large", &["id bigint not null", "note text", "at timestamp without time zone"], &["id"]);
    forge.segment(&[vec![insert("large", r#""id":0,"note":"first","at":null"#)]]);
    let file = File::new();
    file.life(folder.path(), &["large"]).stopping().run();
    file.execute(&format!(
        "INSERT INTO large SELECT i, md5(i::VARCHAR), '2026-01-01'::TIMESTAMP + to_seconds(i) FROM range(1, {LARGE}) r(i)"
    ));
    let size = || std::fs::metadata(file.path()).expect("it is there").len();
    let before = size();

    let keys = (0..1000).map(|number| number * (LARGE / 1000) + 7);
    let change =
        |id: u64| update("large", &format!(r#""id":{id},"note":"changed""#), &format!(r#""id":{id}"#));
    forge.segment(&[keys.map(change).collect::<Vec<String>>()]);
    file.life(folder.path(), &["large"]).stopping().run();
    let found = "SELECT count(*), count(DISTINCT id), count(*) FILTER (note = 'changed' AND \"at\" IS NOT NULL) FROM large";
    assert_eq!(file.lines(found), [format!("{LARGE}|{LARGE}|1000")]);
    let after = size();
    assert!(after < before + before / 4, "{before} bytes became {after}");
}

#[test]
fn a_transaction_that_is_larger_than_the_memory_that_duckdb_may_take_is_written_all_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null", "note text"], &["id"]);
    let (rows, note) = (120_000_u32, "0123456789abcdef".repeat(40));
    let row = |id: u32| insert("t", &format!(r#""id":{id},"note":"{id} {note}""#));
    forge.segment_of([(0..rows).map(row)]);
    let change =
        |id: u32| update("t", &format!(r#""id":{id},"note":"{note} {id}""#), &format!(r#""id":{id}"#));
    forge.segment_of([(0..rows).map(change)]);
    let file = File::new();
    file.life(folder.path(), &["t"]).memory(48 << 20).batch(1_000_000).stopping().run();
    let found = "SELECT count(*), count(DISTINCT id), count(*) FILTER (note LIKE '%f ' || id) FROM t";
    assert_eq!(file.lines(found), [format!("{rows}|{rows}|{rows}")]);
}
