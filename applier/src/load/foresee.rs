//! What loading will come to, said before it is done.

use bytesize::ByteSize;
use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Manifest;
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;

use crate::archive;
use crate::archive::source::Source;
use crate::plan::offer::{CaptureSince, Choice, Offer};
use crate::plan::state::Want;
use crate::target::postgres::cursor::Cursor;
use crate::target::postgres::local::Local;

/// What loading a new table will come to, in words. `Err`: there is no such base.
pub type Foreseen = Vec<(TableName, Result<String, String>)>;

pub async fn foresee(config: &Config, local: &Local, tables: &[TableName], want: Want) -> Result<Foreseen> {
    let source = archive::open::open_by_hand(config)?;
    let reached = Cursor::of(&local.meta).reached(local.session.client()).await?;
    let since = Cursor::of(&local.meta).capture_since(local.session.client()).await?;
    foresee_from(&source, reached, since, tables, want).await
}

/// The same for a copy that has reached that, and knows since when tables are captured.
pub(crate) async fn foresee_from(
    source: &Source,
    reached: Lsn,
    mut since: CaptureSince,
    tables: &[TableName],
    want: Want,
) -> Result<Foreseen> {
    let identity = source.identity().await?;
    let snapshots = source.snapshots(identity.archive_id).await?;
    let listing = source.list(None).await?;
    // A copy that has nothing yet gets as far as the archive before it loads.
    let newest = listing.names().map(|(_, name)| name.end_lsn).max();
    let head = source.head().await?.map(|head| head.covered_lsn);
    let reached = reached.max(newest.unwrap_or(Lsn::ZERO)).max(head.unwrap_or(Lsn::ZERO));
    if since.is_empty()
        && let Some((day, name)) = listing.names().next()
    {
        // Nothing is applied yet. What the first segment says is looked at again when it is.
        let bytes = source.manifest_bytes(day, name).await?;
        since = Manifest::decode(&bytes)?.capture_since;
    }
    let offer = Offer { snapshots: &snapshots, floor: listing.floor(), reached, since: &since };
    let after = |from: Lsn| listing.names().filter(|(_, name)| name.end_lsn > from).count();
    let words = |table: &TableName| match offer.choose(table, want) {
        Choice::Snapshot(snapshot) => {
            let copy = &snapshot.tables[table];
            Ok(format!(
                "is loaded from snapshot {} of {} ({} rows, {}), then {} segments after it",
                snapshot.id,
                snapshot.taken_at,
                copy.rows,
                ByteSize(copy.content_bytes),
                after(snapshot.start_lsn)
            ))
        }
        Choice::Start(from) => Ok(format!(
            "was empty when its capture began: starts with the archive's changes, {} segments",
            after(from)
        )),
        Choice::Wait(id) => Ok(format!("is loaded from snapshot {id} once the archive covers it")),
        Choice::Nothing(reason) => Err(reason),
    };
    Ok(tables.iter().map(|table| (table.clone(), words(table))).collect())
}
