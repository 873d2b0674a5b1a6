use std::collections::BTreeSet;

use syncdata_formats::change::Op;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::Seen;

use super::*;
use crate::capture::memory::Captured;
use crate::capture::rewrite::{Moved, moved};
use crate::capture::tests::{looks_for, table};
use crate::capture::{Attribute, Marks, RelationKind, Span, Storage, Tally, UNLOGGED};

const POSITION: Lsn = Lsn::from_u64(0x100);

/// Transactions below 10 had ended when the catalog was looked at last.
fn seen() -> Seen {
    Seen { xmin: 10, xmax: 10, xip: Vec::new() }
}

fn name(text: &str) -> TableName {
    text.parse().expect("a name")
}

fn capture(patterns: &[&str], catalog: &[CatalogTable], memory: &Memory) -> Capture {
    let patterns: Vec<_> = patterns.iter().map(|pattern| pattern.parse().expect("a pattern")).collect();
    Capture::resolve(&patterns, &BTreeSet::new(), catalog, memory).expect("resolves")
}

fn span(from: Lsn, to: Lsn) -> Span {
    Span { from, to, looked_at: to }
}

/// What a first poll remembers; then every partition is known to be empty.
fn memory(patterns: &[&str], catalog: &[CatalogTable]) -> Memory {
    let first = capture(patterns, catalog, &Memory::default());
    let spans = span(Lsn::from_u64(0), POSITION);
    let mut memory = first.remember(&Memory::default(), &Tally::default(), &seen(), spans, true);
    memory.relations.values_mut().for_each(|known| known.rows = Some(0));
    memory
}

fn orders() -> Vec<CatalogTable> {
    vec![
        table(1, "orders", RelationKind::Partitioned, None),
        table(2, "orders_1", RelationKind::Table, Some(1)),
        table(3, "other", RelationKind::Table, None),
    ]
}

/// The tables that are missed when rows come under those names.
fn missed(capture: &Capture, rows: &[&str]) -> Vec<(String, &'static str)> {
    let mut tally = Tally { rows: capture.rows(), ..Tally::default() };
    for row in rows {
        let route = capture.route(&name(row));
        tally.doubt(&route, 7, POSITION);
        route.oid.into_iter().for_each(|oid| tally.count(oid, Op::Insert));
    }
    let missed = capture.missed(&tally, true).into_iter();
    missed.map(|missed| (missed.table.to_string(), missed.reason)).collect()
}

fn travels(capture: &Capture, relation: &str) -> Option<String> {
    capture.table_of(&name(relation)).map(|table| table.to_string())
}

#[test]
fn what_has_all_its_marks_is_what_it_was() {
    let memory = memory(&["orders", "other"], &orders());
    let capture = capture(&["orders", "other"], &orders(), &memory);
    assert_eq!(missed(&capture, &["orders_1", "other", "stranger"]), []);
    assert!(!capture.expects_strangers());
    assert!(looks_for(&capture, "orders_1"));
}

#[test]
fn a_partition_from_birth_needs_no_gap() {
    let memory = memory(&["orders"], &orders());
    let mut catalog = orders();
    let mut born = table(4, "orders_2", RelationKind::Table, Some(1));
    born.marks = Marks { changed: 12, named: 11, born: 11, attached: Some(11), ..Marks::default() };
    born.making.as_part = true;
    catalog.push(born);
    let capture = capture(&["orders"], &catalog, &memory);
    assert_eq!(missed(&capture, &["orders_2"]), []);
    assert_eq!(travels(&capture, "orders_2").as_deref(), Some("orders"));
    assert!(looks_for(&capture, "orders_2"));
}

#[test]
fn a_partition_that_is_gone_took_its_rows_along() {
    let mut memory = memory(&["orders"], &orders());
    let catalog = [orders().remove(0)];
    let empty = capture(&["orders"], &catalog, &memory);
    assert_eq!(missed(&empty, &[]), []);
    assert_eq!(missed(&empty, &["orders_1"]), [("orders".to_owned(), PARTITION)]);
    assert!(looks_for(&empty, "orders_1"), "its rows are looked for");
    memory.relations.get_mut(&2).expect("known").rows = None;
    let capture = capture(&["orders"], &catalog, &memory);
    assert_eq!(missed(&capture, &[]), [("orders".to_owned(), PARTITION)]);
}

#[test]
fn a_renamed_partition_may_rest_and_its_rows_are_in_doubt() {
    let memory = memory(&["orders"], &orders());
    let mut catalog = orders();
    (catalog[1].name, catalog[1].marks.named) = (name("orders_old"), 12);
    let capture = capture(&["orders"], &catalog, &memory);
    assert!(capture.expects_strangers(), "rows under all names are looked for");
    assert_eq!(missed(&capture, &["other"]), []);
    for row in ["orders_1", "orders_old", "in_between"] {
        assert_eq!(missed(&capture, &[row]), [("orders".to_owned(), PARTITION)], "{row}");
    }
}

