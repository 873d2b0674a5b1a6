//! JSON, read strictly: the one place that refuses duplicate keys, deep nesting, a BOM and Windows line ends,
//! before anything else looks at a document. Numbers stay the digits they are.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use crate::document::{Document, FORMAT};
use crate::error::{Error, Kind, Result};
use crate::number;

/// Deeper than any document of ours, and shallow enough for the smallest stack.
const DEPTH_MAX: usize = 32;

/// Reads a whole document of format 1. Unknown fields are ignored, an unknown `format` is refused by name.
pub(crate) fn decode<T: DeserializeOwned>(document: Document, bytes: &[u8]) -> Result<T> {
    let what = document.what();
    check(bytes, document.bytes_max()).map_err(|error| error.context(format!("{what} is not sound")))?;
    let format: Format = parse(what, bytes)?;
    if format.format != FORMAT {
        return Err(Error::new(
            Kind::Corrupt,
            format!("{what} has format {}; this program reads format {FORMAT}", format.format),
        )
        .hint("install a version of syncdata that knows this format"));
    }
    parse(what, bytes)
}

/// One object in one line, with its line end.
pub(crate) fn encode<T: Serialize>(document: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(document).expect("our documents have only names as keys");
    bytes.push(b'\n');
    bytes
}

/// For `deserialize_with`: serde takes a missing `Option` for null, our documents say null.
pub(crate) fn null_must_be_said<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)
}

/// For `deserialize_with` and `Deserialize`: text that is exactly what its value prints. A document has one spelling
/// of everything, so that no flipped bit can leave it the same.
pub(crate) fn one_spelling<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display> + fmt::Display,
{
    let text = String::deserialize(deserializer)?;
    let value: T =
        text.parse().map_err(|error| D::Error::custom(format!("{text:?} cannot be read: {error}")))?;
    let canonical = value.to_string();
    if canonical == text {
        Ok(value)
    } else {
        Err(D::Error::custom(format!("{text:?} is not written {canonical:?}")))
    }
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(Kind::Corrupt, format!("{what} is not sound")).caused_by(error))
}

/// Strict JSON and nothing else: one object, no key twice at any level.
fn check(bytes: &[u8], bytes_max: usize) -> Result<()> {
    if bytes.len() > bytes_max {
        let message = format!("{} bytes, of which at most {bytes_max} are expected", bytes.len());
        return Err(Error::new(Kind::Corrupt, message));
    }
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        return Err(Error::new(
            Kind::Corrupt,
            "it begins with a byte order mark: some editor has changed it",
        ));
    }
    if memchr::memchr(b'\r', bytes).is_some() {
        return Err(Error::new(
            Kind::Corrupt,
            "it has Windows line ends: some editor or copy has changed it",
        ));
    }
    if bytes.last() != Some(&b'\n') {
        return Err(Error::new(Kind::Corrupt, "its last line has no end: it was cut off"));
    }
    let mut scanner = Scanner::new(utf8(bytes)?, usize::MAX);
    if scanner.peek() != Some(b'{') {
        return Err(scanner.error("expected an object"));
    }
    scanner.skip_value()?;
    scanner.end()
}

pub(crate) fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| Error::new(Kind::Corrupt, "not UTF-8").caused_by(error))
}

/// A cursor over JSON text.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// How many names may still be remembered while looking for duplicates: bounds memory.
    names_left: usize,
}

impl<'a> Scanner<'a> {
    /// `names_max`: of the objects that `skip_value` walks over, together.
    pub(crate) fn new(text: &'a str, names_max: usize) -> Scanner<'a> {
        Scanner { text, at: 0, depth: 0, names_left: names_max }
    }

    pub(crate) fn error(&self, what: &str) -> Error {
        Error::new(Kind::Corrupt, format!("{what} at byte {}", self.at))
    }

    /// The next byte that is not white space. A carriage return is none: our lines and documents have no such ends.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    /// Steps over `byte` if it is next.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn expect(&mut self, byte: u8) -> Result<()> {
        if self.take(byte) { Ok(()) } else { Err(self.error(&format!("expected {:?}", char::from(byte)))) }
    }

