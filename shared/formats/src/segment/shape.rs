//! Lines that look like one that was read in full before: the same table, operation and columns, only other values.
//! Most lines of an archive do, and reading them again takes no looking at names.
//!
//! A line that matches is exactly what [`Record::parse`](crate::change::Record::parse) would find in it. Whatever does not match is parsed.

use std::borrow::Cow;
use std::ops::Range;
use std::str::FromStr;

use crate::change::{Fields, Op, Row, Value};
use crate::json::{Scanner, plain_bytes, utf8};
use crate::lsn::Lsn;
use crate::number;
use crate::time::Timestamp;

/// Shapes of some tables, three operations each, take turns; more would be looked through in vain.
const SHAPES_MAX: usize = 48;

/// Of what the lines of a shape have in common: the names of as many columns as PostgreSQL allows, and some.
const FORM_BYTES_MAX: usize = 256 << 10;

/// The shapes seen last; the newest are in front.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    known: Vec<Shape>,
    /// Of the line that was found last.
    values: Vec<Found>,
    /// Rows of a transaction share their time, and those of one statement often their position.
    lsn: Option<Last<Lsn>>,
    ts: Option<Last<Timestamp>>,
}

/// A text that was read already.
#[derive(Debug)]
struct Last<T> {
    text: Vec<u8>,
    value: T,
}

/// Where a value lies.
#[derive(Debug)]
struct Found {
    at: Range<usize>,
    /// A string that is not its own text.
    escaped: bool,
}

#[derive(Debug)]
struct Shape {
    /// As the tally numbers it.
    table: usize,
    name: String,
    op: Op,
    form: Form,
}

/// What the lines of a shape have in common.
#[derive(Debug, PartialEq)]
struct Form {
    /// What stands before each value, and what that value is.
    pieces: Vec<(Vec<u8>, Slot)>,
    /// What follows the last one.
    end: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum Slot {
    /// Of this column.
    Data(String),
    OldKeys(String),
    Lsn,
    Time,
}

impl Shapes {
    /// Table and operation, if the line is a sound row of a shape that is known.
    pub(super) fn find(&mut self, line: &[u8]) -> Option<(usize, Op)> {
        let Shapes { known, values, lsn, ts } = self;
        let place = known.iter().position(|shape| shape.form.matches(line, values, lsn, ts))?;
        utf8(line).ok()?;
        // Rows of one kind mostly follow each other.
        known.swap(0, place);
        Some((known[0].table, known[0].op))
    }

    /// The row of the line that was found just now.
    pub(super) fn row<'a>(&'a self, line: &'a [u8]) -> Row<'a> {
        let Shape { name, op, form, .. } = &self.known[0];
        let line = std::str::from_utf8(line).expect("it was looked at");
        let (mut data, mut old_keys) = (Fields::with_capacity(form.pieces.len()), Fields::new());
        for ((_, slot), found) in form.pieces.iter().zip(&self.values) {
            match slot {
                Slot::Data(column) => data.push((Cow::Borrowed(column), found.value(line))),
                Slot::OldKeys(column) => old_keys.push((Cow::Borrowed(column), found.value(line))),
                Slot::Lsn | Slot::Time => {}
            }
        }
        let (lsn, ts) = (self.lsn.as_ref(), self.ts.as_ref());
        Row {
            table: Cow::Borrowed(name),
            op: *op,
            data,
            old_keys,
            lsn: lsn.expect("every shape has one").value,
            ts: ts.expect("every shape has one").value,
        }
    }

    /// Remembers the shape of a line that was parsed.
    pub(super) fn learn(&mut self, line: &[u8], row: &Row<'_>, table: usize) {
        // One that is known did not match, because it holds something rare.
        if let Some(form) = cut(line).filter(|form| self.known.iter().all(|known| known.form != *form)) {
            self.known.truncate(SHAPES_MAX - 1);
            self.known.insert(0, Shape { table, name: row.table.clone().into_owned(), op: row.op, form });
        }
    }
}

impl Form {
    fn matches(
        &self,
        line: &[u8],
        values: &mut Vec<Found>,
        lsn: &mut Option<Last<Lsn>>,
        ts: &mut Option<Last<Timestamp>>,
    ) -> bool {
        values.clear();
        let mut at = 0;
        for (before, slot) in &self.pieces {
            let Some(rest) = line[at..].strip_prefix(before.as_slice()) else { return false };
            let Some((length, escaped)) = measure(rest) else { return false };
            let is_sound = match slot {
                Slot::Data(_) | Slot::OldKeys(_) => true,
                Slot::Lsn => is_one(&rest[..length], lsn),
                Slot::Time => is_one(&rest[..length], ts),
            };
            if !is_sound {
                return false;
            }
            at += before.len();
            values.push(Found { at: at..at + length, escaped });
            at += length;
        }
        line[at..] == self.end
    }
}

/// Whether the string is such a thing; the last one that was is known without being read again.
fn is_one<T: FromStr>(string: &[u8], last: &mut Option<Last<T>>) -> bool {
    if last.as_ref().is_some_and(|last| last.text == string) {
        return true;
    }
    let Some(value) = inside(string).and_then(|text| text.parse().ok()) else { return false };
    *last = Some(Last { text: string.to_vec(), value });
    true
}

impl Found {
    fn value<'a>(&self, line: &'a str) -> Value<'a> {
        let text = &line[self.at.clone()];
        match text.as_bytes()[0] {
            b'"' if self.escaped => Value::Text(string(text)),
            b'"' => Value::Text(Cow::Borrowed(&text[1..text.len() - 1])),
            b'n' => Value::Null,
            b't' => Value::Bool(true),
            b'f' => Value::Bool(false),
            _ => Value::Number(text),
        }
    }
}

