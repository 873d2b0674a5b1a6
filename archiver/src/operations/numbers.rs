//! How many NaN and infinities captured tables have: wal2json before 2.6 prints them as null.

use syncdata_formats::Result;
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::ServerContext as _;

use crate::capture::Capture;
use crate::operations::remembered::remembered;
use crate::source::connection::Connection;
use crate::source::pgoutput::publication;
use crate::source::{catalog, columns};

const SUBJECT: &str = "NaN";

/// Reads every row once.
pub(crate) async fn count(config: &Config) -> Result<Finding> {
    let mut connection = Connection::open(config).await?;
    let (schemas, catalog) =
        catalog::catalog(connection.session.client(), publication::of(config).as_deref()).await?;
    let memory = remembered(config).await?.map(|state| state.memory).unwrap_or_default();
    let capture = Capture::resolve(&config.tables, &schemas, &catalog, &memory)?;
    let tx = connection.transaction().await?;
    let mut found = Vec::new();
    for table in columns::with_numbers(&tx, &capture.tables).await? {
        let counts = tx.query_typed(&table.statement(), &[]).await;
        let counts = counts.context(|| format!("counting NaN and infinities of {}", table.name))?;
        let Some(row) = counts.first() else { continue };
        for (place, column) in table.columns.iter().enumerate() {
            let count: i64 = row.get(place);
            if count > 0 {
                found.push(in_words(&table.name, column, count));
            }
        }
    }
    Ok(if found.is_empty() {
        Finding::ok(SUBJECT, "no captured table has NaN or infinities in numeric and float columns")
    } else {
        Finding::warn(SUBJECT, found.join("; "))
            .remedy("wal2json before 2.6 sends them as NULL: install 2.6 or newer")
    })
}

fn in_words(table: &TableName, column: &str, count: i64) -> String {
    format!("{table}.{column}: {count} NaN or infinities")
}
