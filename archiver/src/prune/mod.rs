//! `prune`: what no captured table and no reader needs any more leaves the archive.
//!
//! ```text
//! archive ─▶ inventory ─▶ plan ─▶ floor.json ─▶ spool ─▶ snapshots' manifests ─▶ segments ─▶ roll-ups ─▶ parts
//!                                          ─▶ what lies alone beside a roll-up that was read back ─▶ empty folders
//! ```
//! The floor comes before everything else: what lies before it is pruned, whether it is still there or not, so that a
//! prune which ends half way never looks like a loss. But a floor.json is no reason to remove anything: only what the
//! plan shows to be needed by nobody goes.

mod inventory;
mod plan;
mod rolled;

use std::collections::BTreeSet;
use std::io::Cursor;

use syncdata_archive::{Archive, ArchiveHandle, Facts, small};
use syncdata_formats::digest::Digest;
use syncdata_formats::document::Document;
use syncdata_formats::floor::Floor;
use syncdata_formats::layout::{ArchivePath, SegmentSeq};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::FORMAT;
use syncdata_formats::name::TableName;
use syncdata_formats::rollup::Rollup;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::faults;
use syncdata_service::progress::{Progress, Unit};
use tracing::info;

use crate::spool::Spool;
use inventory::Inventory;
use plan::Terms;

pub(crate) use plan::Plan;
pub(crate) use rolled::{Leaving, days_to_leave};

/// The settings of one prune.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// `None`: no segment is too old.
    pub keep_days: Option<u32>,
    /// `None`: what lies alone stays beside its roll-up.
    pub keep_singles: Option<u32>,
    pub captured: BTreeSet<TableName>,
    pub verify_key: Option<VerifyKey>,
    /// Production's clock and the end of its WAL.
    pub clock: Timestamp,
    pub flush: Lsn,
    /// Dry run: says what would be removed.
    pub dry_run: bool,
}

/// The order of these lines is the promise: nothing goes before the floor says so, and the spool sends nothing of
/// it again.
pub(crate) async fn carry_out(archive: &ArchiveHandle, spool: &mut Spool, wanted: Wanted) -> Result<Plan> {
    let Wanted { keep_days, keep_singles, captured, verify_key, clock, flush, dry_run } = wanted;
    let archive_id = spool.state().archive_id;
    // Everything is dated by production's clock. Ours, ahead of it, would take today for long ago.
    let now = clock.min(Timestamp::now());
    let end = spool.state().tip.last.map(|last| last.segment);
    let reading = archive.run(move |archive| {
        let mut inventory = Inventory::read(archive, archive_id, verify_key.as_ref())?;
        let rolled = match keep_singles {
            Some(keep_singles) => {
                let leaving = Leaving { archive_id, verify_key, keep_singles, end, now };
                leaving.read(archive, &mut inventory)?
            }
            None => Vec::new(),
        };
        Ok((inventory, rolled))
    });
    let (inventory, rolled) = reading.await?;
    let born_empty = spool.state().captured.open().filter(|span| span.empty);
    let born_empty = born_empty.map(|span| (span.name.clone(), span.from)).collect();
    let mut plan = match keep_days {
        Some(keep_days) => {
            let terms =
                Terms { archive_id, keep_days, captured: &captured, born_empty: &born_empty, now, flush };
            Plan::of(&inventory, &terms)
        }
        None => Plan { notes: inventory.troubles.clone(), ..Plan::default() },
    };
    plan.prune_rollups(&inventory);
    plan.prune_singles(&inventory, &rolled, now);
    if dry_run || plan.is_empty() {
        return Ok(plan);
    }
    faults::hit("prune.planned")?;

    let floor = plan.floor.or(inventory.floor.as_ref().map(|floor| floor.seq));
    begin(archive, &plan, inventory, archive_id, now).await?;
    if let Some(floor) = floor {
        spool.forget_before(floor)?;
    }
    faults::hit("prune.spool_forgot")?;

    let removed = plan.clone();
    archive.run(move |archive| remove(archive, &removed, &rolled)).await?;
    info!(files = plan.removals().count(), bytes = plan.bytes(), "archive pruned");
    Ok(plan)
}

