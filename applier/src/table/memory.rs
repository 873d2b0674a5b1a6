//! What a local table's columns were when its rows were those of its position. Pure.
//!
//! Rows are converted with a column that somebody alters, and a name can go to another column: neither is seen in the
//! columns that are there afterwards.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Column, PairedColumns, SourceColumns, converts_exactly};

/// See the module. Kept as JSON beside the table's position.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// By the numbers in the local catalog.
    columns: BTreeMap<i16, KeptColumn>,
    pub(crate) paired: PairedColumns,
    /// Where the rows are, of the table or of its partitions. `None`: that was not looked at.
    #[serde(default)]
    pub(crate) files: Option<Files>,
    /// When `files` was looked at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seen: Option<Seen>,
    /// The last of the table's changes when `files` was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) noted: Option<String>,
    /// Those of them that had rows then, by name: numbers do not outlive a dump. `None`: nobody has asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filled: Option<BTreeSet<String>>,
    /// The number of a function of ours then: a restored one has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) functions: Option<u32>,
    /// `None`: they were not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    types: Option<Types>,
    /// Columns that were here when somebody vouched for the rows, by their numbers here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vouched: Option<BTreeSet<i16>>,
}

/// What types are made of that can be altered beside the table, by what stays when they are: labels of enums, attributes
/// of composites.
pub(crate) type Types = BTreeMap<String, String>;

/// By the numbers of the tables that have them.
pub(crate) type Files = BTreeMap<u32, KeptFile>;

/// The file of a table. It gets another one when it is emptied, and when all of its rows are written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptFile {
    pub number: u32,
    pub tablespace: u32,
    /// There is no room for a row in it.
    #[serde(default)]
    pub is_empty: bool,
}

/// A moment in which the rows were those of the position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Transactions older than this one were over.
    pub before: u32,
    /// The last of the table's changes then.
    pub changed: Option<String>,
}

/// A column, without what changes no row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptColumn {
    name: String,
    #[serde(rename = "type")]
    type_name: String,
    /// What computes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expression: Option<u32>,
    /// Which transaction altered it last; 0: nobody knows.
    #[serde(default)]
    altered_in: u32,
}

/// What was done to a column that may have changed its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Altered {
    /// Its values were converted, to where not every one can be.
    Converted { column: String, was: String, is: String },
    /// It is computed by another expression.
    Computed { column: String },
    /// Another column has its name now, which came later.
    Remade { column: String },
}

impl KeptColumn {
    fn of(column: &Column) -> KeptColumn {
        let (name, type_name) = (column.name.clone(), column.plain_type.clone());
        KeptColumn { name, type_name, expression: column.expression, altered_in: column.altered_in }
    }
}

impl Memory {
    /// Of a table whose rows are right as they are.
    pub(crate) fn of(columns: &[Column], source: &SourceColumns, files: Files, types: Types) -> Memory {
        Memory::default().after(columns, source, files, types, true)
    }

    /// What cannot be read is as good as nothing known.
    pub(crate) fn parse(text: &str) -> Option<Memory> {
        serde_json::from_str(text).ok()
    }

