//! The file, which one process owns, on a thread of its own: DuckDB blocks whoever asks it.
//!
//! ```text
//! task ── job ──▶ queue ──▶ thread "duckdb" ── Connection
//!      ◀─ answer (oneshot) ─┘
//! ```

use std::fmt;
use std::path::{Path, PathBuf};

use syncdata_formats::error::{Error, Kind, Result};
use tokio::sync::{mpsc, oneshot};

use super::database::{Database, Options};
use super::meta;

/// One transaction at a time asks one thing after the other.
const QUEUE_JOBS_MAX: usize = 4;

type Job = Box<dyn FnOnce(&Database) + Send>;

/// The file, from which everything is asked by jobs. A clone shares the thread, which ends once the last one is gone.
#[derive(Clone)]
pub struct File {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

impl File {
    /// Opens the file or makes it, with our own tables in it.
    pub fn open(options: Options) -> Result<File> {
        let path = options.path.clone();
        let database = Database::open(options)?;
        meta::install(&database)?;
        let (jobs, mut waiting) = mpsc::channel::<Job>(QUEUE_JOBS_MAX);
        let work = move || {
            while let Some(job) = waiting.blocking_recv() {
                job(&database);
            }
        };
        let thread = std::thread::Builder::new().name("duckdb".into());
        thread.spawn(work).map_err(|error| Error::io("starting the thread of the DuckDB file", error))?;
        Ok(File { jobs, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the job. A caller that stops waiting does not stop it.
    pub(super) async fn run<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Database) -> Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |database| {
            // Nobody may be waiting any more; the job was to be done all the same.
            let _ = answer.send(job(database));
        });
        // Either end is missing only if an earlier job panicked.
        let gone = || Error::new(Kind::Io, format!("the thread of {} has died", self.path.display()));
        self.jobs.send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}
