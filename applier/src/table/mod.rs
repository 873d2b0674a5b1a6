//! A local table as plans and batches see it, and whether a table of the archive fits into it. Pure: a target fills it
//! from its own catalog.

mod compare;
pub(crate) mod create;
mod faithful;
mod labels;
mod memory;

use std::collections::BTreeMap;
use std::sync::Arc;

use syncdata_formats::name::TableName;
use syncdata_formats::printed;

pub use self::compare::{
    Difference, fit, fit_of_changes, is_told_by_mark, lacking, newer, newer_than_vouched, other_old_values,
    source_columns, source_of, unclear,
};
pub(crate) use self::compare::{fit_of_shadow, is_same_key, same_family, with_a_key_that_stood};
pub(crate) use self::faithful::converts_exactly;
pub(crate) use self::labels::{Renamed, renamed};
pub use self::memory::Altered;
pub(crate) use self::memory::{KeptFile, Memory, Seen, Types};

/// The names of a source table's columns, by their numbers in its catalog, which tell a new name from a new column.
pub type SourceColumns = BTreeMap<u16, String>;

/// Which local column holds which one of the source's, by the numbers in both catalogs: names come and go.
pub type PairedColumns = BTreeMap<u16, i16>;

/// A local table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: TableName,
    pub oid: u32,
    pub shape: Shape,
    pub columns: Vec<Column>,
    /// Valid, without predicate and expressions. The primary key comes first.
    pub unique: Vec<UniqueIndex>,
    /// Tables whose foreign keys point here, this one left out.
    pub referenced_by: Vec<TableName>,
    /// A foreign key that points here cascades, or sets its own columns: outside the replica role a DELETE (an UPDATE)
    /// here changes other rows.
    pub acts_on_delete: bool,
    pub acts_on_update: bool,
    /// What the columns of the source were called when it took its last change, as far as that is known.
    pub source_columns: SourceColumns,
    /// Where the columns of the source are here, as far as that is known.
    pub paired: PairedColumns,
    /// The key of the source by which its rows were taken last, as far as that is known.
    pub source_key: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Ordinary,
    Partitioned,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// Its number in the catalog, which a new name leaves as it is.
    pub attnum: i16,
    /// As `format_type` prints it.
    pub type_name: String,
    /// The same below all domains, with the modifier that counts.
    pub plain_type: String,
    /// The type below all domains, qualified and quoted, without a modifier: a text cast to it is parsed by
    /// its input function and cut by nobody.
    pub base_type: String,
    pub text_equality: TextEquality,
    /// The type's own `=`, wherever its extension put it: `OPERATOR(public.=)`.
    pub equality: String,
    /// Its collation calls texts equal that are not the same: `a` and `A`.
    pub is_loose: bool,
    /// Its type, or that of its elements, has an equality that is none of PostgreSQL's: what that calls equal may depend on
    /// the locale of the database, as with `citext`.
    pub has_own_equality: bool,
    /// A domain, a composite: its name is the source's, and says nothing of how it is defined here.
    pub is_by_name: bool,
    /// Somebody has made a cast of text to it: values have to go through its input function.
    pub has_own_cast: bool,
    pub not_null: bool,
    pub has_default: bool,
    pub generated: bool,
    /// The number of the expression that computes it, which another one does not have.
    pub expression: Option<u32>,
    /// A partition that computes it by another expression.
    pub computed_otherwise_in: Option<String>,
    /// The transaction that altered it last; 0: nobody knows.
    pub altered_in: u32,
    /// Where it came to a table with rows, they may have been written anew for it.
    pub rewrites: bool,
    pub identity_always: bool,
    pub identity: bool,
}

/// When two texts of a type are the same value to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextEquality {
    /// When they are the same bytes.
    Exact,
    /// When they are the same digits but for zeros at the end of the fraction and the sign of zero.
    Numeric,
    /// When they are the same bytes but for spaces at the end.
    Padded,
    /// Only the server knows.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueIndex {
    pub columns: Vec<usize>,
    /// False for DEFERRABLE constraints: no arbiter of ON CONFLICT, and not enforced under the replica role.
    pub immediate: bool,
    /// WITHOUT OVERLAPS: equal rows overlap, so it is unique; no arbiter of ON CONFLICT either.
    pub overlaps: bool,
    /// Its own collation calls texts equal that are not the same, whatever that of the column does.
    pub is_loose: bool,
}

