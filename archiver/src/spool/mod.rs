//! The spool: what was read and is not yet safe elsewhere, on this host's disk.
//!
//! It lies as the archive does (`segments/<day>/…`), so that shipping is copying. A segment is in the spool when
//! its manifest is; a change file alone is a leftover of a crash and is read again from the slot. `state.json`
//! holds what no segment can say: whose spool this is, how far an idle slot has come, what was shipped. `reserve` is
//! room for it on a full disk.
//!
//! Every write is durable when the function returns: synced under a temporary name, renamed, folder synced.

pub(crate) mod executions;
pub(crate) mod holdings;
pub(crate) mod verified;

mod durable;
mod offered_snapshot;
mod snapshot_lock;
mod state;
mod stood;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::document::Document;
use syncdata_formats::error::Context as _;
use syncdata_formats::layout::{ArchivePath, SegmentFile, SegmentName, SegmentSeq};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Manifest;
use syncdata_formats::signature::SigningKey;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::disk;
use syncdata_service::faults;
use syncdata_service::own_files;
use syncdata_service::small_file;

use durable::{parent, read_folder, sync_folder, write_durably};
use state::{read_state, write_state};

pub(crate) use durable::{make_folder, private_file, remove_if_there};
pub(crate) use offered_snapshot::{ExportedSnapshot, OfferedSnapshot};
pub(crate) use snapshot_lock::SnapshotLock;
pub(crate) use state::{ArchivedCommit, HeldSnapshot, Keep, Last, LastBefore, Origin, State, Tip};
pub(crate) use stood::Stood;

/// Shipped files stay this long: a power cut on the backup host may take back what it said it had.
const KEPT_AFTER_SHIPPING: Duration = Duration::from_secs(24 * 60 * 60);

const MOVE_ASIDE: &str = "move the spool aside and start again: the position is then taken from the archive";

/// Many times the size of an ordinary state.
const RESERVE: &[u8] = &[0; 64 * 1024];

/// One archiver's spool, held by a lock that the kernel takes back when the process dies.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: Folder,
    state: State,
    segments: BTreeMap<SegmentSeq, Spooled>,
}

/// A spool folder that is locked by us.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    /// The last holder of it lets go.
    _lock: Arc<File>,
}

/// What opening a spool may find.
#[derive(Debug)]
pub(crate) enum Opened {
    /// Nobody has used it yet: `claim` makes it ours.
    New(Folder),
    Ours(Box<Spool>),
}

/// A segment in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spooled {
    pub name: SegmentName,
    pub day: Day,
    pub bytes: u64,
}

impl Folder {
    /// Makes the folder ours for good. Segments in it are those of a spool that has lost its state: they go on
    /// where the archive ends, or nothing is claimed. Passed over, their numbers would be given away twice.
    pub(crate) fn claim(&self, state: State) -> Result<Spool> {
        let mut spool = Spool { folder: self.clone(), state, segments: BTreeMap::new() };
        spool.scan()?;
        let mut tip = spool.state.chain_tip();
        for segment in spool.newer_than(spool.state.tip.seq()) {
            tip = spool.verified(&tip, &segment)?.tip();
        }
        write_state(&self.root, &spool.state)?;
        spool.follow_chain()?;
        // What the archive has under these numbers is what counts; a copy that nobody can vouch for is none.
        spool.make_room()?;
        Ok(spool)
    }
}

impl Opened {
    /// `None` while nobody has used the folder.
    pub(crate) fn spool(&self) -> Option<&Spool> {
        match self {
            Opened::Ours(spool) => Some(spool),
            Opened::New(_) => None,
        }
    }
}

impl Spool {
    /// Takes the spool for this process and sweeps out what a crash left half written.
    pub(crate) fn open(root: &Path) -> Result<Opened> {
        make_folder(root)?;
        let folder = Folder { root: root.to_owned(), _lock: Arc::new(lock(root)?) };
        let Some(state) = read_state(root)? else { return Ok(Opened::New(folder)) };
        let mut spool = Spool { folder, state, segments: BTreeMap::new() };
        spool.find_segments()?;
        Ok(Opened::Ours(Box::new(spool)))
    }

