//! What a table is reduced to: of each bucket how many rows it has, and the sum of their hashes.
//!
//! A sum, not an XOR: two rows that are the same do not cancel each other.

use std::io::Write as _;

use super::{ProvedTable, RowHash};
use crate::error::{Context as _, Error, Kind, Result};
use crate::frame::{ChangeFile, Frame};

#[derive(Clone, PartialEq, Eq)]
pub struct Buckets {
    k: u8,
    // Apart, since together each pair would take 32 bytes.
    counts: Vec<u64>,
    sums: Vec<u128>,
}

/// A count and a sum, big endian.
const BUCKET_BYTES: usize = 8 + 16;

/// About so many rows share a bucket.
const ROWS_PER_BUCKET: u64 = 1000;

impl Buckets {
    /// 24 MiB of buckets.
    pub const K_MAX: u8 = 20;

    /// A table has about so many rows: how many bits are right for it.
    pub fn k_for(rows: u64) -> u8 {
        let wanted = rows.div_ceil(ROWS_PER_BUCKET).max(1);
        let bits = wanted.next_power_of_two().trailing_zeros();
        u8::try_from(bits).map_or(Buckets::K_MAX, |bits| bits.min(Buckets::K_MAX))
    }

    pub fn new(k: u8) -> Buckets {
        assert!(k <= Buckets::K_MAX, "whoever reads a k has checked it");
        Buckets { k, counts: vec![0; 1 << k], sums: vec![0; 1 << k] }
    }

    pub fn k(&self) -> u8 {
        self.k
    }

    pub fn add(&mut self, bucket: u32, hash: RowHash) {
        let place = bucket as usize;
        self.counts[place] += 1;
        self.sums[place] = self.sums[place].wrapping_add(hash.0);
    }

    /// Of one bucket: rows, and the sum of their hashes.
    pub fn get(&self, bucket: u32) -> (u64, u128) {
        (self.counts[bucket as usize], self.sums[bucket as usize])
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u128)> + '_ {
        self.counts.iter().copied().zip(self.sums.iter().copied())
    }

    pub fn rows(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The file's bytes: one zstd frame with its checksum.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let doing = || "compressing buckets".to_owned();
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).context(doing)?;
        // Without it, half of all single flipped bits decode to other data in silence.
        encoder.include_checksum(true).context(doing)?;
        encoder.set_pledged_src_size(Some((BUCKET_BYTES << self.k) as u64)).context(doing)?;
        for (count, sum) in self.iter() {
            encoder.write_all(&count.to_be_bytes()).context(doing)?;
            encoder.write_all(&sum.to_be_bytes()).context(doing)?;
        }
        encoder.finish().context(doing)
    }

    /// Reads the file of that table: just these bytes, this many buckets, this many rows.
    pub fn decode(table: &ProvedTable, file: &[u8]) -> Result<Buckets> {
        let refused = |what: String| {
            Error::new(Kind::Corrupt, format!("{} is not what the proof says", table.file)).caused_by(what)
        };
        if table.k > Buckets::K_MAX {
            return Err(refused(format!("2^{} buckets are more than there ever are", table.k)));
        }
        let length = BUCKET_BYTES << table.k;
        let content = content(table, file, length)?;
        if content.len() != length {
            return Err(refused(format!("it has {} bytes of buckets, not {length}", content.len())));
        }
        let mut buckets = Buckets::new(table.k);
        for (place, bucket) in content.chunks_exact(BUCKET_BYTES).enumerate() {
            let (count, sum) = bucket.split_first_chunk::<8>().expect("24 bytes");
            buckets.counts[place] = u64::from_be_bytes(*count);
            buckets.sums[place] = u128::from_be_bytes(*sum.first_chunk().expect("16 bytes"));
            if buckets.counts[place] == 0 && buckets.sums[place] != 0 {
                return Err(refused(format!("bucket {place} has no row and a sum")));
            }
        }
        match buckets.counts.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count)) {
            Some(rows) if rows == table.rows => Ok(buckets),
            _ => Err(refused(format!("its counts do not add up to {} rows", table.rows))),
        }
    }
}

/// One frame, of that size and SHA-256, that holds no more than `length` bytes.
fn content(table: &ProvedTable, file: &[u8], length: usize) -> Result<Vec<u8>> {
    let promised = ChangeFile {
        file: table.file.clone(),
        bytes: table.bytes,
        sha256: table.sha256,
        content_bytes: length as u64,
        // Nobody says what it is: the file's own digest covers it, and a frame does not ask.
        content_sha256: table.sha256,
    };
    let mut frame = Frame::new(file, promised)?;
    let mut content = vec![0; length];
    let mut filled = 0;
    loop {
        // The frame ends with an empty answer alone, and that is what all its checks come before.
        let mut spare = [0; 1];
        let read = match filled < length {
            true => frame.read(&mut content[filled..])?,
            false => frame.read(&mut spare)?,
        };
        if read == 0 {
            break;
        }
        filled += read;
    }
    content.truncate(filled);
    Ok(content)
}

impl std::fmt::Debug for Buckets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buckets(2^{}, {} rows)", self.k, self.rows())
    }
}
