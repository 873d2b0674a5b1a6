//! Parts into the archive: what it has already is named again, what it nearly has is sent as the difference, the rest
//! is sent whole.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Cursor, Write};
use std::sync::Arc;

use syncdata_archive::{Archive, ArchiveHandle, Facts, Put};
use syncdata_formats::digest::{Digest, Hashing};
use syncdata_formats::manifest::ChangeFile;
use syncdata_formats::snapshot::{
    Blocks, DELTA_CONTENT_MAX, Part, PartKind, PartName, SnapshotId, compress, pour,
};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::faults;
use tracing::warn;

use super::cutter::Cut;
use super::earlier::Earlier;
use super::memory::Memory;

/// Where the parts of one snapshot go.
#[derive(Debug)]
pub(crate) struct Store {
    pub archive: ArchiveHandle,
    pub id: SnapshotId,
    pub earlier: Earlier,
    pub memory: Memory,
    pub compression_level: i32,
    /// Everything is sent, whole: trusts nothing of earlier snapshots.
    pub full: bool,
    /// Contents that this snapshot has sent itself, with their files.
    pub sent: RefCell<HashMap<Digest, Vec<ChangeFile>>>,
    /// Files of earlier snapshots that were read back, and whether they are what their manifests say.
    pub sound: RefCell<HashMap<String, bool>>,
}

/// How a part came into the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Reused,
    Delta,
    Whole,
}

#[derive(Debug)]
pub(crate) struct Stored {
    pub part: Part,
    pub how: How,
    pub bytes_sent: u64,
}

/// What may be sent of a part.
struct Packed {
    kind: PartKind,
    bytes: Vec<u8>,
    file: ChangeFile,
    /// Of the part's content; `None` for what nobody will make a delta from.
    blocks: Option<Blocks>,
}

impl Store {
    /// Several parts may be on their way at a time; `base` is the earlier part that is nearest to this one.
    pub(crate) async fn put(&self, cut: Cut, base: Option<Part>) -> Result<Stored> {
        let cut = Arc::new(cut);
        let hashed = cut.clone();
        let content = on_a_thread(move || Digest::of(&hashed.content)).await?;
        if let Some(files) = self.files_of(content).await? {
            self.remember_again(content, &cut).await;
            return Ok(stored(&cut, content, files, How::Reused, 0));
        }
        let base = match base.filter(|part| self.may_be_base(part, &cut)) {
            // A delta is worth no more than what it leads from.
            Some(part) if self.are_sound(&part.files).await? => {
                self.blocks_of(&part).await.map(|blocks| (part, blocks))
            }
            _ => None,
        };
        let (id, level) = (self.id.clone(), self.compression_level);
        let (packing, blocks) = (cut.clone(), base.as_ref().map(|(_, blocks)| blocks.clone()));
        let packed = on_a_thread(move || pack(&id, content, &packing, blocks.as_ref(), level)).await??;
        let kind = packed.kind;
        if let Some(blocks) = &packed.blocks {
            self.remember(content, blocks);
        }
        let (file, bytes_sent) = self.send(packed, content).await?;
        let mut files = match (kind, base) {
            (PartKind::Delta, Some((base, _))) => base.files,
            _ => Vec::new(),
        };
        files.push(file);
        self.sent.borrow_mut().insert(content, files.clone());
        faults::hit("snapshot.part_sent")?;
        let how = if kind == PartKind::Delta { How::Delta } else { How::Whole };
        Ok(stored(&cut, content, files, how, bytes_sent))
    }

    async fn files_of(&self, content: Digest) -> Result<Option<Vec<ChangeFile>>> {
        let sent = self.sent.borrow().get(&content).cloned();
        if sent.is_some() || self.full {
            return Ok(sent);
        }
        let Some(files) = self.earlier.files_of(content) else { return Ok(None) };
        Ok(self.are_sound(&files).await?.then_some(files))
    }

