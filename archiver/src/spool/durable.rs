//! Writes that a power cut cannot take back, and the small file work around them.

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use syncdata_formats::error::Context as _;
use syncdata_formats::{Error, Result};
use syncdata_service::disk;
use syncdata_service::faults;
use syncdata_service::own_files;

pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    make_folder(parent(path))?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let written = private_file(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written
        .context(|| format!("writing {}", partial.display()))
        .map_err(|error| disk::name_what_is_full(error, parent(path)))?;
    faults::hit("spool.before_rename")?;
    fs::rename(&partial, path).context(|| format!("renaming {}", partial.display()))?;
    // The name lives in the folder: left unsynced, a power cut can still take it back.
    sync_folder(parent(path))
}

/// A new file, whatever had its name.
pub(crate) fn private_file(path: &Path) -> std::io::Result<File> {
    own_files::create_anew(path)
}

/// Makes it, or makes sure that it is ours alone.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return own_files::check_folder(path);
    }
    own_files::refuse_in_the_way(path)?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.context(|| format!("making the folder {}", path.display()))
        .map_err(|error| disk::name_what_is_full(error, parent(path)))?;
    path.parent().map_or(Ok(()), sync_folder)
}

pub(super) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .context(|| format!("syncing the folder {}", path.display()))
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent().expect("spool files lie in the spool folder")
}

pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

pub(super) fn read_folder(path: &Path) -> Result<Vec<fs::DirEntry>> {
    let entries = fs::read_dir(path).and_then(Iterator::collect);
    entries.context(|| format!("listing {}", path.display()))
}
