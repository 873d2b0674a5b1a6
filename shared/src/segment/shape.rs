//! Lines that look like one that was read in full before: the same table, operation and columns, only other values.
//! Checking those is most of proving an archive, and needs no record.
//!
//! A line that matches is exactly as sound as [`Record::parse`] would find it. Whatever does not match is parsed.

use std::str::FromStr;

use crate::change::{Op, Record};
use crate::json::{plain_bytes, utf8};
use crate::lsn::Lsn;
use crate::time::Timestamp;

/// Shapes of some tables, three operations each, take turns; more would be looked through in vain.
const SHAPES_MAX: usize = 16;

/// The shapes seen last, the newest first.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    known: Vec<Shape>,
    /// Rows of a transaction share their time, and those of one statement often their position.
    last: Last,
}

/// Texts that were read already.
#[derive(Debug, Default)]
struct Last {
    ts: Vec<u8>,
    lsn: Vec<u8>,
}

#[derive(Debug)]
struct Shape {
    /// As the tally numbers it.
    table: usize,
    op: Op,
    form: Form,
}

/// What the lines of a shape have in common.
#[derive(Debug)]
struct Form {
    /// What stands before each value, and what kind of value that is.
    pieces: Vec<(Vec<u8>, Slot)>,
    /// What stands behind the last one.
    end: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Value,
    Lsn,
    Time,
}

impl Shapes {
    /// Table and operation, if the line is a sound row of a shape that is known.
    pub(super) fn find(&mut self, line: &[u8]) -> Option<(usize, Op)> {
        let last = &mut self.last;
        let place = self.known.iter().position(|shape| shape.matches(line, last))?;
        utf8(line).ok()?;
        // Rows of one kind mostly follow each other.
        self.known[..=place].rotate_right(1);
        Some((self.known[0].table, self.known[0].op))
    }

    /// Remembers the shape of a line that was parsed.
    pub(super) fn learn(&mut self, line: &[u8], record: &Record<'_>, table: usize) {
        let Record::Row(row) = record else { return };
        if let Some(form) = cut(line) {
            self.known.truncate(SHAPES_MAX - 1);
            self.known.insert(0, Shape { table, op: row.op, form });
        }
    }
}

impl Shape {
    fn matches(&self, line: &[u8], last: &mut Last) -> bool {
        let mut rest = line;
        for (before, slot) in &self.form.pieces {
            let Some(value) = rest.strip_prefix(before.as_slice()) else { return false };
            let Some(length) = value_bytes(value) else { return false };
            let (value, behind) = value.split_at(length);
            let is_sound = match slot {
                Slot::Value => true,
                Slot::Lsn => is_one::<Lsn>(value, &mut last.lsn),
                Slot::Time => is_one::<Timestamp>(value, &mut last.ts),
            };
            if !is_sound {
                return false;
            }
            rest = behind;
        }
        rest == self.form.end.as_slice()
    }
}

/// Whether the string is such a thing; the last one that was is known without being read again.
fn is_one<T: FromStr>(value: &[u8], last: &mut Vec<u8>) -> bool {
    if value == last.as_slice() {
        return true;
    }
    let is_one = inside(value).is_some_and(|text| text.parse::<T>().is_ok());
    if is_one {
        last.clear();
        last.extend_from_slice(value);
    }
    is_one
}

/// The text of a string without escapes.
fn inside(string: &[u8]) -> Option<&str> {
    let text = string.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', text).is_some() { None } else { std::str::from_utf8(text).ok() }
}

/// How long the value at the start is: a string, a number or a word. `None`: it is none of these, or one that only the
/// parser understands.
fn value_bytes(text: &[u8]) -> Option<usize> {
    match *text.first()? {
        b'"' => string_bytes(text),
        b'-' | b'0'..=b'9' => number_bytes(text),
        _ => [&b"null"[..], b"true", b"false"]
            .iter()
            .find(|word| text.starts_with(word))
            .map(|word| word.len()),
    }
}

fn string_bytes(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += plain_bytes(text.get(at..)?);
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' if matches!(text.get(at + 1)?, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                at += 2
            }
            _ => return None,
        }
    }
}

