//! Whether rows of a base copy are still right under the columns that the table has now.
//!
//! Pure. DDL is not in the stream: what it did to rows has to follow from the two descriptions alone, column by column,
//! by the catalog's number. What does not follow needs a newer base copy.

use std::collections::BTreeMap;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Column, FingerprintVersion, Manifest, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::types::keeps_text;

use crate::table::is_told_by_mark;

/// What rows that are older than a column have in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OldValue {
    pub column: String,
    pub value: String,
}

/// A description of a table.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub relation: Relation,
    /// It may be older than the base: its segment begins before the base was complete.
    pub early: bool,
}

/// What these manifests tell of a table, one after the other, where it was as `before` says. Of a proof's mark a column
/// counts only with what older rows have in it: where it says nothing, production's catalog may have forgotten.
pub(crate) fn told<'m>(
    manifests: impl Iterator<Item = &'m Manifest>,
    table: &TableName,
    before: Option<&Relation>,
    base_end: Lsn,
) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    for manifest in manifests {
        let early = manifest.start_lsn < base_end;
        // It is as of the proof's snapshot, the changes are described later.
        let last = told.last().map(|told| &told.relation).or(before);
        let marked = manifest.proof.as_ref().and_then(|mark| mark.tables.get(table));
        let marked = marked.zip(last).and_then(|(marked, last)| with_marked(last, &marked.relation));
        let described = marked.into_iter().chain(manifest.relations.get(table).cloned());
        told.extend(described.map(|relation| Told { relation, early }));
    }
    told
}

/// `None`: it has nothing that is new.
fn with_marked(last: &Relation, marked: &Relation) -> Option<Relation> {
    if last.columns.iter().any(|column| column.attnum.is_none()) {
        return None;
    }
    let is_new = |column: &&Column| {
        let is_known = |known: &Column| known.attnum == column.attnum || known.name == column.name;
        is_told_by_mark(column) && !last.columns.iter().any(is_known)
    };
    let new: Vec<Column> = marked.columns.iter().filter(is_new).cloned().collect();
    let columns = [last.columns.as_slice(), &new].concat();
    (!new.is_empty()).then(|| Relation { columns, fingerprint: marked.fingerprint, ..last.clone() })
}

/// What rows have that were made before columns came, at whatever time.
pub(crate) fn old_values(now: &Relation) -> Vec<OldValue> {
    let old =
        |column: &Column| Some(OldValue { column: column.name.clone(), value: column.missing.clone()? });
    now.columns.iter().filter_map(old).collect()
}

/// What old rows have in a column, as it was said first: the catalog of the source forgets it when rows are written anew.
pub(crate) fn first_said(now: Relation, since: impl Iterator<Item = Relation>) -> Relation {
    let mut said: BTreeMap<u16, String> = BTreeMap::new();
    for column in since.flat_map(|relation| relation.columns) {
        if let (Some(attnum), Some(missing)) = (column.attnum, column.missing) {
            said.entry(attnum).or_insert(missing);
        }
    }
    let column = |column: Column| {
        let first = column.attnum.and_then(|attnum| said.get(&attnum).cloned());
        Column { missing: first.or(column.missing), ..column }
    };
    Relation { columns: now.columns.into_iter().map(column).collect(), ..now }
}

/// What the rows that were there under `before` need to be right under the last of the descriptions that came `since`,
/// all of them, and under what that one is now. `Err`: nobody can say, in words.
pub(crate) fn bridge(before: &Relation, since: &[Told], now: &Relation) -> Result<Vec<OldValue>, String> {
    // Step by step: a label that is gone in between, and there again in the end, is another one.
    let mut last = before;
    for Told { relation: next, early } in since {
        // The base has all of its labels in their order: it is older than the base.
        if *early && check_labels(next, before).is_ok() {
            continue;
        }
        check_labels(last, next)?;
        last = next;
    }
    if before.fingerprint == now.fingerprint {
        return Ok(Vec::new());
    }
    let mut old_values = Vec::new();
    for column in &now.columns {
        match same_column(before, now, column)? {
            Some(old) => same_values(old, column)?,
            None => old_values
                .extend(column.missing.clone().map(|value| OldValue { column: column.name.clone(), value })),
        }
    }
    check_labels(before, now)?;
    Ok(old_values)
}

