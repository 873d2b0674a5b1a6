//! Whether a record says which row it is about: what is left out of its identity may be just what tells that row from
//! others.

use syncdata_formats::manifest::{Column, Generated, Relation, ReplicaIdentity};

use crate::table::{Difference, Fit, Table};

/// A column of the identity that is not among the names, though a record that was written under this relation would have
/// it there. One that is older than the relation may have another identity.
pub(super) fn unsaid(relation: &Relation, table: &Table, names: &[String]) -> Option<String> {
    let unsaid = match relation.replica_identity {
        ReplicaIdentity::Full => {
            unsaid_of_all(relation, names).or_else(|| unsaid_of_key(relation, table, names))
        }
        ReplicaIdentity::Default | ReplicaIdentity::Nothing => unsaid_of_key(relation, table, names),
        ReplicaIdentity::Index => None,
    };
    let first = || relation.columns.first().map(|column| column.name.clone());
    unsaid.or_else(|| names.is_empty().then(first).flatten())
}

/// Under another key than now it was whole, if that one still tells the rows here apart.
fn unsaid_of_key(relation: &Relation, table: &Table, names: &[String]) -> Option<String> {
    let is_unique = table
        .unique
        .iter()
        .any(|index| index.columns.iter().all(|&column| names.contains(&table.columns[column].name)));
    relation.key.iter().find(|name| !names.contains(name) && !is_unique).cloned()
}

/// All columns are the identity. A record from before columns came lacks the newest ones, and only these.
fn unsaid_of_all(relation: &Relation, names: &[String]) -> Option<String> {
    let is_renamed = |name: &String| relation.columns.iter().all(|column| column.name != *name);
    if names.iter().any(is_renamed) {
        return None;
    }
    let number = |(place, column): &(usize, &Column)| column.attnum.map_or(*place, usize::from);
    let travel = || {
        let columns = relation.columns.iter().enumerate();
        columns.filter(|(_, column)| column.generated != Some(Generated::Virtual))
    };
    let newest_said = travel().filter(|(_, column)| names.contains(&column.name)).map(|c| number(&c)).max();
    let is_missing = |column: &(usize, &Column)| {
        !names.contains(&column.1.name) && newest_said.is_none_or(|newest| number(column) < newest)
    };
    travel().find(is_missing).map(|(_, column)| column.name.clone())
}

/// The record names its row by columns of another key than the one that the relation has by now, or by all of them: that key
/// may have been made, or been gone for a while, and rows from before it may have been written over each other. Not
/// where the source knows that it stood all the time.
pub(super) fn is_of_other_key(relation: &Relation, fit: &Fit, names: &[String]) -> bool {
    fit.key.arbiter
        && relation.replica_identity == ReplicaIdentity::Default
        && !relation.key_kept
        && names.iter().any(|name| !relation.key.contains(name))
}

pub(super) fn other_key(table: &Table) -> Difference {
    Difference {
        what: format!(
            "the key of {} has become another one at the source in the middle of a segment, or was gone for a while: rows \
             from before may have been taken for each other",
            table.name
        ),
        remedy: format!(
            "syncdata-applier resync {}  # from a snapshot that is newer than the change: syncdata-archiver snapshot, \
             on the production host",
            table.name.shell_word()
        ),
        in_doubt: false,
    }
}

pub(super) fn difference(column: &str, table: &Table) -> Difference {
    Difference {
        what: format!(
            "a change of {} does not say {column} of the row that it is about: another row might be taken for it",
            table.name
        ),
        remedy: format!(
            "syncdata-applier resync {}  # from a snapshot that is newer than the change: syncdata-archiver snapshot, \
             on the production host",
            table.name
        ),
        in_doubt: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Column as Local, UniqueIndex};

    fn table(columns: &[&str], unique: &[usize]) -> Table {
        let column = |name: &&str| Local::plain(name, "integer", "pg_catalog.int4");
        let unique =
            UniqueIndex { columns: unique.to_vec(), immediate: true, overlaps: false, is_loose: false };
        Table::plain(columns.iter().map(column).collect(), vec![unique])
    }

    #[test]
    fn a_record_says_all_of_its_identity_or_is_older_than_that() {
        let column = |name: &&str| Column { name: (*name).into(), ..Column::default() };
        let columns: Vec<Column> = ["a", "b", "c"].iter().map(column).collect();
        let local = table(&["a", "b", "c"], &[0, 1]);
        let old_key = table(&["a", "b", "c"], &[0]);
        for (identity, local, said, unsaid_column) in [
            (ReplicaIdentity::Default, &local, &["a", "b"][..], None),
            (ReplicaIdentity::Default, &local, &["a"], Some("b")),
            (ReplicaIdentity::Default, &local, &["c"], Some("a")),
            (ReplicaIdentity::Default, &local, &[], Some("a")),
            // The key was (a) when it was written, and still is here.
            (ReplicaIdentity::Default, &old_key, &["a"], None),
            (ReplicaIdentity::Full, &local, &["a", "b", "c"], None),
            (ReplicaIdentity::Full, &local, &["a", "b"], None),
            (ReplicaIdentity::Full, &local, &["a", "c"], Some("b")),
            (ReplicaIdentity::Full, &old_key, &["a", "was_b"], None),
            (ReplicaIdentity::Full, &local, &["a", "was_b", "c"], Some("b")),
            (ReplicaIdentity::Full, &local, &["a"], Some("b")),
            (ReplicaIdentity::Full, &local, &[], Some("a")),
            (ReplicaIdentity::Index, &local, &["c"], None),
            (ReplicaIdentity::Index, &local, &[], Some("a")),
        ] {
            let relation = Relation::new(columns.clone(), vec!["a".into(), "b".into()], identity);
            let said: Vec<String> = said.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(unsaid(&relation, local, &said).as_deref(), unsaid_column, "{identity} {said:?}");
        }
    }
}
