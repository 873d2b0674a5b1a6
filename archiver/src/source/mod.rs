//! Where changes come from: production, asked and read.
//!
//! A source is anything that yields `Event`s and forgets what is acknowledged. What is downstream, from the segmenter
//! on, knows nothing else of it.

mod answer;
pub(crate) mod ask;
pub(crate) mod catalog;
pub(crate) mod columns;
pub(crate) mod connection;
pub(crate) mod event;
pub(crate) mod followable;
pub(crate) mod leftover;
pub(crate) mod look;
pub(crate) mod partition;
pub(crate) mod pgoutput;
pub(crate) mod pinned;
pub(crate) mod poison;
pub(crate) mod production;
pub(crate) mod role;
pub(crate) mod slot;
pub(crate) mod stream;
pub(crate) mod triggers;
pub(crate) mod wait;
pub(crate) mod wal2json;

mod length;
mod pages;
mod printing;
mod types;

#[cfg(test)]
pub(crate) mod scripted;

use std::collections::BTreeSet;

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::SourceKind;
use syncdata_formats::name::{SlotName, TableName};

use crate::capture::Capture;
use event::{Columns, Event, Transaction};

/// A place that changes are read from, again and again until they are acknowledged.
pub(crate) trait Source {
    /// What a stretch is read in: on a server, the transaction whose catalog describes the rows.
    type Session<'s>;
    /// Who acknowledges, outside of such a transaction.
    type Client;
    /// What is known of the source when it has acknowledged.
    type Standing;
    type Columns<'a>: Columns;

    /// Hands over what is not acknowledged, in whole transactions and in the order of their commits.
    async fn read(
        &self,
        session: &Self::Session<'_>,
        stretch: &Stretch<'_>,
        take: impl for<'a> FnMut(Event<'a, Self::Columns<'a>>) -> Result<()>,
    ) -> Result<Read>;

    /// Lets the source forget what committed up to there: all of it is safe.
    async fn acknowledge(&self, client: &Self::Client, upto: Lsn) -> Result<Self::Standing>;

    /// The source's kind and abilities as manifests record them.
    fn described(&self) -> Described;
}

/// How much is read at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch<'a> {
    /// The tables whose changes are wanted. The source may hand over others too.
    pub capture: &'a Capture,
    /// It ends with the first transaction that ends at or past it.
    pub upto: Lsn,
    /// It ends with the transaction in which this many lines are reached: rows, begins and commits.
    pub lines_max: Option<u32>,
}

/// How the reading of a stretch ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub lines: u64,
    /// What the source had to print for it.
    pub bytes: u64,
    /// `lines_max` ended it: there may be more before `upto`.
    pub was_cut: bool,
}

/// A transaction that is not acknowledged yet, and the relations that it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    pub transaction: Transaction,
    pub relations: BTreeSet<TableName>,
}

/// What a manifest says of the way in which its changes were read. The fields belong to the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Described {
    Wal2json {
        slot: SlotName,
        /// `wal2json 2.7`, or what can be known of it.
        plugin: String,
        /// Values that this plugin cannot print.
        degraded: Vec<String>,
    },
    Pgoutput {
        slot: SlotName,
        plugin: String,
    },
    /// There is none: it is the name under which they note.
    Triggers {
        slot: SlotName,
    },
}

impl Described {
    pub(crate) fn kind(&self) -> SourceKind {
        match self {
            Described::Wal2json { .. } => SourceKind::Wal2json,
            Described::Pgoutput { .. } => SourceKind::Pgoutput,
            Described::Triggers { .. } => SourceKind::Triggers,
        }
    }

    /// Values that cannot be had in this way.
    pub(crate) fn degraded(&self) -> &[String] {
        match self {
            Described::Wal2json { degraded, .. } => degraded,
            Described::Pgoutput { .. } | Described::Triggers { .. } => &[],
        }
    }
}
