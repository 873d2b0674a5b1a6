//! A row as COPY prints it, taken apart.

use std::borrow::Cow;

use syncdata_formats::{Error, Kind, Result};

use crate::source::event::{Column, Columns, Part};
use crate::source::printing::{Printing, quoted};

/// A column that COPY was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// As JSON.
    name: String,
    printing: Printing,
}

/// The fields of a row, in the order that was asked for.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    part: Part,
    asked: &'a [Asked],
    line: &'a [u8],
}

impl Asked {
    pub(super) fn new(name: &str, type_oid: u32) -> Asked {
        Asked { name: quoted(name), printing: Printing::of(type_oid) }
    }
}

impl<'a> Fields<'a> {
    /// `line` without the byte that ends it.
    pub(super) fn new(part: Part, asked: &'a [Asked], line: &'a [u8]) -> Fields<'a> {
        Fields { part, asked, line }
    }
}

impl Columns for &Fields<'_> {
    fn each(&self, mut take: impl FnMut(Part, Column<'_>)) -> Result<()> {
        let mut fields = self.line.split(|byte| *byte == b'\t');
        for Asked { name, printing } in self.asked {
            let field = fields.next().ok_or_else(|| not_understood("a row with too few columns"))?;
            let value = match text(field)? {
                None => Cow::Borrowed("null"),
                Some(Cow::Borrowed(text)) => printing.json(text),
                Some(Cow::Owned(text)) => Cow::Owned(printing.json(&text).into_owned()),
            };
            take(self.part, Column { name, value });
        }
        match fields.next() {
            None => Ok(()),
            Some(_) => Err(not_understood("a row with too many columns")),
        }
    }
}

/// What COPY's text format means by a field; `None` is NULL.
fn text(field: &[u8]) -> Result<Option<Cow<'_, str>>> {
    if field == br"\N" {
        return Ok(None);
    }
    if !field.contains(&b'\\') {
        return in_utf8(field).map(|text| Some(Cow::Borrowed(text)));
    }
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(b'\\') => b'\\',
                _ => return Err(not_understood("an escape that COPY does not write")),
            },
            byte => byte,
        });
    }
    Ok(Some(Cow::Owned(in_utf8(&bytes)?.to_owned())))
}

fn in_utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| not_understood("text that is not UTF-8"))
}

pub(super) fn not_understood(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("COPY sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_mean_what_copy_says() {
        let asked = [("a", 23), ("b\"", 25), ("c", 16), ("d", 1700), ("e", 25), ("f", 17)];
        let asked: Vec<Asked> = asked.iter().map(|(name, oid)| Asked::new(name, *oid)).collect();
        let line = b"7\t\\\\N\\t\\v\x01\tt\tNaN\t\\N\t\\\\x00ff";
        let mut said = Vec::new();
        let fields = Fields::new(Part::Columns, &asked, line);
        (&fields).each(|_, column| said.push(format!("{}:{}", column.name, column.value))).expect("a row");
        let expected = [
            "\"a\":7",
            r#""b\"":"\\N\t\u000b\u0001""#,
            "\"c\":true",
            "\"d\":\"NaN\"",
            "\"e\":null",
            r#""f":"\\x00ff""#,
        ];
        assert_eq!(said, expected);
        for bad in [&b"1\t2"[..], b"1\t2\t3\t4\t5\t6\t7", b"1\t\\x\t3\t4\t5\t6", b"1\t\\", b"1\t\xff\t\t\t\t"]
        {
            assert!((&Fields::new(Part::Columns, &asked, bad)).each(|_, _| {}).is_err(), "{bad:?}");
        }
    }
}