fn string(text: &str) -> Cow<'_, str> {
    Scanner::new(text, 0).string().expect("it was found sound")
}

/// The text of a string without escapes.
fn inside(string: &[u8]) -> Option<&str> {
    let text = string.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', text).is_some() { None } else { std::str::from_utf8(text).ok() }
}

/// How long the value at the start is: a string, a number or a word; and whether it is a string with escapes. `None`: it
/// is none of these, or one that only the parser understands.
fn measure(text: &[u8]) -> Option<(usize, bool)> {
    let word = |word: &str| text.starts_with(word.as_bytes()).then_some((word.len(), false));
    match *text.first()? {
        b'"' => measure_string(text),
        b'n' => word("null"),
        b't' => word("true"),
        b'f' => word("false"),
        _ => Some((number::length(text).ok()?, false)),
    }
}

fn measure_string(text: &[u8]) -> Option<(usize, bool)> {
    let (mut at, mut escaped) = (1, false);
    loop {
        at += plain_bytes(text.get(at..)?);
        match text.get(at)? {
            b'"' => return Some((at + 1, escaped)),
            b'\\' => at += escape_bytes(&text[at..])?,
            _ => return None,
        }
        escaped = true;
    }
}

/// Surrogate pairs are rare: the parser knows them.
fn escape_bytes(text: &[u8]) -> Option<usize> {
    match text.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => {
            let hex = text.get(2..6)?;
            let is_surrogate = matches!(hex[0], b'd' | b'D') && !matches!(hex[1], b'0'..=b'7');
            (hex.iter().all(u8::is_ascii_hexdigit) && !is_surrogate).then_some(6)
        }
        _ => None,
    }
}

