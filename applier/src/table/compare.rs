//! Whether the changes of an archived table can be written into the local one without loss.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use syncdata_formats::manifest::{self, Generated, Relation, ReplicaIdentity};
use syncdata_formats::name::TableName;
use syncdata_formats::printed::{identifier, literal};
use syncdata_formats::types::printable;

use super::faithful::{computes_alike, converts_exactly, takes};
use super::{Column, Fit, Key, SourceColumns, Table, TextEquality, UniqueIndex};

/// Why a table cannot take what the archive holds, and the statement that mends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub what: String,
    pub remedy: String,
    /// The statement may be the wrong one, and nobody could tell afterwards: only a new base makes the rows right.
    pub in_doubt: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; run: {}", self.what, self.remedy)
    }
}

/// The target of an archived table's changes. `Err` says what keeps every one of them out.
///
/// A column that the local table lacks is not looked for here: a table renames and gains columns in the middle
/// of a segment, and the rows before that still fit. [`lacking`] answers when a row carries it.
pub fn fit(relation: &Relation, table: &Arc<Table>) -> Result<Fit, Difference> {
    if let Some(difference) = under_both_names(relation, table).or_else(|| elsewhere(relation, table)) {
        return Err(difference);
    }
    for column in &relation.columns {
        let Some(local) = here(relation, table, column) else { continue };
        let is_faithful = match (column.generated, local.generated) {
            (None, true) => return Err(generated_here(table, local)),
            (Some(Generated::Virtual), false) => return Err(computed_there(table, local)),
            (Some(_), true) => computes_alike(&local.type_name, &column.type_name),
            (_, false) => takes(&local.type_name, &column.type_name),
        };
        if !is_faithful {
            return Err(other_type(table, column, local));
        }
    }
    let extra = |local: &&Column| source_of(relation, table, local).is_none();
    let required =
        |local: &&Column| local.not_null && !local.has_default && !local.generated && !local.identity;
    if let Some(local) = table.columns.iter().filter(extra).find(required) {
        return Err(Difference {
            what: format!(
                "column {} of {} does not exist at the source, is NOT NULL and has no default",
                local.sql(),
                table.name
            ),
            remedy: format!("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL", table.name.sql(), local.sql()),
            in_doubt: false,
        });
    }
    whole(relation, fit_of_shadow(relation, table))
}

/// The column here that values of the source's go into: by its name, or by the one that it had when the table took its last
/// change. The description is later than the rows that it comes with: they have the old name, and rows after them the new one.
fn here<'t>(relation: &Relation, table: &'t Table, column: &manifest::Column) -> Option<&'t Column> {
    let by_name = table.columns.iter().find(|local| local.name == column.name);
    by_name.or_else(|| {
        let old = table.source_columns.get(&column.attnum?)?;
        let is_taken = relation.columns.iter().any(|other| other.name == *old);
        table.columns.iter().find(|local| !is_taken && local.name == *old)
    })
}

/// The same the other way round.
pub fn source_of<'r>(relation: &'r Relation, table: &Table, local: &Column) -> Option<&'r manifest::Column> {
    let by_name = relation.columns.iter().find(|column| column.name == local.name);
    by_name.or_else(|| {
        let (number, _) = table.source_columns.iter().find(|(_, known)| **known == local.name)?;
        let column = relation.columns.iter().find(|column| column.attnum == Some(*number))?;
        table.columns.iter().all(|other| other.name != column.name).then_some(column)
    })
}

fn whole(relation: &Relation, fit: Fit) -> Result<Fit, Difference> {
    match computed_otherwise(relation, &fit.table).filter(|_| !fit.key.nettable) {
        Some(difference) => Err(difference),
        None => Ok(fit),
    }
}

