//! Roll-ups: many small files of segments as one tar, with a manifest that says what is in it. Which there are, what they
//! say, and whether a tar is what its manifest promises.

use std::collections::BTreeMap;
use std::io::{self, Write};

use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::digest::{Digest, Hashing};
use syncdata_formats::document::Document;
use syncdata_formats::error::{Context as _, Error, Kind, Result};
use syncdata_formats::layout::{ArchivePath, RollupFile, RollupName, SegmentFile};
use syncdata_formats::manifest::Manifest;
use syncdata_formats::rollup::{Place, Rollup};
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::tar;
use syncdata_formats::time::Day;

use crate::{Archive, Entry, EntryKind, small};

/// Read at once of a tar: hundreds of manifests.
const WINDOW_BYTES: u64 = 1 << 20;

/// What the folder of a day shows of one: without a manifest it does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub day: Day,
    pub name: RollupName,
    /// The size of its tar, where there is one.
    pub tar: Option<u64>,
    pub is_signed: bool,
}

/// The days that have roll-ups, oldest first, and whatever else lies beside their folders.
pub fn folders(archive: &mut dyn Archive) -> Result<(Vec<Day>, Vec<Entry>)> {
    let (mut days, mut others) = (Vec::new(), Vec::new());
    for folder in archive.list(&ArchivePath::rollups())? {
        match folder.name.parse::<Day>() {
            Ok(day) if folder.kind == EntryKind::Directory => days.push(day),
            _ => others.push(folder),
        }
    }
    Ok((days, others))
}

/// Those of a day, in the order of their segments.
pub fn list(archive: &mut dyn Archive, day: Day) -> Result<Vec<Listed>> {
    Ok(listed(day, &archive.list(&ArchivePath::rollups_of(day))?))
}

/// What such a listing says.
pub fn listed(day: Day, entries: &[Entry]) -> Vec<Listed> {
    let of = |file: RollupFile| {
        let parsed =
            |entry: &&Entry| entry.kind == EntryKind::File && RollupFile::parse(&entry.name) == Some(file);
        entries.iter().find(parsed).map(|entry| entry.bytes)
    };
    let manifests = entries.iter().filter(|entry| entry.kind == EntryKind::File);
    let names = manifests.filter_map(|entry| match RollupFile::parse(&entry.name)? {
        RollupFile::Manifest(name) => Some(name),
        RollupFile::Tar(_) | RollupFile::Signature(_) => None,
    });
    let mut listed: Vec<Listed> = names
        .map(|name| Listed {
            day,
            name,
            tar: of(RollupFile::Tar(name)),
            is_signed: of(RollupFile::Signature(name)).is_some(),
        })
        .collect();
    listed.sort_by_key(|listed| listed.name);
    listed
}

/// Its manifest, which must be that of this place and fit the tar that is listed. With a key, signed.
pub fn read(archive: &mut dyn Archive, listed: Listed, key: Option<&VerifyKey>) -> Result<Rollup> {
    let Listed { day, name, tar, .. } = listed;
    let path = name.manifest(day);
    let bytes = small::read(archive, &path, Document::RollupManifest)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("{path} was listed and is not there")))?;
    let rollup = Rollup::decode(&bytes).context(|| format!("reading {path}"))?;
    if rollup.name() != name || rollup.day != day {
        let message = format!("{path} describes the roll-up {} of {}", rollup.name(), rollup.day);
        return Err(Error::new(Kind::Foreign, message));
    }
    match tar {
        Some(there) if there == rollup.bytes => {}
        Some(there) => {
            let message = format!("{} has {there} bytes, its manifest says {}", name.tar(day), rollup.bytes);
            return Err(Error::new(Kind::Corrupt, message));
        }
        None => return Err(Error::new(Kind::NotFound, format!("{} is missing", name.tar(day)))),
    }
    if let Some(key) = key {
        let signature = small::read(archive, &name.signature(day), Document::Signature)?;
        let signature = signature
            .ok_or_else(|| Error::new(Kind::Foreign, format!("{} is missing", name.signature(day))))?;
        key.verify(&bytes, &name.manifest_name(), &signature)
            .map_err(|error| Error::new(Kind::Foreign, format!("{path} is refused")).caused_by(error))?;
    }
    Ok(rollup)
}

/// Reads the whole tar: every byte of it is what its manifest says.
pub fn check(archive: &mut dyn Archive, rollup: &Rollup) -> Result<()> {
    let path = rollup.name().tar(rollup.day);
    let mut unrolled = Hashing::new(Unrolled::of(rollup)?);
    let read = archive.read(&path, 0, &mut unrolled);
    let (unrolled, sha256, bytes) = unrolled.finish();
    let damaged = |what: String| Err(Error::new(Kind::Corrupt, format!("{path} is damaged: {what}")));
    if let Some(what) = unrolled.wrong {
        return damaged(what);
    }
    read?;
    if (bytes, sha256) != (rollup.bytes, rollup.sha256) {
        return damaged(format!(
            "it has {bytes} bytes with SHA-256 {sha256}, its manifest says {} and {}",
            rollup.bytes, rollup.sha256
        ));
    }
    Ok(())
}

