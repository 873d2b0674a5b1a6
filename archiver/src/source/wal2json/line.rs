//! A line of wal2json's format version 2, taken apart without copying.
//!
//! The plugin prints its keys in one fixed order, and so they are read in that order: a line that looks
//! different comes from a plugin that we do not know, and a guess about it could be a wrong value. Strings stay
//! the JSON text they are; what was escaped there is escaped in our files too.

use std::borrow::Cow;

use memchr::memchr2;
use syncdata_formats::number;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};

use crate::source::event::{Action, Column, Columns, Event, JsonString, Part, Place, Row, Transaction};

/// A line of wal2json's answer.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    Event(Event<'a, Lists<'a>>),
    /// `pg_logical_emit_message` with our own prefix.
    Message,
}

/// Columns and identity of a row, still to be read.
#[derive(Debug, PartialEq)]
pub(crate) struct Lists<'a> {
    action: Action,
    rest: Scanner<'a>,
}

impl<'a> Line<'a> {
    /// Everything but a row's columns.
    pub(super) fn parse(text: &'a str) -> Result<Line<'a>> {
        Scanner { text, at: 0 }.line().ok_or_else(|| not_understood(text))
    }
}

impl Line<'_> {
    /// Everything: whether we would understand the line.
    pub(super) fn check(text: &str) -> Result<()> {
        if let Line::Event(Event::Row(row)) = Line::parse(text)? {
            row.columns.each(|_, _| ())?;
        }
        Ok(())
    }
}

impl Columns for Lists<'_> {
    fn each(&self, mut take: impl FnMut(Part, Column<'_>)) -> Result<()> {
        let mut scanner = self.rest;
        scanner.lists(self.action, &mut take).ok_or_else(|| not_understood(self.rest.text))
    }
}

fn not_understood(text: &str) -> Error {
    Error::new(Kind::Corrupt, format!("wal2json printed a line that is not understood: {}", start_of(text)))
        .hint("check the version of wal2json (2.5 to 2.7 are known); nothing was consumed from the slot")
}

/// The keys of a line, without the values of anybody's rows.
fn start_of(line: &str) -> &str {
    let end = line.find("\"columns\"").or_else(|| line.find("\"identity\"")).unwrap_or(line.len()).min(200);
    line.get(..end).unwrap_or("(not at a character boundary)")
}

/// How a value of a type travels: the OIDs are fixed in PostgreSQL's catalog.
#[derive(Clone, Copy, PartialEq)]
enum Printing {
    /// Printed without its prefix.
    Bytea,
    /// A number, which `numeric-data-types-as-string` puts in quotes.
    Number,
    AsIs,
}

impl Printing {
    fn of(type_oid: &str) -> Printing {
        match type_oid {
            "17" => Printing::Bytea,
            // int8, int2, int4, oid, float4, float8, numeric
            "20" | "21" | "23" | "26" | "700" | "701" | "1700" => Printing::Number,
            _ => Printing::AsIs,
        }
    }

    fn value(self, printed: &str) -> Cow<'_, str> {
        match self {
            Printing::Bytea => match printed.strip_prefix('"') {
                Some(hex) => Cow::Owned(format!("\"\\\\x{hex}")),
                None => Cow::Borrowed(printed),
            },
            Printing::Number => {
                let bare = printed.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                // NaN and the infinities are no JSON numbers: they keep their quotes.
                Cow::Borrowed(bare.filter(|text| number::is_number(text)).unwrap_or(printed))
            }
            Printing::AsIs => Cow::Borrowed(printed),
        }
    }
}

