//! `follow`: whether the slot may be read as a stream, and whether it is.

use syncdata_formats::Result;
use syncdata_formats::name::SlotName;
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::types::{ToSql, Type};

use crate::source::connection::Connection;
use crate::source::{followable, stream};

/// The server's process that sends the slot's stream to a follower of ours.
pub(super) async fn followed(connection: &Connection, slot: &SlotName) -> Result<Option<i32>> {
    let sql =
        "SELECT r.active_pid FROM pg_replication_slots r JOIN pg_stat_replication s ON s.pid = r.active_pid
        WHERE r.slot_name = $1 AND s.application_name = $2";
    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
        [(&slot.as_str(), Type::TEXT), (&stream::APPLICATION_NAME, Type::TEXT)];
    let rows = connection.session.client().query_typed(sql, &parameters).await;
    let rows = rows.context(|| format!("asking who follows the slot {slot}"))?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// Whether commits would wait for us.
pub(super) async fn look(config: &Config, connection: &Connection) -> Option<Finding> {
    if !config.follow {
        return None;
    }
    match followable::refused(connection, config.source).await {
        Ok(None) => None,
        Ok(Some(error)) | Err(error) => Some(Finding::of_error("follow", &error)),
    }
}
