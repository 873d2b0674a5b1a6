//! What may go, as a value: `--dry-run` prints it, `carry_out` does it, tests assert it.
//!
//! Kept are, with N the days of `keep_days`: every segment whose folder is one of the last N days; for every captured
//! table its newest complete copy from before those days, and all changes since; every later copy; every file that a
//! copy which is kept refers to; and what a reader that reported lately still lacks; and the
//! copy, with all after it, from which a table of a proof can be made as it was there. Where that is no copy but all that
//! was ever captured, everything stays as long as the proof does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syncdata_formats::ack::Ack;
use syncdata_formats::layout::{ArchivePath, SegmentName, SegmentSeq};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::{PartName, SnapshotId};
use syncdata_formats::time::{Day, Timestamp};

use super::inventory::{Copy, Folder, Inventory};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A reader that has not reported for so long, or four times `keep_days`, has been taken down.
const ACK_DAYS_MIN: u32 = 30;

/// What an interrupted snapshot left may still be used by the next one.
const LEFTOVERS_KEPT: Duration = DAY;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The first segment that is kept, where it is another one than before.
    pub floor: Option<SegmentSeq>,
    /// Manifests of snapshots and what lies beside them: gone before the changes that they would need.
    pub snapshots: Vec<Removal>,
    /// Oldest first; of each segment the manifest first.
    pub segments: Vec<Removal>,
    /// Files of roll-ups of which every segment goes; of each the manifest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rollups: Vec<Removal>,
    /// Files of segments that are in a roll-up as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub singles: Vec<Singles>,
    /// Files of parts that no snapshot needs.
    pub parts: Vec<Removal>,
    /// Folders to remove if they are empty.
    pub folders: Vec<String>,
    /// Why older files are kept.
    pub notes: Vec<String>,
    /// The first segment that anybody needs, where the plan can say so.
    #[serde(skip)]
    pub first_kept: Option<SegmentSeq>,
}

/// What leaves because a roll-up has it, once that was read from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Singles {
    /// The manifest of the roll-up.
    pub rollup: String,
    pub files: Vec<Removal>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removal {
    pub path: String,
    pub bytes: u64,
}

