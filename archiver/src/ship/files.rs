//! What the archive has of segments: read, and read back.

use syncdata_archive::{Archive, small};
use syncdata_formats::digest::{Digest, Hashing};
use syncdata_formats::document::Document;
use syncdata_formats::layout::{ArchivePath, SegmentName};
use syncdata_formats::time::Day;
use syncdata_formats::{Error, Kind, Result};

pub(super) fn digest_of(archive: &mut dyn Archive, path: &ArchivePath) -> Result<Option<Digest>> {
    let mut hashing = Hashing::new(std::io::sink());
    match archive.read(path, 0, &mut hashing) {
        Ok(_) => Ok(Some(hashing.finish().1)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn read_manifest(archive: &mut dyn Archive, day: Day, name: SegmentName) -> Result<Vec<u8>> {
    let path = name.manifest(day);
    small::read(archive, &path, Document::Manifest)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("{path} was listed but is not there")))
}
