//! How much room there is, and a file system that takes no more: "No space left on device" is said of two different
//! things.

use std::path::{Path, PathBuf};

use rustix::fs::StatVfs;
use serde::{Deserialize, Serialize};

use syncdata_formats::error::{Error, Kind};

/// The file system of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// What the folder is for: `spool`, `cache`.
    pub folder: String,
    pub path: PathBuf,
    /// For us: what is kept for root does not count.
    pub free_bytes: u64,
    pub size_bytes: u64,
}

impl Room {
    /// Where the folder is, or will be made. `None`: it does not say.
    pub fn of(folder: &str, path: &Path) -> Option<Room> {
        let found = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
        Some(Room {
            folder: folder.to_owned(),
            path: path.to_owned(),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            size_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_made_yet_has_the_room_of_the_one_above() {
        let folder = tempfile::tempdir().expect("a folder");
        let later = folder.path().join("not/yet");
        let room = Room::of("cache", &later).expect("it says");
        assert_eq!((room.folder.as_str(), room.path.as_path()), ("cache", later.as_path()));
        assert_eq!(room.size_bytes, Room::of("x", folder.path()).expect("it says").size_bytes);
        assert!(room.size_bytes > 0 && room.free_bytes <= room.size_bytes, "{room:?}");
    }
}