    /// Takes from the disk what is true. After a failed write memory may say less than the disk: a manifest
    /// that was written before the failure exists, and its number must not be given to another segment.
    pub(crate) fn reload(&mut self) -> Result<()> {
        let root = &self.folder.root;
        self.state = read_state(root)?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("the spool {} has lost its state.json", root.display()))
        })?;
        self.find_segments()
    }

    fn find_segments(&mut self) -> Result<()> {
        self.segments.clear();
        self.scan()?;
        self.follow_chain()
    }

    /// What a spool says of itself, without taking it: for `check`, whoever works in it.
    pub(crate) fn peek_state(root: &Path) -> Result<Option<State>> {
        read_state(root)
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Changes the state and writes it down before anybody can act on it.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.state.clone();
        change(&mut state);
        state.may_stand(self.state.covered_lsn);
        if state == self.state {
            return Ok(());
        }
        match write_state(&self.folder.root, &state) {
            Err(error) if error.kind() == Kind::NoSpace => {
                self.make_room()?;
                remove_if_there(&self.reserve())?;
                write_state(&self.folder.root, &state)?;
            }
            written => written?,
        }
        self.state = state;
        Ok(())
    }

    /// Room that is there for the state alone, on a disk that is full: without it nothing could be noted, and the
    /// WAL guard not act. Nothing is read while it cannot be had.
    pub(crate) fn keep_reserve(&self) -> Result<()> {
        let path = self.reserve();
        if fs::metadata(&path).is_ok_and(|facts| facts.len() >= RESERVE.len() as u64) {
            return Ok(());
        }
        let kept = write_durably(&path, RESERVE);
        if kept.is_err() {
            self.discard_scratch()?;
        }
        kept.context(|| "keeping a reserve for the spool's state".to_owned())
    }

    fn reserve(&self) -> PathBuf {
        self.folder.root.join("reserve")
    }

    /// All that committed up to here is safe at least in this spool.
    pub(crate) fn position(&self) -> Lsn {
        self.state.position()
    }

    /// The end of what was shipped; `None` when nothing is known to be.
    pub(crate) fn shipped_position(&self) -> Option<Lsn> {
        if self.unshipped().next().is_none() {
            return Some(self.state.tip.end_lsn);
        }
        let shipped = |segment: &&Spooled| segment.name.seq.get() <= self.state.shipped;
        self.segments.values().rev().find(shipped).map(|segment| segment.name.end_lsn)
    }

    /// Bytes of what only this spool holds.
    pub(crate) fn unshipped_bytes(&self) -> u64 {
        self.unshipped().map(|segment| segment.bytes).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    pub(crate) fn segment(&self, seq: SegmentSeq) -> Option<&Spooled> {
        self.segments.get(&seq)
    }

    pub(crate) fn segments(&self) -> impl DoubleEndedIterator<Item = &Spooled> {
        self.segments.values()
    }

    pub(crate) fn unshipped(&self) -> impl Iterator<Item = &Spooled> {
        let shipped = self.state.shipped;
        self.segments.values().filter(move |segment| segment.name.seq.get() > shipped)
    }

    pub(crate) fn path(&self, path: &ArchivePath) -> PathBuf {
        self.folder.root.join(path.as_str())
    }

    /// Where a change file is written before its name is known.
    pub(crate) fn scratch(&self, number: usize) -> Result<(PathBuf, File)> {
        let path = self.folder.root.join(format!("segment-{number}.part"));
        let file = private_file(&path)
            .context(|| format!("creating {}", path.display()))
            .map_err(|error| disk::name_what_is_full(error, &self.folder.root))?;
        Ok((path, file))
    }

    /// Gives up what was being written, so that its room is free. Others of the process write beside it (alerts, curves, what
    /// was done): theirs stay.
    pub(crate) fn discard_scratch(&self) -> Result<()> {
        let is_ours = |name: &str| {
            name.starts_with("segment-") && name.ends_with(".part")
                || matches!(name, "state.json.part" | "reserve.part")
        };
        for entry in read_folder(&self.folder.root)? {
            if entry.file_name().to_str().is_some_and(is_ours) {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Takes over segments that the archive has and this spool never saw.
    pub(crate) fn adopt(&mut self, verified: &Verified) -> Result<()> {
        self.update(|state| {
            let captured = &verified.manifest().capture;
            state.leave(|table| !captured.contains(table));
            state.follow(verified);
            state.shipped = state.shipped.max(state.tip.seq());
            state.add_gaps(&verified.manifest().gaps);
        })
    }

    /// Gives a finished change file its name. It is not part of the spool before its manifest is.
    pub(crate) fn keep_changes(&self, scratch: &Path, file: &File, to: &ArchivePath) -> Result<()> {
        let path = self.path(to);
        make_folder(parent(&path))?;
        // A failed fsync may have thrown the pages away: the file is given up, never synced again.
        file.sync_all().context(|| format!("syncing {}", scratch.display()))?;
        faults::hit("spool.changes_synced")?;
        fs::rename(scratch, &path)
            .context(|| format!("renaming {} to {}", scratch.display(), path.display()))?;
        sync_folder(parent(&path))?;
        faults::hit("spool.changes_renamed")
    }

    /// Adds a segment to the chain: from here on it exists.
    pub(crate) fn publish(
        &mut self,
        manifest: &Manifest,
        day: Day,
        signing_key: Option<&SigningKey>,
    ) -> Result<()> {
        let name = manifest.name();
        let bytes = manifest.encode();
        // What we would refuse to read must not be written.
        let verified = Verified::new(&self.state.chain_tip(), day, name, &bytes)
            .context(|| format!("checking the manifest of segment {}", name.seq))?;
        if let Some(key) = signing_key {
            // Before the manifest: where that is, its signature is too.
            let signature = key.sign(&bytes, &name.manifest_name())?;
            write_durably(&self.path(&name.signature(day)), &signature)?;
        }
        faults::hit("spool.before_manifest")?;
        write_durably(&self.path(&name.manifest(day)), &bytes)?;
        faults::hit("spool.manifest_written")?;
        self.append(&verified)
    }

    fn append(&mut self, verified: &Verified) -> Result<()> {
        self.add(verified.name(), verified.day());
        self.update(|state| {
            state.follow(verified);
            state.add_gaps(&verified.manifest().gaps);
        })
    }

    /// Notes that the backup host has all up to `seq`.
    pub(crate) fn mark_shipped(&mut self, seq: SegmentSeq, now: Timestamp) -> Result<()> {
        if let Some(segment) = self.segments.get(&seq) {
            let path = self.path(&segment.name.manifest(segment.day));
            // The manifest's time says since when it is shipped, which is what retention goes by.
            let file = own_files::open_plain(&path, OpenOptions::new().append(true))?;
            own_files::check_file(&file, &path)?;
            file.set_modified(SystemTime::now())
                .context(|| format!("marking {} as shipped", path.display()))?;
        }
        self.update(|state| {
            state.shipped = state.shipped.max(seq.get());
            state.shipped_at = Some(now);
        })
    }

    /// Takes shipped segments out that have been on the backup host for a day, and earlier when the spool needs room.
    pub(crate) fn sweep(&mut self, bytes_max: u64) -> Result<()> {
        for segment in self.of_shipped() {
            let manifest = self.path(&segment.name.manifest(segment.day));
            let modified = fs::metadata(&manifest).and_then(|facts| facts.modified());
            let shipped_at = modified.context(|| format!("reading the time of {}", manifest.display()))?;
            if self.bytes() <= bytes_max && shipped_at.elapsed().unwrap_or_default() < KEPT_AFTER_SHIPPING {
                break;
            }
            self.remove(&segment)?;
        }
        Ok(())
    }

    /// The disk is full: copies of what the backup host has are given up before anything else is. Whether there
    /// were any.
    pub(crate) fn make_room(&mut self) -> Result<bool> {
        let of_shipped = self.of_shipped();
        of_shipped.iter().try_for_each(|segment| self.remove(segment))?;
        Ok(!of_shipped.is_empty())
    }

    fn of_shipped(&self) -> Vec<Spooled> {
        let shipped = self.state.shipped;
        self.segments.values().take_while(|segment| segment.name.seq.get() <= shipped).cloned().collect()
    }

    /// Takes out what the archive is about to forget, so that nobody sends it again; never what it does not have yet.
    pub(crate) fn forget_before(&mut self, seq: SegmentSeq) -> Result<()> {
        let shipped = self.of_shipped();
        let old = shipped.iter().filter(|segment| segment.name.seq < seq).collect::<Vec<_>>();
        old.into_iter().try_for_each(|segment| self.remove(segment))
    }

    fn remove(&mut self, segment: &Spooled) -> Result<()> {
        // The manifest first: without it the rest is a leftover, which a crash here leaves to the next start.
        for path in [
            segment.name.manifest(segment.day),
            segment.name.signature(segment.day),
            segment.name.file(segment.day),
        ] {
            remove_if_there(&self.path(&path))?;
        }
        self.segments.remove(&segment.name.seq);
        // The folder of a day goes when it is empty; that it is not is no error.
        let _ = fs::remove_dir(self.path(&ArchivePath::day(segment.day)));
        Ok(())
    }

    fn add(&mut self, name: SegmentName, day: Day) {
        let size = |path: ArchivePath| fs::metadata(self.path(&path)).map_or(0, |facts| facts.len());
        let bytes = size(name.manifest(day)) + size(name.signature(day)) + size(name.file(day));
        self.segments.insert(name.seq, Spooled { name, day, bytes });
    }

    /// Finds the segments, and removes what a crash left: scratch files and change files without a manifest.
    fn scan(&mut self) -> Result<()> {
        self.discard_scratch()?;
        let segments = self.folder.root.join(ArchivePath::segments().as_str());
        if !segments.exists() {
            return Ok(());
        }
        for folder in read_folder(&segments)? {
            let Some(day) = folder.file_name().to_str().and_then(|name| name.parse::<Day>().ok()) else {
                continue;
            };
            own_files::check_folder(&folder.path())?;
            self.scan_day(&folder.path(), day)?;
        }
        Ok(())
    }

    fn scan_day(&mut self, folder: &Path, day: Day) -> Result<()> {
        for entry in read_folder(folder)? {
            let file_name = entry.file_name();
            let leftover = match file_name.to_str().and_then(SegmentFile::parse) {
                Some(SegmentFile::Manifest(name)) => {
                    self.check_number(name, day)?;
                    self.add(name, day);
                    false
                }
                Some(SegmentFile::Changes(name) | SegmentFile::Signature(name)) => {
                    !folder.join(name.manifest_name()).exists()
                }
                None => file_name.to_string_lossy().ends_with(".part"),
            };
            if leftover {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }

    fn check_number(&self, name: SegmentName, day: Day) -> Result<()> {
        match self.segment(name.seq) {
            Some(known) if known.name != name || known.day != day => {
                let (root, seq) = (self.folder.root.display(), name.seq);
                let message = format!("the spool {root} has two segments {seq}");
                Err(Error::new(Kind::Corrupt, message).hint(MOVE_ASIDE))
            }
            _ => Ok(()),
        }
    }

    /// Moves the tip over manifests that were written after the state was.
    fn follow_chain(&mut self) -> Result<()> {
        for segment in self.newer_than(self.state.tip.seq()) {
            let verified = self.verified(&self.state.chain_tip(), &segment)?;
            self.append(&verified)?;
        }
        Ok(())
    }

    fn newer_than(&self, known: u64) -> Vec<Spooled> {
        self.segments.values().filter(|segment| segment.name.seq.get() > known).cloned().collect()
    }

    fn verified(&self, tip: &ChainTip, segment: &Spooled) -> Result<Verified> {
        let bytes = self.manifest_bytes(segment)?;
        Verified::new(tip, segment.day, segment.name, &bytes).map_err(|error| {
            error.context(format!("reading the spool {}", self.folder.root.display())).hint(MOVE_ASIDE)
        })
    }

    pub(crate) fn manifest_bytes(&self, segment: &Spooled) -> Result<Vec<u8>> {
        let path = self.path(&segment.name.manifest(segment.day));
        small_file::read_own(&path, Document::Manifest.bytes_max())
    }
}

fn lock(root: &Path) -> Result<File> {
    lock_file(&root.join("lock"), |holder| {
        Error::new(
            Kind::Locked,
            format!("another archiver (process {holder}) works in the spool {}", root.display()),
        )
        .hint("one archiver per spool: stop that one first, or give this one a `spool_dir` of its own")
    })
}

/// Held until the file is dropped, or the process dies. `busy` is told which process has it.
fn lock_file(path: &Path, busy: impl FnOnce(&str) -> Error) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = own_files::open_plain(path, &mut options)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = small_file::read_opened_text(file, path)?;
            return Err(busy(holder.trim()));
        }
        Err(TryLockError::Error(error)) => {
            return Err(Error::io(format!("locking {}", path.display()), error));
        }
    }
    own_files::check_file(&file, path)?;
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.context(|| format!("writing {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
