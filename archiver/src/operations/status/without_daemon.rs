//! The status while no daemon runs: what spool and source say themselves.

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::{ArchiveSettings, Config};
use syncdata_service::disk::Room;

use super::{Frame, SourceStatus, Status};
use crate::source::catalog::{Position, Slot};
use crate::source::connection::Connection;
use crate::source::leftover::Leftover;
use crate::spool::executions;
use crate::spool::holdings::Holdings;

pub(crate) async fn without_daemon(config: &Config) -> Status {
    let location = config.archive().map(ArchiveSettings::place).unwrap_or_default();
    let frame = Frame {
        wal_guard: config.wal_guard.as_u64(),
        spool_max: config.spool_max.as_u64(),
        location: &location,
        spool_dir: &config.spool_dir,
        now: Timestamp::now(),
    };
    let mut status = Status {
        status: "not-started".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        disks: Room::of("spool", &config.spool_dir).into_iter().collect(),
        poll_frequency_seconds: config.data_sync_freq.as_secs(),
        problems: vec!["no daemon is running".into()],
        spool_dir: config.spool_dir.clone(),
        executions: executions::list(&config.spool_dir),
        ..Status::default()
    };
    let mut flush = Default::default();
    match source_status(config, frame).await {
        Ok((source, leftover, at)) => {
            flush = at;
            status.problems.extend(leftover.iter().map(ToString::to_string));
            status.source = source;
            if status.source.is_none() {
                status.problems.push(format!("the replication slot {} does not exist", config.slot_name));
            }
        }
        Err(error) => status.problems.push(error.one_line()),
    }
    match Holdings::look(&config.spool_dir) {
        Ok(Some(holdings)) => {
            status.spooled(frame, &holdings, flush);
            status.problems.extend(status.uncountable.clone());
            status.tables = holdings.state.memory.captured().iter().map(ToString::to_string).collect();
        }
        Ok(None) => {}
        Err(error) => status.problems.push(error.one_line()),
    }
    status.seen_at(Timestamp::now())
}

async fn source_status(
    config: &Config,
    frame: Frame<'_>,
) -> Result<(Option<SourceStatus>, Option<Leftover>, Lsn)> {
    let connection = Connection::open(config).await?;
    let client = connection.session.client();
    let position = Position::read(client).await?;
    let slot = Slot::read(client, &config.slot_name).await?;
    let leftover = match &slot {
        Some(slot) => Leftover::find(client, &config.slot_name, slot, position.flush).await?,
        None => None,
    };
    let status =
        slot.map(|slot| SourceStatus::of(&slot, config.slot_name.to_string(), position.flush, frame, None));
    Ok((status, leftover, position.flush))
}
