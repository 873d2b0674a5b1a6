//! Where a part ends is decided by what stands there, not by counting from the start: the same rows give the same
//! parts next time, and a row that comes or goes changes the part that it is in and perhaps the next one.
//!
//! Pure: pieces of a COPY go in, parts come out.

use memchr::memchr;

use super::rows::KeyPlaces;

/// How large parts are, in bytes of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub min: usize,
    /// After `min`, a part goes on for so long on the average.
    pub mean_beyond: usize,
    /// Only a row that is larger by itself makes a larger part.
    pub max: usize,
}

impl Sizes {
    pub(crate) const OF_PARTS: Sizes = Sizes { min: 8 << 20, mean_beyond: 8 << 20, max: 32 << 20 };
}

/// Consecutive rows that become one part of the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub content: Vec<u8>,
    pub rows: u64,
    pub first_key: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Cutter {
    sizes: Sizes,
    key: KeyPlaces,
    content: Vec<u8>,
    rows: u64,
    first_key: Option<String>,
    /// Where the row begins whose end has not come yet.
    row_start: usize,
}

impl Cutter {
    pub(crate) fn new(sizes: Sizes, key: KeyPlaces) -> Cutter {
        Cutter { sizes, key, content: Vec::new(), rows: 0, first_key: None, row_start: 0 }
    }

    /// Takes a piece, which may end anywhere in a row; `done` takes the parts that it ends.
    pub(crate) fn push(&mut self, piece: &[u8], mut done: impl FnMut(Cut)) {
        let mut from = self.content.len();
        self.content.extend_from_slice(piece);
        while let Some(at) = memchr(b'\n', &self.content[from..]) {
            let mut end = from + at + 1;
            if self.row_start > 0 && end > self.sizes.max {
                end -= self.row_start;
                done(self.cut(self.row_start));
            }
            let row = &self.content[self.row_start..end];
            if self.rows == 0 {
                self.first_key = self.key.key_of(row).map(|key| String::from_utf8_lossy(&key).into_owned());
            }
            let is_last = end >= self.sizes.min && self.ends_a_part(row);
            self.rows += 1;
            self.row_start = end;
            from = end;
            if is_last {
                done(self.cut(end));
                from = 0;
            }
        }
    }

    /// The last part, if there is one; `None` in place of it when the COPY ended within a row.
    pub(crate) fn finish(mut self) -> Option<Option<Cut>> {
        let end = self.content.len();
        (self.row_start == end).then(|| (end > 0).then(|| self.cut(end)))
    }

    /// Ends the part at `end`; what comes after it begins the next one.
    fn cut(&mut self, end: usize) -> Cut {
        let rest = self.content.split_off(end);
        self.row_start = self.row_start.saturating_sub(end);
        Cut {
            content: std::mem::replace(&mut self.content, rest),
            rows: std::mem::take(&mut self.rows),
            first_key: self.first_key.take(),
        }
    }

    /// True for one row in so many that a part has its size on the average, however long its rows are. The key alone
    /// decides: an update leaves the boundary where it is.
    fn ends_a_part(&self, row: &[u8]) -> bool {
        let hash = match self.key.key_of(row) {
            Some(key) => hash(&key),
            None => hash(row),
        };
        let share = u64::MAX / self.sizes.mean_beyond as u64;
        hash < share.saturating_mul(row.len() as u64)
    }
}