/// A partition computes a column otherwise than its table: where rows are looked at, that shows in their values.
fn computed_otherwise(relation: &Relation, table: &Table) -> Option<Difference> {
    let stored = relation.columns.iter().filter(|column| column.generated == Some(Generated::Stored));
    let mut here = stored.filter_map(|column| table.columns.iter().find(|local| local.name == column.name));
    let (column, partition) =
        here.find_map(|local| Some((local.sql(), local.computed_otherwise_in.as_ref()?)))?;
    let name = &table.name;
    Some(Difference {
        what: format!(
            "partition {partition} computes {column} by another expression than {name}, and no key tells its rows apart: \
             whether that comes to what the source sent cannot be seen"
        ),
        remedy: format!(
            "ALTER TABLE {} DETACH PARTITION {}  -- make {column} there anew by the expression that {name} has, and attach it \
             again; then run: syncdata-applier resync {}",
            name.sql(),
            partition
                .parse::<TableName>()
                .map_or_else(|_| identifier(partition), |partition| partition.sql()),
            name.shell_word()
        ),
        in_doubt: true,
    })
}

/// The same for what a segment says of rows. Where its key may be younger than they are, rows that were there together may
/// share it: the second must be refused, and which of them is meant their other values tell. With the identity that tables
/// have by themselves nothing names such a row.
pub fn fit_of_changes(relation: &Relation, table: &Arc<Table>) -> Result<Fit, Difference> {
    whole(relation, with_a_key_that_stood(relation, fit(relation, table)?))
}

pub(crate) fn with_a_key_that_stood(relation: &Relation, fit: Fit) -> Fit {
    let is_named_otherwise =
        matches!(relation.replica_identity, ReplicaIdentity::Full | ReplicaIdentity::Index);
    if relation.key_kept || !is_named_otherwise {
        return fit;
    }
    let columns = fit.key.columns;
    Fit { key: Key { columns, ..Key::none(relation) }, ..fit }
}

/// The same of a shadow, whose table was compared: it is made for what the source sends.
pub(crate) fn fit_of_shadow(relation: &Relation, shadow: &Arc<Table>) -> Fit {
    Fit { table: Arc::clone(shadow), key: key(relation, shadow) }
}

/// The difference that a row has found which carries a column that the local table lacks.
pub fn lacking(name: &str, relation: Option<&Relation>, table: &Table) -> Difference {
    let column = relation.and_then(|relation| relation.columns.iter().find(|column| column.name == name));
    let (remedy, in_doubt) = match (relation, column) {
        (Some(relation), Some(column)) => renamed_or_new(table, relation, column),
        (relation, _) => dropped_or_renamed(table, relation, name),
    };
    let remedy = match (in_doubt, remedy.is_empty()) {
        (false, _) => remedy,
        (true, true) => resync(table),
        (true, false) => {
            format!("{remedy}  -- then, since nothing here proves that it was right, run: {}", resync(table))
        }
    };
    Difference {
        what: format!("column {} of {} does not exist locally", identifier(name), table.name),
        remedy,
        in_doubt,
    }
}

/// The archive describes the table as it was later than the row. Text takes every value. Whether that may be wrong: the
/// column may be here, under the name that it got since.
fn dropped_or_renamed(table: &Table, relation: Option<&Relation>, name: &str) -> (String, bool) {
    let number = table.source_columns.iter().find(|(_, known)| *known == name).map(|(number, _)| *number);
    let is_gone = |relation: &Relation| {
        relation.columns.iter().all(|column| column.attnum.is_some() && column.attnum != number)
    };
    let is_renamed = |relation: &Relation| {
        number.is_some() && relation.columns.iter().any(|column| column.attnum == number)
    };
    let add = format!("ALTER TABLE {} ADD COLUMN {} text", table.name.sql(), identifier(name));
    match relation {
        Some(relation) if number.is_some() && is_gone(relation) => {
            (format!("{add}  -- the source has dropped it since"), false)
        }
        Some(relation) if is_renamed(relation) => (String::new(), true),
        _ => (format!("{add};  -- if the source has dropped it since, and not renamed it"), true),
    }
}

