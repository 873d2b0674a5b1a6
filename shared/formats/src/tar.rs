//! The plain tar (POSIX ustar) that a roll-up is, as far as we need it: regular files with short names. A small writer of
//! our own and not a crate: what is written has to be the same bytes each time, where each file lies has to be known
//! without reading, and a crate brings owners, links and extended attributes along, which nobody here wants.

use crate::time::Timestamp;

pub const BLOCK_BYTES: u64 = 512;
/// Two empty blocks.
pub const END_BYTES: u64 = 2 * BLOCK_BYTES;
/// Of a file in it: eleven octal digits.
pub const FILE_BYTES_MAX: u64 = (1 << 33) - 1;
const NAME_BYTES_MAX: usize = 99;

/// What stands before a file's bytes. The name is a path below `archive_dir`.
pub fn header(name: &str, bytes: u64, changed: Timestamp) -> [u8; BLOCK_BYTES as usize] {
    assert!(name.len() <= NAME_BYTES_MAX && bytes <= FILE_BYTES_MAX, "names and sizes are checked before");
    let seconds = u64::try_from(changed.as_micros() / 1_000_000).unwrap_or(0);
    let mut header = [0; BLOCK_BYTES as usize];
    let mut write = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    write(0, name);
    write(100, "0000600\0");
    write(108, "0000000\0");
    write(116, "0000000\0");
    write(124, &format!("{bytes:011o}\0"));
    write(136, &format!("{seconds:011o}\0"));
    // The sum counts its own field as spaces.
    write(148, "        ");
    write(156, "0");
    write(257, "ustar\0");
    write(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

/// The zeros after a file's bytes, up to the next block.
pub const fn padding(bytes: u64) -> u64 {
    (BLOCK_BYTES - bytes % BLOCK_BYTES) % BLOCK_BYTES
}

/// What a file takes, with its header.
pub const fn taken(bytes: u64) -> u64 {
    BLOCK_BYTES + bytes + padding(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_whole_blocks() {
        for (bytes, taken_bytes) in [(0, 512), (1, 1024), (512, 1024), (513, 1536)] {
            assert_eq!(taken(bytes), taken_bytes, "{bytes}");
        }
    }

    #[test]
    fn a_header_says_what_tar_reads() {
        let changed: Timestamp = "2026-02-05T00:00:00Z".parse().expect("a time");
        let header = header("segments/2026-02-05/a.manifest.json", 912, changed);
        assert!(header.starts_with(b"segments/2026-02-05/a.manifest.json\0"));
        assert_eq!(&header[124..136], b"00000001620\0");
        assert_eq!(&header[136..148], b"15140756600\0");
        assert_eq!(&header[257..265], b"ustar\x0000");
        let stored = std::str::from_utf8(&header[148..154]).expect("digits");
        let blank = header[..148].iter().chain(&[b' '; 8]).chain(&header[156..]);
        let sum: u32 = blank.map(|byte| u32::from(*byte)).sum();
        assert_eq!(u32::from_str_radix(stored, 8), Ok(sum));
    }
}
