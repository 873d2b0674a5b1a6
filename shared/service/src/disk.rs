//! A file system that takes no more: "No space left on device" is said of two different things.

use std::path::Path;

use rustix::fs::StatVfs;

use syncdata_formats::error::{Error, Kind};

/// Names what is used up where `error` came from, if that are the inodes and not the bytes.
#[must_use]
pub fn name_what_is_full(error: Error, folder: &Path) -> Error {
    name(error, || rustix::fs::statvfs(folder).ok())
}

/// The same of an open folder.
#[must_use]
pub fn name_what_is_full_in(error: Error, folder: impl std::os::fd::AsFd) -> Error {
    name(error, || rustix::fs::fstatvfs(folder).ok())
}

fn name(error: Error, ask: impl FnOnce() -> Option<StatVfs>) -> Error {
    if error.kind() != Kind::NoSpace || !ask().is_some_and(|room| room.f_files > 0 && room.f_favail == 0) {
        return error;
    }
    error.context("the file system has no inode left").hint("remove files there, or give it more inodes")
}