/// A column that only we have looks like the old name of one that we lack. The statement, or several, and whether it may
/// be the wrong one.
fn renamed_or_new(table: &Table, relation: &Relation, column: &manifest::Column) -> (String, bool) {
    let source = |local: &&Column| relation.columns.iter().find(|source| source.name == local.name);
    let add = add_column(table, column);
    let rename = |local: &Column| rename_column(table, local, &column.name);
    let is_ours = |local: &&Column| source(local).is_none();
    let is_old = |local: &&Column| is_ours(local) && local.type_name == column.type_name;
    let mut olds: Vec<&Column> = table.columns.iter().filter(is_old).collect();

    if let Some(number) = column.attnum.filter(|_| !table.source_columns.is_empty()) {
        let Some(old) = table.source_columns.get(&number) else { return (add, false) };
        return match table.columns.iter().find(|local| local.name == *old) {
            Some(local) if is_ours(&local) => (rename(local), false),
            // It had rows' values in it, and is not here any more: empty it would be another one.
            _ => (format!("{add};  -- and what was in it is lost here"), true),
        };
    }
    // Numbers mean the same on both sides where the columns that both have are numbered alike.
    let is_alike = |local: &Column| {
        source(&local).is_none_or(|source| source.attnum.map(i32::from) == Some(i32::from(local.attnum)))
    };
    let last = table.columns.iter().filter(|local| source(local).is_some()).map(|local| local.attnum).max();
    let number =
        column.attnum.map(i32::from).filter(|_| last.is_some() && table.columns.iter().all(is_alike));
    if let Some(number) = number {
        match table.columns.iter().filter(is_ours).find(|local| i32::from(local.attnum) == number) {
            None => return (add, false),
            // After all that both have there may also be columns that each has added for itself.
            Some(local) if Some(local.attnum) < last => return (rename(local), false),
            // Also one of another type, which the source may have altered with the name.
            Some(local) if olds.is_empty() => olds.push(local),
            Some(_) => {}
        }
    }
    match olds.as_slice() {
        // It may be the new name of a column whose old name another one has by now, or that is of another type here.
        [] => {
            (format!("{add};  -- if it is a new column: nothing tells whether another one was renamed"), true)
        }
        olds => {
            let renames: Vec<String> = olds.iter().map(|local| rename(local)).collect();
            let both = format!(
                "{};  -- if it was renamed; if it is a new column, run: {add};",
                renames.join(";  -- or run: ")
            );
            (both, true)
        }
    }
}

/// A row has a column of ours under a name that the archive's description, which is later, does not have, and lacks another one of
/// ours that it does have: a column may have been renamed in between, whose values would go into the old one, and then into the
/// new one. Numbers tell it, where they are known.
pub fn unclear(relation: &Relation, table: &Table, names: &[String]) -> Option<Difference> {
    let here = |name: &str| table.columns.iter().find(|local| local.name == name && !local.generated);
    let is_numbered = relation.columns.iter().all(|column| column.attnum.is_some());
    let is_strange = |name: &&String| {
        relation.columns.iter().all(|column| column.name != **name)
            && table.source_columns.values().all(|known| known != *name)
    };
    let old = names.iter().filter(is_strange).find_map(|name| here(name)).filter(|_| is_numbered)?;
    let is_unsaid = |column: &&manifest::Column| {
        let is_known = column.attnum.is_some_and(|number| table.source_columns.contains_key(&number));
        column.generated.is_none() && !is_known && !names.contains(&column.name)
    };
    let new = relation.columns.iter().filter(is_unsaid).find_map(|column| here(&column.name))?;
    Some(Difference {
        what: format!(
            "rows of {} have a column {}, and later ones {}: whether it was renamed, or another one came, nothing here tells",
            table.name,
            old.sql(),
            new.sql()
        ),
        remedy: resync(table),
        in_doubt: true,
    })
}

fn resync(table: &Table) -> String {
    format!(
        "syncdata-applier resync {}  # from a snapshot that is newer: syncdata-archiver snapshot, on the production host",
        table.name.shell_word()
    )
}

