//! The documents of an archive, read and written whole: the one way for files of bounded size.

use std::io::{self, Cursor, Write};

use syncdata_formats::digest::Digest;
use syncdata_formats::document::Document;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::ArchivePath;

use crate::{Archive, Facts, Put};

/// `None` when there is no such file. No more than the document's limit is ever held, whatever lies there: a longer
/// file is `Kind::Corrupt`.
pub fn read(archive: &mut dyn Archive, path: &ArchivePath, document: Document) -> Result<Option<Vec<u8>>> {
    let mut sink = Bounded { bytes: Vec::new(), bytes_max: document.bytes_max(), is_over: false };
    let read = archive.read(path, 0, &mut sink);
    if sink.is_over {
        let max = sink.bytes_max;
        let message = format!(
            "{path} on {} has more than the {max} bytes that {} can have",
            archive.location(),
            document.what()
        );
        return Err(Error::new(Kind::Corrupt, message)
            .hint("another file stands in its place: bring it back from a sound copy"));
    }
    match read {
        Ok(_) => Ok(Some(sink.bytes)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a document that never changes.
pub fn put(archive: &mut dyn Archive, path: &ArchivePath, document: Document, bytes: &[u8]) -> Result<Put> {
    document.check_length(bytes.len())?;
    let facts = Facts { bytes: bytes.len() as u64, sha256: Digest::of(bytes) };
    archive.put(path, &mut Cursor::new(bytes), facts)
}

/// Replaces a document that changes.
pub fn replace(
    archive: &mut dyn Archive,
    path: &ArchivePath,
    document: Document,
    bytes: &[u8],
) -> Result<()> {
    document.check_length(bytes.len())?;
    archive.replace(path, bytes)
}

struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
    is_over: bool,
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if piece.len() > self.bytes_max - self.bytes.len() {
            self.is_over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::DirectoryArchive;

    #[test]
    fn a_file_of_a_gibibyte_is_refused_after_its_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut archive = DirectoryArchive::new(folder.path());
        // Without blocks on the disk.
        let file = File::create(folder.path().join("floor.json")).expect("ours");
        file.set_len(1 << 30).expect("sparse");
        let error = read(&mut archive, &ArchivePath::floor(), Document::Floor).expect_err("too long");
        assert_eq!(error.kind(), Kind::Corrupt);
        for part in ["floor.json", "more than the 65536 bytes", "sound copy"] {
            assert!(error.report().contains(part), "{part:?} is not in {error:?}");
        }
    }

    #[test]
    fn the_longest_document_is_written_and_read_and_a_longer_one_is_neither() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut archive = DirectoryArchive::new(folder.path());
        let longest = vec![b' '; Document::Head.bytes_max()];
        let longer = [&longest[..], b" "].concat();
        assert_eq!(read(&mut archive, &ArchivePath::head(), Document::Head).expect("readable"), None);
        replace(&mut archive, &ArchivePath::head(), Document::Head, &longest).expect("written");
        assert!(replace(&mut archive, &ArchivePath::head(), Document::Head, &longer).is_err());
        assert!(put(&mut archive, &ArchivePath::identity(), Document::Identity, &longer).is_err());
        let there = read(&mut archive, &ArchivePath::head(), Document::Head).expect("readable");
        assert!(there == Some(longest), "other bytes came back");
        fs::write(folder.path().join("head.json"), longer).expect("ours");
        assert!(read(&mut archive, &ArchivePath::head(), Document::Head).is_err());
    }
}
