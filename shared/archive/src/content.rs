//! What both archives do with the content of a file: read it once, in large pieces, and believe no size or
//! digest that was not counted on the way.

use std::io::{self, Read, SeekFrom};

use super::{Content, Facts};
use syncdata_formats::digest::Hashing;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::ArchivePath;

/// Over a connection with a round trip of 10 ms, 4 MiB at a time write half as fast again as 1 MiB and thirty
/// times as fast as 32 KiB; beyond it the server's window is the limit.
pub(super) const PIECE_BYTES: usize = 4 * 1024 * 1024;

/// Hands the whole content on in pieces; `Kind::Corrupt` if it is not what `facts` say.
pub(super) fn pour(
    path: &ArchivePath,
    content: &mut dyn Content,
    facts: Facts,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let reading = |error| Error::io(format!("reading what is to become {path}"), error);
    content.seek(SeekFrom::Start(0)).map_err(reading)?;
    let mut piece = vec![0; piece_bytes(facts.bytes)];
    let mut counted = Hashing::new(content);
    loop {
        let filled = fill(&mut counted, &mut piece).map_err(reading)?;
        if filled == 0 || Hashing::bytes(&counted) > facts.bytes {
            break;
        }
        sink(&piece[..filled])?;
    }
    let (_, found, bytes) = counted.finish();
    if bytes == facts.bytes && found == facts.sha256 {
        return Ok(());
    }
    Err(Error::new(
        Kind::Corrupt,
        format!(
            "the source of {path} is not what was announced: {} bytes with SHA-256 {} were, it has {}{bytes} bytes with SHA-256 {found}",
            facts.bytes,
            facts.sha256,
            if bytes > facts.bytes { "at least " } else { "" },
        ),
    )
    .hint("the file was damaged or changed after it was hashed; nothing of it was published"))
}

/// Something else already has the name.
pub(super) fn conflict(path: &ArchivePath, found: Facts, wanted: Facts) -> Error {
    Error::new(
        Kind::Conflict,
        format!(
            "{path} is there already with other content: {} bytes with SHA-256 {}, not {} bytes with SHA-256 {}",
            found.bytes, found.sha256, wanted.bytes, wanted.sha256
        ),
    )
    .hint("files of an archive never change: find out who wrote it (a second archiver? a damaged disk?) before moving it away")
}

/// A name that is a folder, a link or a device where a file belongs.
pub(super) fn not_a_file(path: &ArchivePath, kind: Kind) -> Error {
    Error::new(kind, format!("{path} is not a regular file")).hint(
        "folders, symbolic links and devices are never read or replaced as files: look who put it there",
    )
}

/// A file or a link where a folder belongs.
pub(super) fn not_a_folder(path: &ArchivePath) -> Error {
    Error::new(Kind::Foreign, format!("{path} is not a folder"))
        .hint("a file or a symbolic link stands in its place; links are not followed: look who put it there")
}

/// The archive's own folder is away: a typing error, or a disk that is not mounted. Not `Kind::NotFound`,
/// which would read as an archive that is still empty.
pub(super) fn no_base(location: &str) -> Error {
    Error::new(Kind::BadInput, format!("the archive's directory {location} does not exist"))
        .hint("create it or mount its disk (it is never created here, lest an unmounted disk be filled in its place), or correct archive_dir")
}

fn piece_bytes(content_bytes: u64) -> usize {
    // One more than the content, so that a longer one is noticed.
    usize::try_from(content_bytes.saturating_add(1)).map_or(PIECE_BYTES, |bytes| bytes.min(PIECE_BYTES))
}

fn fill(content: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match content.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