/// A column of the source got another name, and both are here: values would go on in the one and stay in the other.
fn under_both_names(relation: &Relation, table: &Table) -> Option<Difference> {
    let is_of_source = |name: &str| relation.columns.iter().any(|column| column.name == name);
    relation.columns.iter().find_map(|column| {
        let old = table.source_columns.get(&column.attnum?).filter(|old| **old != column.name)?;
        let old = table.columns.iter().find(|local| local.name == *old && !is_of_source(old))?;
        let new = table.columns.iter().find(|local| local.name == column.name)?;
        let mut aside = format!("{}_here", new.name);
        while table.column(&aside).is_some() || is_of_source(&aside) {
            aside.push('_');
        }
        Some(Difference {
            what: format!(
                "column {} of {} is called {} at the source by now, and there is such a column here beside it",
                old.sql(),
                table.name,
                new.sql()
            ),
            remedy: format!(
                "{}; {}",
                rename_column(table, new, &aside),
                rename_column(table, old, &column.name)
            ),
            in_doubt: false,
        })
    })
}

fn rename_column(table: &Table, local: &Column, to: &str) -> String {
    format!("ALTER TABLE {} RENAME COLUMN {} TO {}", table.name.sql(), local.sql(), identifier(to))
}

/// Whether a proof's mark says what older rows have in that column. Where it says nothing, the source may have forgotten.
pub fn is_told_by_mark(column: &manifest::Column) -> bool {
    column.attnum.is_some() && column.missing.is_some() && column.generated.is_none()
}

/// What the source calls the columns there; empty where it does not number them.
pub fn source_columns(relation: &Relation) -> SourceColumns {
    let numbered = |column: &manifest::Column| Some((column.attnum?, column.name.clone()));
    relation.columns.iter().map(numbered).collect::<Option<_>>().unwrap_or_default()
}

/// Columns that are new at the source since the table took its last change, and are here: rows that are here are older
/// than they, and have in them what the source says. By the catalog's numbers; where none are known, none are named.
pub fn newer(relation: &Relation, known: &SourceColumns, table: &Table) -> Vec<(usize, Option<String>)> {
    let is_newer = |column: &&manifest::Column| {
        !known.is_empty()
            && column.generated.is_none()
            && column.attnum.is_some_and(|number| !known.contains_key(&number))
    };
    let here = |column: &manifest::Column| {
        let place = table.column(&column.name).filter(|place| !table.columns[*place].generated)?;
        Some((place, column.missing.clone()))
    };
    relation.columns.iter().filter(is_newer).filter_map(here).collect()
}

/// The same where somebody vouched for the rows that are here, and no numbers are known yet: columns that came here since then.
pub fn newer_than_vouched(
    relation: &Relation,
    vouched: &BTreeSet<i16>,
    table: &Table,
) -> Vec<(usize, Option<String>)> {
    let newer = |column: &manifest::Column| {
        let place = table.column(&column.name)?;
        let local = &table.columns[place];
        let is_newer = column.generated.is_none() && !local.generated && !vouched.contains(&local.attnum);
        (is_newer && column.attnum.is_some()).then(|| (place, column.missing.clone()))
    };
    relation.columns.iter().filter_map(newer).collect()
}

/// Rows here have something else in a column than rows which are as old have at the source.
pub fn other_old_values(table: &Table, column: usize, missing: Option<&str>) -> Difference {
    let local = &table.columns[column];
    let name = local.sql();
    let old = missing.map_or_else(|| "NULL".to_owned(), literal);
    let narrower = match missing.is_some() && local.is_by_name {
        true => format!(
            "  -- if {} is defined otherwise here than at the source, run first: ALTER TABLE {} ALTER COLUMN {name} TYPE text",
            local.type_name,
            table.name.sql()
        ),
        false => String::new(),
    };
    Difference {
        what: format!(
            "column {name} of {} is new at the source, where older rows have {old} in it, and rows here have something \
             else",
            table.name
        ),
        remedy: format!("UPDATE {} SET {name} = {old}{narrower}", table.sql()),
        in_doubt: false,
    }
}

