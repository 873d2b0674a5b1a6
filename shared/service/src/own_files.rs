//! Files and folders of ours in which nobody else may have a hand.
//!
//! A service that runs as one user, a command that somebody runs as root: whoever can write into the folder could put
//! a link in place of a file, and have another file emptied, filled or read. So folders that hold our files must be
//! ours and closed to others, links are not followed, and what is opened must be a plain file.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use syncdata_formats::error::Context as _;
use syncdata_formats::{Error, Kind, Result};

use crate::{disk, faults};

const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Opens a plain file: no link, and nothing that could be waited for for ever.
pub fn open_plain(path: &Path, options: &mut OpenOptions) -> Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let opened = options.custom_flags(flags).open(path);
    let file = opened.map_err(|error| explain(path, error))?;
    let facts = file.metadata().context(|| format!("looking at {}", path.display()))?;
    if facts.is_file() {
        return Ok(file);
    }
    Err(Error::new(Kind::Refused, format!("{} is no plain file", path.display()))
        .hint("look who put it there, and remove it"))
}

pub fn read_plain(path: &Path) -> Result<File> {
    open_plain(path, OpenOptions::new().read(true))
}

/// An empty file of ours under that name, whatever had it before: a link is replaced, and not what it leads to.
pub fn create_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// All of it is on the disk under that name when this returns, or what was there before; a power cut changes nothing of
/// that. `fault` is visited in between.
pub fn replace(path: &Path, bytes: &[u8], fault: &'static str) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).context(doing)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let written = create_anew(Path::new(&partial)).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.context(doing).map_err(|error| disk::name_what_is_full(error, folder))?;
    faults::hit(fault)?;
    fs::rename(&partial, path).context(doing)?;
    File::open(folder).and_then(|folder| folder.sync_all()).context(doing)
}

/// Before a file that was there is written to.
pub fn check_file(file: &File, path: &Path) -> Result<()> {
    let facts = file.metadata().context(|| format!("looking at {}", path.display()))?;
    if facts.uid() != own_user() {
        let message = format!("{} belongs to {}", path.display(), owner(&facts));
        return Err(Error::new(Kind::Refused, message).hint(remedy_for_file(path, &facts)));
    }
    if facts.nlink() > 1 {
        let message = format!("{} has another name elsewhere (a hard link)", path.display());
        return Err(Error::new(Kind::Refused, message).hint("look who made it, and remove it"));
    }
    Ok(())
}