    pub(crate) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("more bytes after the end")),
        }
    }

    /// Walks over an object: `member` is called after each name's colon and must step over the value.
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(&mut Scanner<'a>, Cow<'a, str>) -> Result<()>,
    ) -> Result<()> {
        self.expect(b'{')?;
        self.deeper()?;
        if !self.take(b'}') {
            loop {
                let name = self.string()?;
                self.expect(b':')?;
                member(self, name)?;
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b'}')?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn array(&mut self) -> Result<()> {
        self.expect(b'[')?;
        self.deeper()?;
        if !self.take(b']') {
            loop {
                self.skip_value()?;
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b']')?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(self.error("nested too deeply")) } else { Ok(()) }
    }

    /// Any value, checked in full, as the text it is.
    pub(crate) fn skip_value(&mut self) -> Result<&'a str> {
        let first = self.peek();
        let from = self.at;
        match first {
            Some(b'{') => self.skip_object()?,
            Some(b'[') => self.array()?,
            Some(b'"') => drop(self.string()?),
            Some(b'-' | b'0'..=b'9') => drop(self.number()?),
            Some(b't') => self.literal("true")?,
            Some(b'f') => self.literal("false")?,
            Some(b'n') => self.literal("null")?,
            _ => return Err(self.error("expected a value")),
        }
        Ok(&self.text[from..self.at])
    }

    fn skip_object(&mut self) -> Result<()> {
        let mut seen = HashSet::new();
        self.object(|scanner, name| {
            let Some(left) = scanner.names_left.checked_sub(1) else {
                return Err(scanner.error("too many names"));
            };
            scanner.names_left = left;
            if seen.contains(&name) {
                return Err(scanner.error(&format!("{name:?} twice in one object")));
            }
            seen.insert(name);
            scanner.skip_value().map(drop)
        })
    }

    pub(crate) fn literal(&mut self, word: &str) -> Result<()> {
        self.peek();
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error("expected a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// A number, digit for digit.
    pub(crate) fn number(&mut self) -> Result<&'a str> {
        self.peek();
        let from = self.at;
        match number::length(&self.text.as_bytes()[from..]) {
            Ok(bytes) => self.at += bytes,
            Err(missing) => {
                self.at += missing;
                return Err(self.error("expected a digit"));
            }
        }
        Ok(&self.text[from..self.at])
    }

    /// A string; borrowed when nothing in it is escaped.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>> {
        self.expect(b'"')?;
        let from = self.at;
        self.at += plain_bytes(&self.text.as_bytes()[from..]);
        match self.text.as_bytes().get(self.at) {
            Some(b'"') => {
                self.at += 1;
                Ok(Cow::Borrowed(&self.text[from..self.at - 1]))
            }
            Some(b'\\') => self.escaped_string(from).map(Cow::Owned),
            Some(_) => Err(self.error("a control character in a string")),
            None => Err(self.error("a string without an end")),
        }
    }

    /// The rest of a string that holds an escape; `from` is where its text began.
    fn escaped_string(&mut self, from: usize) -> Result<String> {
        let mut string = self.text[from..self.at].to_owned();
        loop {
            let plain = plain_bytes(&self.text.as_bytes()[self.at..]);
            string.push_str(&self.text[self.at..self.at + plain]);
            self.at += plain;
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => {
                    self.at += 1;
                    string.push(self.escape()?);
                }
                Some(_) => return Err(self.error("a control character in a string")),
                None => return Err(self.error("a string without an end")),
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<char> {
        let letter = self.text.as_bytes().get(self.at).copied();
        self.at += 1;
        Ok(match letter {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => {
                self.at -= 1;
                return Err(self.error("an unknown escape"));
            }
        })
    }

    fn unicode_escape(&mut self) -> Result<char> {
        let high = self.hex4()?;
        let code = if (0xD800..0xDC00).contains(&high) {
            let pair = self.text.as_bytes()[self.at..].starts_with(b"\\u");
            if !pair {
                return Err(self.error("half of a surrogate pair"));
            }
            self.at += 2;
            let low = self.hex4()?;
            if !(0xDC00..0xE000).contains(&low) {
                return Err(self.error("half of a surrogate pair"));
            }
            0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
        } else {
            high
        };
        char::from_u32(code).ok_or_else(|| self.error("half of a surrogate pair"))
    }

    fn hex4(&mut self) -> Result<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let value = digits.and_then(|digits| {
            digits.iter().try_fold(0, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
        });
        self.at += if value.is_some() { 4 } else { 0 };
        value.ok_or_else(|| self.error("expected four hex digits"))
    }
}

/// How many bytes lie before the first quote, backslash or control character; eight are looked at in one step.
pub(crate) fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // The high bit of each byte that is below `n`; a false one can only stand above a true one.
    let below = |word: u64, n: u8| word.wrapping_sub(ONES * u64::from(n)) & !word & HIGHS;
    let equal = |word: u64, n: u8| below(word ^ (ONES * u64::from(n)), 1);
    let mut at = 0;
    while let Some((eight, _)) = bytes[at..].split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*eight);
        let stops = below(word, 0x20) | equal(word, b'"') | equal(word, b'\\');
        if stops != 0 {
            return at + stops.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let plain = |&&b: &&u8| b >= 0x20 && b != b'"' && b != b'\\';
    at + bytes[at..].iter().take_while(plain).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::{MapAccess, SeqAccess, Visitor};

    use super::*;

    /// What serde_json finds, with names twice refused: the oracle for our scanner.
    struct Oracle;

    impl<'de> serde::Deserialize<'de> for Oracle {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Oracle, D::Error> {
            deserializer.deserialize_any(OracleVisitor)
        }
    }

    struct OracleVisitor;

    impl<'de> Visitor<'de> for OracleVisitor {
        type Value = Oracle;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON")
        }
        fn visit_unit<E>(self) -> Result<Oracle, E> {
            Ok(Oracle)
        }
        fn visit_bool<E>(self, _: bool) -> Result<Oracle, E> {
            Ok(Oracle)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Oracle, E> {
            Ok(Oracle)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Oracle, E> {
            Ok(Oracle)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Oracle, E> {
            Ok(Oracle)
        }
        fn visit_str<E>(self, _: &str) -> Result<Oracle, E> {
            Ok(Oracle)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Oracle, A::Error> {
            while items.next_element::<Oracle>()?.is_some() {}
            Ok(Oracle)
        }
        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Oracle, A::Error> {
            let mut seen = HashSet::new();
            while let Some((name, Oracle)) = members.next_entry::<String, Oracle>()? {
                if !seen.insert(name) {
                    return Err(A::Error::custom("twice"));
                }
            }
            Ok(Oracle)
        }
    }

    fn is_sound(text: &str) -> bool {
        let mut scanner = Scanner::new(text, usize::MAX);
        scanner.skip_value().and_then(|_| scanner.end()).is_ok()
    }

    #[track_caller]
    fn same_as_the_oracle(text: &str) {
        match serde_json::from_str::<Oracle>(text) {
            Ok(Oracle) => assert!(is_sound(text), "refused {text:?}"),
            // Digits are never made a float here, so no number is too large.
            Err(error) if error.to_string().contains("out of range") => {}
            Err(error) => assert!(!is_sound(text), "accepted {text:?}: {error}"),
        }
    }

    #[test]
    fn agrees_with_serde_json_on_odd_texts() {
        let numbers =
            "0 -0 00 01 -01 - + +1 1. .1 1.0 -1.5e10 1e 1e+ 1E-7 1e05 0x1 1_0 NaN Infinity -Infinity 1-1";
        let strings = r#""" "a "\" "\\" "\/" "\b\f\n\r\t" "\u00e4" "\u00E4" "\u00g0" "\u00" "\ud834\udd1e" "\ud834" "\udd1e" "\ud834\u0041" "\x" "\" "ä€𝄞" 'a'"#;
        let shapes = r#"{} [] {"a":1} {"a":1,} {,} [1,] [,1] [1;2] {"a"1} {"a":} {1:2} {"a":1,"a":2} {"a":{"b":1},"b":[{"b":2}]} {"a":1,"\u0061":2} [}] {] true false null nul True tru e"#;
        for text in [numbers, strings, shapes].into_iter().flat_map(str::split_ascii_whitespace) {
            same_as_the_oracle(text);
            same_as_the_oracle(&format!(" [ {text} ,\t{{ \"x\" : {text} }} ]\n"));
        }
        for text in
            ["", " ", "\"\t\"", "\"\u{1f}\"", "\"\u{7f}\u{2028}\"", "1 2", "{}{}", "1\u{0}", "\u{feff}1"]
        {
            same_as_the_oracle(text);
        }
    }

    #[test]
    fn long_strings_stop_at_the_first_byte_that_ends_them() {
        for length in 0..40 {
            for stop in [b'"', b'\\', 0x00, 0x0A, 0x1F] {
                for filler in [b' ', b'#', b'!', b'[', b']', 0x7F, 0x80, 0xFF] {
                    let mut bytes = vec![filler; length];
                    bytes.push(stop);
                    bytes.extend_from_slice(b"\"\\\"\\\"\\\"\\\"");
                    assert_eq!(plain_bytes(&bytes), length, "{stop} after {length} times {filler}");
                }
            }
        }
    }

    #[test]
    fn depth_is_bounded_and_costs_no_stack() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert!(is_sound(&nested(DEPTH_MAX)));
            assert!(!is_sound(&nested(DEPTH_MAX + 1)));
            assert!(!is_sound(&nested(100_000)));
            assert!(!is_sound(&open.repeat(100_000)));
        }
    }

    #[test]
    fn a_document_is_one_object_and_nothing_else() {
        let decode = |bytes: &[u8]| {
            super::decode::<Format>(Document::Head, bytes).map(|_| ()).map_err(|error| error.report())
        };
        assert_eq!(decode(b"{\"format\":1}\n"), Ok(()));
        assert_eq!(decode(b"{\"format\":1,\"later\":[{}]}\n"), Ok(()));
        for (bytes, says) in [
            (&b"\xEF\xBB\xBF{\"format\":1}\n"[..], "byte order mark"),
            (b"{\"format\":1}\r\n", "Windows line ends"),
            (b"{\"format\":1}\0\n", "more bytes after the end"),
            (b"{\"format\":1}{}\n", "more bytes after the end"),
            (b"{\"format\":1,\"format\":1}\n", "\"format\" twice"),
            (b"{\"format\":1,\"x\":{\"a\":1,\"a\":1}}\n", "\"a\" twice"),
            (b"[1]\n", "expected an object"),
            (b"\n", "expected an object"),
            (b"{}\n", "missing field `format`"),
            (b"{\"format\":\"1\"}\n", "invalid type"),
            (b"{\"format\":2}\n", "has format 2; this program reads format 1"),
            (b"{\"format\":1,\"x\":\"\xFF\"}\n", "not UTF-8"),
            (b"{\"format\":1}", "its last line has no end"),
            (b"", "its last line has no end"),
            (&vec![b' '; (64 << 10) + 1], "at most 65536"),
        ] {
            let error = decode(bytes).expect_err("refused");
            assert!(error.contains(says), "{says:?} is not in {error:?}");
        }
    }

    fn document() -> impl Strategy<Value = String> {
        let scalar = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|b| b.to_string()),
            "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?",
            any::<String>().prop_map(|s| serde_json::to_string(&s).expect("a string")),
        ];
        scalar.prop_recursive(4, 24, 4, |inner| {
            let member =
                ("[a-c]{1,2}", inner.clone()).prop_map(|(name, value)| format!("\"{name}\" :{value}"));
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
                prop::collection::vec(member, 0..4).prop_map(|members| format!("{{{}}}", members.join(","))),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn agrees_with_serde_json(text in document()) {
            same_as_the_oracle(&text);
        }

        #[test]
        fn agrees_with_serde_json_when_a_byte_is_changed(
            text in document(),
            at in any::<prop::sample::Index>(),
            byte in prop::sample::select(&b"\"\\{}[]:,0-.eEtn \n\x00u"[..]),
        ) {
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                same_as_the_oracle(text);
            }
        }
    }
}