/// What of a row's line is the same in others of its shape. Only lines as our writer spells them are cut.
fn cut(line: &[u8]) -> Option<Form> {
    let mut pieces = Vec::new();
    // From where on the text belongs to the next piece, and where the cutter is.
    let (mut from, mut at) = (0, 0);
    let mut depth = 0;
    let mut column: fn(String) -> Slot = Slot::Data;
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
                let name = at..at + measure_string(&line[at..])?.0;
                at = name.end;
                if line.get(at) != Some(&b':') {
                    return None;
                }
                at += 1;
                let slot = match (depth, &line[name.clone()]) {
                    (1, b"\"table\"" | b"\"op\"") => {
                        at += measure(&line[at..])?.0;
                        continue;
                    }
                    (1, b"\"data\"") => {
                        column = Slot::Data;
                        continue;
                    }
                    (1, b"\"old_keys\"") => {
                        column = Slot::OldKeys;
                        continue;
                    }
                    (1, b"\"lsn\"") => Slot::Lsn,
                    (1, b"\"ts\"") => Slot::Time,
                    (2, _) => column(string(utf8(&line[name]).ok()?).into_owned()),
                    _ => return None,
                };
                pieces.push((line[from..at].to_vec(), slot));
                at += measure(&line[at..])?.0;
                from = at;
            }
            _ => return None,
        }
    }
    let form = Form { pieces, end: line[from..].to_vec() };
    let bytes: usize = form.pieces.iter().map(|(before, _)| before.len()).sum();
    (at == line.len() && bytes <= FORM_BYTES_MAX).then_some(form)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::change::Record;

    const LINE: &str = r#"{"table":"t","op":"UPDATE","data":{"id":1,"v":"x","n":null},"old_keys":{"id":1},"lsn":"0/1","ts":"2026-02-05T10:30:00Z"}"#;

    fn shapes(line: &str) -> Shapes {
        let mut shapes = Shapes::default();
        let record = Record::parse(line.as_bytes()).expect("a row");
        let Record::Row(row) = record else { panic!("{line} is no row") };
        shapes.learn(line.as_bytes(), &row, 7);
        shapes
    }

    /// Whether it matches. What does is read as the parser reads it.
    #[track_caller]
    fn is_found(shapes: &mut Shapes, line: &[u8]) -> bool {
        let Some((table, op)) = shapes.find(line) else { return false };
        let row = shapes.row(line);
        assert_eq!((table, op), (7, row.op));
        let parsed = Record::parse(line);
        assert_eq!(parsed.ok(), Some(Record::Row(row)), "{}", String::from_utf8_lossy(line));
        true
    }

    #[test]
    fn other_values_of_the_same_columns_match() {
        for line in [
            LINE.to_owned(),
            LINE.replace(r#""x""#, r#""a \"quoted\" \\x00 ü""#)
                .replace("null", "-12.50")
                .replace("0/1", "16/B374D848"),
            LINE.replace(r#""x""#, "true").replace("null", "false").replace("10:30:00Z", "10:30:00.123456Z"),
            LINE.replace(":1,", ":\"one\",").replace("null", "\"\""),
        ] {
            assert!(is_found(&mut shapes(LINE), line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn every_operation_and_odd_names_have_a_shape() {
        for line in [
            LINE.to_owned(),
            LINE.replace(r#""v""#, r#""a \"quoted\" \\ nameü""#),
            LINE.replace(r#"{"id":1}"#, "{}"),
            r#"{"table":"t","op":"INSERT","data":{"id":1},"lsn":"0/1","ts":"2026-02-05T10:30:00Z"}"#.to_owned(),
            r#"{"table":"t","op":"DELETE","old_keys":{"id":1},"lsn":"0/1","ts":"2026-02-05T10:30:00Z"}"#.to_owned(),
            r#"{"table":"t","op":"TRUNCATE","lsn":"0/1","ts":"2026-02-05T10:30:00Z"}"#.to_owned(),
            r#"{"old_keys":{"id":1},"ts":"2026-02-05T10:30:00Z","data":{"id":1},"op":"UPDATE","lsn":"0/1","table":"t"}"#.to_owned(),
        ] {
            assert!(is_found(&mut shapes(&line), line.as_bytes()), "{line}");
        }
    }

    /// Whatever matches is parsed without an error: flipped, cut and doubled lines.
    #[test]
    fn nothing_matches_that_the_parser_refuses() {
        let mut shapes = shapes(LINE);
        for at in 0..LINE.len() {
            for bit in 0..8 {
                let mut line = LINE.as_bytes().to_vec();
                line[at] ^= 1 << bit;
                is_found(&mut shapes, &line);
            }
            is_found(&mut shapes, &LINE.as_bytes()[..at]);
            is_found(&mut shapes, format!("{}{}", &LINE[..at], LINE).as_bytes());
            for piece in [
                "0",
                "-",
                ".",
                "\\",
                "\"",
                "{",
                "}",
                "\u{1}",
                "e",
                "e5",
                "\\u12",
                "\\n",
                "\\u00e4",
                "\\uD7FF",
                "\\ud800",
                "\\uDBFF\\uDC00",
                "\\uE000",
            ] {
                is_found(&mut shapes, format!("{}{piece}{}", &LINE[..at], &LINE[at..]).as_bytes());
            }
        }
    }

    proptest! {
        #[test]
        fn any_value_is_read_as_the_parser_reads_it(text in any::<String>(), number in "-?[0-9]{1,5}(\\.[0-9]{1,3})?([eE][+-]?[0-9]{0,3})?") {
            let text = serde_json::to_string(&text).expect("a string");
            let line = LINE.replace("\"x\"", &text).replace("null", &number);
            is_found(&mut shapes(LINE), line.as_bytes());
        }
    }

    #[test]
    fn another_column_table_or_order_does_not_match() {
        for (from, to) in [("\"v\"", "\"w\""), ("\"t\"", "\"u\""), ("UPDATE", "INSERT"), (",\"n\":null", "")]
        {
            assert_eq!(shapes(LINE).find(LINE.replace(from, to).as_bytes()), None, "{to}");
        }
    }

    /// Names cost memory for as long as the reader lives.
    #[test]
    fn lines_of_endless_names_are_not_remembered() {
        let line = LINE.replace("\"v\"", &format!("\"{}\"", "v".repeat(FORM_BYTES_MAX)));
        assert!(!is_found(&mut shapes(&line), line.as_bytes()));
    }
}
