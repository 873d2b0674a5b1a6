//! An archive in a local or mounted directory. Every step goes from folder to folder by handle and follows no
//! symbolic link below `archive_dir`, so that nothing outside it is ever read or written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::content::{conflict, no_base, not_a_file, not_a_folder, pour};
use super::{Archive, Content, Entry, EntryKind, Facts, Put, at_second};
use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Context, Error, Kind, Result};
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::time::Timestamp;
use syncdata_service::disk;
use syncdata_service::faults;

const READ_BYTES: usize = 1024 * 1024;

/// An archive in a folder of this host.
#[derive(Debug)]
pub struct DirectoryArchive {
    base: PathBuf,
    location: String,
}

impl DirectoryArchive {
    /// The directory need not be there yet: every operation looks for itself.
    pub fn new(base: impl AsRef<Path>) -> DirectoryArchive {
        let base = base.as_ref().to_owned();
        DirectoryArchive { location: base.display().to_string(), base }
    }

    fn open_base(&self) -> Result<OwnedFd> {
        // The directory itself may be a link: the operator named it.
        match rustix::fs::openat(
            CWD,
            &self.base,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(folder) => Ok(folder),
            Err(Errno::NOENT) => Err(no_base(&self.location)),
            Err(Errno::NOTDIR) => {
                Err(Error::new(Kind::BadInput, format!("archive_dir {} is not a directory", self.location)))
            }
            Err(error) => Err(refusal(error, format!("opening the archive's directory {}", self.location))),
        }
    }

    /// `None` when it is not there.
    fn open_folder(&self, folder: Option<&ArchivePath>) -> Result<Option<OwnedFd>> {
        let mut at = self.open_base()?;
        for part in parts(folder) {
            match step(&at, part) {
                Ok(next) => at = next,
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(step_refusal(error, folder)),
            }
        }
        Ok(Some(at))
    }

    fn make_folder(&self, folder: Option<&ArchivePath>) -> Result<OwnedFd> {
        let mut at = self.open_base()?;
        for part in parts(folder) {
            let made = rustix::fs::mkdirat(&at, part, Mode::RWXU);
            match made {
                Ok(()) => sync(&at, "the folder of a new folder")?,
                Err(Errno::EXIST) => {}
                Err(error) => {
                    let error = refusal(error, format!("making the folder {part} of the archive"));
                    return Err(disk::name_what_is_full_in(error, &at));
                }
            }
            at = step(&at, part).map_err(|error| step_refusal(error, folder))?;
        }
        Ok(at)
    }

    /// The regular file of that name; links are not followed and pipes not waited for.
    fn open_file(&self, path: &ArchivePath) -> Result<File> {
        let missing = || Error::new(Kind::NotFound, format!("{path} does not exist in {}", self.location));
        let folder = self.open_folder(path.parent().as_ref())?.ok_or_else(missing)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&folder, path.file_name(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Err(missing()),
            Err(Errno::LOOP | Errno::NXIO) => return Err(not_a_file(path, Kind::Foreign)),
            Err(error) => return Err(refusal(error, format!("opening {path}"))),
        };
        let metadata = file.metadata().context(|| format!("looking at {path}"))?;
        if metadata.is_file() { Ok(file) } else { Err(not_a_file(path, Kind::Foreign)) }
    }

    /// Equal content under that name is as good as written, once it is durable: whoever wrote it may have been
    /// killed before that.
    fn accept_existing(&self, path: &ArchivePath, entry: &Entry, wanted: Facts) -> Result<Put> {
        if entry.kind != EntryKind::File {
            return Err(not_a_file(path, Kind::Conflict));
        }
        let mut file = self.open_file(path)?;
        let (sha256, bytes) = Digest::of_reader(&mut file).context(|| format!("reading {path}"))?;
        let found = Facts { bytes, sha256 };
        if found != wanted {
            return Err(conflict(path, found, wanted));
        }
        sync(&file, path.as_str())?;
        sync(&self.make_folder(path.parent().as_ref())?, path.as_str())?;
        Ok(Put::AlreadyThere)
    }

