//! Whether an account may do in the archive what an archiver has to: write, rename, replace, remove. One file is made for it,
//! and removed again; one that stays behind is passed over by all who read, also where an archive is founded.

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::ArchivePath;

use super::Archive;

const CONTENT: &[u8] = b"whether files may be written, replaced and removed here\n";

/// `Err` says what may not be done, and what that takes. False: nothing is renamed here, and whether files may be replaced is
/// not asked; the one that has to be is head.json.
pub fn probe(archive: &mut dyn Archive) -> Result<bool> {
    let path = path();
    let renames = !archive.keeps_names(&path, CONTENT)?;
    if renames {
        // The second time there is a file to be replaced.
        for _ in 0..2 {
            archive.replace(&path, CONTENT).map_err(|error| advised(error, WRITE))?;
        }
    }
    let remove = if renames { REMOVE } else { DELETE };
    archive.remove(&path).map_err(|error| {
        advised(error.context("files may be written and not removed: prune cannot do its work"), remove)
    })?;
    Ok(renames)
}

/// Before an archive is founded: a store in which names are not safe is none. Whether the file can be removed again does not
/// matter here.
pub fn require_names_kept(archive: &mut dyn Archive) -> Result<()> {
    let path = path();
    if archive.keeps_names(&path, CONTENT)? {
        // Best effort: whoever only creates has others to remove.
        let _ = archive.remove(&path);
    }
    Ok(())
}

fn path() -> ArchivePath {
    ArchivePath::parse("check.part").expect("a plain name")
}

const WRITE: &str = "give the folder to the archiver's account on the backup host, and let it write, rename and replace files \
    (no `-R`, no `-P rename` and no `-P posix-rename` of sftp-server for its key)";
const DELETE: &str = "allow the archiver's keys to delete (s3:DeleteObject), or have `prune` run with others and leave keep_days \
    unset here";
const REMOVE: &str = "allow remove and rmdir to the archiver's account (`-P` of sftp-server, in the sshd settings of the backup \
    host), or leave keep_days unset";

fn advised(error: Error, hint: &str) -> Error {
    match error.kind() {
        // Whoever cannot be reached, or has no room, may well allow it.
        Kind::Unreachable | Kind::NoSpace | Kind::BadInput => error,
        _ => error.hint(hint),
    }
}
