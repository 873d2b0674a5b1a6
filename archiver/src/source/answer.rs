//! What an answer of a slot is read in, and what is collected of it.

use std::collections::BTreeSet;

use syncdata_formats::Result;
use syncdata_formats::name::TableName;
use tokio_postgres::Transaction as Tx;

use super::Offered;
use super::event::{Event, Place, Row};
use super::stream::Stream;
use super::triggers::batch::Batch;
use super::wait::Waiting;

/// What an answer is read in.
pub(crate) struct Session<'s> {
    /// Its catalog describes the rows.
    pub tx: &'s Tx<'s>,
    pub waiting: &'s Waiting,
    /// Where the answer comes from, instead of a peek.
    pub stream: Option<&'s Stream>,
    /// What is read of notes, where the source is they.
    pub batch: Option<&'s Batch>,
}

/// The transactions of an answer, put together from its events.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub all: Vec<Offered>,
    relations: BTreeSet<TableName>,
}

impl Collected {
    pub(super) fn take<C>(&mut self, event: &Event<'_, C>) -> Result<()> {
        match event {
            Event::Commit(transaction) => {
                let relations = std::mem::take(&mut self.relations);
                self.all.push(Offered { transaction: *transaction, relations });
            }
            Event::Row(Row { place, .. }) | Event::Truncate(place) => self.note(place)?,
            Event::Begin(_) => {}
        }
        Ok(())
    }

    fn note(&mut self, place: &Place<'_>) -> Result<()> {
        self.relations.insert(place.relation()?);
        Ok(())
    }
}
