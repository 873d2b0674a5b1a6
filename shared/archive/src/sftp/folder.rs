//! What an archive does, over one connection and without repetition. No symbolic link of the server is
//! followed below the archive's own folder, and no name that it lists is trusted.

use std::cell::Cell;
use std::io::{Cursor, Read as _, Seek as _, SeekFrom, Write};
use std::path::Path;

use libssh2_sys as raw;
use ssh2::{ErrorCode, File, FileStat, OpenFlags, OpenType};

use super::super::content::{PIECE_BYTES, conflict, no_base, not_a_file, not_a_folder, pour};
use super::super::{Content, Entry, EntryKind, Facts, Put, at_second};
use super::connection::Connection;
use syncdata_formats::digest::Hashing;
use syncdata_formats::error::{Context, Error, Kind, Result};
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::time::Timestamp;
use syncdata_service::faults;

const FOLDER_MODE: i32 = 0o700;
const FILE_MODE: i32 = 0o600;
/// libssh2 reads ahead by a multiple of the piece it is asked for: 4 MiB keep a line with 50 ms of round trip
/// busy.
const READ_BYTES_MAX: usize = PIECE_BYTES;
const READ_BYTES_MIN: usize = 32 * 1024;
/// Ten times what a decade of segments a minute apart makes in one folder of a day; more is no archive.
const LIST_ENTRIES_MAX: usize = 1_000_000;

/// The archive's folder on the server.
pub(super) struct RemoteFolder<'a> {
    connection: &'a Connection,
    base: &'a str,
    location: &'a str,
}

