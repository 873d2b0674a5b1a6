//! Which captured tables have rows that no change in the archive will bring: only a snapshot has them.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_archive::ArchiveHandle;
use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::signature::SigningKey;
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;

use crate::capture::Capture;
use crate::operations::remembered::remembered;
use crate::ship::shipper::Shipper;
use crate::source::catalog;
use crate::source::columns;
use crate::source::connection::Connection;
use crate::source::pgoutput::publication;

pub(crate) const SUBJECT: &str = "older rows";
const NAMED_MAX: usize = 20;

/// The tables, and that in words.
pub(crate) async fn look(config: &Config) -> Result<(BTreeSet<TableName>, Finding)> {
    let mut connection = Connection::open(config).await?;
    let (schemas, catalog) =
        catalog::catalog(connection.session.client(), publication::of(config).as_deref()).await?;
    let state = remembered(config).await?;
    let memory = state.as_ref().map(|state| state.memory.clone()).unwrap_or_default();
    let capture = Capture::resolve(&config.tables, &schemas, &catalog, &memory)?;
    let mut tables: BTreeMap<TableName, Lsn> = match &state {
        Some(state) if state.captured.open().next().is_some() => {
            let had_rows = state.captured.open().filter(|span| !span.empty);
            had_rows.map(|span| (span.name.clone(), span.from)).collect()
        }
        // Before the first poll: what they have now may be older than what that captures.
        _ => {
            let tx = connection.transaction().await?;
            let filled = columns::with_any_rows(&tx, &capture.tables).await?;
            filled.into_iter().map(|table| (table, Lsn::ZERO)).collect()
        }
    };
    tables.retain(|table, _| capture.tables.contains(table));
    if state.is_some() && !tables.is_empty() {
        leave_out_copied(config, &mut tables).await?;
    }
    let tables: BTreeSet<TableName> = tables.into_keys().collect();
    let finding = finding(&tables);
    Ok((tables, finding))
}

/// What a snapshot has that was taken since their capture began.
async fn leave_out_copied(config: &Config, tables: &mut BTreeMap<TableName, Lsn>) -> Result<()> {
    let shipper = Shipper::new(ArchiveHandle::spawn(syncdata_archive::open(config.archive()?)?)?);
    let verify_key = config.signing_key()?.as_ref().map(SigningKey::verify_key);
    // A backup host that is away says nothing: then all of them are named.
    let Ok(held) = shipper.snapshots(BTreeMap::new(), verify_key).await else { return Ok(()) };
    tables.retain(|table, from| {
        !held.values().any(|copy| copy.tables.contains(table) && copy.id.start_lsn() >= *from)
    });
    Ok(())
}

fn finding(tables: &BTreeSet<TableName>) -> Finding {
    if tables.is_empty() {
        return Finding::ok(
            SUBJECT,
            "every captured table was empty when its capture began, or has a snapshot",
        );
    }
    let named: Vec<String> = tables.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = tables.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let message = format!("only a snapshot has the rows that were there before: {}{more}", named.join(", "));
    Finding::warn(SUBJECT, message)
        .remedy("syncdata-archiver setup --snapshot takes it, while production works")
}
