//! From rows as COPY prints them to their hashes and buckets.
//!
//! The image of a row is its compared columns, in their order: one byte, 0 for NULL and 1 for a value, and for a value four
//! bytes of length and the text. Its hash is the first 16 bytes of SHA-256 over that. The first k bits of SHA-256 over the
//! key columns' part of the image choose the bucket. Columns that production computes
//! have no place in it, and a sum of their own.

use std::collections::BTreeMap;

use memchr::{memchr, memchr2};
use sha2::{Digest as _, Sha256};

use super::types::prints_alike;
use super::{Buckets, RowHash};
use crate::error::{Error, Kind, Result};
use crate::relation::Relation;

/// Which columns of a relation are compared, and which of them are its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// In the order of the relation.
    pub columns: Vec<String>,
    /// Their types, beside them.
    pub types: Vec<String>,
    /// Computed by either side for itself.
    pub generated: Vec<String>,
    /// Those of them that have a sum, with their types: a dump that is restored computes anew what was compared once.
    pub computed: Vec<(String, String)>,
    /// Those whose types may print differently: a copy that has them is not compared there.
    pub unsummed: Vec<String>,
    /// Of types that may print differently: nothing is said of them.
    pub not_comparable: Vec<String>,
    /// Whether the column at that place is of the key; all false: the whole image stands for the key.
    pub(super) is_key: Vec<bool>,
}

impl Layout {
    pub fn of(relation: &Relation) -> Layout {
        let mut layout = Layout {
            columns: Vec::new(),
            types: Vec::new(),
            generated: Vec::new(),
            computed: Vec::new(),
            unsummed: Vec::new(),
            not_comparable: Vec::new(),
            is_key: Vec::new(),
        };
        for column in &relation.columns {
            let prints_alike = prints_alike(&column.type_name, &relation.types);
            if column.generated.is_some() {
                layout.generated.push(column.name.clone());
                match prints_alike {
                    true => layout.computed.push((column.name.clone(), column.type_name.clone())),
                    false => layout.unsummed.push(column.name.clone()),
                }
            } else if prints_alike {
                layout.is_key.push(relation.key.contains(&column.name));
                layout.columns.push(column.name.clone());
                layout.types.push(column.type_name.clone());
            } else {
                layout.not_comparable.push(column.name.clone());
            }
        }
        // A key with a column that has no place in the image chooses nothing.
        if layout.is_key.iter().filter(|is_key| **is_key).count() != relation.key.len() {
            layout.is_key.fill(false);
        }
        layout
    }

    /// By what a row that refers with these columns is told from others: by its key and by them; without a key, by all
    /// that is compared. Whatever else is in it plays no part.
    pub fn columns_of_reference(&self, columns: &[String]) -> Vec<String> {
        let has_key = self.is_key.contains(&true);
        let counts = |(name, is_key): &(&String, &bool)| !has_key || **is_key || columns.contains(name);
        self.columns.iter().zip(&self.is_key).filter(counts).map(|(name, _)| name.clone()).collect()
    }

    /// One row, for whoever looks at rows one by one: its hash and, of 2^k, its bucket.
    pub fn hash<'a>(&self, fields: impl IntoIterator<Item = Option<&'a [u8]>>, k: u8) -> (RowHash, u32) {
        let mut scratch = Scratch::default();
        for (place, field) in fields.into_iter().enumerate() {
            scratch.push_value(field, self.is_key.get(place).copied().unwrap_or(false));
        }
        scratch.finish(k)
    }
}

/// The hash of a row of which all columns count.
pub fn hash_of<'a>(fields: impl IntoIterator<Item = Option<&'a [u8]>>) -> RowHash {
    let mut scratch = Scratch::default();
    fields.into_iter().for_each(|field| scratch.push_value(field, false));
    scratch.finish(0).0
}

/// Takes the answer of COPY, in pieces as they come, and counts its rows into buckets.
#[derive(Debug)]
pub struct Digester {
    layout: Layout,
    buckets: Buckets,
    /// The start of a row whose end has not come.
    rest: Vec<u8>,
    scratch: Scratch,
    rows: u64,
    /// Columns behind those of the layout, each with its sum.
    computed: Vec<(String, u128)>,
    /// Of each column of numbers: whether a value was none. Empty: nobody asked.
    odd: Vec<Option<bool>>,
}

