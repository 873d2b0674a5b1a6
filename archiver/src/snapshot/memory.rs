//! Checksums of the blocks of parts, kept on this host so that a delta can be made without reading the earlier part
//! back from the archive. What is lost here costs a download, never a row.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use syncdata_formats::Result;
use syncdata_formats::digest::Digest;
use syncdata_formats::error::Context as _;
use syncdata_formats::snapshot::Blocks;
use syncdata_service::small_file;

use crate::spool::{make_folder, private_file, remove_if_there};

const ENDING: &str = ".blocks";

#[derive(Clone, Debug)]
pub(crate) struct Memory {
    folder: PathBuf,
}

impl Memory {
    pub(crate) fn new(spool_dir: &Path) -> Memory {
        Memory { folder: spool_dir.join("snapshot") }
    }

    pub(crate) fn has(&self, content: Digest) -> bool {
        self.path(content).exists()
    }

    /// `Ok(None)` when there is nothing; an error when there is something else.
    pub(crate) fn recall(&self, content: Digest) -> Result<Option<Blocks>> {
        let path = self.path(content);
        let Some(bytes) = small_file::read_own_if_there(&path, Blocks::FILE_BYTES_MAX)? else {
            return Ok(None);
        };
        Blocks::decode(&bytes).context(|| format!("reading {}", path.display())).map(Some)
    }

    /// Not synced: it has its own SHA-256, and is not missed.
    pub(crate) fn keep(&self, content: Digest, blocks: &Blocks) -> Result<()> {
        make_folder(&self.folder)?;
        let path = self.path(content);
        let partial = path.with_extension("part");
        let written = private_file(&partial).and_then(|mut file| file.write_all(&blocks.encode()));
        let named = written.and_then(|()| fs::rename(&partial, &path));
        named.context(|| format!("writing {}", path.display())).inspect_err(|_| {
            // On a full disk it would be what keeps it full.
            let _ = fs::remove_file(&partial);
        })
    }

    pub(crate) fn forget(&self, mut contents: impl Iterator<Item = Digest>) -> Result<()> {
        contents.try_for_each(|content| remove_if_there(&self.path(content)))
    }

    /// Forgets all others.
    pub(crate) fn retain(&self, contents: &BTreeSet<Digest>) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        let doing = || format!("listing {}", self.folder.display());
        for entry in fs::read_dir(&self.folder).context(doing)? {
            let path = entry.context(doing)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let content = name.strip_suffix(ENDING).and_then(|digest| digest.parse().ok());
            if content.is_none_or(|content| !contents.contains(&content)) {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, content: Digest) -> PathBuf {
        self.folder.join(format!("{content}{ENDING}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_recalled_until_it_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let memory = Memory::new(folder.path());
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        assert!(memory.recall(one).expect("nothing is no error").is_none());
        memory.retain(&BTreeSet::new()).expect("nothing to forget");
        for content in [one, two] {
            memory.keep(content, &Blocks::of(b"rows", 1)).expect("written");
        }
        memory.retain(&BTreeSet::from([two])).expect("removed");
        assert!(!memory.has(one) && memory.recall(two).expect("sound").is_some());
        fs::write(memory.path(two), b"damaged").expect("ours");
        assert!(memory.recall(two).is_err());
    }
}
