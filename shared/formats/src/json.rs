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
mod tests;
