//! A snapshot of production that somebody holds for the poll that comes: with triggers its batch ends exactly there. Whoever
//! offers it and whoever polls may be two processes.

use std::fs;
use std::path::{Path, PathBuf};

use syncdata_formats::Result;
use syncdata_formats::time::Timestamp;
use tracing::warn;

use super::durable::{remove_if_there, write_durably};

/// It lasts as long as its transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportedSnapshot {
    /// As `pg_export_snapshot()` names it.
    pub id: String,
    /// Production's clock before it was taken.
    pub at: Timestamp,
}

/// On offer until it is dropped.
#[derive(Debug)]
pub(crate) struct OfferedSnapshot(PathBuf);

impl OfferedSnapshot {
    pub(crate) fn make(spool_dir: &Path, snapshot: &ExportedSnapshot) -> Result<OfferedSnapshot> {
        let path = path(spool_dir);
        write_durably(&path, format!("{} {}", snapshot.at.as_micros(), snapshot.id).as_bytes())?;
        Ok(OfferedSnapshot(path))
    }

    /// What is on offer. One that was left behind names a snapshot that is gone.
    pub(crate) fn find(spool_dir: &Path) -> Option<ExportedSnapshot> {
        let text = fs::read_to_string(path(spool_dir)).ok()?;
        let (at, id) = text.split_once(' ')?;
        Some(ExportedSnapshot { id: id.to_owned(), at: Timestamp::from_micros(at.parse().ok()?).ok()? })
    }
}

impl Drop for OfferedSnapshot {
    fn drop(&mut self) {
        if let Err(error) = remove_if_there(&self.0) {
            warn!(error = %error.one_line(), "a snapshot stays on offer");
        }
    }
}

fn path(spool_dir: &Path) -> PathBuf {
    spool_dir.join("snapshot.offered")
}
