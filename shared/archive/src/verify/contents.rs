//! Contents of change files and of snapshots' parts: every byte and every line, several files at once.

use std::fs::File;
use std::io::{Read, Seek as _, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pipe::with_file;
use super::report::{Report, Verdict};
use crate::{Archive, Prefer};
use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Context as _, Error, Result};
use syncdata_formats::layout::{ArchivePath, SegmentName};
use syncdata_formats::manifest::{ChangeFile, Manifest};
use syncdata_formats::segment::SegmentReader;
use syncdata_formats::snapshot::{Part, PartName, pour};
use syncdata_service::config::ArchiveSettings;
use syncdata_service::progress::{Progress, Unit};

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

    /// `Err`: with the file that it is about.
    fn check(&self, archive: &mut dyn Archive) -> Result<(), (String, Error)> {
        match self {
            Job::Segment { path, manifest } => with_file(archive, path, |source| read_all(source, manifest))
                .map_err(|error| (path.to_string(), error)),
            Job::Part(part) => {
                let mut at = String::new();
                let open = |file: &ChangeFile| {
                    at.clone_from(&file.file);
                    fetch(archive, file)
                };
                pour(part, open, |_| Ok(())).map_err(|error| (in_snapshots(&at), error))
            }
        }
    }

    /// The change file that is read, and what it has to be.
    pub(super) fn change_file(&self) -> Option<(SegmentName, Digest)> {
        match self {
            Job::Segment { manifest, .. } => Some((manifest.name(), manifest.file.as_ref()?.sha256)),
            Job::Part(_) => None,
        }
    }

    fn seq(&self) -> Option<u64> {
        match self {
            Job::Segment { manifest, .. } => Some(manifest.seq.get()),
            Job::Part(_) => None,
        }
    }

    /// Whether one of its files is known to be wrong, so that it cannot be read.
    fn has_a_problem(&self, report: &Report) -> bool {
        let known = |file: &str| report.problems.iter().any(|problem| problem.file == file);
        match self {
            Job::Segment { path, .. } => known(path.as_str()),
            Job::Part(part) => part.files.iter().any(|file| known(&in_snapshots(&file.file))),
        }
    }
}

pub(super) fn check(settings: &ArchiveSettings, jobs: &[Job], report: &mut Report) -> Result<()> {
    let jobs: Vec<&Job> = jobs.iter().filter(|job| !job.has_a_problem(report)).collect();
    let next = AtomicUsize::new(0);
    let bytes = jobs.iter().map(|job| job.bytes()).sum();
    let progress = Mutex::new(Progress::start("verifying", Unit::Bytes, Some(bytes)));
    let problems = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(WORKERS_MAX));
    let work = || -> Result<()> {
        let mut archive = crate::open_preferring(settings, Prefer::Singles)?;
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err((file, error)) = job.check(archive.as_mut()) {
                let verdict = super::verdict(&error);
                let verdict =
                    verdict.or_else(|| super::is_of_one_file(&error).then_some(Verdict::Unreadable));
                let Some(verdict) = verdict else {
                    // Nothing more can be read: the others need not go on.
                    next.store(jobs.len(), Ordering::Relaxed);
                    return Err(error);
                };
                problems.lock().expect("no worker panics").push((job.seq(), file, verdict, error));
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
    for (seq, file, verdict, error) in problems.into_inner().expect("no worker panics") {
        // A file that several parts need is told once.
        if !report.problems.iter().any(|problem| problem.file == file) {
            report.error(verdict, seq, &file, &error);
        }
    }
    progress.into_inner().expect("no worker panics").finish();
    Ok(())
}

fn in_snapshots(file: &str) -> String {
    format!("{}/{file}", ArchivePath::snapshots())
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
    // A file that grew after its manifest was written must not fill our disk: one byte too many is enough to refuse it.
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
