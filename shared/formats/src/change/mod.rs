//! One line of a change file: a row's change, or the COMMIT that closes its transaction.
//!
//! Values are never interpreted here: a number is the digits that PostgreSQL printed, everything else is its
//! text. Reading borrows from the line and is strict; writing joins pieces that are JSON already, in one buffer.

mod line;
mod read;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use crate::lsn::Lsn;
use crate::time::Timestamp;

pub use line::LineBuilder;

/// One line, read.
#[derive(Clone, Debug, PartialEq)]
pub enum Record<'a> {
    Row(Row<'a>),
    Commit(Commit),
    /// A row that is longer than its reader holds.
    Long(LongRow),
}

/// What is known of a row that was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongRow {
    /// As the archive spells it.
    pub table: String,
    pub op: Op,
    /// Of its line.
    pub bytes: u64,
}

/// The change of one row, or the TRUNCATE of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<'a> {
    /// As the archive spells it: `TableName::from_archive` reads it.
    pub table: Cow<'a, str>,
    pub op: Op,
    /// What the source sent: of INSERT and UPDATE. A column that is absent did not change; absent is not NULL.
    pub data: Fields<'a>,
    /// The replica identity before the change: of UPDATE and DELETE.
    pub old_keys: Fields<'a>,
    /// Not a position: it is not monotonic across transactions. Positions are the `end_lsn` of commits.
    pub lsn: Lsn,
    /// When the transaction committed.
    pub ts: Timestamp,
}

/// Columns in the source's order, each name once.
pub type Fields<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// A column's value as PostgreSQL printed it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    /// Digit for digit; never through a float.
    Number(&'a str),
    Text(Cow<'a, str>),
}

/// The line that closes a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The top-level transaction's, 32 bits as PostgreSQL prints it.
    pub xid: u32,
    /// How many row lines the transaction has.
    pub changes: u64,
    /// Where the commit record begins.
    pub lsn: Lsn,
    /// Where it ends: the position.
    pub end_lsn: Lsn,
    pub ts: Timestamp,
}

impl Op {
    /// As a row's line has it.
    pub(crate) fn of_row(text: &str) -> Option<Op> {
        [Op::Insert, Op::Update, Op::Delete, Op::Truncate].into_iter().find(|op| op.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Op::Insert => "INSERT",
            Op::Update => "UPDATE",
            Op::Delete => "DELETE",
            Op::Truncate => "TRUNCATE",
        }
    }

    pub(crate) fn has_data(self) -> bool {
        matches!(self, Op::Insert | Op::Update)
    }

    pub(crate) fn has_old_keys(self) -> bool {
        matches!(self, Op::Update | Op::Delete)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As JSON, digit for digit.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => value.fmt(f),
            Value::Number(digits) => f.write_str(digits),
            Value::Text(text) => f.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?),
        }
    }
}

impl Value<'_> {
    /// The text for the column's input function, as PostgreSQL's output function prints the value everywhere else: a column
    /// that is text here keeps it as it is. `None` is NULL.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Null => None,
            Value::Bool(true) => Some("t"),
            Value::Bool(false) => Some("f"),
            Value::Number(digits) => Some(digits),
            Value::Text(text) => Some(text),
        }
    }
}
