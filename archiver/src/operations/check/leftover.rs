//! A copy of the slot that nobody goes on with.

use postgres_protocol::escape::escape_literal;
use syncdata_formats::Result;
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;

use crate::source::catalog::{Position, Slot};
use crate::source::connection::Connection;
use crate::source::leftover::Leftover;

/// Without our own slot it is what a change of the plugin goes on with, and no leftover.
pub(super) async fn look(config: &Config, connection: &Connection) -> Result<Option<Finding>> {
    let (client, name) = (connection.session.client(), &config.slot_name);
    let Some(slot) = Slot::read(client, name).await? else { return Ok(None) };
    let flush = Position::read(client).await?.flush;
    let leftover = Leftover::find(client, name, &slot, flush).await?;
    Ok(leftover.map(|leftover| {
        let statement = Leftover::statement(escape_literal(leftover.name.as_str()).trim());
        Finding::fail("slot", format!("{leftover}: `setup --switch-source` was interrupted, it seems"))
            .remedy(
                "the next poll drops it if this archiver has made it; if it stays, and is no other archiver's slot_name, run the \
                 statement",
            )
            .statement(format!("{statement};"))
    }))
}
