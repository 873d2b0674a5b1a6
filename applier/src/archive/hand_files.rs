//! Change files for commands that read the archive by hand: in a folder of their own, so that no pass comes in their
//! way, and kept as long as they fit into `cache_max`, because most are read twice.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use syncdata_archive::{self, ArchiveHandle};
use syncdata_formats::chain::Verified;
use syncdata_formats::error::{Context, Result};
use syncdata_service::config::Config;
use syncdata_service::own_files;
use tempfile::TempDir;

use crate::archive::elsewhere::{PREFIX, elsewhere, sweep};
use crate::archive::fetch::Fetched;
use crate::archive::source::Source;

/// See the module.
#[derive(Debug)]
pub struct HandFiles {
    pub source: Source,
    kept: HashMap<u64, Fetched>,
    bytes: u64,
    bytes_max: u64,
    /// One that is too much to keep: it makes way for the next.
    passing: Option<Fetched>,
    _folder: TempDir,
}

impl HandFiles {
    pub fn open(config: &Config) -> Result<HandFiles> {
        let folder = match elsewhere(&config.cache_dir)? {
            Some(folder) => folder,
            None => folder_in(&config.cache_dir)?,
        };
        let handle = ArchiveHandle::spawn(syncdata_archive::open(config.archive()?)?)?;
        // The bound is kept here: a source that waits for room would wait for us.
        let source = Source::new(handle, folder.path().to_owned(), u64::MAX, config.verify_key()?)?;
        let source = source.with_line_bytes_max(config.line_max);
        let bytes_max = config.cache_max.as_u64();
        Ok(HandFiles { source, kept: HashMap::new(), bytes: 0, bytes_max, passing: None, _folder: folder })
    }

    /// The checked change file of that segment; it stays at least until the next one is asked for. `None` for a gap.
    pub async fn get(&mut self, segment: &Verified) -> Result<Option<PathBuf>> {
        let seq = segment.manifest().seq.get();
        if let Some(fetched) = self.kept.get(&seq) {
            return Ok(fetched.file.clone());
        }
        if let Some(passing) = self.passing.take() {
            passing.clean()?;
        }
        let fetched = self.source.fetch_file(segment.clone()).await?;
        let (file, bytes) = (fetched.file.clone(), segment.manifest().file.as_ref().map_or(0, |f| f.bytes));
        if self.bytes.saturating_add(bytes) <= self.bytes_max {
            self.bytes += bytes;
            self.kept.insert(seq, fetched);
        } else {
            self.passing = Some(fetched);
        }
        Ok(file)
    }
}

fn folder_in(cache: &Path) -> Result<TempDir> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(cache);
    made.context(|| format!("making the cache folder {}", cache.display()))?;
    own_files::check_folder(cache)?;
    sweep(cache, PREFIX)?;
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(cache);
    folder.context(|| format!("making a folder in {}", cache.display()))
}
