//! Contents of change files: every byte and every line, several files at once.

use std::fs::File;
use std::io::{self, Seek as _, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::report::{Report, Verdict};
use crate::archive::{Archive, ArchiveSettings};
use crate::chain::Verified;
use crate::error::{Context as _, Error, Kind, Result};
use crate::manifest::Manifest;
use crate::progress::{Progress, Unit};
use crate::segment::SegmentReader;

/// Each has a connection of its own; more than a machine's few cores would only wait for the disk.
const WORKERS_MAX: usize = 4;

pub(super) fn check(settings: &ArchiveSettings, segments: &[Verified], report: &mut Report) -> Result<()> {
    let next = AtomicUsize::new(0);
    let bytes =
        segments.iter().filter_map(|segment| segment.manifest().file.as_ref()).map(|file| file.bytes).sum();
    let progress = Mutex::new(Progress::start("verifying", Unit::Bytes, Some(bytes)));
    let problems = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(WORKERS_MAX));
    let work = || -> Result<()> {
        let mut archive = crate::archive::open(settings)?;
        while let Some(segment) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = check_one(archive.as_mut(), segment) {
                match error.kind() {
                    Kind::Corrupt | Kind::NotFound => {
                        problems.lock().expect("no worker panics").push((segment, error))
                    }
                    // Nobody can say anything about a file that cannot be read.
                    _ => return Err(error),
                }
            }
            let done = segment.manifest().file.as_ref().map_or(0, |file| file.bytes);
            progress.lock().expect("no worker panics").add(done);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running
            .into_iter()
            .map(|worker| worker.join().expect("no worker panics"))
            .collect::<Result<Vec<()>>>()
    })?;
    for (segment, error) in problems.into_inner().expect("no worker panics") {
        let Some(path) = segment.file_path() else { continue };
        let seq = Some(segment.manifest().seq.get());
        // Its size told already what is wrong with it.
        if !report.problems.iter().any(|problem| problem.file == path.as_str()) {
            report.error(Verdict::Damaged, seq, path.as_str(), &error);
        }
    }
    progress.into_inner().expect("no worker panics").finish();
    Ok(())
}

fn check_one(archive: &mut dyn Archive, segment: &Verified) -> Result<()> {
    let (Some(path), Some(file)) = (segment.file_path(), &segment.manifest().file) else { return Ok(()) };
    let local = tempfile::tempfile().context(|| "making a temporary file".to_owned())?;
    let mut bounded = Bounded { file: local, left: file.bytes, overflowed: false };
    let read = archive.read(&path, 0, &mut bounded);
    if bounded.overflowed {
        return Err(Error::new(Kind::Corrupt, "the file is longer than its manifest says"));
    }
    read?;
    let mut local = bounded.file;
    local.rewind().context(|| "reading a temporary file".to_owned())?;
    read_all(local, segment.manifest())
}

/// To the end, where the reader has checked every promise.
pub(super) fn read_all(source: File, manifest: &Manifest) -> Result<()> {
    let mut reader = SegmentReader::new(source, manifest)?;
    while reader.next()?.is_some() {}
    Ok(())
}

/// A file that grew behind its manifest must not fill our disk.
struct Bounded {
    file: File,
    left: u64,
    overflowed: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            self.overflowed = true;
            return Err(io::Error::other("longer than promised"));
        }
        self.file.write_all(bytes)?;
        self.left -= bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
