//! Whether a position that comes from a dump is one of the rows that are here. Whoever restores a database as a whole makes its
//! tables anew, all of them, after its functions and before its triggers: the server numbers what is made.

use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::table::Memory;
use crate::target::postgres::files::{self, LeafFile};
use crate::target::postgres::lost::Lost;
use crate::target::postgres::meta::MetaSchema;

const OURS: &str = "
SELECT c.oid,
    coalesce((SELECT p.oid FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = n.oid AND p.proname = 'data_sync_line_made' AND p.pronargs = 0), 0),
    (SELECT t.oid FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'data_sync_line_made')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = 'data_sync_table_state'";

/// When our own objects were made.
pub(super) struct Ours {
    table: u32,
    pub(super) functions: u32,
    trigger: Option<u32>,
}

/// What a line says of where it was written.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    /// The local table then.
    pub oid: Option<u32>,
    /// In the table of ours that has it now.
    pub is_here: bool,
    /// In this database. Numbers of another one may be the same by chance.
    pub is_same_database: bool,
    /// It was copied into a table that was there.
    pub was_copied: bool,
}

impl Ours {
    pub(super) async fn of(client: &impl GenericClient, meta: &MetaSchema) -> Result<Ours> {
        let row = client.query_one(OURS, &[&meta.name()]).await;
        let row = row.context(|| "asking when our tables were made".to_owned())?;
        Ok(Ours { table: row.get(0), functions: row.get(1), trigger: row.get(2) })
    }

    /// Whether the line and the table that is here now (`oid`) did not come back together.
    pub(super) fn is_of_other_moment(&self, origin: Origin, memory: Option<&Memory>, oid: u32) -> bool {
        if origin.is_here || origin.oid.is_none_or(|oid| oid == 0) {
            return false;
        }
        let functions = memory.and_then(|memory| memory.functions);
        let since = match (origin.is_same_database, functions) {
            // Our functions stayed, or are newer than the dump.
            (true, None) => Some(self.table),
            (true, Some(known)) if known == self.functions => Some(self.table),
            (_, Some(_)) => Some(self.functions),
            (false, None) => None,
        };
        let stayed = origin.is_same_database && origin.oid == Some(oid);
        let until = self.trigger.filter(|_| functions.is_some());
        origin.was_copied
            || stayed
            || since.is_some_and(|since| is_older(oid, since))
            || until.is_some_and(|until| is_older(until, oid))
    }
}

impl Origin {
    /// What did not come back of a table that did. What was noted where files had other numbers says no more than that.
    pub(super) async fn not_restored(
        self,
        client: &impl GenericClient,
        memory: Option<&Memory>,
        leaves: &[LeafFile],
    ) -> Result<Option<Lost>> {
        match memory.filter(|_| !(self.is_here && self.is_same_database)) {
            Some(memory) => Ok(files::not_filled(client, memory, leaves).await?.map(Lost::NotRestored)),
            None => Ok(None),
        }
    }
}

/// The numbers go round.
fn is_older(oid: u32, than: u32) -> bool {
    oid.wrapping_sub(than) > u32::MAX / 2
}
