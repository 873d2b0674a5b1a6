//! What a poll came to, and what it saw of the source.

use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::name::SlotName;
use syncdata_formats::{Error, Result};

use crate::capture::Capture;
use crate::poll::guard::Pressure;
use crate::segment::publish::Rows;
use crate::source::catalog::{OldestTransaction, Position, Slot};
use crate::source::connection::Connection;
use crate::source::leftover::Leftover;
use crate::source::production::About;

/// The result of one poll.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub segments: u64,
    pub records: u64,
    /// What the records are, by table.
    pub rows: Rows,
    pub shipped: u64,
    /// Why the backup host does not have everything.
    pub away: Option<Error>,
    /// Why there is more in the slot than was read.
    pub held_back: Option<Error>,
    /// A name in the settings that matches nothing, and was passed over so that production's WAL could go.
    pub mistake: Option<Error>,
    pub gaps: Vec<Gap>,
    pub pressure: Pressure,
    pub view: View,
}

/// What `status` shows of the source, as it was at the end of the poll.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub slot: Option<Slot>,
    pub leftover: Option<Leftover>,
    pub flush: Lsn,
    pub oldest_transaction: Option<OldestTransaction>,
    pub plugin: Option<About>,
    pub capture: Capture,
    pub server_version: String,
    /// Room on the backup host, where it says so.
    pub archive_free: Option<u64>,
}

impl Outcome {
    /// Everything is on the backup host, and nothing is missing.
    pub(crate) fn is_clean(&self) -> bool {
        let errors = [&self.away, &self.held_back, &self.mistake];
        errors.iter().all(|error| error.is_none()) && self.gaps.is_empty()
    }
}

impl View {
    pub(super) async fn look(
        connection: &Connection,
        name: &SlotName,
        plugin: Option<About>,
    ) -> Result<View> {
        let client = &connection.asked();
        let slot = Slot::read(client, name).await?;
        let flush = Position::read(client).await?.flush;
        let leftover = match &slot {
            Some(slot) => Leftover::find(client, name, slot, flush).await?,
            None => None,
        };
        Ok(View {
            slot,
            leftover,
            flush,
            oldest_transaction: OldestTransaction::read(client).await?,
            plugin,
            capture: Capture::default(),
            server_version: connection.facts.server_version.clone(),
            archive_free: None,
        })
    }
}
