//! What may go because of roll-ups: files that one of them has as well, and roll-ups of which every segment goes.

use std::collections::BTreeMap;

use syncdata_archive::rollups::{self, Listed};
use syncdata_archive::{Archive, ArchiveHandle, Entry, EntryKind, listing, small};
use syncdata_formats::chain::Verified;
use syncdata_formats::document::Document;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::{ArchivePath, RollupFile, SegmentFile, SegmentName, SegmentSeq};
use syncdata_formats::manifest::Link;
use syncdata_formats::rollup::{Member, Rollup};
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_service::faults;
use syncdata_service::progress::Progress;
use tracing::warn;
use uuid::Uuid;

use super::inventory::Inventory;
use super::plan::{Plan, Removal, Singles, is_past};
use super::{check_rights, remove};

impl Plan {
    /// Roll-ups that end before the first segment that is kept. One without a manifest after it may be about to get one.
    pub(super) fn prune_rollups(&mut self, inventory: &Inventory) {
        let Some(first_kept) = self.first_kept else { return };
        for (day, entries) in &inventory.rollups {
            let folder = ArchivePath::rollups_of(*day);
            let goes = |entry: &&Entry| {
                let whole_name = entry.name.strip_suffix(".part").unwrap_or(&entry.name);
                let file = RollupFile::parse(whole_name).filter(|_| entry.kind == EntryKind::File);
                file.is_some_and(|file| file.name().last < first_kept)
            };
            let mut files: Vec<&Entry> = entries.iter().filter(goes).collect();
            // The manifest first: what has none does not exist.
            files.sort_by_key(|entry| {
                let file = RollupFile::parse(&entry.name);
                (!matches!(file, Some(RollupFile::Manifest(_))), entry.name.clone())
            });
            if files.len() == entries.len() {
                self.folders.push(folder.to_string());
            }
            let removals = files
                .iter()
                .map(|entry| Removal { path: format!("{folder}/{}", entry.name), bytes: entry.bytes });
            self.rollups.extend(removals);
        }
    }

    /// What lies alone under days that are past, and is in a roll-up that can be used.
    pub(super) fn prune_singles(&mut self, inventory: &Inventory, rolled: &[Rollup], now: Timestamp) {
        let mut leave: BTreeMap<Day, usize> = BTreeMap::new();
        for rollup in
            rolled.iter().filter(|rollup| self.first_kept.is_none_or(|first| rollup.last.seq >= first))
        {
            let alone: BTreeMap<&str, u64> =
                inventory.days.get(&rollup.day).map_or_else(BTreeMap::new, |entries| {
                    let alone = entries.iter().filter(|entry| entry.is_alone);
                    alone.map(|entry| (entry.file_name.as_str(), entry.bytes)).collect()
                });
            let goes_anyway = |name: &str| {
                let segment = SegmentFile::parse(name).map(SegmentFile::segment);
                segment.is_some_and(|segment| self.first_kept.is_some_and(|first| segment.seq < first))
            };
            let members: Vec<&Member> =
                rollup.files.iter().filter(|member| !goes_anyway(&member.name)).collect();
            let mut files = Vec::new();
            // Of each segment the manifest first, since the roll-up has them first.
            for member in members {
                let path = format!("{}/{}", ArchivePath::day(rollup.day), member.name);
                match alone.get(member.name.as_str()) {
                    Some(bytes) if *bytes == member.bytes => files.push(Removal { path, bytes: *bytes }),
                    Some(bytes) => self.notes.push(format!(
                        "{path} has {bytes} bytes, and {} in its roll-up: it stays; run `syncdata-archiver verify`",
                        member.bytes
                    )),
                    None => {}
                }
            }
            if !files.is_empty() {
                *leave.entry(rollup.day).or_default() += files.len();
                let rollup = rollup.name().manifest(rollup.day).to_string();
                self.singles.push(Singles { rollup, files });
            }
        }
        for (day, count) in leave {
            let alone = inventory.days[&day].iter().filter(|entry| entry.is_alone).count();
            let folder = ArchivePath::day(day).to_string();
            if count == alone && day < now.day() && !self.folders.contains(&folder) {
                self.folders.push(folder);
            }
        }
    }
}

/// When and beside what that which lies alone leaves.
#[derive(Clone, Debug)]
pub(crate) struct Leaving {
    pub archive_id: Uuid,
    pub verify_key: Option<VerifyKey>,
    pub keep_singles: u32,
    /// The last segment of all, as the spool knows it: what a roll-up ends with when nothing follows it.
    pub end: Option<Link>,
    pub now: Timestamp,
}

/// What left.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    pub files: usize,
    pub bytes: u64,
}