    /// What may have changed rows since. A table that takes no changes may be on its way to another shape of the source's:
    /// where its columns belong is looked at when a row tells (`is_live`).
    pub(crate) fn altered<'a>(
        &'a self,
        columns: &'a [Column],
        source: &'a SourceColumns,
        is_live: bool,
    ) -> impl Iterator<Item = Altered> + 'a {
        let remade = columns.iter().filter(move |column| is_live && self.is_remade(column, source));
        let remade = remade.map(|column| Altered::Remade { column: column.name.clone() });
        columns.iter().filter_map(|column| self.altered_column(column)).chain(remade)
    }

    fn altered_column(&self, column: &Column) -> Option<Altered> {
        let was = self.columns.get(&column.attnum).filter(|_| self.is_of_source(column))?;
        let is = KeptColumn::of(column);
        if was.expression.is_some() && is.expression.is_some() && was.expression != is.expression {
            return Some(Altered::Computed { column: is.name });
        }
        let (was, is, column) = (was.type_name.clone(), is.type_name, is.name);
        (!converts_exactly(&was, &is)).then_some(Altered::Converted { column, was, is })
    }

    /// What only this side has is nobody's business.
    fn is_of_source(&self, column: &Column) -> bool {
        self.paired.is_empty() || self.paired.values().any(|number| *number == column.attnum)
    }

    fn is_remade(&self, column: &Column, source: &SourceColumns) -> bool {
        if source.is_empty() {
            return self.has_moved(column);
        }
        let Some((number, _)) = source.iter().find(|(_, name)| **name == column.name) else { return false };
        let Some(place) = self.paired.get(number) else { return false };
        *place != column.attnum && self.paired.values().all(|other| *other != column.attnum)
    }

    /// Where nothing is known of the source's columns but their names: another column has that name now.
    fn has_moved(&self, column: &Column) -> bool {
        self.columns.iter().any(|(place, was)| was.name == column.name && *place != column.attnum)
    }

    /// Parts of types that are not what they were, each with what it was and what it is.
    pub(crate) fn altered_types<'a>(
        &'a self,
        types: &'a Types,
    ) -> impl Iterator<Item = (&'a String, &'a String, &'a String)> {
        let both = |(key, was): (&'a String, &'a String)| Some((key, was, types.get(key)?));
        self.types.iter().flatten().filter_map(both).filter(|(_, was, is)| was != is)
    }

    /// The same, of types that somebody vouches for.
    #[must_use]
    pub(crate) fn without_types(self) -> Memory {
        Memory { types: None, ..self }
    }

    /// Whether columns have changed in a way for which PostgreSQL writes all rows anew.
    pub(crate) fn explains_other_files(&self, columns: &[Column]) -> bool {
        columns.iter().any(|column| {
            let was = self.columns.get(&column.attnum);
            // An expression that goes leaves its values.
            let computes =
                |was: &KeptColumn| column.expression.is_some() && was.expression != column.expression;
            was.map_or(column.rewrites, |was| was.type_name != column.plain_type || computes(was))
        })
    }

    /// Whether a column of the source was altered, and is as it was: it may have been another one meanwhile. A column that gets
    /// another type takes those after it along, as the catalog has them.
    pub(crate) fn is_altered_and_back(&self, columns: &[Column]) -> bool {
        let is_taken_along = |column: &Column| {
            let before = columns.iter().filter(|other| other.attnum < column.attnum);
            before.filter(|other| other.altered_in == column.altered_in).any(|other| {
                self.columns.get(&other.attnum).is_some_and(|was| was.type_name != other.plain_type)
            })
        };
        columns.iter().filter(|column| self.is_of_source(column)).any(|column| {
            let was = self.columns.get(&column.attnum).filter(|was| was.altered_in != 0);
            let is_back = |was: &KeptColumn| was.name == column.name && was.type_name == column.plain_type;
            let is_altered = |was: &KeptColumn| was.altered_in != column.altered_in && is_back(was);
            was.is_some_and(is_altered) && !is_taken_along(column)
        })
    }

    /// Whether there was no room for a row in that file of a table or partition, and no change has come since.
    pub(crate) fn is_known_empty(&self, leaf: u32, changed: Option<&str>) -> bool {
        let file = self.files.as_ref().and_then(|files| files.get(&leaf));
        self.is_of(changed) && file.is_some_and(|file| file.is_empty)
    }

    /// Whether nothing was applied since the files were looked at.
    pub(crate) fn is_of(&self, changed: Option<&str>) -> bool {
        self.noted.as_deref() == changed
    }

    /// The same after nothing of that has happened. What belongs together stays together, whatever it is called. Types that
    /// may be on their way to those of the source stay as they were known, until they are judged (`judges_types`).
    #[must_use]
    pub(crate) fn after(
        &self,
        columns: &[Column],
        source: &SourceColumns,
        files: Files,
        mut types: Types,
        judges_types: bool,
    ) -> Memory {
        let known = self.types.iter().flatten().filter(|_| !judges_types);
        for (key, was) in known {
            types.entry(key.clone()).and_modify(|is| is.clone_from(was));
        }
        let place = |(number, name): (&u16, &String)| {
            let known = self.paired.get(number).copied();
            let here = || columns.iter().find(|column| column.name == *name).map(|column| column.attnum);
            Some((*number, known.or_else(here)?))
        };
        Memory {
            columns: columns.iter().map(|column| (column.attnum, KeptColumn::of(column))).collect(),
            paired: source.iter().filter_map(place).collect(),
            files: Some(files),
            seen: self.seen.clone(),
            noted: self.noted.clone(),
            filled: self.filled.clone(),
            functions: self.functions,
            types: Some(types),
            vouched: self.vouched.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(attnum: i16, name: &str, type_name: &str) -> Column {
        Column { attnum, ..Column::plain(name, type_name, "pg_catalog.text") }
    }

    fn source(columns: &[(u16, &str)]) -> SourceColumns {
        columns.iter().map(|(number, name)| (*number, (*name).to_owned())).collect()
    }

    #[test]
    fn what_may_have_changed_rows_is_told_from_what_has_not() {
        let before = [column(1, "id", "integer"), column(2, "a", "numeric"), column(3, "mine", "text")];
        let source = source(&[(1, "id"), (2, "a")]);
        let memory = Memory::of(&before, &source, Files::new(), Types::new());
        let altered = |columns: &[Column], is_live| memory.altered(columns, &source, is_live).next();
        let with = |column: Column| [before[0].clone(), column, before[2].clone()];
        assert_eq!(altered(&before, true), None);
        let narrow = Altered::Converted { column: "a".into(), was: "numeric".into(), is: "date".into() };
        assert_eq!(altered(&with(column(2, "a", "date")), false), Some(narrow));
        assert_eq!(altered(&with(column(2, "b", "numeric")), true), None);
        let remade = with(column(4, "a", "numeric"));
        assert_eq!(altered(&remade, true), Some(Altered::Remade { column: "a".into() }));
        assert_eq!(altered(&remade, false), None);
        let mine = [before[0].clone(), before[1].clone(), column(3, "mine", "date")];
        assert_eq!(altered(&mine, true), None);
    }

    #[test]
    fn columns_belong_together_whatever_they_are_called() {
        let memory = Memory::of(&[column(7, "a", "text")], &source(&[(1, "a")]), Files::new(), Types::new());
        assert_eq!(memory.paired, PairedColumns::from([(1, 7)]));
        let now = [column(7, "b", "text"), column(8, "a", "text")];
        let memory = memory.after(&now, &source(&[(1, "b"), (2, "a")]), Files::new(), Types::new(), true);
        assert_eq!(memory.paired, PairedColumns::from([(1, 7), (2, 8)]));
        let text = serde_json::to_string(&memory).expect("plain");
        assert_eq!(Memory::parse(&text), Some(memory));
    }

    #[test]
    fn without_numbers_of_the_source_a_name_belongs_to_the_column_that_had_it() {
        let unknown = SourceColumns::new();
        let before = [column(1, "a", "text"), column(2, "b", "text")];
        let memory = Memory::of(&before, &unknown, Files::new(), Types::new());
        let altered = |columns: &[Column]| memory.altered(columns, &unknown, true).next();
        assert_eq!(altered(&before), None);
        // As the source may have renamed it.
        assert_eq!(altered(&[column(1, "c", "text"), column(2, "b", "text")]), None);
        let remade = Some(Altered::Remade { column: "a".into() });
        assert_eq!(altered(&[column(2, "b", "text"), column(3, "a", "text")]), remade);
        let swapped = [column(1, "b", "text"), column(2, "a", "text")];
        assert_eq!(altered(&swapped), Some(Altered::Remade { column: "b".into() }));
    }

    #[test]
    fn rows_are_written_anew_for_columns_that_come_or_get_another_type() {
        let before = [column(1, "a", "integer")];
        let memory = Memory::of(&before, &SourceColumns::new(), Files::new(), Types::new());
        assert!(!memory.explains_other_files(&before));
        assert!(!memory.explains_other_files(&[column(1, "b", "integer")]));
        assert!(memory.explains_other_files(&[column(1, "a", "bigint")]));
        let new = column(2, "b", "integer");
        assert!(!memory.explains_other_files(&[column(1, "a", "integer"), new.clone()]));
        let rewrites = Column { rewrites: true, ..new };
        assert!(memory.explains_other_files(&[column(1, "a", "integer"), rewrites]));
        let altered = |altered_in: u32| [Column { altered_in, ..column(1, "a", "integer") }];
        let memory = Memory::of(&altered(7), &SourceColumns::new(), Files::new(), Types::new());
        assert!(!memory.is_altered_and_back(&altered(7)));
        assert!(memory.is_altered_and_back(&altered(8)));
        let two = |first: &str, was_altered: [u32; 2]| {
            let [first_in, second_in] = was_altered;
            let first = Column { altered_in: first_in, ..column(1, "a", first) };
            [first, Column { altered_in: second_in, ..column(2, "b", "numeric") }]
        };
        let memory = Memory::of(&two("integer", [7, 7]), &SourceColumns::new(), Files::new(), Types::new());
        assert!(!memory.is_altered_and_back(&two("bigint", [8, 7])));
        assert!(!memory.is_altered_and_back(&two("bigint", [8, 8])), "taken along");
        assert!(memory.is_altered_and_back(&two("bigint", [8, 9])));
        assert!(memory.is_altered_and_back(&two("integer", [7, 8])));
    }

    #[test]
    fn types_of_a_table_that_takes_no_changes_are_remembered_as_they_were() {
        let types = |label: &str| Types::from([("label 7".to_owned(), label.to_owned())]);
        let unknown = SourceColumns::new();
        let memory = Memory::of(&[], &unknown, Files::new(), types("ok"));
        assert_eq!(memory.altered_types(&types("ok")).count(), 0);
        assert_eq!(memory.altered_types(&types("fine")).count(), 1);
        let away = memory.after(&[], &unknown, Files::new(), types("fine"), false);
        assert_eq!(away.altered_types(&types("fine")).count(), 1);
        let back = away.after(&[], &unknown, Files::new(), types("fine"), true);
        assert_eq!(back.altered_types(&types("fine")).count(), 0);
        // A column of it is there no more.
        assert_eq!(memory.altered_types(&Types::new()).count(), 0);
    }
}
