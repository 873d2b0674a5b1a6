//! The archive of the settings, opened.

use syncdata_archive::ArchiveHandle;
use syncdata_formats::error::Result;
use syncdata_service::config::Config;

use crate::archive::source::Source;
use crate::plan::group::GroupName;

/// For the passes of a group, which sweep the cache: each has one of its own.
pub fn open(config: &Config, group: &GroupName) -> Result<Source> {
    let bytes_max = config.cache_max.as_u64();
    let cache = match *group == GroupName::DEFAULT {
        true => config.cache_of_copy(),
        false => config.cache_of_copy().join(format!("group-{group}")),
    };
    let source = Source::new(archive(config)?, cache, bytes_max, config.verify_key()?)?;
    Ok(source.with_line_bytes_max(config.line_max))
}

/// For a load, which goes on beside passes: they sweep their cache.
pub fn open_for_load(config: &Config) -> Result<Source> {
    let cache = config.cache_of_copy().join("load");
    let source = Source::new(archive(config)?, cache, config.cache_max.as_u64(), config.verify_key()?)?;
    Ok(source.with_line_bytes_max(config.line_max))
}

/// For a command that reads documents, at whose shell ever.
pub fn open_by_hand(config: &Config) -> Result<Source> {
    let bytes_max = config.cache_max.as_u64();
    let source = Source::by_hand(archive(config)?, config.cache_of_copy(), bytes_max, config.verify_key()?)?;
    Ok(source.with_line_bytes_max(config.line_max))
}

fn archive(config: &Config) -> Result<ArchiveHandle> {
    ArchiveHandle::spawn(syncdata_archive::open(config.archive()?)?)
}
