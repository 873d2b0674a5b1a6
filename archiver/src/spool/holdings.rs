//! What a spool holds, for people: asked by the one who works in it, or looked up beside him.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use syncdata_formats::Result;
use syncdata_formats::error::Context as _;
use syncdata_formats::layout::{ArchivePath, SegmentFile};
use syncdata_formats::time::Timestamp;

use crate::spool::{Spool, State};

#[derive(Debug)]
pub(crate) struct Holdings {
    pub state: State,
    pub segments: usize,
    pub bytes: u64,
    pub unshipped_segments: usize,
    pub unshipped_bytes: u64,
    /// Since when the oldest of them waits.
    pub unshipped_since: Option<Timestamp>,
}

impl Holdings {
    pub(crate) fn of(spool: &Spool) -> Holdings {
        let oldest = spool.unshipped().next().map(|oldest| spool.path(&oldest.name.manifest(oldest.day)));
        let facts = oldest.and_then(|path| fs::metadata(path).ok());
        Holdings {
            unshipped_since: facts.as_ref().and_then(written),
            state: spool.state().clone(),
            segments: spool.segments().count(),
            bytes: spool.bytes(),
            unshipped_segments: spool.unshipped().count(),
            unshipped_bytes: spool.unshipped_bytes(),
        }
    }

    /// Takes no lock and changes nothing: somebody may be at work there. `None` when nobody ever was.
    pub(crate) fn look(root: &Path) -> Result<Option<Holdings>> {
        let Some(state) = Spool::peek_state(root)? else { return Ok(None) };
        let mut holdings = Holdings {
            state,
            segments: 0,
            bytes: 0,
            unshipped_segments: 0,
            unshipped_bytes: 0,
            unshipped_since: None,
        };
        let folder = root.join(ArchivePath::segments().as_str());
        for day in entries(&folder).context(|| format!("listing {}", folder.display()))? {
            for entry in entries(&day.path()).context(|| format!("listing {}", day.path().display()))? {
                // What was swept out while we looked is not there any more.
                holdings.count(&entry.file_name(), entry.metadata().ok().as_ref());
            }
        }
        Ok(Some(holdings))
    }

    fn count(&mut self, name: &OsStr, facts: Option<&fs::Metadata>) {
        let bytes = facts.map_or(0, fs::Metadata::len);
        let Some(file) = name.to_str().and_then(SegmentFile::parse) else { return };
        let (SegmentFile::Manifest(name) | SegmentFile::Changes(name) | SegmentFile::Signature(name)) = file;
        let segments = usize::from(matches!(file, SegmentFile::Manifest(_)));
        self.segments += segments;
        self.bytes += bytes;
        if name.seq.get() > self.state.shipped {
            self.unshipped_segments += segments;
            self.unshipped_bytes += bytes;
            let since = self.unshipped_since.into_iter().chain(facts.and_then(written));
            self.unshipped_since = since.min();
        }
    }
}

fn written(facts: &fs::Metadata) -> Option<Timestamp> {
    let since_1970 = facts.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Timestamp::from_micros(i64::try_from(since_1970.as_micros()).ok()?).ok()
}

fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
