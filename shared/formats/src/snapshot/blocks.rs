//! What is remembered of a part so that a later one can be told as its difference: a checksum of every block.
//!
//! Neither checksum proves anything (MD4 is broken): the rows that a delta leads to are proved by their SHA-256.

use fast_rsync::{Signature, SignatureOptions, diff};

use super::part::DELTA_CONTENT_MAX;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};

/// Blocks of about a row: one changed row costs one block. Smaller ones cost more to remember than they save.
const BLOCK_BYTES_MIN: u32 = 64;
const BLOCK_BYTES_MAX: u32 = 1 << 20;
const BLOCK_BYTES_USUAL_MAX: usize = 2048;

const HASH_BYTES: u32 = 8;
const HASH_BYTES_ALLOWED: std::ops::RangeInclusive<u32> = 8..=16;

/// Magic, block size, hash size: as librsync writes them.
const HEADER_BYTES: usize = 12;
/// The weak checksum that stands before each block's hash.
const WEAK_BYTES: usize = 4;
const DIGEST_BYTES: usize = 32;

/// Of the largest content that is told as a delta.
const BLOCKS_MAX: usize = 1 << 20;
const _: () = assert!(BLOCKS_MAX as u64 * BLOCK_BYTES_MIN as u64 == DELTA_CONTENT_MAX);

#[derive(Clone, Debug)]
pub struct Blocks(Signature);

impl Blocks {
    /// As many blocks as the largest content has that is told as a delta.
    pub const FILE_BYTES_MAX: usize =
        DIGEST_BYTES + HEADER_BYTES + BLOCKS_MAX * (WEAK_BYTES + *HASH_BYTES_ALLOWED.end() as usize);

    pub fn of(content: &[u8], rows: u64) -> Blocks {
        let rows = usize::try_from(rows.max(1)).unwrap_or(usize::MAX);
        let about_a_row = (content.len() / rows).clamp(BLOCK_BYTES_MIN as usize, BLOCK_BYTES_USUAL_MAX);
        let block_size = u32::try_from(about_a_row.next_power_of_two()).expect("clamped");
        let options = SignatureOptions { block_size, crypto_hash_size: HASH_BYTES };
        Blocks(Signature::calculate(content, options))
    }

    /// The delta that leads from the remembered content to this one.
    pub fn delta(&self, content: &[u8]) -> Result<Vec<u8>> {
        let mut delta = Vec::new();
        let made = diff(&self.0.index(), content, &mut delta);
        made.map_err(|error| Error::new(Kind::Corrupt, "making a delta").caused_by(error))?;
        Ok(delta)
    }

    /// As a file: its own SHA-256, then what the library writes.
    pub fn encode(&self) -> Vec<u8> {
        let body = self.0.serialized();
        let mut bytes = Digest::of(body).as_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    /// Everything is looked at before the library sees it: a block size of 0 panics there, and with a crafted block
    /// it never ends.
    pub fn decode(bytes: &[u8]) -> Result<Blocks> {
        let bad = |what: &str| Error::new(Kind::Corrupt, format!("checksums of a part: {what}"));
        let (digest, body) = bytes.split_at_checked(DIGEST_BYTES).ok_or_else(|| bad("too short"))?;
        if Digest::of(body).as_bytes() != digest {
            return Err(bad("their own SHA-256 is another one"));
        }
        let number = |at: usize| {
            let bytes: Option<[u8; 4]> = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_be_bytes).ok_or_else(|| bad("too short"))
        };
        let (block_bytes, hash_bytes) = (number(4)?, number(8)?);
        if !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes) {
            return Err(bad(&format!("blocks of {block_bytes} bytes")));
        }
        if !HASH_BYTES_ALLOWED.contains(&hash_bytes) {
            return Err(bad(&format!("hashes of {hash_bytes} bytes")));
        }
        if !(body.len() - HEADER_BYTES).is_multiple_of(WEAK_BYTES + hash_bytes as usize) {
            return Err(bad("cut off"));
        }
        let signature = Signature::deserialize(body.to_vec());
        signature.map(Blocks).map_err(|error| bad("not what it should be").caused_by(error))
    }
}
