//! Loads tables from a base: makes each anew in a shadow, catches up with the others, and brings the difference over
//! in one transaction.
//!
//! ```text
//! snapshot parts ─▶ shadow ─▶ index ─▶ changes after the snapshot ──▶ ┐ no pass meanwhile:
//! (or the changes since segment 1)     (again, while others move on)  └▶ last changes ─▶ difference, position: COMMIT
//! ```
//! Until that commit readers see the old rows, and the other tables go on. Killed anywhere before it, nothing has
//! happened; after it, all has.

mod base;
mod bring_over;
pub(crate) mod catch_up;
pub(crate) mod columns;
mod difference;
#[cfg(feature = "duckdb")]
pub mod duckdb;
mod fill;
mod foresee;
mod hold;
mod loader;
mod parts;
mod refusal;
pub(crate) mod shadow;

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::error::{Error, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::daemon::Stop;
use syncdata_service::postgres::sqlstate;
use tokio::sync::Mutex;

pub(crate) use self::base::{Base, BaseKey};
pub(crate) use self::catch_up::{Copy, Known};
pub use self::difference::Changes;
pub(crate) use self::difference::Pair;
pub(crate) use self::fill::fill;
#[cfg(feature = "duckdb")]
pub(crate) use self::foresee::foresee_from;
pub use self::foresee::{Foreseen, foresee};
use self::loader::{Loader, Offered};
pub(crate) use self::refusal::{Halt, Refusal};
use crate::apply::acks::Acks;
use crate::archive;
use crate::archive::silence::Silence;
use crate::plan::group::GroupName;
use crate::target::postgres::apply::is_no_fault_of_a_record;
use crate::target::postgres::cursor::{self, Cursor};
use crate::target::postgres::local::Local;

/// What data_sync_logs names where a base could not be loaded.
pub const LOG_REF: &str = "base copy";

/// What the tables that waited for a base came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub loaded: BTreeMap<TableName, Loaded>,
    /// Those that cannot be loaded as they are, with the reason.
    pub refused: BTreeMap<TableName, String>,
    /// Those that have no base yet, or one that is still ahead of this copy, with the reason.
    pub waiting: BTreeMap<TableName, String>,
    /// Records of segments that were applied.
    pub records: u64,
    /// Somebody asked to stop.
    pub stopped: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The snapshot's id, or the first segment.
    pub base: String,
    pub changes: Changes,
    pub position: Lsn,
}

/// Loads what waits for a base. One loader at a time in a database; passes go on beside it until it commits.
/// `turn` keeps the passes of this process out meanwhile, so that they need not wait for the lock in vain.
pub async fn run(
    config: &Config,
    stop: &Stop,
    turn: &Mutex<()>,
    acks: &Acks,
    silence: Silence,
) -> Result<Report> {
    let mut report = Report::default();
    let local = Local::open_for_pass(config).await?;
    let states = cursor::table_states(local.session.client(), &local.meta).await?;
    if !states.values().any(|state| state.wants().is_some()) {
        return Ok(report);
    }

    local.lock_load().await?;
    let source = archive::open::open_for_load(config)?.with_silence(silence);
    let checkpoint = Cursor::of(&local.meta).read(local.session.client()).await?;
    // The first pass has to meet the archive.
    let Some(archive_id) = checkpoint.archive_id else { return Ok(report) };

    let offered = Offered { snapshots: source.snapshots(archive_id).await?, floor: source.floor().await? };
    let waiting = states.values().filter(|state| state.wants().is_some());
    let waiting: BTreeSet<GroupName> = waiting.map(|state| state.group.clone()).collect();
    let mut bad = None;
    for group in &waiting {
        let own = states.iter().filter(|(_, state)| state.group == *group);
        let own = own.map(|(table, state)| (table.clone(), state.clone())).collect();
        let asked = states.iter().map(|(table, state)| (table.clone(), state.load_asked)).collect();
        let cursor = Cursor::of_group(&local.meta, group);
        let mut loader = Loader {
            local: &local,
            cursor,
            source: &source,
            config,
            stop,
            turn,
            archive_id,
            asked,
            report: &mut report,
        };
        let done = loader.load_all(&own, &offered, acks).await?;
        bad = bad.or(done);
        if report.stopped {
            break;
        }
    }

    source.forget()?;
    bad.map_or(Ok(report), Err)
}
/// Whether the server refused a row: then the table has to be mended, and trying again does not help.
pub(crate) fn is_of_a_row(error: &Error) -> bool {
    let has_code = sqlstate(error).is_some();
    has_code && !is_no_fault_of_a_record(error)
}