/// Makes sure that files can be removed, and then says that the archive begins later now. Nothing is removed yet.
async fn begin(
    archive: &ArchiveHandle,
    plan: &Plan,
    inventory: Inventory,
    archive_id: uuid::Uuid,
    now: Timestamp,
) -> Result<()> {
    let floor = plan.floor;
    archive
        .run(move |archive| {
            check_rights(archive)?;
            match floor {
                Some(seq) => raise_floor(archive, &inventory, seq, archive_id, now),
                None => Ok(()),
            }
        })
        .await
}

pub(crate) fn not_configured() -> Error {
    Error::new(Kind::BadInput, "keep_days is not set: nothing is ever pruned")
        .hint("set keep_days to the number of days that the archive shall reach back; 0 keeps the newest snapshot and what follows it")
}

/// Says that the floor is higher now. Nothing has been removed yet.
fn raise_floor(
    archive: &mut dyn Archive,
    inventory: &Inventory,
    seq: SegmentSeq,
    archive_id: uuid::Uuid,
    now: Timestamp,
) -> Result<()> {
    let gone = || Error::new(Kind::NotFound, format!("segment {seq} is gone"));
    let (manifest, _) = inventory.manifest(archive, seq, archive_id)?.ok_or_else(gone)?;
    if let Some(link) = manifest.previous
        && let Some((_, sha256)) = inventory.manifest(archive, link.seq, archive_id)?
        && sha256 != link.sha256
    {
        let message = format!(
            "segment {seq} does not follow the segment {} that is there: nothing was pruned",
            link.seq
        );
        return Err(Error::new(Kind::Corrupt, message)
            .hint("run `syncdata-archiver verify`: which of the two is damaged, and bring it back from a sound copy"));
    }
    let floor = Floor { format: FORMAT, archive_id, seq, previous: manifest.previous, pruned_at: now };
    small::replace(archive, &ArchivePath::floor(), Document::Floor, &floor.encode())?;
    faults::hit("prune.floor_raised")
}

/// An account that may write but not remove would leave a raised floor and nothing gone.
fn check_rights(archive: &mut dyn Archive) -> Result<()> {
    let path = ArchivePath::parse("prune.part").expect("a plain name");
    let content = b"whether files may be removed here\n";
    let facts = Facts { bytes: content.len() as u64, sha256: Digest::of(content) };
    archive.put(&path, &mut Cursor::new(content), facts)?;
    archive.remove(&path).map(|_| ()).map_err(|error| {
        error.context("nothing was pruned: the account may not remove files of the archive").hint(
            "allow remove and rmdir to the archiver's account (`-P` of sftp-server, in the sshd settings of the \
             backup host), or unset keep_days and keep_singles",
        )
    })
}

/// The plan's removals, in its order.
fn remove(archive: &mut dyn Archive, plan: &Plan, rolled: &[Rollup]) -> Result<()> {
    let mut progress = Progress::start("pruning", Unit::Bytes, Some(plan.bytes()));
    for removal in plan.whole() {
        archive.remove(&ArchivePath::parse(&removal.path)?)?;
        faults::hit("prune.removed")?;
        progress.add(removal.bytes);
    }
    rolled::remove_singles(archive, &plan.singles, rolled, &mut progress)?;
    for folder in &plan.folders {
        match archive.remove(&ArchivePath::parse(folder)?) {
            // Somebody put a file of his own into it.
            Err(error) if error.kind() == Kind::Conflict => {}
            removed => drop(removed?),
        }
        faults::hit("prune.folder_removed")?;
    }
    progress.finish();
    Ok(())
}
