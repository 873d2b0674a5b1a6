//! One snapshot or prune at a time on this host; on others the lock in the source holds.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use syncdata_formats::{Error, Kind, Result};

use super::{lock_file, make_folder};

const ATTEMPTS_MAX: u32 = 20;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

/// Held until it is dropped, or the process dies.
#[derive(Debug)]
pub(crate) struct SnapshotLock {
    _file: File,
}

impl SnapshotLock {
    /// A daemon that prunes holds it for a moment.
    pub(crate) async fn wait(spool_dir: &Path) -> Result<SnapshotLock> {
        for _ in 1..ATTEMPTS_MAX {
            match SnapshotLock::take(spool_dir) {
                Err(error) if error.kind() == Kind::Locked => tokio::time::sleep(BETWEEN_ATTEMPTS).await,
                taken => return taken,
            }
        }
        SnapshotLock::take(spool_dir)
    }

    /// `Kind::Locked` while somebody has it.
    pub(crate) fn take(spool_dir: &Path) -> Result<SnapshotLock> {
        make_folder(spool_dir)?;
        let path = spool_dir.join("snapshot.lock");
        let file = lock_file(&path, |holder| {
            let message = format!("process {holder} takes or prunes snapshots ({})", path.display());
            Error::new(Kind::Locked, message).hint("one at a time: wait until that is done")
        })?;
        Ok(SnapshotLock { _file: file })
    }
}