/// Reads the manifests in the tar: each follows the one before, and names the change file that is there, by its digest.
/// Whoever knows what follows the last one holds it against the tip.
pub fn chain(archive: &mut dyn Archive, rollup: &Rollup) -> Result<ChainTip> {
    let damaged = |what: String| {
        Error::new(Kind::Corrupt, format!("{} is damaged: {what}", rollup.name().tar(rollup.day)))
    };
    let mut tip: Option<ChainTip> = None;
    let mut files = BTreeMap::new();
    let mut window = Window::default();
    for place in rollup.places()? {
        let segment = place.file.segment();
        match place.file {
            SegmentFile::Manifest(_) => {
                let bytes = window.bytes(archive, rollup, &place)?;
                if Digest::of(bytes) != place.sha256 {
                    return Err(damaged(format!(
                        "{} is not what its manifest says",
                        segment.manifest_name()
                    )));
                }
                let start = match tip.take() {
                    Some(tip) => tip,
                    None => ChainTip::floor(rollup.archive_id, Manifest::decode(bytes)?.previous),
                };
                let verified = Verified::new(&start, rollup.day, segment, bytes)?;
                if let Some(file) = &verified.manifest().file {
                    files.insert(segment, (file.bytes, file.sha256));
                }
                tip = Some(verified.tip());
            }
            SegmentFile::Signature(_) => {}
            SegmentFile::Changes(_) => {
                if files.remove(&segment) != Some((place.bytes, place.sha256)) {
                    return Err(damaged(format!("{} is another one", segment.file_name())));
                }
            }
        }
    }
    match (files.keys().next(), tip) {
        (None, Some(tip)) => Ok(tip),
        (Some(segment), _) => Err(damaged(format!("{} is not in it", segment.file_name()))),
        (None, None) => Err(damaged("it is empty".to_owned())),
    }
}

/// A stretch of a tar.
#[derive(Default)]
struct Window {
    offset: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn bytes(&mut self, archive: &mut dyn Archive, rollup: &Rollup, place: &Place) -> Result<&[u8]> {
        let end = place.offset + place.bytes;
        if place.offset < self.offset || end > self.offset + self.bytes.len() as u64 {
            let bytes = WINDOW_BYTES.max(place.bytes).min(rollup.bytes - place.offset);
            (self.offset, self.bytes) = (place.offset, Vec::new());
            archive.read_part(&rollup.name().tar(rollup.day), place.offset, bytes, &mut self.bytes)?;
        }
        let from = usize::try_from(place.offset - self.offset).expect("in the window");
        let to = from + usize::try_from(place.bytes).expect("in the window");
        Ok(self.bytes.get(from..to).unwrap_or_default())
    }
}

/// The pieces of a tar as they must follow each other.
struct Unrolled {
    pieces: std::vec::IntoIter<Piece>,
    at: Option<(Piece, u64, Hashing<io::Sink>)>,
    wrong: Option<String>,
}

/// A header, a file, or zeros: a digest of so many bytes.
struct Piece {
    what: String,
    bytes: u64,
    sha256: Digest,
}

impl Unrolled {
    fn of(rollup: &Rollup) -> Result<Unrolled> {
        let mut pieces = Vec::with_capacity(3 * rollup.files.len() + 1);
        let mut add = |what: String, bytes: u64, sha256: Digest| pieces.push(Piece { what, bytes, sha256 });
        let zeros = |bytes: u64| Digest::of(&vec![0; usize::try_from(bytes).expect("two blocks at most")]);
        for place in rollup.places()? {
            let name = place.path(rollup.day).to_string();
            let header = tar::header(&name, place.bytes, rollup.day.start());
            add(format!("the header of {name}"), tar::BLOCK_BYTES, Digest::of(&header));
            let padding = tar::padding(place.bytes);
            add(name, place.bytes, place.sha256);
            add("what fills a block".to_owned(), padding, zeros(padding));
        }
        add("its end".to_owned(), tar::END_BYTES, zeros(tar::END_BYTES));
        pieces.retain(|piece| piece.bytes > 0);
        Ok(Unrolled { pieces: pieces.into_iter(), at: None, wrong: None })
    }
}

impl Write for Unrolled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fresh = || Hashing::new(io::sink());
        let Some((piece, left, mut hashing)) = self.at.take().or_else(|| {
            self.pieces.next().map(|piece| (piece.bytes, piece)).map(|(left, piece)| (piece, left, fresh()))
        }) else {
            self.wrong = Some("it goes on after its end".to_owned());
            return Err(io::ErrorKind::InvalidData.into());
        };
        let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        hashing.write_all(&bytes[..taken])?;
        let left = left - taken as u64;
        if left > 0 {
            self.at = Some((piece, left, hashing));
        } else if hashing.digest() != piece.sha256 {
            self.wrong = Some(format!("{} is not what its manifest says", piece.what));
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