impl Digester {
    pub fn new(layout: Layout, k: u8) -> Digester {
        let (rest, scratch, computed, odd) = (Vec::new(), Scratch::default(), Vec::new(), Vec::new());
        Digester { layout, buckets: Buckets::new(k), rest, scratch, rows: 0, computed, odd }
    }

    /// Takes these columns too, behind the others: each has a sum of its own, over all rows with what is compared of them.
    #[must_use]
    pub fn with_computed(self, columns: &[String]) -> Digester {
        let computed = columns.iter().map(|name| (name.clone(), 0)).collect();
        Digester { computed, ..self }
    }

    /// The sums so far. A column in which NaN or an infinity was found has none: a copy cannot have been told of it.
    pub fn computed(&self) -> BTreeMap<String, RowHash> {
        let odd = self.odd.iter().skip(self.layout.columns.len()).copied().chain(std::iter::repeat(None));
        let sums = self.computed.iter().zip(odd).filter(|(_, odd)| *odd != Some(true));
        sums.map(|((name, sum), _)| (name.clone(), RowHash(*sum))).collect()
    }

    /// Looks for NaN and infinities too, in columns of numbers.
    #[must_use]
    pub fn looking_for_nan(self) -> Digester {
        let type_of = |(name, _): &(String, u128)| {
            let of = self.layout.computed.iter().find(|(computed, _)| computed == name);
            of.map_or("", |(_, type_name)| type_name.as_str())
        };
        let types = self.layout.types.iter().map(String::as_str).chain(self.computed.iter().map(type_of));
        let odd = types.map(|name| is_number(name).then_some(false)).collect();
        Digester { odd, ..self }
    }

    /// The columns that had NaN or an infinity so far.
    pub fn with_nan(&self) -> Vec<String> {
        let columns = self.layout.columns.iter().zip(&self.odd);
        columns.filter(|(_, odd)| **odd == Some(true)).map(|(name, _)| name.clone()).collect()
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn push(&mut self, piece: &[u8]) -> Result<()> {
        let mut piece = piece;
        while let Some(end) = memchr(b'\n', piece) {
            if self.rest.is_empty() {
                self.line(&piece[..end])?;
            } else {
                let mut line = std::mem::take(&mut self.rest);
                line.extend_from_slice(&piece[..end]);
                self.line(&line)?;
                line.clear();
                // One long row does not hold its memory for ever.
                line.shrink_to(64 << 10);
                self.rest = line;
            }
            piece = &piece[end + 1..];
        }
        self.rest.extend_from_slice(piece);
        Ok(())
    }

    pub fn finish(self) -> Result<Buckets> {
        if self.rest.is_empty() { Ok(self.buckets) } else { Err(corrupt("it ends within a row")) }
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        self.scratch.clear();
        let (mut place, columns) = (0, self.layout.columns.len());
        // A table without a column that is compared has empty lines.
        if columns + self.computed.len() > 0 || !line.is_empty() {
            let mut rest = Some(line);
            while let Some(text) = rest {
                let (field, after) = match memchr(b'\t', text) {
                    Some(end) => (&text[..end], Some(&text[end + 1..])),
                    None => (text, None),
                };
                match (self.layout.is_key.get(place), place.checked_sub(columns)) {
                    (Some(is_key), _) => self.scratch.push_field(field, *is_key)?,
                    (None, Some(computed)) if computed < self.computed.len() => {
                        let hash = self.scratch.hash_with(field)?;
                        let sum = &mut self.computed[computed].1;
                        *sum = sum.wrapping_add(hash);
                    }
                    (None, _) => return Err(corrupt("a row has more columns than were asked for")),
                }
                if let Some(odd @ Some(false)) = self.odd.get_mut(place) {
                    *odd = Some(matches!(field, b"NaN" | b"Infinity" | b"-Infinity"));
                }
                (place, rest) = (place + 1, after);
            }
        }
        if place != columns + self.computed.len() {
            return Err(corrupt("a row has fewer columns than were asked for"));
        }
        let (hash, bucket) = self.scratch.finish(self.buckets.k());
        self.buckets.add(bucket, hash);
        self.rows += 1;
        Ok(())
    }
}

fn is_number(type_name: &str) -> bool {
    let is_plain = matches!(type_name, "real" | "double precision") || type_name.starts_with("numeric");
    is_plain && !type_name.ends_with("[]")
}

/// The image of the row at hand.
#[derive(Debug, Default)]
struct Scratch {
    image: Vec<u8>,
    key: Vec<u8>,
    has_key: bool,
}

impl Scratch {
    /// A huge value does not stay in memory.
    const KEPT_BYTES: usize = 1 << 20;