/// FNV-1a, mixed so that its high bits are as good as its low ones. It decides where parts end, so it must be the
/// same for ever: another one would send every table once more.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SMALL: Sizes = Sizes { min: 800, mean_beyond: 800, max: 3200 };

    fn key(has_key: bool) -> KeyPlaces {
        let columns = ["id".to_owned(), "text".to_owned()];
        KeyPlaces::of(if has_key { &columns[..1] } else { &[] }, &columns).expect("a column")
    }

    fn cut(content: &[u8], piece_bytes: usize, has_key: bool) -> Vec<Cut> {
        let mut parts = Vec::new();
        let mut cutter = Cutter::new(SMALL, key(has_key));
        for piece in content.chunks(piece_bytes) {
            cutter.push(piece, |part| parts.push(part));
        }
        parts.extend(cutter.finish().expect("it ends with a row"));
        parts
    }

    fn rows(ids: impl IntoIterator<Item = u32>) -> Vec<u8> {
        let row = |id| format!("{id}\tvalue {}\n", u64::from(id) * 7919);
        ids.into_iter().map(row).collect::<String>().into_bytes()
    }

    fn others(before: &[Cut], after: &[Cut]) -> usize {
        let before: BTreeSet<&[u8]> = before.iter().map(|part| part.content.as_slice()).collect();
        after.iter().filter(|part| !before.contains(part.content.as_slice())).count()
    }

    #[test]
    fn an_insert_or_delete_in_the_middle_changes_one_or_two_parts() {
        for has_key in [true, false] {
            let before = cut(&rows((0..20_000).map(|id| id * 2)), 4096, has_key);
            assert!(before.len() > 100, "{} parts", before.len());
            let mut counts = [0; 8];
            for changed in (1000..39_000).step_by(997) {
                let with = rows((0..40_000).filter(|id| id % 2 == 0 || *id == changed));
                let without = rows((0..40_000).filter(|id| id % 2 == 0 && *id != changed));
                for rows in [with, without] {
                    counts[others(&before, &cut(&rows, 4096, has_key))] += 1;
                }
            }
            // A boundary that lies just before the smallest size may move, and the next ones with it for a while.
            let (few, more) = (counts[1] + counts[2], counts[3..].iter().sum::<i32>());
            assert!(counts[0] == 39 && few >= 30 && more <= 9, "{counts:?}");
        }
    }

    #[test]
    fn an_update_in_place_changes_its_part_alone() {
        let before = rows(0..20_000);
        let text = String::from_utf8(before.clone()).expect("UTF-8");
        let after = text.replacen("\n777\tvalue", "\n777\tother, and longer", 1).into_bytes();
        assert_eq!(others(&cut(&before, 4096, true), &cut(&after, 4096, true)), 1);
    }

    #[test]
    fn parts_have_their_size_on_the_average() {
        let parts = cut(&rows(0..100_000), 65_536, true);
        let mean = parts.iter().map(|part| part.content.len()).sum::<usize>() / parts.len();
        assert!((1300..1900).contains(&mean), "{mean} bytes");
    }

    #[test]
    fn a_row_that_is_larger_than_a_part_is_a_part_by_itself() {
        let large = format!("5\t{}\n", "x".repeat(10_000)).into_bytes();
        let content = [rows(0..5), large.clone(), rows(6..9)].concat();
        let parts = cut(&content, 100, true);
        assert!(parts.iter().any(|part| part.content == large && part.first_key.as_deref() == Some("5")));
        assert_eq!(parts.iter().map(|part| part.content.as_slice()).collect::<Vec<_>>().concat(), content);
    }

    #[test]
    fn a_copy_that_ends_within_a_row_is_noticed() {
        let mut cutter = Cutter::new(SMALL, key(true));
        cutter.push(b"1\tx\n2\ty", |_| {});
        assert_eq!(cutter.finish(), None);
        assert_eq!(Cutter::new(SMALL, key(true)).finish(), Some(None));
    }

    #[test]
    fn the_hash_is_the_same_for_ever() {
        for (text, value) in
            [("", 0xF52A_15E9_A9B5_E89B), ("1", 0x4687_CD93_9ADE_AFDF), ("a\tb", 0x7F52_EEA8_31A9_9D4A)]
        {
            assert_eq!(hash(text.as_bytes()), value, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn parts_are_the_rows_whatever_the_pieces(
            lengths in prop::collection::vec(0usize..400, 0..200),
            piece_bytes in 1usize..5000,
            has_key: bool,
        ) {
            let row = |(id, length): (usize, &usize)| format!("{id}\t{}\n", "y".repeat(*length));
            let content = lengths.iter().enumerate().map(row).collect::<String>().into_bytes();
            let parts = cut(&content, piece_bytes, has_key);
            prop_assert_eq!(&parts, &cut(&content, content.len().max(1), has_key));
            let mut joined = Vec::new();
            for part in &parts {
                prop_assert!(part.content.ends_with(b"\n") && part.content.len() <= SMALL.max);
                let lines = part.content.iter().filter(|byte| **byte == b'\n').count() as u64;
                prop_assert_eq!(part.rows, lines);
                let first = part.content.split(|byte| *byte == b'\t').next().expect("a field");
                let first = has_key.then(|| String::from_utf8_lossy(first).into_owned());
                prop_assert_eq!(&part.first_key, &first);
                joined.extend_from_slice(&part.content);
            }
            prop_assert_eq!(joined, content);
        }
    }
}