#[test]
fn a_table_that_becomes_a_partition_is_its_parent_s_from_that_transaction_on() {
    let memory = memory(&["*"], &orders());
    let mut catalog = orders();
    catalog[2].partition_of = Some(1);
    catalog[2].marks = Marks { changed: 12, attached: Some(12), ..catalog[2].marks };
    let capture = capture(&["*"], &catalog, &memory);
    let join = capture.join(3).expect("it joins");
    assert_eq!(join.before.as_ref().map(|before| before.table.to_string()).as_deref(), Some("other"));
    assert_eq!((&join.table, join.tainted), (&name("orders"), false));
    assert_eq!(missed(&capture, &[]), [], "it is empty, whenever it joined");
    assert_eq!(missed(&capture, &["other"]), [("orders".to_owned(), PARTITION)], "before or after?");
}

/// The catalog keeps the numbers of those that made a table, however many there have been since.
#[test]
fn a_table_that_is_older_than_half_of_all_numbers_is_not_new() {
    let seen = Seen { xmin: 2_400_002_048, xmax: 2_400_002_048, xip: Vec::new() };
    let mut memory = memory(&["orders"], &orders());
    memory.seen = Some(seen.clone());
    let mut catalog = orders();
    let mut old = table(9, "old_part", RelationKind::Table, Some(1));
    old.marks =
        Marks { changed: 737, named: 737, born: 737, attached: Some(2_400_002_050), ..Marks::default() };
    catalog.push(old);
    let memory = memory.until(&Seen { xmin: 2_400_002_060, xmax: 2_400_002_060, xip: Vec::new() });
    let capture = capture(&["orders"], &catalog, &memory);
    assert!(capture.join(9).expect("it joins").tainted, "what it held is in no stream");
    assert_eq!(missed(&capture, &[]), [("orders".to_owned(), PARTITION)]);
}

#[test]
fn a_name_that_means_another_table_is_a_gap_of_that_name() {
    let memory = memory(&["*"], &orders());
    let mut catalog = orders();
    catalog[2].oid = 7;
    catalog[2].storage.file = 7;
    catalog[2].marks = Marks { changed: 12, named: 12, born: 12, attached: None, ..Marks::default() };
    assert_eq!(missed(&capture(&["*"], &catalog, &memory), &[]), [("other".to_owned(), ANOTHER)]);
    // Made for the first time.
    catalog[2].name = name("new");
    assert_eq!(missed(&capture(&["*"], &catalog, &memory), &["new"]), []);
}

#[test]
fn a_database_that_was_made_again_is_looked_at_as_for_the_first_time() {
    let memory = memory(&["orders", "other"], &orders());
    let mut catalog = orders();
    // Attached long before the slot was made.
    catalog[1].marks = Marks { changed: 3, attached: Some(3), ..catalog[1].marks };
    for table in &mut catalog {
        table.oid += 100;
        table.partition_of = table.partition_of.map(|oid| oid + 100);
        table.storage.file = table.oid;
    }
    let other = catalog.pop();
    let patterns = ["orders", "other"];
    let all_others = capture(&patterns, &catalog, &memory);
    assert_eq!(missed(&all_others, &[]), [("orders".to_owned(), ANOTHER)]);

    let memory = memory.of_another_database().or_since(Some(10));
    let again = capture(&patterns, &catalog, &memory);
    assert_eq!(missed(&again, &["orders_1"]), []);
    assert_eq!(again.vanished, [name("other")].into(), "a table that is not made yet is no spelling mistake");
    catalog.extend(other);
    assert_eq!(missed(&capture(&patterns, &catalog, &memory), &["orders_1", "other"]), []);
}

#[test]
fn a_table_that_left_and_returns_is_a_gap_from_then_on() {
    let before = memory(&["*"], &orders());
    let narrow = capture(&["orders"], &orders(), &before);
    let spans = span(POSITION, Lsn::from_u64(0x200));
    let between = narrow.remember(&before, &Tally::default(), &seen(), spans, true);
    assert_eq!(between.captured(), [name("orders")].into());
    let capture = capture(&["*"], &orders(), &between);
    let returned = &capture.missed(&Tally::default(), true)[0];
    assert_eq!(
        (&returned.table, returned.reason, returned.since),
        (&name("other"), NOT_CAPTURED, Some(POSITION))
    );
}

#[test]
fn where_the_rows_lie_says_whether_they_were_written_anew() {
    let at = |file, toast| Storage { file, toast };
    for (then, now, what) in [
        (at(1, 5), at(1, 5), Moved::No),
        (at(1, 5), at(2, 5), Moved::No),
        (at(1, 5), at(2, 6), Moved::Anew),
        (at(1, 0), at(2, 6), Moved::Anew),
        (at(1, 0), at(2, 0), Moved::Perhaps),
        (at(1, 0), at(1, 6), Moved::No),
    ] {
        assert_eq!(moved(then, now), what, "{then:?} {now:?}");
    }
}