    /// Writes `<name>.part` durably into `folder`.
    fn write_part(
        folder: &OwnedFd,
        path: &ArchivePath,
        content: &mut dyn Content,
        facts: Facts,
    ) -> Result<()> {
        let part = path.part();
        let mut file = create_part(folder, &part)?;
        pour(path, content, facts, |piece| {
            file.write_all(piece).map_err(|error| write_refusal(error, format!("writing {part}")))
        })?;
        faults::hit("archive.part_written")?;
        sync(&file, part.as_str())?;
        let bytes = file.metadata().context(|| format!("looking at {part}"))?.len();
        if bytes == facts.bytes {
            Ok(())
        } else {
            Err(Error::new(Kind::Io, format!("{part} has {bytes} bytes after {} were written", facts.bytes)))
        }
    }

    fn publish(
        &self,
        path: &ArchivePath,
        content: &mut dyn Content,
        facts: Facts,
        rename: impl FnOnce(&OwnedFd) -> Result<()>,
    ) -> Result<()> {
        let folder = self.make_folder(path.parent().as_ref())?;
        let written = DirectoryArchive::write_part(&folder, path, content, facts)
            .and_then(|()| faults::hit("archive.before_rename"))
            .and_then(|()| rename(&folder));
        if written.is_err() {
            // Best effort: on a full disk the part would be what keeps it full.
            let _ = rustix::fs::unlinkat(&folder, path.part().file_name(), AtFlags::empty());
        }
        written?;
        faults::hit("archive.after_rename")?;
        sync(&folder, path.as_str())
    }
}

impl Archive for DirectoryArchive {
    fn location(&self) -> &str {
        &self.location
    }

    fn put(&mut self, path: &ArchivePath, content: &mut dyn Content, facts: Facts) -> Result<Put> {
        if let Some(entry) = self.stat(path)? {
            return self.accept_existing(path, &entry, facts);
        }
        self.publish(path, content, facts, |folder| rename_onto_free_name(folder, path))?;
        Ok(Put::Written)
    }

    fn replace(&mut self, path: &ArchivePath, content: &[u8]) -> Result<()> {
        let facts = Facts { bytes: content.len() as u64, sha256: Digest::of(content) };
        self.publish(path, &mut io::Cursor::new(content), facts, |folder| {
            let part = path.part();
            match rustix::fs::renameat(folder, part.file_name(), folder, path.file_name()) {
                Ok(()) => Ok(()),
                Err(Errno::ISDIR) => Err(not_a_file(path, Kind::Conflict)),
                Err(error) => Err(refusal(error, format!("renaming {part} to {path}"))),
            }
        })
    }

    fn read(&mut self, path: &ArchivePath, offset: u64, into: &mut dyn Write) -> Result<u64> {
        let mut file = self.open_file(path)?;
        file.seek(SeekFrom::Start(offset)).context(|| format!("seeking in {path}"))?;
        let mut buffer = vec![0; READ_BYTES];
        let mut copied = 0;
        loop {
            let n = match file.read(&mut buffer) {
                Ok(0) => return Ok(copied),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io(format!("reading {path}"), error)),
            };
            into.write_all(&buffer[..n]).context(|| format!("storing what was read of {path}"))?;
            copied += n as u64;
        }
    }

    fn list(&mut self, folder: &ArchivePath) -> Result<Vec<Entry>> {
        let Some(at) = self.open_folder(Some(folder))? else { return Ok(Vec::new()) };
        let listing = |error| refusal(error, format!("listing {folder}"));
        let mut entries = Vec::new();
        for item in Dir::read_from(&at).map_err(listing)? {
            let item = item.map_err(listing)?;
            let name = item.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Some(plain) = name.to_str().ok().filter(|name| folder.join(name).is_ok()) else {
                tracing::warn!(folder = %folder, name = ?name, "foreign name in the archive passed over");
                continue;
            };
            // What was removed meanwhile is not listed.
            entries.extend(entry_at(&at, plain).map_err(listing)?);
        }
        entries.sort();
        Ok(entries)
    }

    fn stat(&mut self, path: &ArchivePath) -> Result<Option<Entry>> {
        let Some(folder) = self.open_folder(path.parent().as_ref())? else { return Ok(None) };
        entry_at(&folder, path.file_name()).map_err(|error| refusal(error, format!("looking at {path}")))
    }

    fn remove(&mut self, path: &ArchivePath) -> Result<bool> {
        let Some(folder) = self.open_folder(path.parent().as_ref())? else { return Ok(false) };
        let removing = |error| match error {
            Errno::NOTEMPTY | Errno::EXIST => {
                Error::new(Kind::Conflict, format!("the folder {path} is not empty"))
            }
            error => refusal(error, format!("removing {path}")),
        };
        let Some(entry) = entry_at(&folder, path.file_name()).map_err(removing)? else { return Ok(false) };
        let flags = if entry.kind == EntryKind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(&folder, path.file_name(), flags) {
            Ok(()) => sync(&folder, path.as_str()).map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(removing(error)),
        }
    }

    fn changed_at(&mut self, path: &ArchivePath) -> Result<Option<Timestamp>> {
        let Some(folder) = self.open_folder(path.parent().as_ref())? else { return Ok(None) };
        match rustix::fs::statat(&folder, path.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(at_second(stat.st_mtime)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(refusal(error, format!("looking at {path}"))),
        }
    }

    fn room(&mut self) -> Result<Option<u64>> {
        let asked = rustix::fs::fstatvfs(self.open_base()?);
        let room =
            asked.map_err(|error| refusal(error, format!("asking for the room in {}", self.location)))?;
        Ok(Some(room.f_bavail.saturating_mul(room.f_frsize)))
    }
}

