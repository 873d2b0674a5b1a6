//! What every source yields: the changes of whole transactions, in the order of their commits.
//!
//! An event borrows the buffer that it was read from, and a row's columns are read only when somebody asks for them:
//! most of a stream is columns, and they are walked over once.

use std::borrow::Cow;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};

/// The JSON text of a string, with its quotes, as our files hold it.
pub(crate) type JsonString<'a> = &'a str;

#[derive(Debug, PartialEq)]
pub(crate) enum Event<'a, C> {
    Begin(Begin),
    Row(Row<'a, C>),
    Truncate(Place<'a>),
    Commit(Transaction),
}

impl<'a, C> Event<'a, C> {
    /// The same with its columns as something else.
    pub(crate) fn with<D>(self, columns: impl FnOnce(C) -> D) -> Event<'a, D> {
        match self {
            Event::Begin(begin) => Event::Begin(begin),
            Event::Row(Row { action, place, columns: those }) => {
                Event::Row(Row { action, place, columns: columns(those) })
            }
            Event::Truncate(place) => Event::Truncate(place),
            Event::Commit(transaction) => Event::Commit(transaction),
        }
    }
}

/// What is known of a transaction before its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    pub xid: u32,
    pub committed_at: Timestamp,
    /// Where the commit record begins.
    pub lsn: Lsn,
}

/// What is known of it after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub xid: u32,
    pub committed_at: Timestamp,
    /// Where the commit record begins.
    pub lsn: Lsn,
    /// Where it ends: the only position that rises from transaction to transaction.
    pub end_lsn: Lsn,
}

impl Transaction {
    pub(crate) fn begin(&self) -> Begin {
        Begin { xid: self.xid, committed_at: self.committed_at, lsn: self.lsn }
    }
}

impl Begin {
    /// Whether all up to that position has it: a position is never inside of a record.
    pub(crate) fn lies_before(&self, position: Lsn) -> bool {
        self.lsn < position
    }
}

/// Which table, at which place of the WAL. `schema` and `table` as they were called at that time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place<'a> {
    pub lsn: Lsn,
    pub schema: JsonString<'a>,
    pub table: JsonString<'a>,
    /// Its oid, where the source says it.
    pub oid: Option<u32>,
}

impl Place<'_> {
    pub(crate) fn relation(&self) -> Result<TableName> {
        TableName::new(unescape(self.schema)?, unescape(self.table)?)
    }
}

/// The string that a JSON text says.
pub(crate) fn unescape(json: JsonString<'_>) -> Result<String> {
    serde_json::from_str(json).map_err(|error| {
        Error::new(Kind::Corrupt, "the source printed a name that is no JSON string").caused_by(error)
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Insert,
    Update,
    Delete,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Row<'a, C> {
    pub action: Action,
    pub place: Place<'a>,
    pub columns: C,
}

/// The columns of a row, still to be read.
pub(crate) trait Columns {
    /// Hands over all of them; an error means that what was handed over must be forgotten.
    fn each(&self, take: impl FnMut(Part, Column<'_>)) -> Result<()>;
}

/// Which of a row's two lists a column stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The row as it is now.
    Columns,
    /// The replica identity, as it was before.
    Identity,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Column<'a> {
    pub name: JsonString<'a>,
    /// The JSON text as our files hold it.
    pub value: Cow<'a, str>,
}
