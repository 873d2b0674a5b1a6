//! The copy of a slot that a change of its plugin makes for a moment. Where our own slot is usable nobody goes on with it, and it
//! keeps production's WAL for ever.

use std::fmt;

use bytesize::ByteSize;
use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;
use tokio_postgres::types::{ToSql, Type};

use crate::source::ask::Asked;
use crate::source::catalog::Slot;
use crate::source::slot;

/// It stands beside our own slot, and nobody reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leftover {
    pub name: SlotName,
    pub retained_bytes: u64,
}

impl Leftover {
    /// Whoever asks has found our own slot, which is `beside`.
    pub(crate) async fn find(
        client: &impl Asked,
        name: &SlotName,
        beside: &Slot,
        flush: Lsn,
    ) -> Result<Option<Leftover>> {
        let Ok(name) = slot::aside(name) else { return Ok(None) };
        let Some(found) = Slot::read(client, &name).await? else { return Ok(None) };
        let is_a_copy = slot::is_ours(&found) && found.database == beside.database;
        if !is_a_copy || found.active_pid.is_some() || beside.lost_because().is_some() {
            return Ok(None);
        }
        let retained_bytes = found.restart_lsn.map_or(0, |restart| flush.bytes_since(restart));
        Ok(Some(Leftover { name, retained_bytes }))
    }

    pub(crate) async fn drop(&self, client: &(impl GenericClient + Sync)) -> Result<()> {
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&self.name.as_str(), Type::NAME)];
        let dropped = client.query_typed(&Leftover::statement("$1"), &parameters).await;
        dropped.context(|| format!("dropping the slot {}", self.name)).map(|_| ())
    }

    /// What drops the slot of that name, written as SQL has it.
    pub(crate) fn statement(name: &str) -> String {
        format!("SELECT pg_drop_replication_slot({name})")
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Leftover { name, retained_bytes } = self;
        write!(f, "the slot {name} keeps {} of WAL, and nobody reads it", ByteSize::b(*retained_bytes))
    }
}
