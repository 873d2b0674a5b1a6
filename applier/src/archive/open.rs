//! The archive of the settings, opened.

use std::path::PathBuf;

use syncdata_archive::ArchiveHandle;
use syncdata_formats::error::Result;
use syncdata_service::config::Config;

use crate::archive::source::Source;

/// For a pass, and for whoever reads documents only.
pub fn open(config: &Config) -> Result<Source> {
    open_into(config, config.cache_of_copy())
}

/// For a load, which goes on beside passes: they sweep their cache.
pub fn open_for_load(config: &Config) -> Result<Source> {
    open_into(config, config.cache_of_copy().join("load"))
}

fn open_into(config: &Config, cache: PathBuf) -> Result<Source> {
    let archive = ArchiveHandle::spawn(syncdata_archive::open(config.archive()?)?)?;
    let source = Source::new(archive, cache, config.cache_max.as_u64(), config.verify_key()?)?;
    Ok(source.with_line_bytes_max(config.line_max))
}
