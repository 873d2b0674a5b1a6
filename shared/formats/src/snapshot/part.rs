//! The content of parts: written as one zstd frame, read back whole or through a chain of deltas, and never believed
//! before its SHA-256 is right.

use std::io::{Read, Write as _};

use super::{Part, PartName};
use crate::digest::{Digest, Hashing};
use crate::error::{Context as _, Result};
use crate::frame::{ChangeFile, Frame};

/// Deltas are made and applied in memory: larger parts are always whole.
pub const DELTA_CONTENT_MAX: u64 = 64 << 20;

const PIECE_BYTES: usize = 256 << 10;

/// The file of that name with this content, compressed.
pub fn compress(name: &PartName, content: &[u8], level: i32) -> Result<(Vec<u8>, ChangeFile)> {
    let doing = || format!("compressing {name}");
    let mut encoder = zstd::Encoder::new(Hashing::new(Vec::new()), level).context(doing)?;
    // Without it, half of all single flipped bits decode to other data in silence.
    encoder.include_checksum(true).context(doing)?;
    encoder.set_pledged_src_size(Some(content.len() as u64)).context(doing)?;
    encoder.write_all(content).context(doing)?;
    let (file, sha256, bytes) = encoder.finish().context(doing)?.finish();
    let facts = ChangeFile {
        file: name.to_string(),
        bytes,
        sha256,
        content_bytes: content.len() as u64,
        content_sha256: Digest::of(content),
    };
    Ok((file, facts))
}

/// Hands on the rows of a part. `Ok` only if they are what the manifest says: whoever has used them before that must
/// undo it.
pub fn pour<R: Read>(
    part: &Part,
    mut open: impl FnMut(&ChangeFile) -> Result<R>,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let Some((whole, deltas)) = part.files.split_first() else { return Ok(()) };
    if deltas.is_empty() {
        return decompress(whole, open(whole)?, sink);
    }
    let mut content = in_memory(whole, open(whole)?)?;
    for file in deltas {
        let delta = in_memory(file, open(file)?)?;
        content = apply(file, &content, &delta)?;
    }
    if content.len() as u64 != part.content_bytes {
        let last = deltas.last().unwrap_or(whole);
        return Err(last.refused(format!("it leads to {} bytes, not {}", content.len(), part.content_bytes)));
    }
    content.chunks(PIECE_BYTES).try_for_each(&mut sink)
}

fn in_memory(file: &ChangeFile, source: impl Read) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    decompress(file, source, |piece| {
        content.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(content)
}

fn decompress(file: &ChangeFile, source: impl Read, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut frame = Frame::new(source, file.clone())?;
    let mut content = Hashing::new(std::io::sink());
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let filled = frame.read(&mut piece)?;
        if filled == 0 {
            break;
        }
        content.write_all(&piece[..filled]).expect("a sink takes all");
        sink(&piece[..filled])?;
    }
    let (_, found, bytes) = content.finish();
    if bytes == file.content_bytes && found == file.content_sha256 {
        return Ok(());
    }
    Err(file.refused(format!(
        "its content should have {} bytes with SHA-256 {}, and has {bytes} with {found}",
        file.content_bytes, file.content_sha256
    )))
}

/// What the delta leads to is named in its own file name.
fn apply(file: &ChangeFile, base: &[u8], delta: &[u8]) -> Result<Vec<u8>> {
    let name: PartName = file.file.parse()?;
    let limit = usize::try_from(DELTA_CONTENT_MAX).expect("64 MiB");
    let mut content = Vec::new();
    // Limited, since a delta of some bytes can ask for copies without end.
    fast_rsync::apply_limited(base, delta, &mut content, limit).map_err(|error| file.refused(error))?;
    let found = Digest::of(&content);
    if found == name.content {
        return Ok(content);
    }
    Err(file.refused(format!("it leads to rows with SHA-256 {found}")))
}
