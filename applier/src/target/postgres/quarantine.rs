//! The records that no table would take, kept with all that is known about them.

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_service::postgres::OwnTablesContext as _;
use tokio_postgres::GenericClient;

use crate::target::postgres::kept::{self, RECORD_BYTES_MAX};
use crate::target::postgres::meta::MetaSchema;
use crate::target::{Found, Poison};

pub async fn keep(
    client: &impl GenericClient,
    meta: &MetaSchema,
    poison: &Poison,
    record: Option<&Found>,
) -> Result<()> {
    let insert = format!(
        "INSERT INTO {meta}.data_sync_quarantine (table_name, seq, line, lsn, sqlstate, reason, record) \
         VALUES ($1, $2, $3, $4::text::pg_lsn, $5, $6, $7)"
    );
    let seq = i64::try_from(poison.seq).expect("ten digits");
    let line = poison.line.and_then(|line| i64::try_from(line).ok());
    let lsn = record.map(|record| record.lsn.to_string());
    let said = poison.server_words.as_ref().map_or(String::new(), |words| format!(" [{words}]"));
    let mut reason = format!("{}{said}", poison.words());
    let text = match record {
        Some(record) => kept::document(client, &record.text).await?,
        None => None,
    };
    if let (Some(record), None) = (record, &text) {
        let bytes = record.text.len();
        reason = format!(
            "the record of {bytes} bytes is too long to be kept here (more than {RECORD_BYTES_MAX}), it is in the \
             archive: {reason}"
        );
    }
    let reason = kept::words(client, &reason).await?;
    let table = poison.table.to_string();
    client
        .execute(&insert, &[&table, &seq, &line, &lsn, &poison.sqlstate, &reason, &text])
        .await
        .context(|| "keeping the record in data_sync_quarantine".to_owned())?;
    Ok(())
}

/// Forgets what was kept about a table that is whole again.
pub async fn forget(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    let delete = format!("DELETE FROM {meta}.data_sync_quarantine WHERE table_name = $1");
    client.execute(&delete, &[&table.to_string()]).await.context(|| "clearing the quarantine".to_owned())?;
    Ok(())
}
