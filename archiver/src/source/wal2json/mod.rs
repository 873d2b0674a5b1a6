//! The source that is read through SQL with the output plugin wal2json. Its text and its filters stay in here.

pub(crate) mod lost;
pub(crate) mod plugin;

mod commits;
mod filter;
mod line;
mod peek;
mod poison;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::postgres::PostgresSettings;

use super::answer::Session;
use super::catalog::Slot;
use super::connection::Connection;
use super::event::Event;
use super::length::Length;
use super::poison::Poison;
use super::slot;
use super::stream::{Mark, Stream};
use super::{Described, Read, Source, Stretch};
use crate::capture::Capture;
use line::Line;
pub(super) use line::Lists;
use peek::Peek;
use plugin::Plugin;

/// A slot, read with the plugin that its server has.
#[derive(Clone, Debug)]
pub(crate) struct Wal2json {
    pub slot: SlotName,
    pub plugin: Plugin,
}

impl Wal2json {
    /// Asks the server for its plugin. Needs the slot.
    pub(crate) async fn probe(connection: &mut Connection, slot: &SlotName) -> Result<Wal2json> {
        let plugin = Plugin::probe(connection, slot).await?;
        Ok(Wal2json { slot: slot.clone(), plugin })
    }

    pub(super) async fn locate_poison(
        &self,
        connection: &mut Connection,
        capture: &Capture,
        upto: Lsn,
    ) -> Result<Option<Poison>> {
        poison::locate(connection, self, capture, upto).await
    }

    /// The slot as a stream, with the tables that are captured.
    pub(super) async fn follow(&self, settings: &PostgresSettings, capture: &Capture) -> Result<Stream> {
        let filter = filter::of(capture);
        let peek = self.peek(&filter, Lsn::ZERO, None);
        Stream::start(settings, self.slot.as_str(), &peek.options(), marks).await
    }

    fn peek<'a>(&'a self, filter: &'a str, upto: Lsn, lines_max: Option<u32>) -> Peek<'a> {
        let numbers_as_text = self.plugin.numbers_as_text;
        Peek { slot: &self.slot, numbers_as_text, filter, upto, lines_max }
    }
}

fn text_of(line: &[u8]) -> Result<&str> {
    std::str::from_utf8(line).map_err(|error| {
        Error::new(Kind::Corrupt, "wal2json printed a line that is no text").caused_by(error)
    })
}

fn marks(line: &[u8]) -> Result<Mark> {
    let is_of_transaction =
        [br#"{"action":"B""#, br#"{"action":"C""#].iter().any(|begin| line.starts_with(*begin));
    if !is_of_transaction {
        return Ok(Mark::Inside);
    }
    Ok(match Line::parse(text_of(line)?)? {
        Line::Event(Event::Begin(begin)) => Mark::Begin(begin.lsn),
        Line::Event(Event::Commit(commit)) => Mark::Commit(commit.end_lsn),
        Line::Event(_) | Line::Message => Mark::Inside,
    })
}

impl Source for Wal2json {
    type Session<'s> = Session<'s>;
    type Client = Connection;
    type Standing = Slot;
    type Columns<'a> = Lists<'a>;

    async fn read(
        &self,
        session: &Self::Session<'_>,
        stretch: &Stretch<'_>,
        mut take: impl for<'a> FnMut(Event<'a, Lists<'a>>) -> Result<()>,
    ) -> Result<Read> {
        let filter = filter::of(stretch.capture);
        let peek = self.peek(&filter, stretch.upto, stretch.lines_max);
        let mut length = Length::default();
        let mut take_line = |line: &str| {
            length.add(line.len());
            match Line::parse(line)? {
                Line::Event(event) => take(event),
                // None is asked for.
                Line::Message => Ok(()),
            }
        };
        if let Some(stream) = session.stream {
            stream.is_asked_for(&peek.options())?;
            let was_cut =
                stream.read(stretch.upto, stretch.lines_max, |_, line| take_line(text_of(line)?)).await?;
            let Length { lines, bytes, .. } = length;
            return Ok(Read { lines, bytes, was_cut });
        }
        peek.read(session.tx, session.waiting, take_line).await?;
        let Length { lines, bytes, .. } = length;
        length.finish();
        let was_cut = stretch.lines_max.is_some_and(|max| lines >= u64::from(max));
        Ok(Read { lines, bytes, was_cut })
    }

    async fn acknowledge(&self, connection: &Connection, upto: Lsn) -> Result<Slot> {
        slot::confirm(connection, &self.slot, upto).await
    }

    fn described(&self) -> Described {
        Described::Wal2json {
            slot: self.slot.clone(),
            plugin: self.plugin.name.clone(),
            degraded: self.plugin.degraded(),
        }
    }
}
