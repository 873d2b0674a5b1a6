//! A message of pgoutput's protocol version 1, taken apart without copying.
//!
//! Values come as the text that the type's output function made of them, with their length: nothing has to be
//! unescaped, and in our files they are JSON. A message that looks different comes from a plugin that we do not know, and
//! a guess about it could be a wrong value.

use std::borrow::Cow;
use std::collections::HashMap;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};

use crate::source::event::{Action, Begin, Column, Columns, Part, Transaction};
use crate::source::printing::{Printing, quoted};

/// From 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// What a message says, before it is known of which relation.
#[derive(Debug)]
pub(super) enum Message<'a> {
    Begin(Begin),
    Commit {
        lsn: Lsn,
        end_lsn: Lsn,
        committed_at: Timestamp,
    },
    /// What the rows that follow are made of.
    Relation(u32, Relation),
    Row {
        action: Action,
        relation: u32,
        old: Option<Tuple<'a>>,
        new: Option<Tuple<'a>>,
    },
    Truncate(Vec<u32>),
    /// A type's name, or where a change came from first: nothing of ours.
    Other,
}

/// A relation as it was when the rows were written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Relation {
    /// JSON texts, as our files hold names.
    pub schema: String,
    pub table: String,
    columns: Vec<Described>,
}

#[derive(Debug, PartialEq, Eq)]
struct Described {
    name: String,
    is_key: bool,
    printing: Printing,
}

/// The relations of one answer.
#[derive(Debug, Default)]
pub(super) struct Relations(HashMap<u32, Relation>);

/// The values of a row, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tuple<'a> {
    count: u16,
    bytes: &'a [u8],
}

/// Columns and identity of a row, still to be read.
#[derive(Debug, PartialEq)]
pub(crate) struct Tuples<'a> {
    action: Action,
    relation: &'a Relation,
    old: Option<Tuple<'a>>,
    new: Option<Tuple<'a>>,
}

enum Value<'a> {
    Null,
    /// It lies outside of the row and was not touched.
    Unchanged,
    Text(&'a str),
}

impl Relations {
    pub(super) fn learn(&mut self, oid: u32, relation: Relation) {
        self.0.insert(oid, relation);
    }

    /// Every answer describes its relations itself. Where it does not, the session has an answer behind it that broke
    /// off: another session begins anew.
    pub(super) fn get(&self, oid: u32) -> Result<&Relation> {
        self.0.get(&oid).ok_or_else(|| {
            let message = format!("pgoutput sent rows of relation {oid} without saying what they are");
            Error::new(Kind::Unreachable, message).hint("it is asked again over a new connection")
        })
    }
}

impl Relation {
    pub(super) fn row<'a>(
        &'a self,
        action: Action,
        old: Option<Tuple<'a>>,
        new: Option<Tuple<'a>>,
    ) -> Result<Tuples<'a>> {
        let fits = |tuple: &Tuple<'_>| usize::from(tuple.count) == self.columns.len();
        let has_all = match action {
            Action::Insert => old.is_none() && new.is_some(),
            Action::Update => new.is_some(),
            Action::Delete => old.is_some() && new.is_none(),
        };
        if !has_all || !old.iter().chain(&new).all(fits) {
            return Err(not_understood("a row that is not like its relation"));
        }
        Ok(Tuples { action, relation: self, old, new })
    }
}

impl Columns for Tuples<'_> {
    fn each(&self, mut take: impl FnMut(Part, Column<'_>)) -> Result<()> {
        if let Some(new) = self.new {
            new.each(|number, value| {
                let column = &self.relation.columns[number];
                if let Some(value) = value.printed(column.printing) {
                    take(Part::Columns, Column { name: &column.name, value });
                }
                Ok(())
            })?;
        }
        // An update that leaves the key as it is sends it once.
        let sent_once = self.new.filter(|_| self.action == Action::Update);
        let Some(identity) = self.old.or(sent_once) else { return Ok(()) };
        identity.each(|number, value| {
            let column = &self.relation.columns[number];
            if !column.is_key {
                return Ok(());
            }
            match value.printed(column.printing) {
                Some(value) => take(Part::Identity, Column { name: &column.name, value }),
                None => return Err(not_understood("a key without its value")),
            }
            Ok(())
        })
    }
}

impl<'a> Message<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Message<'a>> {
        let kind = bytes.first().copied().unwrap_or_default();
        let mut reader = Reader { bytes: bytes.get(1..).unwrap_or_default() };
        let message = reader.message(kind).filter(|_| reader.bytes.is_empty());
        message.ok_or_else(|| {
            let kind = char::from(kind).escape_default();
            not_understood(&format!("a message of kind '{kind}' and {} bytes", bytes.len()))
        })
    }
}

fn not_understood(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("pgoutput sent what is not understood: {what}")).hint(
        "check the version of the source (PostgreSQL 14 to 18 are known); nothing was consumed from the slot",
    )
}

