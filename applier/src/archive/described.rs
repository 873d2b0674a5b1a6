//! The newest description of each table that the archive has, whichever file says it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syncdata_formats::chain::ChainTip;
use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Manifest, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::SnapshotManifest;
use uuid::Uuid;

use super::source::Source;

/// What the archive says of tables.
#[derive(Debug, Default)]
pub(crate) struct Described {
    /// Those that production's archiver captures now.
    pub captured: Vec<TableName>,
    pub relations: BTreeMap<TableName, Relation>,
}

/// Manifests from the newest backwards, no further than to the newest snapshot that has the tables which are left: each
/// describes the tables that it has changes of, and no others. Each is checked by itself, its signature too.
pub(crate) async fn described(source: &Source, archive_id: Uuid) -> Result<Described> {
    let snapshots = source.snapshots(archive_id).await?;
    let listing = source.list(None).await?;
    let mut found = Described::default();
    let mut wanted: Option<BTreeSet<TableName>> = None;
    for (day, name) in listing.names().rev() {
        let manifest = Manifest::decode(&source.manifest_bytes(day, name).await?)?;
        let tip = match manifest.previous {
            None => ChainTip::origin(archive_id),
            Some(previous) => ChainTip::after(archive_id, previous, manifest.start_lsn, day),
        };
        let manifest = source.manifest(&tip, day, name).await?.manifest().clone();
        let wanted = wanted.get_or_insert_with(|| {
            found.captured.clone_from(&manifest.capture);
            manifest.capture.iter().cloned().collect()
        });
        take_from_snapshots(&snapshots, Some(manifest.end_lsn), wanted, &mut found);
        for (table, relation) in manifest.relations {
            if wanted.remove(&table) {
                found.relations.insert(table, relation);
            }
        }
        if wanted.is_empty() {
            break;
        }
    }
    let mut wanted = wanted.unwrap_or_else(|| {
        let tables: BTreeSet<TableName> =
            snapshots.iter().flat_map(|one| one.tables.keys().cloned()).collect();
        found.captured = tables.iter().cloned().collect();
        tables
    });
    take_from_snapshots(&snapshots, None, &mut wanted, &mut found);
    Ok(found)
}

/// Of snapshots that were taken after that position.
fn take_from_snapshots(
    snapshots: &[Arc<SnapshotManifest>],
    after: Option<Lsn>,
    wanted: &mut BTreeSet<TableName>,
    found: &mut Described,
) {
    for snapshot in snapshots.iter().filter(|snapshot| after.is_none_or(|lsn| snapshot.start_lsn >= lsn)) {
        for (table, copy) in &snapshot.tables {
            if wanted.remove(table) {
                found.relations.insert(table.clone(), copy.relation.clone());
            }
        }
    }
}
