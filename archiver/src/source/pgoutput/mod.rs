//! The source that is read through SQL with the output plugin pgoutput, which every server has. Its messages and its
//! publication stay in here.
//!
//! What is in the stream is decided by the publication, as it was when the row was written: by tables, not by names.

pub(crate) mod guard;

mod message;
mod peek;
mod poison;
pub(crate) mod publication;
pub(super) mod published;

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;

use super::answer::{Collected, Session};
use super::catalog::Slot;
use super::connection::{Connection, while_in_use};
use super::event::Event;
use super::poison::Poison;
use super::slot;
use super::{Described, Offered, Read, Source, Stretch};
pub(super) use message::Tuples;
use peek::Peek;

const PLUGIN: &str = "pgoutput";

/// A slot, and the publication that it is read through.
#[derive(Clone, Debug)]
pub(crate) struct Pgoutput {
    pub slot: SlotName,
    pub publication: String,
    version: String,
}

impl Pgoutput {
    /// Asks the server whether it lets itself be read so. Needs slot and publication.
    pub(super) async fn probe(
        connection: &mut Connection,
        slot: &SlotName,
        publication: String,
    ) -> Result<Pgoutput> {
        let version = format!("{PLUGIN} {}", connection.facts.server_version);
        let source = Pgoutput { slot: slot.clone(), publication, version };
        source.peek(Lsn::from_u64(1), Some(1)).run(connection, |_| Ok(())).await?;
        Ok(source)
    }

    pub(super) fn name(&self) -> String {
        self.version.clone()
    }

    /// Every transaction up to `upto` that has rows of a published table.
    pub(super) async fn offered(&self, connection: &mut Connection, upto: Lsn) -> Result<Vec<Offered>> {
        let mut found = Collected::default();
        while_in_use(async || {
            found = Collected::default();
            self.peek(upto, None).run(connection, |event| found.take(&event)).await.map(|_| ())
        })
        .await?;
        Ok(found.all)
    }

    pub(super) async fn locate_poison(
        &self,
        connection: &mut Connection,
        from: Lsn,
        upto: Lsn,
    ) -> Result<Option<Poison>> {
        poison::locate(connection, self, from, upto).await
    }

    fn peek(&self, upto: Lsn, lines_max: Option<u32>) -> Peek<'_> {
        Peek { slot: &self.slot, publication: &self.publication, upto, lines_max }
    }
}

/// The name of our publication.
pub(crate) fn publication_of(slot: &SlotName) -> String {
    format!("{slot}_pub")
}

impl Source for Pgoutput {
    type Session<'s> = Session<'s>;
    type Client = Connection;
    type Standing = Slot;
    type Columns<'a> = Tuples<'a>;

    async fn read(
        &self,
        session: &Self::Session<'_>,
        stretch: &Stretch<'_>,
        take: impl for<'a> FnMut(Event<'a, Tuples<'a>>) -> Result<()>,
    ) -> Result<Read> {
        self.peek(stretch.upto, stretch.lines_max).read(session.tx, session.waiting, take).await
    }

    async fn acknowledge(&self, connection: &Connection, upto: Lsn) -> Result<Slot> {
        slot::confirm(connection, &self.slot, upto).await
    }

    fn described(&self) -> Described {
        Described::Pgoutput { slot: self.slot.clone(), plugin: self.version.clone() }
    }
}