fn parts(folder: Option<&ArchivePath>) -> impl Iterator<Item = &str> {
    folder.into_iter().flat_map(|folder| folder.as_str().split('/'))
}

fn step(at: &OwnedFd, part: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(at, part, flags, Mode::empty())
}

fn step_refusal(error: Errno, folder: Option<&ArchivePath>) -> Error {
    match (error, folder) {
        (Errno::NOTDIR | Errno::LOOP, Some(folder)) => not_a_folder(folder),
        (error, folder) => {
            let name = folder.map_or("archive_dir", ArchivePath::as_str);
            refusal(error, format!("opening the folder {name}"))
        }
    }
}

fn create_part(folder: &OwnedFd, part: &ArchivePath) -> Result<File> {
    // Exclusive: what an earlier run left is removed, not written into. It could be a link to elsewhere.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create = || rustix::fs::openat(folder, part.file_name(), flags, Mode::RUSR | Mode::WUSR);
    let created = match create() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(folder, part.file_name(), AtFlags::empty()).and_then(|()| create())
        }
        other => other,
    };
    created
        .map(File::from)
        .map_err(|error| disk::name_what_is_full_in(refusal(error, format!("creating {part}")), folder))
}

fn rename_onto_free_name(folder: &OwnedFd, path: &ArchivePath) -> Result<()> {
    let part = path.part();
    let (from, to) = (part.file_name(), path.file_name());
    let renamed = match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        // NFS and some others know only the plain rename. Nobody else writes here (one archiver per archive),
        // and the name was free a moment ago.
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(folder, from, folder, to),
        other => other,
    };
    match renamed {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            Err(Error::new(Kind::Conflict, format!("{path} came into being while it was written"))
                .hint("a second archiver writes to this archive: stop one of them"))
        }
        Err(error) => Err(refusal(error, format!("renaming {part} to {path}"))),
    }
}

fn entry_at(folder: &OwnedFd, name: &str) -> rustix::io::Result<Option<Entry>> {
    let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        _ => EntryKind::Other,
    };
    Ok(Some(Entry { name: name.to_owned(), kind, bytes: u64::try_from(stat.st_size).unwrap_or(0) }))
}

/// After a failed flush the kernel may have dropped the pages and say yes the next time: the caller starts
/// over with a new file.
fn sync(file: impl std::os::fd::AsFd, name: &str) -> Result<()> {
    rustix::fs::fsync(file).map_err(|error| refusal(error, format!("flushing {name} to disk")))
}

fn refusal(error: Errno, doing: String) -> Error {
    write_refusal(error.into(), doing)
}

fn write_refusal(error: io::Error, doing: String) -> Error {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => Error::new(Kind::Refused, doing)
            .caused_by(error)
            .hint("the file system is mounted read-only: look why (an error of the disk?), then remount it"),
        // A limit on the size of a file acts as a quota does.
        io::ErrorKind::FileTooLarge => Error::new(Kind::NoSpace, doing).caused_by(error),
        _ => Error::io(doing, error),
    }
}
