//! Which keys matter, and where the rest of a row is told: histories as lines, without a server.

use std::sync::Arc;

use syncdata_formats::change::{Record, Row};
use syncdata_formats::manifest::{Column as Described, Relation, ReplicaIdentity};

use super::origins::Search;
use super::scan::TableScan;
use crate::batch::{Place, TxPlace};
use crate::history::keys::{KeyHash, KeyHasher, Shape, Touch};
use crate::table::{Column, Table, UniqueIndex};

fn column(name: &str) -> Column {
    Column::plain(name, "text", "pg_catalog.text")
}

/// A table of `id` and `big`, which is not always sent.
fn shape(hasher: &KeyHasher) -> Shape {
    let unique = UniqueIndex { columns: vec![0], immediate: true, overlaps: false, is_loose: false };
    let table = Table::plain(vec![column("id"), column("big")], vec![unique]);
    let described = ["id", "big"].map(|name| Described {
        name: name.into(),
        type_name: "text".into(),
        not_null: false,
        ..Described::default()
    });
    let relation = Relation::new(described.into(), vec!["id".into()], ReplicaIdentity::Default);
    Shape::new(&Arc::new(table), &[0], &relation, hasher)
}

/// `+1` inserts row 1, `=1` changes all of it, `~1` a part, `1>2` moves it without its `big`, `1»2` with it, `-1`
/// deletes, `x` empties.
fn line(word: &str) -> String {
    let (op, data, old) = if let Some(id) = word.strip_prefix('+') {
        ("INSERT", Some((id, true)), None)
    } else if let Some(id) = word.strip_prefix('=') {
        ("UPDATE", Some((id, true)), Some(id))
    } else if let Some(id) = word.strip_prefix('~') {
        ("UPDATE", Some((id, false)), Some(id))
    } else if let Some((from, to)) = word.split_once('>') {
        ("UPDATE", Some((to, false)), Some(from))
    } else if let Some((from, to)) = word.split_once('»') {
        ("UPDATE", Some((to, true)), Some(from))
    } else if let Some(id) = word.strip_prefix('-') {
        ("DELETE", None, Some(id))
    } else {
        ("TRUNCATE", None, None)
    };
    let data = data.map_or(String::new(), |(id, whole)| {
        let big = if whole { r#","big":"b""# } else { "" };
        format!(r#","data":{{"id":"{id}"{big}}}"#)
    });
    let old = old.map_or(String::new(), |id| format!(r#","old_keys":{{"id":"{id}"}}"#));
    format!(r#"{{"table":"t","op":"{op}"{data}{old},"lsn":"0/1","ts":"2026-02-05T10:30:00Z"}}"#)
}

fn each(segment: &(u64, &str), mut take: impl FnMut(&Row<'_>, Place)) {
    for (number, word) in (1..).zip(segment.1.split_whitespace()) {
        let line = line(word);
        let Ok(Record::Row(row)) = Record::parse(line.as_bytes()) else { panic!("{line} is no row") };
        take(&row, Place { tx: TxPlace { seq: segment.0, index: 0 }, line: number });
    }
}

fn key(hasher: &KeyHasher, id: &str) -> KeyHash {
    let line = line(&format!("-{id}"));
    let Ok(Record::Row(row)) = Record::parse(line.as_bytes()) else { panic!("no row") };
    match shape(hasher).touch(&row) {
        Some(Touch::Gone(key)) => key,
        other => panic!("{other:?}"),
    }
}

/// Scans these segments, of which that one is in the range.
fn scan(hasher: &KeyHasher, segments: &[(u64, &str)], in_range: u64) -> TableScan {
    let mut scan = TableScan::default();
    let mut shape = shape(hasher);
    for segment in segments {
        each(segment, |row, place| scan.take(row, &mut shape, place, segment.0 == in_range, false));
    }
    scan
}

/// Looks back through the segments, newest first: places that were found, and the segments that tell them.
fn look_back(
    hasher: &KeyHasher,
    scan: &TableScan,
    segments: &[(u64, &str)],
) -> (Vec<(u64, u64)>, Vec<u64>, bool) {
    let mut search = Search::new(scan.origins());
    let mut shape = shape(hasher);
    for segment in segments.iter().rev() {
        if !search.wants(segment.0) {
            continue;
        }
        let mut reading = Some(search.begin(segment.0));
        while let Some(mut now) = reading.take() {
            each(segment, |row, place| search.take(&mut now, row, &mut shape, place));
            reading = search.end(now);
        }
    }
    let mut found: Vec<(u64, u64)> = search.found().map(|place| (place.tx.seq, place.line)).collect();
    found.sort_unstable();
    let told = search.segments.iter().copied().collect();
    (found, told, search.has_not_found())
}

#[test]
fn rows_of_the_range_are_followed_and_others_are_not() {
    let hasher = KeyHasher::default();
    let scan = scan(&hasher, &[(1, "+1 +2 +3"), (2, "=1 -2"), (3, "1»10 =3 10»11 +2 =9")], 2);
    let knows = |id: &str| scan.knows(key(&hasher, id));
    assert!(knows("1") && knows("2") && knows("10") && knows("11"));
    assert!(!knows("3") && !knows("9"));
    assert_eq!((scan.keys, scan.later), (2, 3));
    assert!(scan.origins().is_empty());
}

#[test]
fn only_parts_that_remain_are_looked_for() {
    let hasher = KeyHasher::default();
    // 1 is told whole later, 2 is gone, 3 remains a part, 4 was told whole before its part.
    let found = scan(&hasher, &[(5, "~1 ~2 ~3 =4 ~4"), (6, "=1 -2")], 5);
    let places: Vec<u64> = found.origins().iter().map(|origin| origin.place.line).collect();
    assert_eq!(places, [3]);
    assert_eq!(found.parts().count(), 3);
}

#[test]
fn a_row_is_looked_for_under_its_earlier_keys() {
    let hasher = KeyHasher::default();
    let segments = [(1, "+7 +8"), (2, "7>70 +7"), (3, "70>71 71>72"), (4, "~9"), (5, "~72 ~8 ~6")];
    let scan = scan(&hasher, &segments[4..], 5);
    let (found, told, has_not_found) = look_back(&hasher, &scan, &segments);
    assert_eq!(found, [(5, 1), (5, 2)]);
    assert_eq!(told, [1, 2, 3, 5]);
    assert!(has_not_found, "nobody ever told 6 whole");
}

#[test]
fn what_lay_at_a_key_before_or_after_the_row_is_not_the_row() {
    let hasher = KeyHasher::default();
    // The first row of key 1 is another one; the one that the range changes in part came in segment 2 from nowhere.
    for (older, is_found) in [("+1 -1 +2 2>1", true), ("+1 -1 2>1", false), ("+1 x", false), ("=1", true)] {
        let segments = [(1, older), (2, "~1"), (3, "~1 -1 +1 1>3")];
        let scan = scan(&hasher, &segments[1..], 2);
        // In segment 3 the row of the range is gone: nothing has to be found.
        assert!(scan.origins().is_empty(), "{older}");
        let scan = self::scan(&hasher, &segments[1..2], 2);
        let (found, _, has_not_found) = look_back(&hasher, &scan, &segments[..2]);
        assert_eq!((!found.is_empty(), !has_not_found), (is_found, is_found), "{older}");
    }
}