impl<'a> RemoteFolder<'a> {
    pub(super) fn new(connection: &'a Connection, base: &'a str, location: &'a str) -> RemoteFolder<'a> {
        RemoteFolder { connection, base, location }
    }

    pub(super) fn put(&self, path: &ArchivePath, content: &mut dyn Content, facts: Facts) -> Result<Put> {
        self.make_folder(path.parent().as_ref())?;
        if let Some(entry) = self.lstat(path)? {
            return self.accept_existing(path, &entry, facts);
        }
        self.publish(path, content, facts, || self.rename_onto_free_name(path))?;
        Ok(Put::Written)
    }

    pub(super) fn replace(&self, path: &ArchivePath, content: &[u8], facts: Facts) -> Result<()> {
        self.make_folder(path.parent().as_ref())?;
        self.publish(path, &mut Cursor::new(content), facts, || self.rename_over(path))
    }

    /// Copies from `offset + copied` on, no more than `bytes_max` from `offset` on, and counts in `copied`, which is right
    /// in case of an error too.
    pub(super) fn read(
        &self,
        path: &ArchivePath,
        offset: u64,
        bytes_max: Option<u64>,
        copied: &mut u64,
        into: &mut dyn Write,
    ) -> Result<()> {
        let missing = || Error::new(Kind::NotFound, format!("{path} does not exist in {}", self.location));
        let entry = self.stat(path)?.ok_or_else(missing)?;
        if entry.kind != EntryKind::File {
            return Err(not_a_file(path, Kind::Foreign));
        }
        let from = offset + *copied;
        let mut file = self.open_to_read(path)?;
        file.seek(SeekFrom::Start(from)).context(|| format!("seeking in {path}"))?;
        // One more than is left, to see the end; no more, because requests beyond it are sent in vain.
        let left = entry.bytes.saturating_sub(from).saturating_add(1);
        let left = bytes_max.map_or(left, |max| left.min(max - *copied));
        let mut buffer =
            vec![0; usize::try_from(left).map_or(READ_BYTES_MAX, |left| left.min(READ_BYTES_MAX))];
        // When the line breaks within a piece, libssh2 throws away what it had of it: a line that breaks often
        // gets on only if pieces are small at first.
        let mut window = READ_BYTES_MIN;
        loop {
            let wanted = bytes_max.map_or(u64::MAX, |max| max - *copied);
            if wanted == 0 {
                return Ok(());
            }
            let piece = window.min(buffer.len()).min(usize::try_from(wanted).unwrap_or(usize::MAX));
            let n = file.read(&mut buffer[..piece]).map_err(|error| {
                self.connection.failure(format!("reading {path}"), self.connection.stream_failure(&error))
            })?;
            if n == 0 {
                return Ok(());
            }
            into.write_all(&buffer[..n]).context(|| format!("storing what was read of {path}"))?;
            *copied += n as u64;
            window = READ_BYTES_MAX.min(window * 2);
        }
    }

    pub(super) fn list(&self, folder: &ArchivePath) -> Result<Vec<Entry>> {
        if !self.enter(Some(folder))? {
            return Ok(Vec::new());
        }
        let listing = |error| self.connection.failure(format!("listing {folder}"), error);
        let mut open = self.connection.sftp().opendir(self.full(folder)).map_err(listing)?;
        let mut entries = Vec::new();
        let mut seen = 0;
        loop {
            let (name, stat) = match open.readdir() {
                Ok(found) => found,
                Err(error) if error.code() == ErrorCode::Session(raw::LIBSSH2_ERROR_FILE) => break,
                Err(error) => return Err(listing(error)),
            };
            seen += 1;
            if seen > LIST_ENTRIES_MAX {
                return Err(Error::new(Kind::Foreign, format!("the folder {folder} has no end of entries")));
            }
            entries.extend(self.listed(folder, &name, &stat)?);
        }
        entries.sort();
        Ok(entries)
    }

    pub(super) fn stat(&self, path: &ArchivePath) -> Result<Option<Entry>> {
        if !self.enter(path.parent().as_ref())? {
            return Ok(None);
        }
        let found = self.lstat(path)?;
        if found.is_none() && path.parent().is_none() {
            self.require_base()?;
        }
        Ok(found)
    }

    pub(super) fn remove(&self, path: &ArchivePath) -> Result<bool> {
        let Some(entry) = self.stat(path)? else { return Ok(false) };
        let (full, sftp) = (self.full(path), self.connection.sftp());
        let removed = match entry.kind {
            EntryKind::Directory => sftp.rmdir(Path::new(&full)),
            EntryKind::File | EntryKind::Rolled | EntryKind::Other => sftp.unlink(Path::new(&full)),
        };
        match removed {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            // All that the server says of a folder in use.
            Err(error) if is_unexplained(&error) && entry.kind == EntryKind::Directory => {
                Err(Error::new(Kind::Conflict, format!("the folder {path} is not empty")).caused_by(error))
            }
            Err(error) => Err(self.explained(format!("removing {path}"), error)),
        }
    }

    pub(super) fn changed_at(&self, path: &ArchivePath) -> Result<Option<Timestamp>> {
        if !self.enter(path.parent().as_ref())? {
            return Ok(None);
        }
        match self.connection.sftp().lstat(Path::new(&self.full(path))) {
            Ok(stat) => Ok(stat.mtime.and_then(|mtime| i64::try_from(mtime).ok()).and_then(at_second)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.connection.failure(format!("looking at {path}"), error)),
        }
    }

    pub(super) fn room(&self) -> Option<u64> {
        self.connection.room(self.base()).map(|room| room.bytes_free)
    }

    /// Equal content under that name is as good as written, once it is durable: the connection may have broken
    /// before that.
    fn accept_existing(&self, path: &ArchivePath, entry: &Entry, wanted: Facts) -> Result<Put> {
        if entry.kind != EntryKind::File {
            return Err(not_a_file(path, Kind::Conflict));
        }
        let mut counted = Hashing::new(std::io::sink());
        self.read(path, 0, None, &mut 0, &mut counted)?;
        let (_, sha256, bytes) = counted.finish();
        let found = Facts { bytes, sha256 };
        if found != wanted {
            return Err(conflict(path, found, wanted));
        }
        self.flush_name(path)?;
        Ok(Put::AlreadyThere)
    }

    fn publish(
        &self,
        path: &ArchivePath,
        content: &mut dyn Content,
        facts: Facts,
        rename: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let published = self
            .write_part(path, content, facts)
            .and_then(|()| faults::hit("archive.before_rename"))
            .and_then(|()| rename());
        if published.is_err() && !self.connection.is_broken() {
            // Best effort: on a full disk the part would be what keeps it full.
            let _ = self.connection.sftp().unlink(Path::new(&self.full(&path.part())));
        }
        published?;
        faults::hit("archive.after_rename")?;
        self.flush_name(path)
    }

    /// Writes `<name>.part`, flushes it and checks its size.
    fn write_part(&self, path: &ArchivePath, content: &mut dyn Content, facts: Facts) -> Result<()> {
        let part = path.part();
        let mut file = self.create(&part)?;
        let done = Cell::new(0_u64);
        pour(path, content, facts, |piece| {
            file.write_all(piece).map_err(|error| {
                self.write_failure(&part, facts.bytes - done.get(), self.connection.stream_failure(&error))
            })?;
            done.set(done.get() + piece.len() as u64);
            Ok(())
        })?;
        faults::hit("archive.part_written")?;
        self.flush(&mut file, &part)?;
        let stat =
            file.stat().map_err(|error| self.connection.failure(format!("looking at {part}"), error))?;
        file.close().map_err(|error| self.explained(format!("closing {part}"), error))?;
        match stat.size {
            Some(bytes) if bytes == facts.bytes => Ok(()),
            found => Err(Error::new(
                Kind::Io,
                format!("{part} has {} bytes after {} were written", found.unwrap_or(0), facts.bytes),
            )
            .hint("look at the disk of the backup host")),
        }
    }

    fn create(&self, part: &ArchivePath) -> Result<File> {
        let full = self.full(part);
        let open = |flags| self.connection.sftp().open_mode(&full, flags, FILE_MODE, OpenType::File);
        match open(OpenFlags::WRITE | OpenFlags::EXCLUSIVE) {
            Ok(file) => return Ok(file),
            // It may be there from an earlier run, which the server does not tell from other troubles.
            Err(error) if is_unexplained(&error) => {}
            Err(error) => return Err(self.connection.failure(format!("creating {part}"), error)),
        }
        match self.lstat(part)? {
            Some(entry) if entry.kind != EntryKind::File => Err(not_a_file(part, Kind::Conflict)),
            // Truncated and not removed: an account may be forbidden to remove.
            _ => open(OpenFlags::WRITE | OpenFlags::TRUNCATE)
                .map_err(|error| self.explained(format!("creating {part}"), error)),
        }
    }

    fn rename_onto_free_name(&self, path: &ArchivePath) -> Result<()> {
        let (part, name) = (self.full(&path.part()), self.full(path));
        // SFTP's rename never replaces: a name that was taken meanwhile is an error.
        let Err(error) = self.connection.sftp().rename(Path::new(&part), Path::new(&name), None) else {
            return Ok(());
        };
        if is_unexplained(&error) && self.lstat(path)?.is_some() {
            return Err(Error::new(Kind::Conflict, format!("{path} came into being while it was written"))
                .hint("a second archiver writes to this archive: stop one of them"));
        }
        Err(self.explained(format!("renaming {} to {path}", path.part()), error))
    }

    fn rename_over(&self, path: &ArchivePath) -> Result<()> {
        let (part, name) = (self.full(&path.part()), self.full(path));
        if let Some(extensions) = self.connection.extensions()? {
            match extensions.posix_rename(&part, &name) {
                Ok(()) => return Ok(()),
                Err(error) if is_unsupported(&error) => {}
                Err(error) => return Err(self.rename_over_failure(path, error)),
            }
        }
        // For a moment there is no such file: readers take that for a stale one.
        match self.connection.sftp().unlink(Path::new(&name)) {
            Ok(()) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(self.rename_over_failure(path, error)),
        }
        self.rename_onto_free_name(path)
    }

    fn rename_over_failure(&self, path: &ArchivePath, error: ssh2::Error) -> Error {
        let is_file = |entry: Entry| entry.kind == EntryKind::File;
        if is_unexplained(&error) && self.lstat(path).is_ok_and(|found| !found.is_none_or(is_file)) {
            return not_a_file(path, Kind::Conflict);
        }
        self.explained(format!("replacing {path}"), error)
    }

    /// The name is durable when the file is flushed under it: there is no flush for folders, but journalling
    /// file systems commit the rename with the file.
    fn flush_name(&self, path: &ArchivePath) -> Result<()> {
        match self.open_to_read(path) {
            Ok(mut file) => self.flush(&mut file, path),
            // An account that writes need not be allowed to read.
            Err(error) if error.kind() == Kind::Refused => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn flush(&self, file: &mut File, name: &ArchivePath) -> Result<()> {
        match file.fsync() {
            Ok(()) => Ok(()),
            Err(error) if is_unsupported(&error) => {
                tracing::debug!(file = %name, "the backup host cannot flush files on request");
                Ok(())
            }
            Err(error) => Err(self.explained(format!("flushing {name}"), error)),
        }
    }

    fn open_to_read(&self, path: &ArchivePath) -> Result<File> {
        let opened = self.connection.sftp().open(self.full(path));
        opened.map_err(|error| self.connection.failure(format!("opening {path}"), error))
    }

    /// Whether the folder is there, having looked at each step that it is none of the server's links.
    fn enter(&self, folder: Option<&ArchivePath>) -> Result<bool> {
        for step in steps(folder) {
            match self.lstat(&step)? {
                Some(entry) if entry.kind == EntryKind::Directory => {}
                Some(_) => return Err(not_a_folder(&step)),
                None => return self.require_base().map(|()| false),
            }
        }
        Ok(true)
    }

    fn make_folder(&self, folder: Option<&ArchivePath>) -> Result<()> {
        if folder.is_none() {
            return self.require_base();
        }
        for step in steps(folder) {
            match self.lstat(&step)? {
                Some(entry) if entry.kind == EntryKind::Directory => continue,
                Some(_) => return Err(not_a_folder(&step)),
                None => self.require_base()?,
            }
            let made = self.connection.sftp().mkdir(Path::new(&self.full(&step)), FOLDER_MODE);
            made.map_err(|error| self.explained(format!("making the folder {step}"), error))?;
        }
        Ok(())
    }

    /// The archive's own folder, which may be a link: the operator named it.
    fn require_base(&self) -> Result<()> {
        match self.connection.sftp().stat(Path::new(self.base())) {
            Ok(stat) if entry_kind(&stat) == EntryKind::Directory => Ok(()),
            Ok(_) => {
                Err(Error::new(Kind::BadInput, format!("archive_dir {} is not a directory", self.location)))
            }
            Err(error) if is_missing(&error) => Err(no_base(self.location)),
            Err(error) => Err(self.connection.failure("looking at archive_dir", error)),
        }
    }

    fn lstat(&self, path: &ArchivePath) -> Result<Option<Entry>> {
        match self.connection.sftp().lstat(Path::new(&self.full(path))) {
            Ok(stat) => Ok(Some(entry(path.file_name(), &stat))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.connection.failure(format!("looking at {path}"), error)),
        }
    }

    fn listed(&self, folder: &ArchivePath, name: &Path, stat: &FileStat) -> Result<Option<Entry>> {
        if name == Path::new(".") || name == Path::new("..") {
            return Ok(None);
        }
        let Some(path) = name.to_str().and_then(|name| folder.join(name).ok()) else {
            tracing::warn!(folder = %folder, name = ?name, "foreign name in the archive passed over");
            return Ok(None);
        };
        // A server may list names without saying what they are.
        if stat.perm.is_none() || stat.size.is_none() {
            return self.lstat(&path);
        }
        Ok(Some(entry(path.file_name(), stat)))
    }

    fn write_failure(&self, part: &ArchivePath, bytes_left: u64, error: ssh2::Error) -> Error {
        let doing = format!("writing {part}");
        if !is_unexplained(&error) {
            return self.connection.failure(doing, error);
        }
        let room = self.connection.room(self.base());
        let free = room.map_or(u64::MAX, |room| room.bytes_free);
        if room.is_some_and(|room| room.read_only) || free < bytes_left {
            return self.explained_by_room(doing, bytes_left, error);
        }
        // Nothing else makes a write to an open file fail while there is room.
        Error::new(
            Kind::NoSpace,
            format!("{doing}: the server refuses more, a quota or a limit on file sizes is reached"),
        )
        .caused_by(error)
        .hint("raise the quota of the account on the backup host, or free space in it")
    }

    /// "Failure" is all that SFTP 3 says of a full or read-only disk: the file system knows more.
    fn explained(&self, doing: String, error: ssh2::Error) -> Error {
        if is_unexplained(&error) {
            self.explained_by_room(doing, 1, error)
        } else {
            self.connection.failure(doing, error)
        }
    }

    fn explained_by_room(&self, doing: String, bytes_wanted: u64, error: ssh2::Error) -> Error {
        let Some(room) = self.connection.room(self.base()) else {
            return self.connection.failure(format!("{doing}: the server gives no reason"), error);
        };
        if room.read_only {
            return Error::new(
                Kind::Refused,
                format!("{doing}: the disk of the backup host is mounted read-only"),
            )
            .caused_by(error)
            .hint("look why (an error of the disk?), then remount it");
        }
        if room.files_full {
            return Error::new(
                Kind::NoSpace,
                format!("{doing}: the file system of the backup host has no inode left"),
            )
            .caused_by(error)
            .hint("remove files there, or give it more inodes");
        }
        if room.bytes_free < bytes_wanted {
            return Error::new(
                Kind::NoSpace,
                format!("{doing}: the disk of the backup host is full, {} bytes are free", room.bytes_free),
            )
            .caused_by(error)
            .hint("free space on the backup host; nothing is lost, the next attempt begins anew");
        }
        self.connection.failure(format!("{doing}: the server gives no reason"), error)
    }

    fn base(&self) -> &str {
        if self.base.is_empty() { "/" } else { self.base }
    }

    fn full(&self, path: &ArchivePath) -> String {
        format!("{}/{path}", self.base)
    }
}

/// `a`, `a/b`, `a/b/c` of `a/b/c`.
fn steps(folder: Option<&ArchivePath>) -> Vec<ArchivePath> {
    let mut steps: Vec<_> = std::iter::successors(folder.cloned(), ArchivePath::parent).collect();
    steps.reverse();
    steps
}

fn entry(name: &str, stat: &FileStat) -> Entry {
    Entry { name: name.to_owned(), kind: entry_kind(stat), bytes: stat.size.unwrap_or(0) }
}

fn entry_kind(stat: &FileStat) -> EntryKind {
    if stat.is_file() {
        EntryKind::File
    } else if stat.is_dir() {
        EntryKind::Directory
    } else {
        EntryKind::Other
    }
}

fn is_missing(error: &ssh2::Error) -> bool {
    matches!(error.code(), ErrorCode::SFTP(raw::LIBSSH2_FX_NO_SUCH_FILE | raw::LIBSSH2_FX_NO_SUCH_PATH))
}

fn is_unexplained(error: &ssh2::Error) -> bool {
    matches!(error.code(), ErrorCode::SFTP(raw::LIBSSH2_FX_FAILURE | raw::LIBSSH2_FX_FILE_ALREADY_EXISTS))
}

/// A server that was told not to offer a request (`sftp-server -P`) calls it a lack of permission.
fn is_unsupported(error: &ssh2::Error) -> bool {
    matches!(
        error.code(),
        ErrorCode::SFTP(raw::LIBSSH2_FX_OP_UNSUPPORTED | raw::LIBSSH2_FX_PERMISSION_DENIED)
    )
}