fn number_bytes(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(text[0] == b'-');
    let whole = digits(at);
    if whole == 0 || whole > 1 && text[at] == b'0' {
        return None;
    }
    at += whole;
    if text.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        at += 1 + fraction;
        if fraction == 0 {
            return None;
        }
    }
    // Exponents are rare: the parser knows them.
    if matches!(text.get(at), Some(b'e' | b'E')) { None } else { Some(at) }
}

/// What of a row's line is the same in others of its shape. Only lines as our writer spells them are cut.
fn cut(line: &[u8]) -> Option<Form> {
    let mut pieces = Vec::new();
    // From where on the text belongs to the next piece, and where the cutter is.
    let (mut from, mut at) = (0, 0);
    let mut depth = 0;
    loop {
        match *line.get(at)? {
            b'{' => {
                depth += 1;
                at += 1;
            }
            b'}' => {
                depth -= 1;
                at += 1;
                if depth == 0 {
                    break;
                }
            }
            b',' => at += 1,
            b'"' => {
                let name = at..at + string_bytes(&line[at..])?;
                at = name.end;
                if line.get(at) != Some(&b':') {
                    return None;
                }
                at += 1;
                let slot = match (depth, &line[name]) {
                    (1, b"\"table\"" | b"\"op\"") => {
                        at += value_bytes(&line[at..])?;
                        continue;
                    }
                    (1, b"\"data\"" | b"\"old_keys\"") => continue,
                    (1, b"\"lsn\"") => Slot::Lsn,
                    (1, b"\"ts\"") => Slot::Time,
                    (2, _) => Slot::Value,
                    _ => return None,
                };
                pieces.push((line[from..at].to_vec(), slot));
                at += value_bytes(&line[at..])?;
                from = at;
            }
            _ => return None,
        }
    }
    if at == line.len() { Some(Form { pieces, end: line[from..].to_vec() }) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"table":"t","op":"UPDATE","data":{"id":1,"v":"x","n":null},"old_keys":{"id":1},"lsn":"0/1","ts":"2026-02-05T10:30:00Z"}"#;

    fn shapes() -> Shapes {
        let mut shapes = Shapes::default();
        let record = Record::parse(LINE.as_bytes()).expect("a row");
        shapes.learn(LINE.as_bytes(), &record, 7);
        shapes
    }

    #[test]
    fn other_values_of_the_same_columns_match() {
        for line in [
            LINE.to_owned(),
            LINE.replace(r#""x""#, r#""a \"quoted\" \\x00 ü""#)
                .replace("null", "-12.50")
                .replace("0/1", "16/B374D848"),
            LINE.replace(r#""x""#, "true").replace("10:30:00Z", "10:30:00.123456Z"),
        ] {
            assert_eq!(shapes().find(line.as_bytes()), Some((7, Op::Update)), "{line}");
        }
    }

    /// Whatever matches is parsed without an error: flipped, cut and doubled lines.
    #[test]
    fn nothing_matches_that_the_parser_refuses() {
        let mut shapes = shapes();
        let mut try_line = |line: &[u8]| {
            if shapes.find(line).is_some() {
                let parsed = Record::parse(line);
                assert!(parsed.is_ok(), "{}: {parsed:?}", String::from_utf8_lossy(line));
            }
        };
        for at in 0..LINE.len() {
            for bit in 0..8 {
                let mut line = LINE.as_bytes().to_vec();
                line[at] ^= 1 << bit;
                try_line(&line);
            }
            try_line(&LINE.as_bytes()[..at]);
            try_line(format!("{}{}", &LINE[..at], LINE).as_bytes());
            for piece in ["0", "-", ".", "\\", "\"", "{", "}", "\u{1}", "e", "\\u12"] {
                try_line(format!("{}{piece}{}", &LINE[..at], &LINE[at..]).as_bytes());
            }
        }
    }

    #[test]
    fn another_column_table_or_order_does_not_match() {
        for (from, to) in [("\"v\"", "\"w\""), ("\"t\"", "\"u\""), ("UPDATE", "INSERT"), (",\"n\":null", "")]
        {
            assert_eq!(shapes().find(LINE.replace(from, to).as_bytes()), None, "{to}");
        }
    }
}