/// The column as it was; `None`: it is newer.
fn same_column<'a>(
    before: &'a Relation,
    now: &Relation,
    column: &Column,
) -> Result<Option<&'a Column>, String> {
    let by_name = before.columns.iter().find(|old| old.name == column.name);
    let is_numbered = |relation: &Relation| relation.fingerprint_version == FingerprintVersion::Second;
    if !is_numbered(before) || !is_numbered(now) {
        return match by_name {
            Some(old) => Ok(Some(old)),
            None => Err(format!("what its rows have in the newer column {} is not said", column.name)),
        };
    }
    let by_number = before.columns.iter().find(|old| old.attnum == column.attnum);
    match (by_number, by_name) {
        (Some(old), _) if old.name == column.name => Ok(Some(old)),
        (Some(old), _) => Err(format!("column {} is {} now", old.name, column.name)),
        (None, Some(_)) => Err(format!("column {} was dropped and made again since", column.name)),
        (None, None) => Ok(None),
    }
}

fn same_values(old: &Column, now: &Column) -> Result<(), String> {
    if !keeps_text(&old.type_name, &now.type_name) {
        return Err(format!("column {} was {} and is {} now", now.name, old.type_name, now.type_name));
    }
    Ok(())
}

/// Labels may have come, and keep their order; one that is gone, or in another place, was renamed, and old rows have the
/// old name.
pub(crate) fn check_labels(before: &Relation, now: &Relation) -> Result<(), String> {
    for (name, labels) in &before.types {
        let Some(known) = now.types.get(name) else { continue };
        let mut rest = known.iter();
        if let Some(gone) = labels.iter().find(|label| !rest.any(|known| known == *label)) {
            return Err(format!("label {gone:?} of type {name} is another one now"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use syncdata_formats::manifest::ReplicaIdentity;

    use super::*;

    fn column(attnum: u16, name: &str, type_name: &str, missing: Option<&str>) -> Column {
        Column {
            name: name.into(),
            type_name: type_name.into(),
            attnum: Some(attnum),
            missing: missing.map(str::to_owned),
            ..Column::default()
        }
    }

    fn later(relation: Relation) -> Told {
        Told { relation, early: false }
    }

    fn relation(columns: &[Column], labels: &[&str]) -> Relation {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let types = BTreeMap::from([("mood".to_owned(), labels)]);
        Relation::described(columns.to_vec(), vec!["id".into()], ReplicaIdentity::Default, types)
    }

    #[test]
    fn rows_of_a_base_are_right_where_the_descriptions_say_so() {
        let id = column(1, "id", "integer", None);
        let base = relation(&[id.clone(), column(2, "v", "integer", None)], &["a", "b"]);
        let v = |name: &str, type_name: &str| column(2, name, type_name, None);
        for (columns, labels, outcome) in [
            (vec![id.clone(), v("v", "integer")], &["a", "b"][..], Ok(None)),
            (vec![id.clone(), v("v", "bigint")], &["a", "b"], Ok(None)),
            (vec![id.clone()], &["a", "b"], Ok(None)),
            (
                vec![id.clone(), v("v", "integer"), column(3, "w", "text", Some("x"))],
                &["a", "b"],
                Ok(Some("x")),
            ),
            (vec![id.clone(), v("v", "integer"), column(3, "w", "text", None)], &["a", "b"], Ok(None)),
            (vec![id.clone(), v("v", "integer")], &["a", "new", "b"], Ok(None)),
            (vec![id.clone(), v("v", "integer")], &["a", "c"], Err("label \"b\" of type mood")),
            // Each has the other's name now.
            (vec![id.clone(), v("v", "integer")], &["b", "a"], Err("label \"b\" of type mood")),
            (vec![id.clone(), v("v", "smallint")], &["a", "b"], Err("was integer and is smallint")),
            (vec![id.clone(), v("w", "integer")], &["a", "b"], Err("column v is w now")),
            (vec![id.clone(), column(3, "v", "integer", None)], &["a", "b"], Err("dropped and made again")),
        ] {
            let now = relation(&columns, labels);
            let found = bridge(&base, &[later(now.clone())], &now);
            match (found, outcome) {
                (Ok(values), Ok(value)) => {
                    assert_eq!(values.first().map(|value| value.value.as_str()), value, "{columns:?}");
                }
                (Err(reason), Err(says)) => assert!(reason.contains(says), "{reason}"),
                (found, outcome) => panic!("{columns:?}: {found:?} instead of {outcome:?}"),
            }
        }
    }

    #[test]
    fn descriptions_without_numbers_go_by_name_and_know_nothing_of_newer_columns() {
        let plain = |columns: &[&str]| {
            let column =
                |name: &&str| Column { name: (*name).into(), type_name: "text".into(), ..Column::default() };
            Relation::new(columns.iter().map(column).collect(), Vec::new(), ReplicaIdentity::Default)
        };
        assert_eq!(bridge(&plain(&["a", "b"]), &[], &plain(&["a"])), Ok(Vec::new()));
        let found = bridge(&plain(&["a"]), &[], &plain(&["a", "b"]));
        assert!(found.is_err_and(|reason| reason.contains("column b")));
    }

    #[test]
    fn a_label_that_was_gone_in_between_is_another_one() {
        let with = |labels: &[&str]| relation(&[column(1, "id", "integer", None)], labels);
        let now = with(&["x", "b", "a"]);
        assert_eq!(bridge(&with(&["x", "a"]), &[later(now.clone())], &now), Ok(Vec::new()));
        let found = bridge(&with(&["x", "a"]), &[later(with(&["x", "b"])), later(now.clone())], &now);
        assert!(found.is_err_and(|reason| reason.contains("label \"a\" of type mood")));
        // Although nothing else has changed in the end.
        let steps = [later(with(&["x", "b"])), later(with(&["x", "a"]))];
        assert!(bridge(&with(&["x", "a"]), &steps, &with(&["x", "a"])).is_err());
        // One that may be older than the base, and has nothing that the base has not, is.
        let early = |labels: &[&str]| Told { early: true, ..later(with(labels)) };
        let found = bridge(&with(&["x", "a"]), &[early(&["x"]), later(now.clone())], &now);
        assert_eq!(found, Ok(Vec::new()));
        assert!(bridge(&with(&["x", "a"]), &[early(&["x", "b"]), later(now.clone())], &now).is_err());
    }

    #[test]
    fn a_mark_tells_only_what_the_catalog_has_not_forgotten() {
        let last = relation(&[column(1, "id", "integer", None)], &[]);
        let c = |missing| relation(&[column(1, "id", "integer", None), column(2, "c", "text", missing)], &[]);
        assert!(with_marked(&last, &c(None)).is_none());
        let told = with_marked(&last, &c(Some("x"))).expect("a column");
        assert_eq!(bridge(&last, &[], &told).expect("it is told")[0].value, "x");
        // What was said before stays.
        assert!(with_marked(&c(Some("x")), &c(None)).is_none());
    }

    #[test]
    fn what_was_said_first_of_old_rows_stays() {
        let with = |missing: Option<&str>| {
            relation(&[column(1, "id", "integer", None), column(3, "w", "text", missing)], &[])
        };
        for (said, value) in [
            (&[Some("x"), None][..], Some("x")),
            (&[None, Some("x"), Some("y")], Some("x")),
            (&[None, None], None),
        ] {
            let said: Vec<Relation> = said.iter().map(|missing| with(*missing)).collect();
            let now = first_said(said.last().expect("one").clone(), said.into_iter());
            let base = relation(&[column(1, "id", "integer", None)], &[]);
            let values = bridge(&base, &[], &now).expect("nothing else has changed");
            assert_eq!(values.first().map(|old| old.value.as_str()), value);
        }
    }
}