/// What is left of a message. Every step returns `None` when it is too short.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn message(&mut self, kind: u8) -> Option<Message<'a>> {
        Some(match kind {
            b'B' => {
                let (lsn, committed_at) = (self.lsn()?, self.time()?);
                Message::Begin(Begin { xid: self.u32()?, committed_at, lsn })
            }
            b'C' => {
                self.u8()?;
                Message::Commit { lsn: self.lsn()?, end_lsn: self.lsn()?, committed_at: self.time()? }
            }
            b'R' => {
                let (oid, relation) = (self.u32()?, self.relation()?);
                Message::Relation(oid, relation)
            }
            b'I' | b'U' | b'D' => self.row(kind)?,
            b'T' => {
                let count = self.u32()?;
                self.u8()?;
                Message::Truncate((0..count).map(|_| self.u32()).collect::<Option<_>>()?)
            }
            b'Y' | b'O' | b'M' => {
                self.bytes = &[];
                Message::Other
            }
            _ => return None,
        })
    }

    fn row(&mut self, kind: u8) -> Option<Message<'a>> {
        let relation = self.u32()?;
        let (mut old, mut new) = (None, None);
        while let Some(part) = self.u8() {
            let place = match part {
                b'K' | b'O' if new.is_none() => &mut old,
                b'N' => &mut new,
                _ => return None,
            };
            let tuple = self.tuple()?;
            if place.replace(tuple).is_some() {
                return None;
            }
        }
        let action = match kind {
            b'I' => Action::Insert,
            b'U' => Action::Update,
            _ => Action::Delete,
        };
        Some(Message::Row { action, relation, old, new })
    }

    fn relation(&mut self) -> Option<Relation> {
        let schema = self.name()?;
        // Of the system's own schema it says nothing.
        let schema = if schema == "\"\"" { "\"pg_catalog\"".to_owned() } else { schema };
        let table = self.name()?;
        self.u8()?;
        let count = self.u16()?;
        let mut columns = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let is_key = self.u8()? & 1 != 0;
            let name = self.name()?;
            let printing = Printing::of(self.u32()?);
            self.u32()?;
            columns.push(Described { name, is_key, printing });
        }
        Some(Relation { schema, table, columns })
    }

    /// Its values, which are looked at one by one: what is wrong shows here, before anybody takes some of them.
    fn tuple(&mut self) -> Option<Tuple<'a>> {
        let count = self.u16()?;
        let from = self.bytes;
        for _ in 0..count {
            self.value()?;
        }
        let bytes = &from[..from.len() - self.bytes.len()];
        Some(Tuple { count, bytes })
    }

    fn value(&mut self) -> Option<Value<'a>> {
        Some(match self.u8()? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            b't' => {
                let length = usize::try_from(self.u32()?).ok()?;
                Value::Text(std::str::from_utf8(self.take(length)?).ok()?)
            }
            _ => return None,
        })
    }

    /// Up to a zero; as JSON.
    fn name(&mut self) -> Option<String> {
        let end = memchr::memchr(0, self.bytes)?;
        let name = std::str::from_utf8(self.take(end)?).ok()?;
        self.u8()?;
        Some(quoted(name))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn lsn(&mut self) -> Option<Lsn> {
        self.array().map(|bytes| Lsn::from_u64(u64::from_be_bytes(bytes)))
    }

    fn time(&mut self) -> Option<Timestamp> {
        let micros = i64::from_be_bytes(self.array()?);
        Timestamp::from_micros(micros.checked_add(EPOCH_MICROS)?).ok()
    }
}

impl<'a> Value<'a> {
    /// `None` for a value that was not sent.
    fn printed(&self, printing: Printing) -> Option<Cow<'a, str>> {
        match *self {
            Value::Null => Some(Cow::Borrowed("null")),
            Value::Unchanged => None,
            Value::Text(text) => Some(printing.json(text)),
        }
    }
}

impl<'a> Tuple<'a> {
    fn each(&self, mut take: impl FnMut(usize, Value<'a>) -> Result<()>) -> Result<()> {
        let mut reader = Reader { bytes: self.bytes };
        for number in 0..usize::from(self.count) {
            let value = reader.value().ok_or_else(|| not_understood("a value that is cut"))?;
            take(number, value)?;
        }
        Ok(())
    }
}

impl Message<'_> {
    /// The transaction that a commit ends.
    pub(super) fn committed(
        begin: Begin,
        lsn: Lsn,
        end_lsn: Lsn,
        committed_at: Timestamp,
    ) -> Result<Transaction> {
        if (begin.lsn, begin.committed_at) != (lsn, committed_at) {
            return Err(not_understood("a commit of another transaction than began"));
        }
        Ok(Transaction { xid: begin.xid, committed_at, lsn, end_lsn })
    }
}

#[cfg(test)]
mod tests;
