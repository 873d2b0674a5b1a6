//! What earlier snapshots left in the archive: files that need not be sent again, and parts to make deltas from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use syncdata_archive::snapshots::{self, Files, has_manifest};
use syncdata_archive::{Archive, Entry, EntryKind};
use syncdata_formats::Result;
use syncdata_formats::digest::Digest;
use syncdata_formats::manifest::ChangeFile;
use syncdata_formats::name::TableName;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::snapshot::{
    DELTA_CONTENT_MAX, DELTAS_MAX, Part, PartKind, PartName, SnapshotId, SnapshotManifest,
};
use tracing::{info, warn};

/// What earlier snapshots hold that this one may use again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Earlier {
    /// The parts of each table in its newest sound copy, in their order.
    tables: BTreeMap<TableName, Arc<Vec<Part>>>,
    /// How a content can be had, by its digest.
    contents: HashMap<Digest, Vec<ChangeFile>>,
    /// Files that no manifest names: those of interrupted snapshots.
    leftovers: BTreeMap<(Digest, PartKind), Leftover>,
    ids: BTreeSet<SnapshotId>,
}

#[derive(Clone, Debug)]
struct Leftover {
    snapshot: SnapshotId,
    bytes: u64,
}

impl Earlier {
    /// Reads manifests from the newest to older ones until every missing table has been found.
    pub(crate) fn read(
        archive: &mut dyn Archive,
        mut missing: BTreeSet<TableName>,
        verify_key: Option<&VerifyKey>,
    ) -> Result<Earlier> {
        let listed = snapshots::file_names(archive)?;
        let mut earlier = Earlier { ids: listed.keys().cloned().collect(), ..Earlier::default() };
        let files = Files::of(&listed);
        for (id, entries) in listed.iter().rev() {
            if !has_manifest(entries) {
                earlier.add_leftovers(id, entries);
            } else if !missing.is_empty() {
                match snapshots::read(archive, id, verify_key) {
                    Ok(manifest) => earlier.add(manifest, &files, &mut missing),
                    Err(error) => {
                        warn!(snapshot = %id, error = %error.one_line(), "an earlier snapshot is of no use");
                    }
                }
            }
        }
        Ok(earlier)
    }

    fn add(&mut self, manifest: SnapshotManifest, files: &Files, missing: &mut BTreeSet<TableName>) {
        for (name, table) in manifest.tables {
            let whole = table.parts.iter().filter(|part| files.have(part));
            for part in whole {
                self.contents.entry(part.content_sha256).or_insert_with(|| part.files.clone());
            }
            if missing.remove(&name) {
                info!(snapshot = %manifest.id, table = %name, parts = table.parts.len(), "earlier copy found");
                self.tables.insert(name, Arc::new(table.parts));
            }
        }
    }

    fn add_leftovers(&mut self, id: &SnapshotId, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::File) {
            if let Some(name) = PartName::parse_in(id, &entry.name) {
                let leftover = Leftover { snapshot: id.clone(), bytes: entry.bytes };
                self.leftovers.entry((name.content, name.kind)).or_insert(leftover);
            }
        }
    }

    pub(crate) fn has(&self, id: &SnapshotId) -> bool {
        self.ids.contains(id)
    }

    /// The files that lead to that content.
    pub(crate) fn files_of(&self, content: Digest) -> Option<Vec<ChangeFile>> {
        self.contents.get(&content).cloned()
    }

    /// Where a file of that name and size lies that an interrupted snapshot has sent. Whether it is the same is for
    /// the one who puts it there again to find out.
    pub(crate) fn leftover(&self, name: &PartName, bytes: u64) -> Option<PartName> {
        let leftover = self.leftovers.get(&(name.content, name.kind)).filter(|left| left.bytes == bytes)?;
        Some(PartName { snapshot: leftover.snapshot.clone(), ..name.clone() })
    }

    pub(crate) fn bases_of(&self, table: &TableName) -> Bases {
        let parts = self.tables.get(table).cloned().unwrap_or_default();
        let by_key = parts.iter().enumerate();
        let by_key = by_key.filter_map(|(place, part)| Some((part.first_key.clone()?, place))).collect();
        Bases { parts, by_key, next: 0 }
    }

    /// The contents of every part of the earlier copy of a table.
    pub(crate) fn contents_of(&self, table: &TableName) -> impl Iterator<Item = Digest> {
        self.tables.get(table).into_iter().flat_map(|parts| parts.iter().map(|part| part.content_sha256))
    }

    /// Whether a delta may be made from it.
    pub(crate) fn may_be_base(&self, part: &Part) -> bool {
        let deltas = part.files.len() - 1;
        let largest = part.files.iter().map(|file| file.content_bytes).chain([part.content_bytes]).max();
        deltas < DELTAS_MAX
            && largest <= Some(DELTA_CONTENT_MAX)
            && self.contents.contains_key(&part.content_sha256)
    }
}

/// The parts of a table's earlier copy, asked in the order of the new ones.
#[derive(Debug)]
pub(crate) struct Bases {
    parts: Arc<Vec<Part>>,
    by_key: HashMap<String, usize>,
    next: usize,
}

impl Bases {
    /// The part that most likely shares rows with a new one: the one that began with the same key, else the next one.
    /// (The order of keys is the database's to know.)
    pub(crate) fn nearest(&mut self, first_key: Option<&str>) -> Option<Part> {
        let same = first_key.and_then(|key| self.by_key.get(key).copied());
        let place = same.unwrap_or(self.next);
        let part = self.parts.get(place)?.clone();
        self.next = place + 1;
        Some(part)
    }
}
