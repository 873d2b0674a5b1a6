//! The archive on the backup host: a dumb place for files. Three implementations (a local directory, SFTP, object
//! storage) keep the same promises, and one suite of tests runs against all.
//!
//! The trait blocks, because libssh2 does; `ArchiveHandle` runs it on a thread of its own.

mod content;
mod directory;
mod handle;
pub mod listing;
mod patience;
pub mod probe;
pub mod proofs;
mod rolled;
pub mod rollups;
mod s3;
mod sftp;
pub mod small;
pub mod snapshots;
pub mod verify;

use std::io::{self, Read, Seek, Write};

pub use directory::DirectoryArchive;
pub use handle::ArchiveHandle;
pub use patience::Patience;
pub use rolled::{Prefer, Rolled};
pub use s3::S3Archive;
pub use sftp::SftpArchive;

use syncdata_formats::digest::Digest;
use syncdata_formats::error::Result;
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::ArchiveSettings;

/// Connects to nobody yet: an absent backup host is an error of the first operation, not of the start. What is in
/// roll-ups is read out of them.
pub fn open(settings: &ArchiveSettings) -> Result<Box<dyn Archive>> {
    open_preferring(settings, Prefer::RollUps)
}

/// Where segments lie alone and in a roll-up, one of the two is read.
pub fn open_preferring(settings: &ArchiveSettings, prefer: Prefer) -> Result<Box<dyn Archive>> {
    let plain: Box<dyn Archive> = match settings {
        ArchiveSettings::Directory(dir) => Box::new(DirectoryArchive::new(dir)),
        ArchiveSettings::Sftp(settings) => Box::new(SftpArchive::new(settings)?),
        ArchiveSettings::S3(settings) => Box::new(S3Archive::new(settings)),
    };
    Ok(Box::new(Rolled::new(plain, prefer)))
}

/// What is put: read from the start, perhaps more than once.
pub trait Content: Read + Seek + Send {}
impl<T: Read + Seek + Send> Content for T {}

/// What the putter knows about the content beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub bytes: u64,
    pub sha256: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Written,
    /// The file was there already, with the same content.
    AlreadyThere,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// A plain file name; foreign, so not yet one of ours.
    pub name: String,
    pub kind: EntryKind,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    File,
    /// A file of a segment that is only in a roll-up.
    Rolled,
    Directory,
    /// A symbolic link, a device: never followed.
    Other,
}

pub trait Archive: Send {
    /// For messages: the folder, `sftp://user@host:port/folder`, or `s3://bucket/prefix`.
    fn location(&self) -> &str;

    /// Puts a file that never changes again. Once this has returned:
    ///
    /// - the file is whole: nobody has seen, or will see, a part of it under its name, whenever we are killed;
    /// - it is durable: a power cut of the backup host does not take it back, as far as the server can promise;
    /// - it was put once: the same content under that name is success (`AlreadyThere`, which is durable as well),
    ///   other content is `Kind::Conflict`, and what was there stays;
    /// - content that is not what `facts` say is `Kind::Corrupt` and gets no name.
    ///
    /// How that comes about is each implementation's business; what it leaves when it is killed is passed over by
    /// all who read, and is cleared away by the next `put` of that name.
    fn put(&mut self, path: &ArchivePath, content: &mut dyn Content, facts: Facts) -> Result<Put>;

    /// Replaces a small file as atomically as the server can: readers see the old content, the new, or, where a
    /// server cannot replace in one step, for a moment none.
    fn replace(&mut self, path: &ArchivePath, content: &[u8]) -> Result<()>;

    /// Copies the file from `offset` on; the number of bytes copied. `Kind::NotFound` when there is none.
    /// `into` may have received bytes when this fails: resume after them.
    fn read(&mut self, path: &ArchivePath, offset: u64, into: &mut dyn Write) -> Result<u64>;

    /// Copies no more than `bytes` from `offset` on, fewer where the file ends.
    fn read_part(
        &mut self,
        path: &ArchivePath,
        offset: u64,
        bytes: u64,
        into: &mut dyn Write,
    ) -> Result<u64> {
        let mut stretch = Stretch { into, left: bytes };
        match self.read(path, offset, &mut stretch) {
            Err(_) if stretch.left == 0 => Ok(bytes),
            read => read,
        }
    }

    /// The entries of a folder, sorted by name; empty when there is no such folder.
    fn list(&mut self, folder: &ArchivePath) -> Result<Vec<Entry>>;

    /// Those after a name, in the order of names. Where a server lists all of a folder at once, nothing is won by it.
    fn list_after(&mut self, folder: &ArchivePath, name: &str) -> Result<Vec<Entry>> {
        let mut entries = self.list(folder)?;
        entries.retain(|entry| entry.name.as_str() > name);
        Ok(entries)
    }

    /// The entry of that path (links are not followed), `None` when there is none.
    fn stat(&mut self, path: &ArchivePath) -> Result<Option<Entry>>;

    /// Removes a file or an empty folder; false when it was not there.
    fn remove(&mut self, path: &ArchivePath) -> Result<bool>;

    /// When the file was written last, by the clock of the host that it lies on; `None` where that is not said.
    fn changed_at(&mut self, path: &ArchivePath) -> Result<Option<Timestamp>>;

    /// Bytes that are free for us where the archive lies; `None` where that is not said.
    fn room(&mut self) -> Result<Option<u64>>;

    /// Tries, with a file of that name and content, whether a name that is taken stays as it is, where that is up to the
    /// store and not to us: `Kind::Refused` if it does not. False where there is nothing to try. The file may stay.
    fn keeps_names(&mut self, _path: &ArchivePath, _content: &[u8]) -> Result<bool> {
        Ok(false)
    }
}

/// Takes so many bytes, and then no more.
struct Stretch<'a> {
    into: &'a mut dyn Write,
    left: u64,
}

impl Write for Stretch<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if fits == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let written = self.into.write(&bytes[..fits])?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

fn at_second(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_micros(seconds.checked_mul(1_000_000)?).ok()
}
