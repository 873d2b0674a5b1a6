//! The file, which one process owns, on threads of its own: DuckDB blocks whoever asks it.
//!
//! ```text
//! task ── job ──▶ queue ──▶ thread "duckdb" ── Connection
//!      ◀─ answer (oneshot) ─┘
//! ```
//! Each thread has a connection of its own: one writes, one is for who looks on, one for copies of the whole.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use syncdata_formats::error::{Error, Kind, Result};
use tokio::sync::{mpsc, oneshot};

use super::database::{Database, Options};
use super::found::{self, FoundCopy};
use super::meta;
use super::publish::{self, Published};

/// One transaction at a time asks one thing after the other.
const QUEUE_JOBS_MAX: usize = 4;

type Job = Box<dyn FnOnce(&Database) + Send>;

/// The file, from which everything is asked by jobs. A clone shares the threads, which end once the last one is gone.
#[derive(Clone)]
pub struct File {
    jobs: mpsc::Sender<Job>,
    looks: mpsc::Sender<Job>,
    copies: mpsc::Sender<Job>,
    path: PathBuf,
    /// After the queues: they end with these.
    _threads: Arc<Threads>,
}

/// Whoever drops the last clone waits until the file is closed.
struct Threads(Vec<JoinHandle<()>>);

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            // One that has panicked has closed its connection.
            let _ = thread.join();
        }
    }
}

impl File {
    /// Opens the file or makes it, with our own tables in it.
    pub fn open(options: Options) -> Result<File> {
        let path = options.path.clone();
        let database = Database::open(options)?;
        meta::install(&database)?;
        File::of(database, path)
    }

    /// To look at only. `Err`: some process owns it, or our own tables are not in it.
    pub fn open_to_read(path: &Path) -> Result<File> {
        let database = Database::open_to_read(Options::to_read(path.to_owned()))?;
        meta::check(&database)?;
        File::of(database, path.to_owned())
    }

    fn of(database: Database, path: PathBuf) -> Result<File> {
        let (looks, copies) = (database.beside()?, database.beside()?);
        let (jobs, first) = start("duckdb", database)?;
        let (looks, second) = start("duckdb-looks", looks)?;
        let (copies, third) = start("duckdb-copies", copies)?;
        Ok(File { jobs, looks, copies, path, _threads: Arc::new(Threads(vec![first, second, third])) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far the copy is, beside whatever is under way.
    pub async fn found(&self) -> Result<FoundCopy> {
        self.look(found::found).await
    }

    /// What is committed by now becomes what readers open.
    pub async fn publish(&self) -> Result<Published> {
        let path = self.path.clone();
        self.copy(move |database| publish::publish(database, &path)).await
    }

    /// Where readers find it.
    pub fn published(&self) -> PathBuf {
        publish::published(&self.path)
    }

    /// Waits for the job. A caller that stops waiting does not stop it.
    pub(super) async fn run<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Database) -> Result<T> + Send + 'static,
    {
        self.ask(&self.jobs, job).await
    }

    /// The same of what is committed, beside whatever is under way.
    pub(super) async fn look<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Database) -> Result<T> + Send + 'static,
    {
        self.ask(&self.looks, job).await
    }

    /// The same, of a job that reads all of it.
    pub(super) async fn copy<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Database) -> Result<T> + Send + 'static,
    {
        self.ask(&self.copies, job).await
    }

    async fn ask<T, F>(&self, jobs: &mpsc::Sender<Job>, job: F) -> Result<T>
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
        let gone = || Error::new(Kind::Io, format!("a thread of {} has died", self.path.display()));
        jobs.send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// A thread that does jobs with this connection until nobody has any.
fn start(name: &str, database: Database) -> Result<(mpsc::Sender<Job>, JoinHandle<()>)> {
    let (jobs, mut waiting) = mpsc::channel::<Job>(QUEUE_JOBS_MAX);
    let work = move || {
        while let Some(job) = waiting.blocking_recv() {
            job(&database);
        }
    };
    let thread = std::thread::Builder::new().name(name.into());
    let thread = thread.spawn(work);
    Ok((jobs, thread.map_err(|error| Error::io("starting a thread of the DuckDB file", error))?))
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}
