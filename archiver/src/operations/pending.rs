//! Does anything wait in the slot that would travel?

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;

use crate::capture::Capture;
use crate::source::catalog::{self, Position};
use crate::source::connection::Connection;
use crate::source::wal2json::line::{JsonString, Line};
use crate::source::wal2json::slot::{Peek, Plugin};
use crate::spool::Spool;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    Nothing,
    Changes,
    /// Nothing among what one poll reads, and there is more.
    TooMuchToTell,
}

/// Looks as a poll does, and keeps nothing.
pub(crate) async fn waits(config: &Config, connection: &mut Connection) -> Result<Pending> {
    let state = Spool::peek_state(&config.spool_dir)?;
    let archived = state.as_ref().map_or(Lsn::from_u64(0), |state| state.position());
    let remembered = state.map(|state| state.remembered).unwrap_or_default();
    let plugin = Plugin::probe(connection, &config.slot_name).await?;
    let upto = Position::read(connection.session.client()).await?.flush;
    let (schemas, catalog) = catalog::catalog(connection.session.client()).await?;
    let capture = Capture::resolve(&config.tables, &schemas, &catalog, &remembered)?;
    let lines_max = config.poll_max_changes.get();
    let peek =
        Peek { slot: &config.slot_name, plugin, filter: &capture.filter, upto, lines_max: Some(lines_max) };
    let (mut lines, mut changes, mut is_new) = (0, false, true);
    peek.run(connection, |line| {
        lines += 1;
        match Line::parse(line)? {
            Line::Begin(begin) => is_new = begin.end_lsn > archived,
            Line::Row(row) => changes |= is_new && travels(&capture, row.target.schema, row.target.table),
            Line::Truncate(target) => changes |= is_new && travels(&capture, target.schema, target.table),
            Line::Commit(_) | Line::Message => {}
        }
        Ok(())
    })
    .await?;
    Ok(match changes {
        true => Pending::Changes,
        false if lines >= lines_max => Pending::TooMuchToTell,
        false => Pending::Nothing,
    })
}

/// A name that cannot be read is nobody's reason to forget a change.
fn travels(capture: &Capture, schema: JsonString<'_>, table: JsonString<'_>) -> bool {
    let name = |json| serde_json::from_str::<String>(json).ok();
    let relation = name(schema).zip(name(table)).and_then(|(s, t)| TableName::new(s, t).ok());
    relation.is_none_or(|relation| {
        capture.target(&relation).is_some() || capture.detached_from(&relation).is_some()
    })
}
