//! The archive: can it be reached, is it one, is it signed as agreed, is it alive.

use std::collections::BTreeMap;

use syncdata_formats::chain::ChainTip;
use syncdata_formats::error::Result;
use syncdata_formats::head::Head;
use syncdata_formats::identity::ArchiveIdentity;
use syncdata_formats::layout::SegmentName;
use syncdata_formats::manifest::{Manifest, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_service::checks;
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;
use uuid::Uuid;

use super::failed;
use crate::archive;
use crate::archive::source::Source;

/// How many of the newest manifests are searched for the shapes of tables.
const MANIFESTS_MAX: usize = 32;

/// What the newest manifests say.
#[derive(Debug, Default)]
pub(super) struct Newest {
    pub(super) archive_id: Option<Uuid>,
    /// `None`: there is no segment yet.
    pub(super) capture: Option<Vec<TableName>>,
    /// What the newest one's plugin could not say.
    pub(super) degraded: Vec<String>,
    /// Of production.
    pub(super) server_version: Option<String>,
    /// The newest shape of each table that they name.
    pub(super) relations: BTreeMap<TableName, Relation>,
}

pub(super) async fn look(config: &Config, findings: &mut Vec<Finding>) -> Result<Newest> {
    let source = archive::open::open_by_hand(config)?;
    let identity = source.identity().await?;
    let message =
        format!("{}, archive {} of {}", source.location(), identity.archive_id, identity.source.database);
    findings.push(Finding::ok("archive", message));
    let head = source.head().await?;
    findings.push(alive(config, head.as_ref()));
    if let (Some(head), Some(written)) = (&head, source.head_written_at().await?) {
        findings.push(checks::clock_of_backup_host(head.covered_at, written, Timestamp::now()));
    }
    let places: Vec<(Day, SegmentName)> = source.list(None).await?.names().rev().collect();
    if let Some(&(day, name)) = places.first() {
        findings.push(match verified(config, &source, &identity, day, name).await {
            Ok(message) => Finding::ok("newest manifest", message),
            Err(error) => failed("newest manifest", &error),
        });
    }
    let mut newest = Newest { archive_id: Some(identity.archive_id), ..Newest::default() };
    for (day, name) in places.into_iter().take(MANIFESTS_MAX) {
        let Ok(manifest) = Manifest::decode(&source.manifest_bytes(day, name).await?) else { continue };
        for (table, relation) in manifest.relations {
            newest.relations.entry(table).or_insert(relation);
        }
        if newest.capture.is_none() {
            newest.degraded = manifest.source.degraded;
            newest.server_version = Some(manifest.source.server_version);
        }
        newest.capture.get_or_insert(manifest.capture);
    }
    Ok(newest)
}

fn alive(config: &Config, head: Option<&Head>) -> Finding {
    let remedy = "look at `syncdata-archiver status` on the production host, and at both clocks";
    let Some(head) = head else {
        return Finding::warn("freshness", "the archive has no head.json that can be read").remedy(remedy);
    };
    let now = Timestamp::now();
    let (age, ahead) = (now.since(head.covered_at), head.covered_at.since(now));
    if age > config.stale_after || ahead > config.stale_after {
        let message = format!("the archive is as of {}: not fresh within stale_after", head.covered_at);
        return Finding::warn("freshness", message).remedy(remedy);
    }
    Finding::ok("freshness", format!("the archive is as of {}", head.covered_at))
}

/// That it belongs where it lies, by what it says itself, and that it is signed if it has to be.
async fn verified(
    config: &Config,
    source: &Source,
    identity: &ArchiveIdentity,
    day: Day,
    name: SegmentName,
) -> Result<String> {
    let manifest = Manifest::decode(&source.manifest_bytes(day, name).await?)?;
    let tip = match manifest.previous {
        None => ChainTip::origin(identity.archive_id),
        Some(previous) => ChainTip::after(identity.archive_id, previous, manifest.start_lsn, day),
    };
    source.manifest(&tip, day, name).await?;
    let signed = if config.verify_key()?.is_some() { "signed by verify_key" } else { "no verify_key is set" };
    Ok(format!("segment {}, {signed}", name.seq))
}
