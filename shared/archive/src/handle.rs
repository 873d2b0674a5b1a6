//! Runs an archive, which blocks, on a thread of its own, so that async code can wait for it.
//!
//! ```text
//! task ── job ──▶ queue ──▶ thread "archive" ── Box<dyn Archive>
//!      ◀─ answer (oneshot) ─┘
//! ```

use std::fmt;

use tokio::sync::{mpsc, oneshot};

use super::Archive;
use syncdata_formats::error::{Error, Kind, Result};

/// Jobs wait for one connection; a caller that is further ahead waits too.
const QUEUE_JOBS_MAX: usize = 16;

type Job = Box<dyn FnOnce(&mut dyn Archive) + Send>;

/// The async side of an archive; a clone shares the thread.
///
/// The thread ends after the job it is at, once the last handle is gone; nobody waits for that.
#[derive(Clone)]
pub struct ArchiveHandle {
    jobs: mpsc::Sender<Job>,
    location: String,
}

impl ArchiveHandle {
    pub fn spawn(mut archive: Box<dyn Archive>) -> Result<ArchiveHandle> {
        let location = archive.location().to_owned();
        let (jobs, mut waiting) = mpsc::channel::<Job>(QUEUE_JOBS_MAX);
        let work = move || {
            while let Some(job) = waiting.blocking_recv() {
                job(archive.as_mut());
            }
        };
        let thread = std::thread::Builder::new().name("archive".into());
        thread.spawn(work).map_err(|error| Error::io("starting the archive's thread", error))?;
        Ok(ArchiveHandle { jobs, location })
    }

    /// See [`Archive::location`].
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Waits for the archive's turn and for the job. A caller that stops waiting does not stop the job.
    pub async fn run<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut dyn Archive) -> Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |archive| {
            // Nobody may be waiting any more; the job was to be done all the same.
            let _ = answer.send(job(archive));
        });
        // Either end is missing only if an earlier job panicked.
        let gone = || Error::new(Kind::Io, format!("the thread of the archive {} has died", self.location));
        self.jobs.send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl fmt::Debug for ArchiveHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveHandle").field("location", &self.location).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::DirectoryArchive;
    use super::*;
    use syncdata_formats::layout::ArchivePath;

    fn handle(folder: &tempfile::TempDir) -> ArchiveHandle {
        ArchiveHandle::spawn(Box::new(DirectoryArchive::new(folder.path()))).expect("a thread can be had")
    }

    #[tokio::test]
    async fn answers_what_the_job_answered() {
        let folder = tempfile::tempdir().expect("a folder");
        let archive = handle(&folder);
        archive.run(|archive| archive.replace(&ArchivePath::head(), b"{}")).await.expect("replaced");
        let there = archive.run(|archive| archive.stat(&ArchivePath::head())).await.expect("asked");
        assert_eq!(there.map(|entry| entry.bytes), Some(2));
        assert_eq!(archive.location(), folder.path().to_str().expect("plain"));
    }

    #[tokio::test]
    async fn a_job_that_panicked_is_an_error_of_the_next_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let archive = handle(&folder);
        let died = archive.run(|_| -> Result<()> { panic!("as a test") }).await;
        assert_eq!(died.map_err(|error| error.kind()), Err(Kind::Io));
        let after = archive.run(|archive| archive.stat(&ArchivePath::head())).await;
        assert!(after.is_err());
    }

    #[tokio::test]
    async fn dropping_the_handle_waits_for_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let archive = handle(&folder);
        let (release, released) = std::sync::mpsc::channel::<()>();
        let busy = archive.clone();
        let job = busy.run(move |_| {
            // Ends when the test has dropped the handle, which therefore cannot have waited.
            let _ = released.recv();
            Ok(())
        });
        let job = tokio::time::timeout(std::time::Duration::from_millis(50), job).await;
        assert!(job.is_err(), "the job is still at it");
        drop(archive);
        drop(busy);
        drop(release);
    }
}