    /// Disks rot in silence, and a part that nobody sends again would be as rotten in every later snapshot. So a file
    /// is read back before it is built upon, once in a snapshot. That costs its bytes as they lie there, on the way that
    /// is not short of room: what is unchanged is read, and not sent.
    async fn are_sound(&self, files: &[ChangeFile]) -> Result<bool> {
        for file in files {
            let known = self.sound.borrow().get(&file.file).copied();
            let is_sound = match known {
                Some(known) => known,
                None => self.read_back(file).await?,
            };
            self.sound.borrow_mut().insert(file.file.clone(), is_sound);
            if !is_sound {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn read_back(&self, file: &ChangeFile) -> Result<bool> {
        let wanted = file.clone();
        let read = self.archive.run(move |archive| {
            let name: PartName = wanted.file.parse()?;
            let mut found = Counted { hashing: Hashing::new(io::sink()), left: wanted.bytes };
            archive.read(&name.path(), 0, &mut found)?;
            let (_, sha256, bytes) = found.hashing.finish();
            Ok(bytes == wanted.bytes && sha256 == wanted.sha256)
        });
        let what = match read.await {
            Ok(true) => return Ok(true),
            Ok(false) => "its content is not what its manifest says".to_owned(),
            Err(error) if error.kind() == Kind::Unreachable => return Err(error),
            Err(error) => error.one_line(),
        };
        warn!(
            file = file.file,
            reason = what,
            "a part of an earlier snapshot is damaged: it is sent again, and that snapshot stays damaged"
        );
        Ok(false)
    }

    fn may_be_base(&self, part: &Part, cut: &Cut) -> bool {
        !self.full && cut.content.len() as u64 <= DELTA_CONTENT_MAX && self.earlier.may_be_base(part)
    }

    /// From this host's memory, else from the archive; `None` when neither can be had, and the part goes whole.
    async fn blocks_of(&self, part: &Part) -> Option<Blocks> {
        match self.memory.recall(part.content_sha256) {
            Ok(Some(blocks)) => return Some(blocks),
            Ok(None) => {}
            Err(error) => warn!(error = %error.one_line(), "checksums of an earlier part are of no use"),
        }
        let wanted = part.clone();
        let read = self.archive.run(move |archive| read_blocks(archive, &wanted)).await;
        read.inspect_err(
            |error| warn!(error = %error.one_line(), "an earlier part cannot be read, sending whole"),
        )
        .ok()
    }

    async fn remember_again(&self, content: Digest, cut: &Arc<Cut>) {
        if self.memory.has(content) || cut.content.len() as u64 > DELTA_CONTENT_MAX {
            return;
        }
        let cut = cut.clone();
        if let Ok(blocks) = on_a_thread(move || Blocks::of(&cut.content, cut.rows)).await {
            self.remember(content, &blocks);
        }
    }

    fn remember(&self, content: Digest, blocks: &Blocks) {
        if let Err(error) = self.memory.keep(content, blocks) {
            warn!(error = %error.one_line(), "the next snapshot has to read a part back from the archive");
        }
    }

    /// The file as it lies there, and how many bytes of it had to be sent.
    async fn send(&self, packed: Packed, content: Digest) -> Result<(ChangeFile, u64)> {
        let Packed { kind, bytes, mut file, .. } = packed;
        let bytes = Arc::new(bytes);
        let name = PartName { snapshot: self.id.clone(), content, kind };
        let facts = Facts { bytes: file.bytes, sha256: file.sha256 };
        if let Some(leftover) = self.earlier.leftover(&name, file.bytes).filter(|_| !self.full) {
            match self.put_file(&leftover, bytes.clone(), facts).await {
                Ok(put) => {
                    file.file = leftover.to_string();
                    return Ok((file, if put == Put::Written { facts.bytes } else { 0 }));
                }
                // Of another base, level or library; or torn.
                Err(error) if error.kind() == Kind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        self.put_file(&name, bytes, facts).await?;
        Ok((file, facts.bytes))
    }

    async fn put_file(&self, name: &PartName, bytes: Arc<Vec<u8>>, facts: Facts) -> Result<Put> {
        let path = name.path();
        self.archive.run(move |archive| archive.put(&path, &mut Cursor::new(bytes.as_slice()), facts)).await
    }
}

fn stored(cut: &Cut, content_sha256: Digest, files: Vec<ChangeFile>, how: How, bytes_sent: u64) -> Stored {
    let part = Part {
        rows: cut.rows,
        content_bytes: cut.content.len() as u64,
        content_sha256,
        first_key: cut.first_key.clone(),
        files,
    };
    Stored { part, how, bytes_sent }
}

fn pack(id: &SnapshotId, content: Digest, cut: &Cut, base: Option<&Blocks>, level: i32) -> Result<Packed> {
    let name = |kind| PartName { snapshot: id.clone(), content, kind };
    let blocks = (cut.content.len() as u64 <= DELTA_CONTENT_MAX).then(|| Blocks::of(&cut.content, cut.rows));
    let (bytes, file) = compress(&name(PartKind::Whole), &cut.content, level)?;
    if let Some(base) = base {
        let delta = base.delta(&cut.content)?;
        let (delta_bytes, delta_file) = compress(&name(PartKind::Delta), &delta, level)?;
        if delta_file.bytes * 2 < file.bytes {
            return Ok(Packed { kind: PartKind::Delta, bytes: delta_bytes, file: delta_file, blocks });
        }
    }
    Ok(Packed { kind: PartKind::Whole, bytes, file, blocks })
}

fn read_blocks(archive: &mut dyn Archive, part: &Part) -> Result<Blocks> {
    let mut content = Vec::new();
    pour(
        part,
        |file| {
            let name: PartName = file.file.parse()?;
            let mut bytes = Bounded { bytes: Vec::new(), max: file.bytes };
            archive.read(&name.path(), 0, &mut bytes)?;
            Ok(Cursor::new(bytes.bytes))
        },
        |piece| {
            content.extend_from_slice(piece);
            Ok(())
        },
    )?;
    Ok(Blocks::of(&content, part.rows))
}

/// Reads no further than a byte beyond what was promised.
struct Counted {
    hashing: Hashing<io::Sink>,
    left: u64,
}

impl Write for Counted {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(piece.len() as u64).ok_or_else(too_long)?;
        self.hashing.write(piece)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn too_long() -> io::Error {
    io::Error::other("the file is longer than its manifest says")
}

/// A file that is longer than its manifest says must not fill our memory.
struct Bounded {
    bytes: Vec<u8>,
    max: u64,
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + piece.len()) as u64 > self.max {
            return Err(too_long());
        }
        self.bytes.write(piece)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(Kind::Io, "the thread that packs parts has died").caused_by(error))
}