/// A table of the archive, held against the local one that takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    pub table: Arc<Table>,
    pub key: Key,
}

/// How the rows of a table are found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Local columns that identify a row, by what the archive says. Empty: `old_keys` alone say.
    pub columns: Vec<usize>,
    /// An immediate unique index covers exactly these columns: ON CONFLICT can use it.
    pub arbiter: bool,
    /// They are unique by an index that ON CONFLICT cannot use, or should not: an upsert takes two steps.
    pub by_hand: bool,
    /// Only a deferrable constraint covers them: a second row of a key is noticed at the commit.
    pub deferrable: bool,
    /// Rows may have the same key for a moment, or there is none: all that is in a row tells which one is meant.
    pub by_image: bool,
    /// Changes may be netted by the text of the key.
    pub nettable: bool,
    /// A row that is there under the key of a new one stays as it is.
    pub keeps: bool,
}

impl Column {
    /// A column of which nothing is demanded, whose values are equal when their texts are.
    pub fn plain(name: &str, type_name: &str, base_type: &str) -> Column {
        Column {
            name: name.to_owned(),
            attnum: 0,
            type_name: type_name.to_owned(),
            plain_type: type_name.to_owned(),
            base_type: base_type.to_owned(),
            text_equality: TextEquality::Exact,
            equality: "=".to_owned(),
            is_loose: false,
            has_own_equality: false,
            is_by_name: false,
            has_own_cast: false,
            not_null: false,
            has_default: false,
            generated: false,
            expression: None,
            computed_otherwise_in: None,
            altered_in: 0,
            rewrites: false,
            identity_always: false,
            identity: false,
        }
    }
}

impl Table {
    /// A table with these columns that no other one refers to.
    #[cfg(test)]
    pub fn plain(columns: Vec<Column>, unique: Vec<UniqueIndex>) -> Table {
        Table {
            name: "t".parse().expect("a name"),
            oid: 1,
            shape: Shape::Ordinary,
            columns,
            unique,
            referenced_by: Vec::new(),
            acts_on_delete: false,
            acts_on_update: false,
            source_columns: SourceColumns::default(),
            paired: PairedColumns::default(),
            source_key: None,
        }
    }

    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// `ONLY` keeps children of ordinary tables out; partitioned ones are their children.
    pub fn sql(&self) -> String {
        match self.shape {
            Shape::Ordinary => format!("ONLY {}", self.name.sql()),
            Shape::Partitioned => self.name.sql(),
        }
    }

    /// `"a", "b"`.
    pub fn column_list(&self, columns: &[usize]) -> String {
        let names: Vec<String> = columns.iter().map(|&c| self.columns[c].sql()).collect();
        names.join(", ")
    }

    /// A row that goes, be it for a moment, takes others along or is refused.
    pub fn is_referenced(&self) -> bool {
        self.acts_on_delete || self.acts_on_update || !self.referenced_by.is_empty()
    }

    pub fn deferrable_unique(&self) -> impl Iterator<Item = &UniqueIndex> {
        self.unique.iter().filter(|index| !index.immediate)
    }
}

impl Fit {
    /// Those of the columns that the server lets nobody update, and that are no part of the key.
    pub fn fixed(&self, columns: &[usize]) -> Vec<usize> {
        let is_fixed = |column: &usize| {
            self.table.columns[*column].identity_always && !self.key.columns.contains(column)
        };
        columns.iter().copied().filter(is_fixed).collect()
    }
}

impl Column {
    /// Values that are not the same text may be equal here, and apart at the source.
    pub fn may_merge(&self) -> bool {
        let is_told_by_owner = self.is_by_name && self.text_equality != TextEquality::Exact;
        self.is_loose || self.has_own_equality || is_told_by_owner
    }

    /// When two texts of it are the same value to the source as well as here.
    pub fn shared_equality(&self) -> TextEquality {
        if self.may_merge() { TextEquality::Unknown } else { self.text_equality }
    }

    pub fn sql(&self) -> String {
        printed::identifier(&self.name)
    }
}
