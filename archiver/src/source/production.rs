//! The source that production has: which of them, and what all of them can be asked.

use std::collections::BTreeMap;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::{SlotName, TableName};
use syncdata_formats::{Error, Result};
use syncdata_service::config::{Config, Source as Kind};

pub(crate) use super::answer::Session;
use super::catalog::Slot;
use super::connection::Connection;
use super::event::{Column, Event, Part, Transaction};
use super::pgoutput::{Pgoutput, Tuples, publication_of};
use super::poison::Poison;
use super::stream::Stream;
use super::triggers::{Fields, Triggers};
use super::wal2json::{Lists, Wal2json};
use super::{Described, Offered, Read, Source, Stretch, event, slot};
use crate::capture::Capture;
use crate::capture::position::NAME;

/// How production is read: a slot by its plugin, or what triggers note in the place of one.
#[derive(Clone, Debug)]
pub(crate) enum Production {
    Wal2json(Wal2json),
    Pgoutput(Pgoutput),
    Triggers(Triggers),
}

/// The columns of a row of any of them.
#[derive(Debug)]
pub(crate) enum Columns<'a> {
    Wal2json(Lists<'a>),
    Pgoutput(Tuples<'a>),
    Triggers(&'a Fields<'a>),
}

/// What is to be known of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// With its version, as far as that can be known.
    pub name: String,
    /// Values that it cannot print.
    pub degraded: Vec<String>,
}

impl Production {
    /// Asks the server for the plugin. Needs the slot.
    pub(crate) async fn probe(connection: &mut Connection, config: &Config) -> Result<Production> {
        let slot = &config.slot_name;
        Production::probe_slot(connection, config.source, slot, slot).await
    }

    /// The same of a slot that is read as if it had the name of another one.
    pub(crate) async fn probe_slot(
        connection: &mut Connection,
        kind: Kind,
        slot: &SlotName,
        name: &SlotName,
    ) -> Result<Production> {
        Ok(match kind {
            Kind::Wal2json => Production::Wal2json(Wal2json::probe(connection, slot).await?),
            Kind::Pgoutput => {
                Production::Pgoutput(Pgoutput::probe(connection, slot, publication_of(name)).await?)
            }
            Kind::Triggers => Production::Triggers(Triggers::probe(connection, slot).await?),
        })
    }

    pub(crate) fn about(&self) -> About {
        match self {
            Production::Wal2json(source) => {
                About { name: source.plugin.name.clone(), degraded: source.plugin.degraded() }
            }
            Production::Pgoutput(source) => About { name: source.name(), degraded: Vec::new() },
            Production::Triggers(_) => About { name: NAME.to_owned(), degraded: Vec::new() },
        }
    }

    /// The slot as a stream, for the tables that are captured. It must not be in use.
    pub(crate) async fn follow(&self, config: &Config, capture: &Capture) -> Result<Stream> {
        let settings = config.postgres()?;
        match self {
            Production::Wal2json(source) => source.follow(settings, capture).await,
            Production::Pgoutput(source) => source.follow(settings).await,
            Production::Triggers(_) => Err(without_stream()),
        }
    }

    /// Every transaction up to `upto`, with what it changed of the tables that are captured. A source may leave out
    /// those that changed nothing of them.
    pub(crate) async fn offered(
        &self,
        connection: &mut Connection,
        capture: &Capture,
        upto: Lsn,
    ) -> Result<Vec<Offered>> {
        match self {
            Production::Wal2json(source) => source.offered(connection, capture, upto).await,
            Production::Pgoutput(source) => source.offered(connection, upto).await,
            // Notes do not say what was archived of them.
            Production::Triggers(_) => Ok(Vec::new()),
        }
    }

    /// Transactions up to `upto`: those of which something was archived are among them.
    pub(crate) async fn commits(&self, connection: &mut Connection, upto: Lsn) -> Result<Vec<Transaction>> {
        match self {
            Production::Wal2json(source) => source.commits(connection, upto).await,
            Production::Pgoutput(source) => {
                let offered = source.offered(connection, upto).await?;
                Ok(offered.into_iter().map(|offered| offered.transaction).collect())
            }
            Production::Triggers(_) => Ok(Vec::new()),
        }
    }

    /// What the source said of changes that it dropped, among those that commit up to `upto`.
    pub(crate) async fn warned_about(
        &self,
        connection: &mut Connection,
        capture: &Capture,
        upto: Lsn,
    ) -> Result<BTreeMap<TableName, u64>> {
        match self {
            Production::Wal2json(source) => source.warned_about(connection, capture, upto).await,
            Production::Pgoutput(_) | Production::Triggers(_) => Ok(BTreeMap::new()),
        }
    }

    /// What lies before `upto` could not be read: why? `None` when all of it can be read after all, or nothing can be
    /// said.
    pub(crate) async fn locate_poison(
        &self,
        connection: &mut Connection,
        capture: &Capture,
        from: Lsn,
        upto: Lsn,
    ) -> Result<Option<Poison>> {
        match self {
            Production::Wal2json(source) => source.locate_poison(connection, capture, upto).await,
            Production::Pgoutput(source) => source.locate_poison(connection, from, upto).await,
            // A batch has no transactions of which one could be left out.
            Production::Triggers(_) => Ok(None),
        }
    }
}

impl Source for Production {
    type Session<'s> = Session<'s>;
    type Client = Connection;
    type Standing = Slot;
    type Columns<'a> = Columns<'a>;

    async fn read(
        &self,
        session: &Self::Session<'_>,
        stretch: &Stretch<'_>,
        mut take: impl for<'a> FnMut(Event<'a, Columns<'a>>) -> Result<()>,
    ) -> Result<Read> {
        match self {
            Production::Wal2json(source) => {
                source.read(session, stretch, |event| take(event.with(Columns::Wal2json))).await
            }
            Production::Pgoutput(source) => {
                source.read(session, stretch, |event| take(event.with(Columns::Pgoutput))).await
            }
            Production::Triggers(source) => {
                source.read(session, stretch, |event| take(event.with(Columns::Triggers))).await
            }
        }
    }

    async fn acknowledge(&self, connection: &Connection, upto: Lsn) -> Result<Slot> {
        let slot = match self {
            Production::Wal2json(source) => &source.slot,
            Production::Pgoutput(source) => &source.slot,
            Production::Triggers(source) => return source.acknowledge(connection, upto).await,
        };
        slot::confirm(connection, slot, upto).await
    }

    fn described(&self) -> Described {
        match self {
            Production::Wal2json(source) => source.described(),
            Production::Pgoutput(source) => source.described(),
            Production::Triggers(source) => source.described(),
        }
    }
}

impl event::Columns for Columns<'_> {
    fn each(&self, take: impl FnMut(Part, Column<'_>)) -> Result<()> {
        match self {
            Columns::Wal2json(lists) => lists.each(take),
            Columns::Pgoutput(tuples) => tuples.each(take),
            Columns::Triggers(fields) => fields.each(take),
        }
    }
}

fn without_stream() -> Error {
    Error::new(syncdata_formats::Kind::Refused, "triggers have no stream that could be followed")
        .hint("set follow = false; with triggers a poll may come every 5 seconds")
}