    fn clear(&mut self) {
        self.image.clear();
        self.image.shrink_to(Scratch::KEPT_BYTES);
        self.key.clear();
        self.key.shrink_to(Scratch::KEPT_BYTES);
        self.has_key = false;
    }

    fn push_value(&mut self, value: Option<&[u8]>, is_key: bool) {
        let from = self.image.len();
        match value {
            None => self.image.push(0),
            Some(text) => {
                self.begin();
                self.image.extend_from_slice(text);
                self.end(from);
            }
        }
        self.note_key(from, is_key);
    }

    /// A column as COPY prints it.
    fn push_field(&mut self, field: &[u8], is_key: bool) -> Result<()> {
        let from = self.image.len();
        if field == b"\\N" {
            self.image.push(0);
        } else {
            self.begin();
            unescape_into(field, &mut self.image)?;
            self.end(from);
        }
        self.note_key(from, is_key);
        Ok(())
    }

    /// Of the image with that column behind it; the image stays as it is.
    fn hash_with(&mut self, field: &[u8]) -> Result<u128> {
        let from = self.image.len();
        self.push_field(field, false)?;
        let whole: [u8; 32] = Sha256::digest(&self.image).into();
        self.image.truncate(from);
        Ok(u128::from_be_bytes(*whole.first_chunk().expect("32 bytes")))
    }

    fn begin(&mut self) {
        self.image.extend_from_slice(&[1, 0, 0, 0, 0]);
    }

    fn end(&mut self, from: usize) {
        let length = self.image.len() - from - 5;
        let length = u32::try_from(length).expect("PostgreSQL's values have at most 1 GiB");
        self.image[from + 1..from + 5].copy_from_slice(&length.to_be_bytes());
    }

    fn note_key(&mut self, from: usize, is_key: bool) {
        if is_key {
            self.has_key = true;
            self.key.extend_from_slice(&self.image[from..]);
        }
    }

    fn finish(&self, k: u8) -> (RowHash, u32) {
        let whole: [u8; 32] = Sha256::digest(&self.image).into();
        let chosen = match self.has_key {
            true => Sha256::digest(&self.key).into(),
            false => whole,
        };
        let hash = u128::from_be_bytes(*whole.first_chunk().expect("32 bytes"));
        let bits = u32::from_be_bytes(*chosen.first_chunk().expect("32 bytes"));
        let bucket = bits.checked_shr(u32::BITS - u32::from(k)).unwrap_or(0);
        (RowHash(hash), bucket)
    }
}

/// The columns of a line of COPY's text format, without its line end; `None` is NULL.
pub fn copy_fields(line: &[u8]) -> Result<Vec<Option<Vec<u8>>>> {
    let field = |field: &[u8]| {
        if field == b"\\N" {
            return Ok(None);
        }
        let mut value = Vec::with_capacity(field.len());
        unescape_into(field, &mut value)?;
        Ok(Some(value))
    };
    line.split(|byte| *byte == b'\t').map(field).collect()
}

/// COPY writes no other escapes than these.
fn unescape_into(field: &[u8], value: &mut Vec<u8>) -> Result<()> {
    let mut rest = field;
    while let Some(at) = memchr2(b'\\', b'\n', rest) {
        if rest[at] == b'\n' {
            return Err(corrupt("a line end within a value"));
        }
        value.extend_from_slice(&rest[..at]);
        value.push(match rest.get(at + 1) {
            Some(b'b') => 0x08,
            Some(b'f') => 0x0C,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 0x0B,
            Some(b'\\') => b'\\',
            _ => return Err(corrupt("an unknown escape in a value")),
        });
        rest = &rest[at + 2..];
    }
    value.extend_from_slice(rest);
    Ok(())
}

fn corrupt(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the answer of COPY cannot be read: {what}"))
}