#[test]
fn a_column_name_that_passes_on_is_a_gap() {
    let mut catalog = orders();
    catalog[2].columns = [("a".to_owned(), 1), ("b".to_owned(), 2)].into();
    let memory = memory(&["*"], &catalog);
    catalog[2].columns = [("c".to_owned(), 1), ("b".to_owned(), 2), ("d".to_owned(), 3)].into();
    assert_eq!(missed(&capture(&["*"], &catalog, &memory), &[]), [], "renamed and added");
    catalog[2].columns = [("b".to_owned(), 1), ("a".to_owned(), 2)].into();
    let swapped = capture(&["*"], &catalog, &memory);
    assert_eq!(missed(&swapped, &[]), [("other".to_owned(), REWRITTEN)]);
}

#[test]
fn an_unlogged_partition_is_told_once() {
    let memory = memory(&["orders"], &orders());
    let mut catalog = orders();
    catalog[1].kind = UNLOGGED;
    let told = capture(&["orders"], &catalog, &memory);
    assert_eq!(missed(&told, &[]), [("orders".to_owned(), NOT_CAPTURED)]);
    let spans = span(POSITION, Lsn::from_u64(0x200));
    let then = told.remember(&memory, &Tally::default(), &seen(), spans, true);
    assert_eq!(missed(&capture(&["orders"], &catalog, &then), &[]), []);
    // Logged for a while, so that there may be a snapshot from between.
    catalog[1].storage.file = 9;
    assert_eq!(missed(&capture(&["orders"], &catalog, &then), &[]).len(), 1);
}

#[test]
fn a_table_that_cannot_be_captured_any_more_is_a_gap_and_stops_no_other() {
    for (patterns, became, is_told) in [
        (&["other", "orders"][..], UNLOGGED, true),
        (&["*"], UNLOGGED, true),
        (&["*"], RelationKind::NotCaptured("a view"), true),
        (&["orders"], UNLOGGED, false),
    ] {
        let memory = memory(patterns, &orders());
        let mut catalog = orders();
        catalog[2].kind = became;
        let told = capture(patterns, &catalog, &memory);
        let expected = [("other".to_owned(), NOT_CAPTURED)];
        assert_eq!(missed(&told, &[]), if is_told { &expected[..] } else { &[] }, "{patterns:?}");
        assert_eq!(travels(&told, "orders_1").as_deref(), Some("orders"));
        let spans = span(POSITION, Lsn::from_u64(0x200));
        let then = told.remember(&memory, &Tally::default(), &seen(), spans, true);
        assert_eq!(missed(&capture(patterns, &catalog, &then), &[]), [], "once");
    }
}

#[test]
fn names_that_left_are_not_remembered_without_end() {
    let before = memory(&["*"], &orders());
    let mut crowded = before.clone();
    for number in 0..=names::LEFT_MAX {
        let left = Some(Lsn::from_u64(number as u64 + 1));
        crowded.tables.insert(name(&format!("staging_{number}")), Captured { oid: 99, left });
    }
    let crowd = capture(&["*"], &orders(), &crowded);
    let told = missed(&crowd, &[]);
    assert_eq!(told.len(), names::LEFT_MAX / 2 + 1);
    assert!(told.contains(&("staging_0".to_owned(), NOT_CAPTURED)), "the oldest");
    assert_eq!(crowd.missed(&Tally::default(), true)[0].since, Some(Lsn::from_u64(1)));
    let spans = span(POSITION, Lsn::from_u64(0x200));
    let then = crowd.remember(&crowded, &Tally::default(), &seen(), spans, true);
    assert_eq!(then.tables.len(), before.tables.len() + names::LEFT_MAX / 2);
    assert_eq!(missed(&capture(&["*"], &orders(), &then), &[]), [], "once");
}

#[test]
fn a_type_of_the_same_name_is_another_one() {
    let with_type = |type_oid: u32| {
        let mut catalog = orders();
        let json = r#"{"name": "m", "type_name": "mood", "mark": 1, "rest": 0, "plain": true}"#;
        // As earlier versions have written it.
        let column: Attribute = serde_json::from_str(json).expect("a column");
        catalog[2].layout.attributes.insert(1, Attribute { type_oid, ..column });
        catalog
    };
    for (then, now, is_told) in [(7, 7, false), (7, 8, true), (0, 8, false)] {
        let memory = memory(&["other"], &with_type(then));
        let told = capture(&["other"], &with_type(now), &memory);
        let expected = [("other".to_owned(), REWRITTEN)];
        assert_eq!(missed(&told, &[]), if is_told { &expected[..] } else { &[] }, "{then} {now}");
        let still = memory.relations[&3].has_columns_of(&told.relations[&3]);
        assert_eq!(still, !is_told, "{then} {now}");
    }
}
