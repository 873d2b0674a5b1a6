//! Folders for one command by hand, in the cache or, where that belongs to another account, elsewhere.

use std::fs;
use std::path::Path;

use syncdata_formats::error::{Context, Result};
use syncdata_service::own_files;
use tempfile::TempDir;
use tracing::info;

pub(super) const PREFIX: &str = "by-hand-";

/// Where the place belongs to another account (a daemon's, at the shell of a member of its group or of root): a folder
/// that vanishes with the command. What we made there would stop that daemon.
pub(super) fn elsewhere(folder: &Path) -> Result<Option<TempDir>> {
    if !own_files::would_be_in_the_way(folder) {
        return Ok(None);
    }
    let ours = std::env::temp_dir();
    sweep(&ours, &format!("syncdata-{PREFIX}"))?;
    let prefix = format!("syncdata-{PREFIX}{}-", std::process::id());
    let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(&ours);
    let made = made.context(|| format!("making a folder in {}", ours.display()))?;
    info!(
        "the place of the cache folder {} belongs to another account: files of this run lie in {}",
        folder.display(),
        made.path().display()
    );
    Ok(Some(made))
}

/// Folders that a killed command has left.
pub(super) fn sweep(cache: &Path, prefix: &str) -> Result<()> {
    let doing = || format!("looking through {}", cache.display());
    for entry in fs::read_dir(cache).context(doing)? {
        let entry = entry.context(doing)?;
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(prefix)?.split('-').next()?.parse().ok());
        if owner.is_some_and(|process: u32| !Path::new("/proc").join(process.to_string()).exists()) {
            // Another command may be just as tidy.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}
