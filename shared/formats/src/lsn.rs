//! `Lsn`: a position in the source's WAL.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::json;

/// A position in the source's WAL, read and printed as PostgreSQL prints it: `16/B374D848`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    pub const ZERO: Lsn = Lsn(0);

    /// From the eight bytes that a `pg_lsn` is on the wire.
    pub const fn from_u64(position: u64) -> Lsn {
        Lsn(position)
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Bytes of WAL from `earlier` up to here; zero when `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Sixteen digits, as in file names: they sort as numbers do.
    pub fn fixed_width(self) -> String {
        format!("{:016X}", self.0)
    }

    pub fn from_fixed_width(text: &str) -> Option<Lsn> {
        let canonical = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        if canonical { u64::from_str_radix(text, 16).ok().map(Lsn) } else { None }
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Lsn> {
        let half = |hex: &str| {
            let digit = |value: u32, digit: u8| Some(value << 4 | char::from(digit).to_digit(16)?);
            if (1..=8).contains(&hex.len()) { hex.bytes().try_fold(0, digit) } else { None }
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?))))
            .ok_or_else(|| Error::bad_input("an LSN like 16/B374D848", text))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        json::one_spelling(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_text_that_is_not_an_lsn() {
        for text in ["", "16", "16/", "/1", "16/1/2", "100000000/0", "16/XYZ", "+1/2", "16/ 1", " 1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "accepted {text:?}");
        }
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/16B3D40"] {
            assert_eq!(text.parse::<Lsn>().map(|lsn| lsn.to_string()).ok().as_deref(), Some(text));
        }
    }

    #[test]
    fn fixed_width_round_trips_and_is_the_only_spelling() {
        let lsn = Lsn(0x16B_3D40);
        assert_eq!(lsn.fixed_width(), "00000000016B3D40");
        assert_eq!(Lsn::from_fixed_width("00000000016B3D40"), Some(lsn));
        for text in ["00000000016b3d40", "16B3D40", "+0000000016B3D40", "00000000016B3D400"] {
            assert_eq!(Lsn::from_fixed_width(text), None, "accepted {text:?}");
        }
    }
}
