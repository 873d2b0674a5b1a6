//! What the archive has of segments: listed, read, and read back.

use syncdata_archive::{Archive, small};
use syncdata_formats::digest::{Digest, Hashing};
use syncdata_formats::document::Document;
use syncdata_formats::layout::{ArchivePath, SegmentFile, SegmentName};
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

/// All manifests from a day on, in order of their numbers.
pub(super) fn list_manifests(
    archive: &mut dyn Archive,
    from: Option<Day>,
) -> Result<Vec<(Day, SegmentName)>> {
    let mut manifests = Vec::new();
    for folder in archive.list(&ArchivePath::segments())? {
        let Ok(day) = folder.name.parse::<Day>() else { continue };
        if from.is_some_and(|from| day < from) {
            continue;
        }
        for entry in archive.list(&ArchivePath::day(day))? {
            if let Some(SegmentFile::Manifest(name)) = SegmentFile::parse(&entry.name) {
                manifests.push((day, name));
            }
        }
    }
    manifests.sort_by_key(|(_, name)| name.seq);
    Ok(manifests)
}