/// Whether the folder belongs to another account; one that we may not look at does.
pub fn is_of_another(folder: &Path) -> bool {
    match fs::metadata(folder) {
        Ok(facts) => facts.uid() != own_user(),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// Whether what we would make in that place would be in another account's way: the folder is that one's, or the nearest
/// one above it that is there.
pub fn would_be_in_the_way(folder: &Path) -> bool {
    for place in folder.ancestors() {
        match fs::metadata(place) {
            Ok(facts) if facts.uid() == own_user() => return false,
            Ok(_) => return place == folder || own_user() == 0 || !may_write(place),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return true,
        }
    }
    false
}

fn may_write(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

/// Before it is made.
pub fn refuse_in_the_way(folder: &Path) -> Result<()> {
    if !would_be_in_the_way(folder) {
        return Ok(());
    }
    let message = format!("the place of the folder {} belongs to another account", folder.display());
    Err(Error::new(Kind::Refused, message).hint(
        "what is made there would be closed to that account: start the daemon (systemctl start), which works for members of \
         its group, or run the command as its account (sudo -u); a daemon needs a folder of its own (spool_dir, cache_dir; or \
         chown)",
    ))
}

/// A folder of ours, which must be there.
pub fn check_folder(path: &Path) -> Result<()> {
    let doing = || format!("looking at the folder {}", path.display());
    let (itself, facts) = (fs::symlink_metadata(path).context(doing)?, fs::metadata(path).context(doing)?);
    let us = own_user();
    // Root may have led us to another disk.
    if itself.is_symlink() && itself.uid() != us && itself.uid() != 0 {
        let message = format!("the folder {} is a link that belongs to {}", path.display(), owner(&itself));
        return Err(Error::new(Kind::Refused, message).hint("look who made it, and remove it"));
    }
    if facts.uid() != us {
        let message = format!(
            "the folder {} belongs to {}, and this process is user {us}",
            path.display(),
            owner(&facts)
        );
        return Err(Error::new(Kind::Refused, message).hint(format!(
            "run the command as that user (sudo -u '#{}' …): files of user {us} would be closed to it; or, if the folder \
             is to be ours: chown -R {us} '{}'",
            facts.uid(),
            path.display()
        )));
    }
    if facts.mode() & WRITABLE_BY_OTHERS != 0 {
        let message = format!("others may write into the folder {} ({})", path.display(), mode(&facts));
        return Err(Error::new(Kind::Refused, message).hint(format!(
            "who may can put a link in place of a file of ours; run: chmod go-w '{}'",
            path.display()
        )));
    }
    Ok(())
}

fn explain(path: &Path, error: io::Error) -> Error {
    let facts = fs::symlink_metadata(path).ok();
    let link = facts.as_ref().filter(|facts| facts.is_symlink());
    if let Some(facts) = link {
        let message =
            format!("{} is a link ({}), and links are not followed here", path.display(), owner(facts));
        return Error::new(Kind::Refused, message).hint("look who made it, and remove it").caused_by(error);
    }
    let denied = facts.filter(|_| error.kind() == io::ErrorKind::PermissionDenied);
    let opening = format!("opening {}", path.display());
    match denied {
        Some(facts) => Error::io(opening, error)
            .context(format!("{} belongs to {}", path.display(), owner(&facts)))
            .hint(remedy_for_file(path, &facts)),
        None => Error::io(opening, error),
    }
}

fn remedy_for_file(path: &Path, facts: &Metadata) -> String {
    format!(
        "a run as that user made it, it seems: when none of its processes is at work any more, run: chown {} '{}' (or \
         remove it, if it is a lock); and run syncdata as user {} only, not as user {}",
        own_user(),
        path.display(),
        own_user(),
        facts.uid()
    )
}

fn owner(facts: &Metadata) -> String {
    format!("user {}, {}", facts.uid(), mode(facts))
}

fn mode(facts: &Metadata) -> String {
    format!("mode {:04o}", facts.mode() & 0o7777)
}

pub(crate) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn links_and_what_is_no_file_are_not_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let (real, link, pipe) =
            (folder.path().join("real"), folder.path().join("link"), folder.path().join("pipe"));
        fs::write(&real, "kept").expect("ours");
        symlink(&real, &link).expect("ours");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("ours");
        assert!(read_plain(&real).is_ok());
        for (path, says) in [(&link, "is a link"), (&pipe, "is no plain file")] {
            let refused = read_plain(path).expect_err("refused").report();
            assert!(refused.contains(says) && refused.contains("hint: "), "{refused}");
        }
        create_anew(&link).expect("the link is replaced");
        assert_eq!(fs::read_to_string(&real).expect("ours"), "kept");
        assert!(!fs::symlink_metadata(&link).expect("it is there").is_symlink());
    }

    #[test]
    fn a_file_with_another_name_is_not_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let file = File::create(&one).expect("ours");
        assert!(check_file(&file, &one).is_ok());
        fs::hard_link(&one, &other).expect("ours");
        assert!(check_file(&file, &one).expect_err("refused").report().contains("hard link"));
    }

    #[test]
    fn a_folder_that_others_may_write_into_is_refused_with_the_command_that_closes_it() {
        let folder = tempfile::tempdir().expect("a folder");
        for (mode, sound) in [(0o700, true), (0o755, true), (0o770, false), (0o777, false), (0o1777, false)] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("ours");
            let checked = check_folder(folder.path());
            assert_eq!(checked.is_ok(), sound, "{mode:o}");
            if let Err(error) = checked {
                assert!(error.report().contains("chmod go-w"), "{error:?}");
            }
        }
    }
}
