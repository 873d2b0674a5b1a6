//! The source without a slot: triggers note which rows were touched, and those rows are read as they are.
//!
//! A batch is the difference between two snapshots of production. The keys are those of notes that this snapshot shows and the
//! one before did not: of transactions that had not begun then, or were running. The rows are read in the snapshot itself. So
//! nothing depends on numbers that are given before a commit, and a transaction that stays open makes nobody read anything
//! twice.
//!
//! Whether a key had a row in the snapshot before follows from whether it has one now, and from how many rows came under it and
//! went since: each of them made it one, or none. The order in which triggers were called does not matter.
//!
//! ```text
//! snapshot 1            snapshot 2
//!     │  I 1, U 2, D 3      │   1 is there: it was not      INSERT 1
//!     ├─────────────────────┤   2 is there: it was          DELETE 2, INSERT 2
//!     │                     │   3 is not: it was            DELETE 3
//! ```

pub(crate) mod batch;
pub(crate) mod catalog;
pub(crate) mod keys;
pub(crate) mod noted;
pub(crate) mod objects;
pub(crate) mod reader;
mod row;
pub(crate) mod upkeep;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;
use syncdata_formats::{Error, Kind, Result};

use super::answer::Session;
use super::catalog::Slot;
use super::connection::Connection;
use super::event::Event;
use super::{Described, Read, Source, Stretch};
pub(super) use row::Fields;

#[derive(Clone, Debug)]
pub(crate) struct Triggers {
    pub slot: SlotName,
}

impl Triggers {
    /// Whether the notes are this database's own.
    pub(super) async fn probe(connection: &Connection, slot: &SlotName) -> Result<Triggers> {
        let reader = reader::read(connection.session.client()).await?;
        let reader = reader.ok_or_else(|| reader::missing(slot))?;
        let facts = &connection.facts;
        if (reader.system_identifier.as_str(), reader.database)
            != (facts.system_identifier.as_str(), facts.database_oid)
        {
            let message = "the schema syncdata came here with a dump: its triggers note for another database";
            return Err(Error::new(Kind::Foreign, message).hint(
                "run scripts/triggers-remove.sql, then `syncdata-archiver setup --create-triggers`, with a new archive_dir and spool_dir",
            ));
        }
        Ok(Triggers { slot: slot.clone() })
    }
}

impl Source for Triggers {
    type Session<'s> = Session<'s>;
    type Client = Connection;
    type Standing = Slot;
    type Columns<'a> = &'a Fields<'a>;

    /// The one transaction of the batch, unless nothing is to be said.
    async fn read(
        &self,
        session: &Self::Session<'_>,
        _: &Stretch<'_>,
        take: impl for<'a> FnMut(Event<'a, &'a Fields<'a>>) -> Result<()>,
    ) -> Result<Read> {
        match session.batch {
            Some(batch) => batch.read(session.tx, take).await,
            None => Ok(Read::default()),
        }
    }

    async fn acknowledge(&self, connection: &Connection, upto: Lsn) -> Result<Slot> {
        upkeep::acknowledge(connection, &self.slot, upto).await
    }

    fn described(&self) -> Described {
        Described::Triggers { slot: self.slot.clone() }
    }
}