/// What the plan depends on beside the archive.
#[derive(Clone, Debug)]
pub(crate) struct Terms<'a> {
    pub archive_id: uuid::Uuid,
    pub keep_days: u32,
    pub captured: &'a BTreeSet<TableName>,
    /// Those of them that had no rows when their capture began, and where that was.
    pub born_empty: &'a BTreeMap<TableName, Lsn>,
    /// By production's clock, which is what everything is dated by, and never ahead of our own.
    pub now: Timestamp,
    /// Where production's WAL ends: a copy from after it is not of this history.
    pub flush: Lsn,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        self.floor.is_none() && self.removals().next().is_none()
    }

    /// In this order: no snapshot is to be seen whose changes are gone.
    pub(crate) fn removals(&self) -> impl Iterator<Item = &Removal> {
        self.whole().chain(self.singles.iter().flat_map(|singles| &singles.files))
    }

    /// Those that leave the archive altogether.
    pub(super) fn whole(&self) -> impl Iterator<Item = &Removal> {
        self.snapshots.iter().chain(&self.segments).chain(&self.rollups).chain(&self.parts)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.removals().map(|removal| removal.bytes).sum()
    }

    pub(crate) fn of(inventory: &Inventory, terms: &Terms<'_>) -> Plan {
        let mut plan = Plan { notes: inventory.troubles.clone(), ..Plan::default() };
        let Some(base) = plan.base(inventory, terms) else { return plan };
        let acks = plan.live_acks(inventory, terms);
        let loading: BTreeSet<&SnapshotId> = acks.iter().flat_map(|ack| &ack.loading).collect();
        let needed = acks.iter().map(|ack| ack.end_lsn).chain(loading.iter().map(|id| id.start_lsn()));
        let limit = needed.chain([base.start_lsn()]).min().unwrap_or_default();
        plan.prune_segments(inventory, terms, limit);
        plan.prune_snapshots(inventory, terms, &base, &loading);
        plan
    }

    /// The oldest of the copies that the captured tables start from: nothing before it is needed, of any of them.
    fn base(&mut self, inventory: &Inventory, terms: &Terms<'_>) -> Option<SnapshotId> {
        let complete: Vec<(&SnapshotId, &BTreeSet<TableName>)> = inventory
            .snapshots
            .iter()
            .filter_map(complete)
            .filter(|(id, _)| id.start_lsn() <= terms.flush)
            .collect();
        let mut base: Option<SnapshotId> = None;
        // From these the tables of proofs can be made as they were there.
        let mut drilled: Vec<&SnapshotId> = Vec::new();
        for table in terms.captured {
            let of_table = || complete.iter().filter(|(_, tables)| tables.contains(table)).map(|(id, _)| *id);
            let before = of_table().rfind(|id| id.taken_at().is_some_and(|at| terms.is_past(at.day())));
            match before {
                Some(id) => base = Some(base.map_or_else(|| id.clone(), |base| base.min(id.clone()))),
                // It starts from a later one, before which nothing in the window is lost with the segments.
                None if of_table().next().is_some() => {}
                None => {
                    self.notes.push(format!("nothing is pruned: {table} is in no complete snapshot"));
                    return None;
                }
            }
            for (cut, _) in inventory.proofs.iter().filter(|(_, tables)| tables.contains(table)) {
                match of_table().rfind(|id| id.start_lsn() <= *cut) {
                    Some(id) => drilled.push(id),
                    None if terms.is_made_of_changes(inventory, table, *cut) => {
                        self.notes.push(format!(
                            "nothing is pruned: {table} as it was at {cut}, of which a proof speaks, can only be made of all \
                             its changes; three newer proofs of it replace that one"
                        ));
                        return None;
                    }
                    None => {}
                }
            }
        }
        if base.is_none() {
            self.notes.push("nothing is pruned: no complete snapshot is older than keep_days".to_owned());
        }
        base.map(|base| drilled.into_iter().fold(base, |base, id| base.min(id.clone())))
    }

    fn live_acks<'a>(&mut self, inventory: &'a Inventory, terms: &Terms<'_>) -> Vec<&'a Ack> {
        let days = ACK_DAYS_MIN.max(terms.keep_days.saturating_mul(4));
        let mut live = Vec::new();
        for ack in inventory.acks.iter().filter(|ack| ack.archive_id == terms.archive_id) {
            if terms.now.since(ack.at) > DAY * days {
                self.notes.push(format!(
                    "reader {} reported last at {}: it holds nothing back any more",
                    ack.name, ack.at
                ));
            } else {
                live.push(ack);
            }
        }
        live
    }

    fn prune_segments(&mut self, inventory: &Inventory, terms: &Terms<'_>, limit: Lsn) {
        let manifests = manifests(inventory);
        let Some(newest) = manifests.last().map(|(_, name)| name.seq) else { return };
        // A commit that was dated in the future takes all later ones along, and would keep them until then. They are
        // as old as the copy that was taken after them.
        let is_past = |day: Day| terms.is_past(day) || day > terms.now.day();
        let may_go =
            |(day, name): &&(Day, SegmentName)| is_past(*day) && name.end_lsn <= limit && name.seq < newest;
        let first_kept =
            manifests.iter().find(|segment| !may_go(segment)).map_or(newest, |(_, name)| name.seq);
        self.first_kept = Some(first_kept);
        let before = inventory.floor.as_ref().map_or(SegmentSeq::FIRST, |floor| floor.seq);
        // A floor never goes back; and one that is higher than the plan's own is no reason to remove what lies before.
        self.floor = (first_kept > before).then_some(first_kept);
        if before > first_kept
            && manifests.iter().any(|(_, name)| name.seq >= first_kept && name.seq < before)
        {
            self.notes.push(format!(
                "segments {first_kept} and later lie before the floor, and stay: the plan needs them"
            ));
        }
        let mut files: Vec<(SegmentName, u8, Removal)> = Vec::new();
        for (day, entries) in &inventory.days {
            let goes = |segment: Option<SegmentName>| segment.is_some_and(|name| name.seq < first_kept);
            for entry in entries.iter().filter(|entry| entry.is_alone) {
                let Some(name) = entry.segment.filter(|name| goes(Some(*name))) else { continue };
                let path = format!("{}/{}", ArchivePath::day(*day), entry.file_name);
                let order = u8::from(!entry.is_manifest);
                files.push((name, order, Removal { path, bytes: entry.bytes }));
            }
            // Today's folder may be about to be used.
            let is_old = *day < terms.now.day();
            if is_old && entries.iter().all(|entry| goes(entry.segment)) {
                self.folders.push(ArchivePath::day(*day).to_string());
            }
        }
        files.sort_by(|one, other| (one.0, one.1, &one.2.path).cmp(&(other.0, other.1, &other.2.path)));
        self.segments = files.into_iter().map(|(_, _, removal)| removal).collect();
    }

    fn prune_snapshots(
        &mut self,
        inventory: &Inventory,
        terms: &Terms<'_>,
        base: &SnapshotId,
        loading: &BTreeSet<&SnapshotId>,
    ) {
        let is_kept = |id: &SnapshotId| id >= base || loading.contains(id);
        let mut needed: BTreeSet<&str> = BTreeSet::new();
        for (id, folder) in inventory.snapshots.iter().filter(|(id, _)| is_kept(id)) {
            match &folder.copy {
                Copy::Known { files, .. } => needed.extend(files.iter().map(String::as_str)),
                Copy::None => {}
                Copy::Unreadable => {
                    let note = "no file of a snapshot is pruned: nobody knows which ones it needs";
                    self.notes.push(format!("snapshot {id} cannot be read, and {note}"));
                    return;
                }
            }
        }
        for (id, folder) in &inventory.snapshots {
            let goes = match folder.copy {
                Copy::None => terms.is_leftover(id),
                _ => !is_kept(id),
            };
            if goes {
                self.prune_folder(id, folder, &needed);
            }
        }
    }

    /// Everything of ours in it that nobody needs.
    fn prune_folder(&mut self, id: &SnapshotId, folder: &Folder, needed: &BTreeSet<&str>) {
        let (mut documents, mut stays) = (Vec::new(), false);
        for entry in &folder.entries {
            let removal = Removal { path: format!("{}/{}", id.folder(), entry.name), bytes: entry.bytes };
            let whole_name = entry.name.strip_suffix(".part").unwrap_or(&entry.name);
            match whole_name {
                SnapshotId::MANIFEST => documents.insert(0, removal),
                SnapshotId::DIGEST | SnapshotId::SIGNATURE => documents.push(removal),
                name => match PartName::parse_in(id, name) {
                    Some(part) if whole_name == entry.name && needed.contains(part.to_string().as_str()) => {
                        stays = true;
                    }
                    Some(_) => self.parts.push(removal),
                    None => stays = true,
                },
            }
        }
        self.snapshots.extend(documents);
        if !stays {
            self.folders.push(id.folder().to_string());
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for removal in self.whole() {
            text.push_str(&format!("remove {} ({} bytes)\n", removal.path, removal.bytes));
        }
        for Singles { rollup, files } in &self.singles {
            for Removal { path, bytes } in files {
                text.push_str(&format!("remove {path} ({bytes} bytes), which {rollup} has\n"));
            }
        }
        for note in &self.notes {
            text.push_str(&format!("note: {note}\n"));
        }
        if let Some(floor) = self.floor {
            text.push_str(&format!("first segment that is kept: {}\n", floor.get()));
        }
        text.push_str(&format!("{} files, {} bytes\n", self.removals().count(), self.bytes()));
        text
    }
}