/// A place in a line. Every step returns `None` when something else stands there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn line(mut self) -> Option<Line<'a>> {
        self.expect("{\"action\":\"")?;
        let action = *self.text.as_bytes().get(self.at)?;
        self.at += 1;
        self.expect("\"")?;
        match action {
            b'B' => self.transaction().map(|transaction| Event::Begin(transaction.begin())),
            b'C' => self.transaction().map(Event::Commit),
            b'I' => self.row(Action::Insert).map(Event::Row),
            b'U' => self.row(Action::Update).map(Event::Row),
            b'D' => self.row(Action::Delete).map(Event::Row),
            b'T' => {
                let place = self.place()?;
                self.end()?;
                Some(Event::Truncate(place))
            }
            b'M' => return Some(Line::Message),
            _ => None,
        }
        .map(Line::Event)
    }

    fn transaction(mut self) -> Option<Transaction> {
        self.expect(",\"xid\":")?;
        let xid = self.digits()?.parse().ok()?;
        self.expect(",\"timestamp\":\"")?;
        let committed_at = Timestamp::from_postgres(self.until_quote()?).ok()?;
        self.expect(",\"lsn\":\"")?;
        let lsn = self.until_quote()?.parse().ok()?;
        self.expect(",\"nextlsn\":\"")?;
        let end_lsn = self.until_quote()?.parse().ok()?;
        self.end()?;
        Some(Transaction { xid, committed_at, lsn, end_lsn })
    }

    fn place(&mut self) -> Option<Place<'a>> {
        self.expect(",\"xid\":")?;
        self.digits()?;
        self.expect(",\"timestamp\":\"")?;
        self.until_quote()?;
        self.expect(",\"lsn\":\"")?;
        let lsn = self.until_quote()?.parse().ok()?;
        self.expect(",\"schema\":")?;
        let schema = self.string()?;
        self.expect(",\"table\":")?;
        let table = self.string()?;
        Some(Place { lsn, schema, table, oid: None })
    }

    fn row(mut self, action: Action) -> Option<Row<'a, Lists<'a>>> {
        let place = self.place()?;
        Some(Row { action, place, columns: Lists { action, rest: self } })
    }

    fn lists(&mut self, action: Action, take: &mut impl FnMut(Part, Column<'a>)) -> Option<()> {
        if action != Action::Delete {
            self.list(",\"columns\":[", |column| take(Part::Columns, column))?;
        }
        if action != Action::Insert {
            self.list(",\"identity\":[", |column| take(Part::Identity, column))?;
        }
        self.end()
    }

    fn list(&mut self, opening: &str, mut take: impl FnMut(Column<'a>)) -> Option<()> {
        self.expect(opening)?;
        if self.expect("]").is_some() {
            return Some(());
        }
        loop {
            take(self.column()?);
            if self.expect(",").is_none() {
                return self.expect("]");
            }
        }
    }

    /// `{"name":"id","typeoid":23,"value":1}`
    fn column(&mut self) -> Option<Column<'a>> {
        self.expect("{\"name\":")?;
        let name = self.string()?;
        self.expect(",\"typeoid\":")?;
        let printing = Printing::of(self.signed_digits()?);
        self.expect(",\"value\":")?;
        let value = printing.value(self.value()?);
        self.expect("}")?;
        Some(Column { name, value })
    }

    fn value(&mut self) -> Option<&'a str> {
        let from = self.at;
        match self.text.as_bytes().get(from)? {
            b'"' => return self.string(),
            b'n' => self.expect("null")?,
            b't' => self.expect("true")?,
            b'f' => self.expect("false")?,
            _ => {
                let rest = &self.text.as_bytes()[from..];
                self.at += rest.iter().take_while(|b| !matches!(b, b'}' | b',')).count();
                return Some(&self.text[from..self.at]).filter(|text| number::is_number(text));
            }
        }
        Some(&self.text[from..self.at])
    }

    /// A JSON string with its quotes.
    fn string(&mut self) -> Option<JsonString<'a>> {
        let bytes = self.text.as_bytes();
        let from = self.at;
        if bytes.get(from) != Some(&b'"') {
            return None;
        }
        let mut at = from + 1;
        loop {
            at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
            if bytes[at] == b'"' {
                break;
            }
            at += 2;
        }
        self.at = at + 1;
        self.text.get(from..self.at)
    }

    fn until_quote(&mut self) -> Option<&'a str> {
        let rest = &self.text[self.at..];
        let end = rest.find('"')?;
        self.at += end + 1;
        Some(&rest[..end])
    }

    fn digits(&mut self) -> Option<&'a str> {
        let rest = &self.text[self.at..];
        let n = rest.bytes().take_while(u8::is_ascii_digit).count();
        self.at += n;
        (n > 0).then(|| &rest[..n])
    }

    /// OIDs above 2^31 are printed as negative numbers.
    fn signed_digits(&mut self) -> Option<&'a str> {
        let from = self.at;
        if self.expect("-").is_none() {
            return self.digits();
        }
        self.digits()?;
        Some(&self.text[from..self.at])
    }

    fn expect(&mut self, literal: &str) -> Option<()> {
        let found = self.text.as_bytes().get(self.at..)?.starts_with(literal.as_bytes());
        found.then(|| self.at += literal.len())
    }

    fn end(&mut self) -> Option<()> {
        self.expect("}")?;
        (self.at == self.text.len()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#""xid":754,"timestamp":"2026-02-05 10:30:00.123456+00","lsn":"0/16B3D40","schema":"public","table":"t""#;

    fn columns(row: &Row<'_, Lists<'_>>, wanted: Part) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let take = |part, column: Column<'_>| {
            if part == wanted {
                all.push((column.name.to_owned(), column.value.into_owned()));
            }
        };
        row.columns.each(take).expect("a sound line");
        all
    }

    fn insert(columns: &str) -> String {
        format!(r#"{{"action":"I",{HEAD},"columns":[{columns}]}}"#)
    }

    /// Every number that it hands on is one for whoever reads our files.
    #[test]
    fn fuzz_wal2json() {
        syncdata_fuzz::replay("wal2json", |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return false };
            let text = text.trim_end_matches('\n');
            // What is not understood is named without the values of anybody's rows.
            let (line, checked) = (Line::parse(text), Line::check(text));
            if checked.is_err() {
                return false;
            }
            if let Ok(Line::Event(Event::Row(row))) = line {
                let take = |_, column: Column<'_>| {
                    let is_word = matches!(&*column.value, "null" | "true" | "false");
                    assert!(is_word || column.value.starts_with('"') || number::is_number(&column.value));
                };
                row.columns.each(take).expect("it was understood before");
            }
            true
        });
    }

    #[test]
    fn reads_begin_and_commit() {
        let text = r#"{"action":"C","xid":754,"timestamp":"2026-02-05 10:30:00+00","lsn":"0/16B3D80","nextlsn":"0/16B3DB0"}"#;
        let Ok(Line::Event(Event::Commit(commit))) = Line::parse(text) else { panic!("not a commit") };
        assert_eq!((commit.xid, commit.end_lsn.to_string().as_str()), (754, "0/16B3DB0"));
    }

    #[test]
    fn values_travel_digit_for_digit() {
        for (printed, ours) in [
            (r#""typeoid":1700,"value":1.1000000000"#, "1.1000000000"),
            (r#""typeoid":1700,"value":"1.1000000000""#, "1.1000000000"),
            (r#""typeoid":701,"value":"1e-310""#, "1e-310"),
            (r#""typeoid":701,"value":"-0""#, "-0"),
            (r#""typeoid":701,"value":"NaN""#, r#""NaN""#),
            (r#""typeoid":700,"value":"-Infinity""#, r#""-Infinity""#),
            (r#""typeoid":20,"value":"-9223372036854775808""#, "-9223372036854775808"),
            (r#""typeoid":17,"value":"00ff""#, r#""\\x00ff""#),
            (r#""typeoid":17,"value":null"#, "null"),
            (r#""typeoid":16,"value":true"#, "true"),
            (r#""typeoid":25,"value":"17""#, r#""17""#),
            (r#""typeoid":25,"value":"a\"b\\c]}\u0001""#, r#""a\"b\\c]}\u0001""#),
            // Domains are printed as text, with the prefix that a plain bytea lacks.
            (r#""typeoid":16400,"value":"\\x00ff""#, r#""\\x00ff""#),
            (r#""typeoid":-5,"value":"7""#, r#""7""#),
        ] {
            let text = insert(&format!(r#"{{"name":"c",{printed}}}"#));
            let Ok(Line::Event(Event::Row(row))) = Line::parse(&text) else { panic!("not read: {text}") };
            assert_eq!(columns(&row, Part::Columns), vec![(r#""c""#.to_owned(), ours.to_owned())]);
        }
    }

    #[test]
    fn an_update_has_columns_and_identity() {
        let text = format!(
            r#"{{"action":"U",{HEAD},"columns":[{{"name":"id","typeoid":23,"value":2}},{{"name":"n","typeoid":25,"value":null}}],"identity":[{{"name":"id","typeoid":23,"value":1}}]}}"#
        );
        let Ok(Line::Event(Event::Row(row))) = Line::parse(&text) else { panic!("not a row") };
        assert_eq!(row.action, Action::Update);
        assert_eq!(columns(&row, Part::Columns).len(), 2);
        assert_eq!(columns(&row, Part::Identity), vec![(r#""id""#.to_owned(), "1".to_owned())]);
    }

    #[test]
    fn a_row_may_have_no_columns() {
        let text = insert("");
        let Ok(Line::Event(Event::Row(row))) = Line::parse(&text) else { panic!("not a row") };
        assert_eq!(columns(&row, Part::Columns), vec![]);
    }

    #[test]
    fn every_cut_of_a_line_is_refused() {
        let whole = insert(r#"{"name":"a","typeoid":23,"value":1},{"name":"b","typeoid":25,"value":"ü\"x"}"#);
        assert!(Line::check(&whole).is_ok());
        for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
            assert!(Line::check(&whole[..end]).is_err(), "accepted {}", &whole[..end]);
        }
        assert!(Line::check(&format!("{whole}}}")).is_err());
    }

    #[test]
    fn refuses_what_the_plugin_never_prints() {
        for text in [
            "",
            "{}",
            r#"{"action":"X"}"#,
            &insert(r#"{"name":"a","typeoid":23,"value":01}"#),
            &insert(r#"{"name":"a","typeoid":23,"value":1 }"#),
            &insert(r#"{"name":"a","value":1}"#),
            &insert(r#"{"name":"a","typeoid":23,"value":1}{"#),
            &insert(r#"{"name":"a","typeoid":23,"value":{"x":1}}"#),
        ] {
            assert!(Line::check(text).is_err(), "accepted {text}");
        }
    }

    #[test]
    fn an_error_shows_no_values() {
        let error = Line::check(&insert(r#"{"name":"a","typeoid":25,"value":"secret"#)).expect_err("cut");
        assert!(!error.report().contains("secret"), "{}", error.report());
    }

    #[test]
    fn json_numbers() {
        for text in ["0", "-0", "10", "1.10", "1e+20", "1E-310", "123456789012345678901234567890.5"] {
            assert!(number::is_number(text), "{text}");
        }
        for text in ["", "-", "01", ".5", "1.", "1e", "1e+", "NaN", "Infinity", "1 ", "0x1", "--1", "1.2.3"] {
            assert!(!number::is_number(text), "{text}");
        }
    }
}
