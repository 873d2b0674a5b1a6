//! The backup host and our own disk.

use syncdata_archive::{ArchiveHandle, probe};
use syncdata_formats::Result;
use syncdata_formats::head::Head;
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::time::Timestamp;
use syncdata_service::checks;
use syncdata_service::config::Config;
use syncdata_service::disk::Room;
use syncdata_service::finding::{Finding, Level};

use super::failed;
use crate::operations::remembered::remembered;
use crate::ship::shipper::Shipper;

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let shipper = match reach(config) {
        Ok(shipper) => shipper,
        Err(error) => return vec![failed("archive", &error)],
    };
    let identity = identity(config, &shipper).await.unwrap_or_else(|error| failed("archive", &error));
    // Of another archive, or of one that cannot be reached, there is nothing more to say.
    let is_ours = identity.level == Level::Ok;
    let mut findings = vec![identity];
    if is_ours {
        findings.push(rights(&shipper).await);
        findings.extend(room(&shipper).await.unwrap_or_else(|error| Some(failed("archive room", &error))));
        findings.extend(clock(&shipper).await.unwrap_or_else(|error| Some(failed("clock", &error))));
    }
    findings
}

fn reach(config: &Config) -> Result<Shipper> {
    Ok(Shipper::new(ArchiveHandle::spawn(syncdata_archive::open(config.archive()?)?)?))
}

async fn identity(config: &Config, shipper: &Shipper) -> Result<Finding> {
    let location = shipper.location().to_owned();
    let ours = remembered(config).await?.map(|state| state.archive_id);
    Ok(match shipper.identity().await? {
        Some(identity) if ours.is_some_and(|ours| ours != identity.archive_id) => Finding::fail(
            "archive",
            format!("{location} is archive {}, not that of the spool", identity.archive_id),
        )
        .remedy("correct archive_dir, or use a new spool_dir for this archive"),
        None if ours.is_some() => {
            Finding::fail("archive", format!("{location} has no archive.json any more"))
                .remedy("is the right disk mounted? Bring the archive back; for a new one use a new archive_dir and spool_dir")
        }
        Some(identity) => Finding::ok("archive", format!("{location}, archive {}", identity.archive_id)),
        None => Finding::ok("archive", format!("{location}, empty: the first poll founds the archive")),
    })
}

async fn rights(shipper: &Shipper) -> Finding {
    const SUBJECT: &str = "archive rights";
    match shipper.archive().run(probe::probe).await {
        Ok(true) => Finding::ok(SUBJECT, "files can be written, renamed, replaced and removed"),
        Ok(false) => Finding::ok(SUBJECT, "files can be created and removed, and none is written over"),
        Err(error) => failed(SUBJECT, &error),
    }
}

async fn room(shipper: &Shipper) -> Result<Option<Finding>> {
    let free = shipper.archive().run(|archive| archive.room()).await?;
    Ok(free.map(|free| checks::room("archive room", shipper.location(), free)))
}

/// head.json says when it was written by production's clock, and the backup host when by its own.
async fn clock(shipper: &Shipper) -> Result<Option<Finding>> {
    let Some(head) = shipper.head().await? else { return Ok(None) };
    let written = shipper.archive().run(|archive| archive.changed_at(&ArchivePath::head())).await?;
    Ok(written.map(|written| clock_of(&head, written)))
}

fn clock_of(head: &Head, written: Timestamp) -> Finding {
    checks::clock_of_backup_host(head.covered_at, written, Timestamp::now())
}

pub(super) async fn spool(config: &Config) -> Result<Vec<Finding>> {
    let path = config.spool_dir.display().to_string();
    let mut findings = vec![match remembered(config).await? {
        Some(state) => Finding::ok("spool", format!("{path}, up to {}", state.covered_lsn)),
        None => Finding::ok("spool", format!("{path}, never used")),
    }];
    findings.extend(
        Room::of("spool", &config.spool_dir).map(|room| checks::room("spool room", &path, room.free_bytes)),
    );
    Ok(findings)
}
