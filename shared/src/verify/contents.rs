//! Contents of change files and of snapshots' parts: every byte and every line, several files at once.

use std::fs::File;
use std::io::{Read, Seek as _, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pipe::with_file;
use super::report::{Report, Verdict};
use crate::archive::{Archive, ArchiveSettings};
use crate::error::{Context as _, Error, Result};
use crate::layout::ArchivePath;
use crate::manifest::{ChangeFile, Manifest};
use crate::progress::{Progress, Unit};
use crate::segment::SegmentReader;
use crate::snapshot::{Part, PartName, pour};

/// Each has a connection of its own; more than a machine's few cores would only wait for the disk.
const WORKERS_MAX: usize = 4;

/// What is read from its beginning to its end.
#[derive(Debug)]
pub(super) enum Job {
    /// The change file of a sound manifest.
    Segment { path: ArchivePath, manifest: Box<Manifest> },
    /// The files of a part of a snapshot, and the rows that they lead to.
    Part(Part),
}

impl Job {
    fn bytes(&self) -> u64 {
        match self {
            Job::Segment { manifest, .. } => manifest.file.as_ref().map_or(0, |file| file.bytes),
            Job::Part(part) => part.files.iter().map(|file| file.bytes).sum(),
        }
    }

    fn check(&self, archive: &mut dyn Archive) -> Result<()> {
        match self {
            Job::Segment { path, manifest } => with_file(archive, path, |source| read_all(source, manifest)),
            Job::Part(part) => pour(part, |file| fetch(archive, file), |_| Ok(())),
        }
    }

    /// The segment, and the file that a problem is named by.
    fn names(&self) -> (Option<u64>, String) {
        match self {
            Job::Segment { path, manifest } => (Some(manifest.seq.get()), path.to_string()),
            Job::Part(part) => {
                let file = part.files.last().map_or("", |file| file.file.as_str());
                (None, format!("{}/{file}", ArchivePath::snapshots()))
            }
        }
    }
}

pub(super) fn check(settings: &ArchiveSettings, jobs: &[Job], report: &mut Report) -> Result<()> {
    let next = AtomicUsize::new(0);
    let bytes = jobs.iter().map(Job::bytes).sum();
    let progress = Mutex::new(Progress::start("verifying", Unit::Bytes, Some(bytes)));
    let problems = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(WORKERS_MAX));
    let work = || -> Result<()> {
        let mut archive = crate::archive::open(settings)?;
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = job.check(archive.as_mut()) {
                match super::verdict(&error) {
                    Some(verdict) => {
                        problems.lock().expect("no worker panics").push((job, verdict, error));
                    }
                    // Nobody can say anything about a file that cannot be read.
                    None => return Err(error),
                }
            }
            progress.lock().expect("no worker panics").add(job.bytes());
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ended = running.into_iter().map(|worker| worker.join().expect("no worker panics"));
        ended.collect::<Result<Vec<()>>>()
    })?;
    for (job, verdict, error) in problems.into_inner().expect("no worker panics") {
        add(job, verdict, &error, report);
    }
    progress.into_inner().expect("no worker panics").finish();
    Ok(())
}

fn add(job: &Job, verdict: Verdict, error: &Error, report: &mut Report) {
    let (seq, file) = job.names();
    // Its size told already what is wrong with it.
    if !report.problems.iter().any(|problem| problem.file == file) {
        report.error(verdict, seq, &file, error);
    }
}

/// To the end, where the reader has checked every promise.
pub(super) fn read_all(source: impl Read, manifest: &Manifest) -> Result<()> {
    SegmentReader::new(source, manifest)?.check()
}

/// A file of a part. Several of them lead to its rows, one after the other: they wait in a file of ours.
fn fetch(archive: &mut dyn Archive, file: &ChangeFile) -> Result<File> {
    let doing = || "keeping a part in a temporary file".to_owned();
    let path = file.file.parse::<PartName>()?.path();
    let mut local = tempfile::tempfile().context(doing)?;
    // A file that grew behind its manifest must not fill our disk: what is behind a byte too many is not looked at.
    let mut bounded = Bounded { file: &mut local, left: file.bytes.saturating_add(1) };
    let read = archive.read(&path, 0, &mut bounded);
    if bounded.left > 0 {
        read?;
    }
    local.rewind().context(doing)?;
    Ok(local)
}

struct Bounded<'a> {
    file: &'a mut File,
    left: u64,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let fits = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if fits == 0 && !bytes.is_empty() {
            return Err(std::io::Error::other("longer than promised"));
        }
        self.file.write_all(&bytes[..fits])?;
        self.left -= fits as u64;
        Ok(fits)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
