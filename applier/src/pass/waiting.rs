//! How many records wait for tables that are quarantined: the one that failed, and all after it.

use syncdata_formats::chain::Verified;
use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;

use crate::apply::part;
use crate::archive::source::Source;
use crate::archive::stretch::stretch;
use crate::target::postgres::cursor::{self, Cursor};
use crate::target::postgres::local::Local;

/// Counts for those of the group of which nobody knows it yet; what comes later is added as it is passed over. Nobody moves
/// its checkpoint meanwhile: the pass holds its lock.
pub(super) async fn count(local: &Local, cursor: Cursor<'_>, source: &Source) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    let tables = cursor::uncounted(client, meta, cursor.group()).await?;
    let Some(from) = tables.iter().map(|(_, position)| *position).min() else { return Ok(()) };
    let checkpoint = cursor.read(client).await?;
    let (Some(archive_id), Some(own)) = (checkpoint.archive_id, checkpoint.segment) else { return Ok(()) };
    let segments = stretch(source, archive_id, own.link, own.end_lsn, from).await?;
    for (table, position) in tables {
        let mut records = 0;
        for segment in &segments {
            records += of_segment(source, segment, &table, position).await?;
        }
        cursor::note_waiting(client, meta, &table, records).await?;
    }
    Ok(())
}

async fn of_segment(source: &Source, segment: &Verified, table: &TableName, position: Lsn) -> Result<u64> {
    let manifest = segment.manifest();
    let Some(counts) = manifest.tables.get(table).filter(|_| manifest.end_lsn > position) else {
        return Ok(0);
    };
    if manifest.start_lsn >= position {
        return Ok(counts.total());
    }
    // It has taken a part of it, which only the file tells.
    let fetched = source.fetch_file(segment.clone()).await?;
    let records = match part::parts(&fetched, table.to_string()).await? {
        Some(parts) => {
            parts.iter().filter(|part| part.commit.end_lsn > position).map(|part| part.records).sum()
        }
        None => counts.total(),
    };
    fetched.clean()?;
    Ok(records)
}