/// A column's name is that of another one here than the one to which its values went so far.
fn elsewhere(relation: &Relation, table: &Table) -> Option<Difference> {
    let is_elsewhere = |column: &&manifest::Column| {
        let place = column.attnum.and_then(|number| table.paired.get(&number));
        let local = table.columns.iter().find(|local| local.name == column.name);
        place.zip(local).is_some_and(|(place, local)| local.attnum != *place)
    };
    let column = relation.columns.iter().find(is_elsewhere)?;
    Some(Difference {
        what: format!(
            "column {} of {} is another one here than its rows were written to",
            identifier(&column.name),
            table.name
        ),
        remedy: resync(table),
        in_doubt: true,
    })
}

/// With what rows from before have in it, and what the type's name is held to be.
fn add_column(table: &Table, column: &manifest::Column) -> String {
    let (name, type_name) = (identifier(&column.name), printable(&column.type_name));
    let default =
        column.missing.as_deref().map_or(String::new(), |value| format!(" DEFAULT {}", literal(value)));
    // Without a value for the rows that are here it could not be carried out.
    let not_null = if column.not_null && column.missing.is_some() { " NOT NULL" } else { "" };
    format!("ALTER TABLE {} ADD COLUMN {name} {type_name}{default}{not_null}", table.name.sql())
}

fn generated_here(table: &Table, local: &Column) -> Difference {
    let name = local.sql();
    Difference {
        what: format!(
            "column {name} of {} is generated here and an ordinary one at the source: its values would be lost",
            table.name
        ),
        remedy: format!("ALTER TABLE {} ALTER COLUMN {name} DROP EXPRESSION", table.name.sql()),
        in_doubt: false,
    }
}

fn computed_there(table: &Table, local: &super::Column) -> Difference {
    let name = local.sql();
    Difference {
        what: format!(
            "column {name} of {} is computed at the source, whose values do not travel, and an ordinary one here",
            table.name
        ),
        remedy: format!(
            "ALTER TABLE {} DROP COLUMN {name}  -- or make it again, GENERATED as at the source",
            table.name.sql()
        ),
        in_doubt: false,
    }
}

fn other_type(table: &Table, column: &manifest::Column, local: &Column) -> Difference {
    let name = local.sql();
    let alter =
        format!("ALTER TABLE {} ALTER COLUMN {name} TYPE {}", table.name.sql(), printable(&column.type_name));
    let in_doubt = !converts_exactly(&local.plain_type, &column.type_name);
    Difference {
        what: format!(
            "column {name} of {} is {} here and {} at the source: values would be altered",
            table.name, local.type_name, column.type_name
        ),
        remedy: match in_doubt {
            false => alter,
            true => {
                format!("{alter}  -- then, since that converts what is there, run: {}", resync(table))
            }
        },
        in_doubt,
    }
}

impl Key {
    /// Only what a record says names its row.
    fn none(relation: &Relation) -> Key {
        Key {
            columns: Vec::new(),
            arbiter: false,
            by_hand: false,
            deferrable: false,
            by_image: relation.replica_identity == ReplicaIdentity::Full,
            nettable: false,
            keeps: false,
        }
    }
}