/// The days that are past and have roll-ups, each with the one after it.
pub(crate) async fn days_to_leave(
    archive: &ArchiveHandle,
    leaving: &Leaving,
    from: Option<Day>,
) -> Result<Vec<(Day, Option<Day>)>> {
    let (days, _) = archive.run(listing::folders).await?;
    let (rolled, _) = archive.run(rollups::folders).await?;
    let is_due =
        |day: Day| rolled.contains(&day) && leaving.is_past(day) && from.is_none_or(|from| day >= from);
    let next = |at: usize| days.get(at + 1).copied();
    let days = days.iter().enumerate().filter(|(_, day)| is_due(**day));
    Ok(days.map(|(at, day)| (*day, next(at))).collect())
}

impl Leaving {
    /// Of one day, by itself: nothing is lost with it, so no floor is raised and nobody asked first.
    pub(crate) fn carry_out(&self, archive: &mut dyn Archive, day: Day, next: Option<Day>) -> Result<Left> {
        let mut inventory = Inventory::of_day(archive, day, next)?;
        let rolled = self.read(archive, &mut inventory)?;
        let mut plan = Plan::default();
        plan.prune_singles(&inventory, &rolled, self.now);
        for reason in inventory.troubles.iter().chain(&plan.notes) {
            warn!(%reason, hint = "run syncdata-archiver verify", "a roll-up cannot be used, or not wholly");
        }
        if !plan.singles.is_empty() {
            check_rights(archive)?;
            remove(archive, &plan, &rolled)?;
        }
        Ok(Left { files: plan.removals().count(), bytes: plan.bytes() })
    }

    fn is_past(&self, day: Day) -> bool {
        is_past(self.now, self.keep_singles, day)
    }

    /// The roll-ups of days that are past, and of which something still lies alone. Each is a part of the chain.
    pub(super) fn read(&self, archive: &mut dyn Archive, inventory: &mut Inventory) -> Result<Vec<Rollup>> {
        let days = inventory.rollups.iter().filter(|(day, _)| self.is_past(**day));
        let listed: Vec<Listed> = days.flat_map(|(day, entries)| rollups::listed(*day, entries)).collect();
        let segments: BTreeMap<SegmentSeq, (Day, SegmentName)> = match listed.is_empty() {
            true => BTreeMap::new(),
            false => inventory.segments().map(|(day, name)| (name.seq, (day, name))).collect(),
        };
        let mut rolled = Vec::new();
        for listed in listed {
            let lies_alone = inventory.days.get(&listed.day).is_some_and(|entries| {
                let mut alone =
                    entries.iter().filter(|entry| entry.is_alone).filter_map(|entry| entry.segment);
                alone.any(|segment| listed.name.has(segment.seq))
            });
            if !lies_alone {
                continue;
            }
            match self.sound(archive, listed, &segments) {
                Ok(rollup) => rolled.push(rollup),
                Err(error) if matches!(error.kind(), Kind::Unreachable | Kind::Io) => return Err(error),
                Err(error) => inventory.troubles.push(format!(
                    "what lies alone beside {} stays: {}",
                    listed.name.manifest(listed.day),
                    error.one_line()
                )),
            }
        }
        Ok(rolled)
    }

    /// What it has is what the segment after it, or the spool, vouches for.
    fn sound(
        &self,
        archive: &mut dyn Archive,
        listed: Listed,
        segments: &BTreeMap<SegmentSeq, (Day, SegmentName)>,
    ) -> Result<Rollup> {
        let rollup = rollups::read(archive, listed, self.verify_key.as_ref())?;
        if rollup.archive_id != self.archive_id {
            return Err(Error::new(Kind::Foreign, format!("it is of archive {}", rollup.archive_id)));
        }
        let tip = rollups::chain(archive, &rollup)?;
        let missing = |seq: SegmentSeq| {
            Error::new(Kind::Corrupt, format!("the segment {seq} after it is not there to vouch for it"))
        };
        match segments.get(&tip.next_seq()) {
            Some(&(day, name)) => {
                let bytes = small::read(archive, &name.manifest(day), Document::Manifest)?
                    .ok_or_else(|| missing(name.seq))?;
                Verified::new(&tip, day, name, &bytes)?;
            }
            None if tip.previous() == self.end => {}
            None => return Err(missing(tip.next_seq())),
        }
        Ok(rollup)
    }
}

/// Each roll-up is read from its beginning to its end before anything leaves because of it.
pub(super) fn remove_singles(
    archive: &mut dyn Archive,
    singles: &[Singles],
    rolled: &[Rollup],
    progress: &mut Progress,
) -> Result<()> {
    for Singles { rollup: path, files } in singles {
        let is_it = |rollup: &&Rollup| rollup.name().manifest(rollup.day).as_str() == path;
        let rollup = rolled.iter().find(is_it).expect("it was planned with");
        match rollups::check(archive, rollup) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::NotFound) => {
                warn!(rollup = %path, error = %error.one_line(), hint = "run syncdata-archiver verify", "a roll-up is damaged: what lies alone beside it stays");
                continue;
            }
            Err(error) => return Err(error),
        }
        faults::hit("prune.rollup_checked")?;
        for file in files {
            archive.remove(&ArchivePath::parse(&file.path)?)?;
            faults::hit("prune.single_removed")?;
            progress.add(file.bytes);
        }
    }
    Ok(())
}
