//! Reading: a scanner for lines of this one shape. Fields may come in any order.

use std::borrow::Cow;
use std::collections::HashSet;
use std::str::FromStr;

use super::{Commit, Fields, Op, Record, Row, Value};
use crate::error::{Error, Kind, Result};
use crate::json::{self, Scanner};

/// PostgreSQL's own limit on the columns of a row (MaxTupleAttributeNumber).
const COLUMNS_MAX: usize = 1664;
/// Names that a line may hold in fields we do not know.
const UNKNOWN_NAMES_MAX: usize = 10_000;

impl<'a> Record<'a> {
    /// Reads one line, with or without its line end.
    pub fn parse(line: &'a [u8]) -> Result<Record<'a>> {
        let mut scanner = Scanner::new(json::utf8(line)?, UNKNOWN_NAMES_MAX);
        let mut parts = Parts::default();
        scanner.object(|scanner, name| parts.member(scanner, name))?;
        scanner.end()?;
        match required("op", parts.op.as_deref())? {
            "COMMIT" => parts.into_commit().map(Record::Commit),
            other => match Op::of_row(other) {
                Some(op) => parts.into_row(op),
                None => Err(Error::new(Kind::Corrupt, format!("{other:?} is not an operation"))),
            },
        }
    }
}

/// What a line held, before it is known what the line is.
#[derive(Default)]
struct Parts<'a> {
    table: Option<Cow<'a, str>>,
    op: Option<Cow<'a, str>>,
    data: Option<Fields<'a>>,
    old_keys: Option<Fields<'a>>,
    lsn: Option<Cow<'a, str>>,
    ts: Option<Cow<'a, str>>,
    // Of a COMMIT only. In a row they are unknown fields, which may hold anything.
    xid: Option<&'a str>,
    changes: Option<&'a str>,
    end_lsn: Option<&'a str>,
    unknown: Vec<Cow<'a, str>>,
}

impl<'a> Parts<'a> {
    fn member(&mut self, scanner: &mut Scanner<'a>, name: Cow<'a, str>) -> Result<()> {
        let is_new = match name.as_ref() {
            "table" => self.table.replace(scanner.string()?).is_none(),
            "op" => self.op.replace(scanner.string()?).is_none(),
            "data" => self.data.replace(fields(scanner)?).is_none(),
            "old_keys" => self.old_keys.replace(fields(scanner)?).is_none(),
            "lsn" => self.lsn.replace(scanner.string()?).is_none(),
            "ts" => self.ts.replace(scanner.string()?).is_none(),
            "xid" => self.xid.replace(scanner.skip_value()?).is_none(),
            "changes" => self.changes.replace(scanner.skip_value()?).is_none(),
            "end_lsn" => self.end_lsn.replace(scanner.skip_value()?).is_none(),
            _ => {
                scanner.skip_value()?;
                let is_new = !self.unknown.contains(&name);
                if self.unknown.len() == COLUMNS_MAX {
                    return Err(scanner.error("too many fields"));
                }
                self.unknown.push(name.clone());
                is_new
            }
        };
        if is_new { Ok(()) } else { Err(scanner.error(&format!("{name:?} twice in one line"))) }
    }

    fn into_row(self, op: Op) -> Result<Record<'a>> {
        for (name, there, wanted) in [
            ("data", self.data.is_some(), op.has_data()),
            ("old_keys", self.old_keys.is_some(), op.has_old_keys()),
        ] {
            if there != wanted {
                let what = if wanted { "without" } else { "with" };
                return Err(Error::new(Kind::Corrupt, format!("{op} {what} {name:?}")));
            }
        }
        Ok(Record::Row(Row {
            table: required("table", self.table)?,
            op,
            data: self.data.unwrap_or_default(),
            old_keys: self.old_keys.unwrap_or_default(),
            lsn: parsed("lsn", self.lsn)?,
            ts: parsed("ts", self.ts)?,
        }))
    }

    fn into_commit(self) -> Result<Commit> {
        for (name, there) in [
            ("table", self.table.is_some()),
            ("data", self.data.is_some()),
            ("old_keys", self.old_keys.is_some()),
        ] {
            if there {
                return Err(Error::new(Kind::Corrupt, format!("COMMIT with {name:?}")));
            }
        }
        let end_lsn = Scanner::new(required("end_lsn", self.end_lsn)?, 0).string()?;
        Ok(Commit {
            xid: natural("xid", self.xid)?,
            changes: natural("changes", self.changes)?,
            lsn: parsed("lsn", self.lsn)?,
            end_lsn: parsed("end_lsn", Some(end_lsn))?,
            ts: parsed("ts", self.ts)?,
        })
    }
}

fn required<T>(name: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::new(Kind::Corrupt, format!("{name:?} is missing")))
}

fn parsed<T: FromStr<Err = Error>>(name: &str, text: Option<Cow<'_, str>>) -> Result<T> {
    required(name, text)?.parse().map_err(|error| of_field(name, error))
}

/// A number of our own: digits only.
fn natural<T: FromStr<Err = std::num::ParseIntError>>(name: &str, token: Option<&str>) -> Result<T> {
    let token = required(name, token)?;
    token
        .parse()
        .map_err(|error| of_field(name, Error::bad_input("a count that fits", token).caused_by(error)))
}

fn of_field(name: &str, error: Error) -> Error {
    Error::new(Kind::Corrupt, format!("{name:?} cannot be read")).caused_by(error)
}

fn fields<'a>(scanner: &mut Scanner<'a>) -> Result<Fields<'a>> {
    let mut fields = Fields::with_capacity(8);
    scanner.object(|scanner, name| {
        if fields.len() == COLUMNS_MAX {
            return Err(scanner.error("more columns than PostgreSQL has"));
        }
        fields.push((name, value(scanner)?));
        Ok(())
    })?;
    match duplicate(&fields) {
        None => Ok(fields),
        Some(name) => Err(scanner.error(&format!("column {name:?} twice"))),
    }
}

fn value<'a>(scanner: &mut Scanner<'a>) -> Result<Value<'a>> {
    match scanner.peek() {
        Some(b'"') => scanner.string().map(Value::Text),
        Some(b'-' | b'0'..=b'9') => scanner.number().map(Value::Number),
        Some(b'n') => scanner.literal("null").map(|()| Value::Null),
        Some(b't') => scanner.literal("true").map(|()| Value::Bool(true)),
        Some(b'f') => scanner.literal("false").map(|()| Value::Bool(false)),
        Some(b'[' | b'{') => Err(scanner.error("a column's value is never an array or an object")),
        _ => Err(scanner.error("expected a value")),
    }
}

/// The first name that stands twice.
fn duplicate<'f>(fields: &'f Fields<'_>) -> Option<&'f str> {
    if fields.len() > 32 {
        let mut seen = HashSet::with_capacity(fields.len());
        return fields.iter().map(|(name, _)| name.as_ref()).find(|&name| !seen.insert(name));
    }
    // Rows are mostly narrow, and different names mostly differ in length or at an end: this is the hot path.
    let mut marks = 0_u64;
    for (i, (name, _)) in fields.iter().enumerate() {
        let bytes = name.as_bytes();
        let (first, last) = (bytes.first().copied().unwrap_or(0), bytes.last().copied().unwrap_or(0));
        let mark = 1 << ((bytes.len() + usize::from(first) * 7 + usize::from(last) * 31) % 64);
        if marks & mark != 0 && fields[..i].iter().any(|(earlier, _)| earlier == name) {
            return Some(name);
        }
        marks |= mark;
    }
    None
}