/// The columns by which `old_keys` and `data` name the same row, if there are such.
fn key(relation: &Relation, table: &Table) -> Key {
    let is_full = relation.replica_identity == ReplicaIdentity::Full;
    let none = Key::none(relation);
    // The index that `index` means is not named; its columns stand in each row's `old_keys`.
    let named_by_primary_key = match relation.replica_identity {
        ReplicaIdentity::Default | ReplicaIdentity::Full | ReplicaIdentity::Nothing => true,
        ReplicaIdentity::Index => false,
    };
    let columns: Option<Vec<usize>> = relation.key.iter().map(|name| table.column(name)).collect();
    let Some(columns) = columns.filter(|columns| !columns.is_empty()) else { return none };
    // Records from before it was made may have its values twice: the second must be refused, not written over the first.
    if table.source_key.as_ref().is_some_and(|known| !is_same_key(known, &relation.key)) {
        return Key { columns, ..none };
    }
    let covers = |unique: &&UniqueIndex| {
        unique.columns.len() == columns.len() && columns.iter().all(|column| unique.columns.contains(column))
    };
    let covering: Vec<&UniqueIndex> = table.unique.iter().filter(covers).collect();
    let of_key = |is: fn(&super::Column) -> bool| columns.iter().any(|&column| is(&table.columns[column]));
    let is_other =
        |(place, column): (usize, &super::Column)| column.identity_always && !columns.contains(&place);
    // What an upsert would have to compare is not sent: a row that is in the way is an error.
    let is_unsent = of_key(|column| column.generated) && table.columns.iter().enumerate().any(is_other);
    let immediate = covering.iter().any(|unique| unique.immediate);
    // Where the collation or the type calls two keys of the source one, the second must be refused, not written over the first.
    let is_loose = of_key(super::Column::may_merge) || covering.iter().any(|unique| unique.is_loose);
    let arbiter =
        covering.iter().any(|unique| unique.immediate && !unique.overlaps) && !is_loose && !is_unsent;
    let exact = |&column: &usize| {
        let local = &table.columns[column];
        let source = relation.columns.iter().find(|source| source.name == local.name);
        // Another type here may call different texts of the source equal.
        local.text_equality != TextEquality::Unknown
            && !local.generated
            && source.is_some_and(|source| same_family(&source.type_name, &local.type_name))
    };
    let nettable = arbiter && named_by_primary_key && columns.iter().all(exact);
    let by_image = is_full && !arbiter;
    Key {
        by_hand: !arbiter && !covering.is_empty() && !by_image && !is_unsent,
        deferrable: !immediate && !covering.is_empty() && !by_image,
        columns,
        arbiter,
        by_image,
        nettable,
        keeps: false,
    }
}

/// Whether the same columns tell rows apart.
pub(crate) fn is_same_key(one: &[String], other: &[String]) -> bool {
    one.len() == other.len() && one.iter().all(|column| other.contains(column))
}

/// Types whose equal values have equal texts on both sides.
pub(crate) fn same_family(source: &str, local: &str) -> bool {
    let integer = |name: &str| matches!(name, "smallint" | "integer" | "bigint");
    let text = |name: &str| name == "text" || name.starts_with("character varying");
    source == local || integer(source) && integer(local) || text(source) && text(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_the_archive_names_gets_into_a_statement_unquoted() {
        let table = Table {
            name: "public.t".parse().expect("a name"),
            oid: 1,
            shape: super::super::Shape::Ordinary,
            columns: Vec::new(),
            unique: Vec::new(),
            referenced_by: Vec::new(),
            acts_on_delete: false,
            acts_on_update: false,
            source_columns: Default::default(),
            paired: Default::default(),
            source_key: None,
        };
        let added = |name: &str, type_name: &str, missing: Option<&str>| {
            let column = manifest::Column {
                name: name.into(),
                type_name: type_name.into(),
                not_null: true,
                missing: missing.map(str::to_owned),
                ..manifest::Column::default()
            };
            add_column(&table, &column).replacen("ALTER TABLE \"public\".\"t\" ADD COLUMN ", "", 1)
        };
        assert_eq!(added("a", "numeric(5,2)", Some("it's")), r#""a" numeric(5,2) DEFAULT 'it''s' NOT NULL"#);
        assert_eq!(added("a", "text", None), r#""a" text"#);
        let bad = "integer); DROP TABLE \"t\"; --";
        assert_eq!(added("a\"", bad, None), r#""a""" "integer); DROP TABLE ""t""; --""#);
    }
}
