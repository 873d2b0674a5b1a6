//! The folder where files of the archive lie while they are applied. Its bytes are bounded, and a download that
//! stopped goes on where it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use syncdata_archive::Archive;
use syncdata_formats::error::{Context, Error, Result};
use syncdata_formats::layout::{ArchivePath, SegmentFile, SegmentName};
use syncdata_formats::manifest::ChangeFile;
use syncdata_service::own_files;
use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::archive::elsewhere::elsewhere;

/// Its bytes are counted in these.
const PERMIT_BYTES: u64 = 64 << 10;
/// Of a download that is not whole yet.
const PART_ENDING: &str = ".part";

#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    room: Arc<Semaphore>,
    permits: u32,
    /// Goes with the last of us.
    _elsewhere: Option<Arc<TempDir>>,
}

/// A share of the cache's bytes, held as long as the files are.
#[derive(Debug)]
pub(super) struct Room {
    _permit: OwnedSemaphorePermit,
}

impl Cache {
    /// For one command by hand: where the place belongs to another account, a folder that vanishes with the command.
    pub(super) fn open_by_hand(folder: PathBuf, bytes_max: u64) -> Result<Cache> {
        match elsewhere(&folder)? {
            Some(place) => {
                let cache = Cache::open(place.path().to_owned(), bytes_max)?;
                Ok(Cache { _elsewhere: Some(Arc::new(place)), ..cache })
            }
            None => Cache::open(folder, bytes_max),
        }
    }

    pub(super) fn open(folder: PathBuf, bytes_max: u64) -> Result<Cache> {
        own_files::refuse_in_the_way(&folder)?;
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&folder);
        made.context(|| format!("making the cache folder {}", folder.display()))?;
        own_files::check_folder(&folder)?;
        let permits = u32::try_from((bytes_max / PERMIT_BYTES).clamp(1, 1 << 20)).expect("clamped");
        Ok(Cache { folder, room: Arc::new(Semaphore::new(permits as usize)), permits, _elsewhere: None })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Removes the change files that nobody needs any more: a pass that was killed leaves what it has applied.
    pub(super) fn sweep(&self, is_needed: impl Fn(SegmentName) -> bool) -> Result<()> {
        let reading = || format!("reading the cache folder {}", self.folder.display());
        for entry in fs::read_dir(&self.folder).context(reading)? {
            let name = entry.context(reading)?.file_name();
            let Some(name) = name.to_str() else { continue };
            let whole = name.strip_suffix(PART_ENDING).unwrap_or(name);
            if let Some(SegmentFile::Changes(segment)) = SegmentFile::parse(whole)
                && !is_needed(segment)
            {
                remove(&self.folder.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes the folder with all that is in it.
    pub(super) fn remove(&self) -> Result<()> {
        let removing = || format!("emptying the cache folder {}", self.folder.display());
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(removing)?,
            _ => Ok(()),
        }
    }

    /// Waits until there is room. A file above the whole bound may come too, alone.
    pub(super) async fn room(&self, bytes: u64) -> Room {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX).min(self.permits);
        let permit = Arc::clone(&self.room).acquire_many_owned(permits).await;
        Room { _permit: permit.expect("the semaphore is never closed") }
    }

    /// Whether there is room beside what is held now.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        bytes.div_ceil(PERMIT_BYTES) <= self.room.available_permits() as u64
    }
}

/// What a download is called until it is whole.
pub(super) fn part_of(cached: &Path) -> PathBuf {
    let mut name = cached.as_os_str().to_owned();
    name.push(PART_ENDING);
    PathBuf::from(name)
}

/// Reads the rest of a file of `bytes` into `part`, as long as somebody holds what `awaited` points to.
pub(super) fn resume(
    archive: &mut dyn Archive,
    path: &ArchivePath,
    part: &Path,
    bytes: u64,
    awaited: Weak<()>,
) -> Result<u64> {
    let opening = || format!("writing {}", part.display());
    is_awaited(&awaited).context(opening)?;
    let mut options = OpenOptions::new();
    let mut file = own_files::open_plain(part, options.create(true).append(true).mode(0o600))?;
    own_files::check_file(&file, part)?;
    let mut have = file.metadata().context(opening)?.len();
    if have > bytes {
        file.set_len(0).context(opening)?;
        have = 0;
    }
    // A server that sends without end fills the cache by one byte more than promised.
    archive.read(path, have, &mut Bounded { file: &mut file, left: bytes + 1 - have, awaited })
}

/// Holds a file against what its manifest promises.
pub(super) async fn check(file: &ChangeFile, cached: &Path) -> Result<()> {
    let (file, path) = (file.clone(), cached.to_owned());
    let checked = tokio::task::spawn_blocking(move || {
        let mut source = own_files::read_plain(&path)?;
        file.check(&mut source)
    });
    checked.await.expect("checking a file does not panic")
}

pub(super) fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", file.display()), error))
        }
        _ => Ok(()),
    }
}

/// Takes no more than it should.
struct Bounded<'a> {
    file: &'a mut File,
    left: u64,
    awaited: Weak<()>,
}

/// A job goes on when nobody waits for it any more; then another one may be writing into the same file.
fn is_awaited(awaited: &Weak<()>) -> io::Result<()> {
    match awaited.strong_count() {
        0 => Err(io::Error::other("nobody waits for it any more")),
        _ => Ok(()),
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        is_awaited(&self.awaited)?;
        let fits = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if fits == 0 && !bytes.is_empty() {
            return Err(io::Error::other("the file is longer than its manifest says"));
        }
        let written = self.file.write(&bytes[..fits])?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