impl Terms<'_> {
    /// From the first segment on, as readers do it: once the floor has been raised that is over.
    fn is_made_of_changes(&self, inventory: &Inventory, table: &TableName, cut: Lsn) -> bool {
        let is_whole = inventory.floor.as_ref().is_none_or(|floor| floor.seq == SegmentSeq::FIRST);
        is_whole && self.born_empty.get(table).is_some_and(|from| *from <= cut)
    }

    /// Before the days that are kept. With 0 there are none.
    fn is_past(&self, day: Day) -> bool {
        is_past(self.now, self.keep_days, day)
    }

    fn is_leftover(&self, id: &SnapshotId) -> bool {
        id.taken_at().is_some_and(|at| self.now.since(at) > LEFTOVERS_KEPT)
    }
}

/// Before the last so many days.
pub(super) fn is_past(now: Timestamp, days: u32, day: Day) -> bool {
    days == 0 || day < now.day().days_before(days - 1)
}

fn complete<'a>(
    (id, folder): (&'a SnapshotId, &'a Folder),
) -> Option<(&'a SnapshotId, &'a BTreeSet<TableName>)> {
    match &folder.copy {
        Copy::Known { tables, is_complete: true, .. } => Some((id, tables)),
        _ => None,
    }
}

/// In order of their numbers.
fn manifests(inventory: &Inventory) -> Vec<(Day, SegmentName)> {
    let mut manifests = Vec::new();
    for (day, entries) in &inventory.days {
        let names = entries.iter().filter(|entry| entry.is_manifest).filter_map(|entry| entry.segment);
        manifests.extend(names.map(|name| (*day, name)));
    }
    manifests.sort_by_key(|(_, name)| name.seq);
    manifests
}

#[cfg(test)]
mod tests;
