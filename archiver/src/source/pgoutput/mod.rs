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

use std::sync::{Arc, Mutex, PoisonError};

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::postgres::PostgresSettings;

use super::answer::{Collected, Session};
use super::catalog::Slot;
use super::connection::{Connection, while_in_use};
use super::event::Event;
use super::length::Length;
use super::poison::Poison;
use super::slot;
use super::stream::{Mark, Stream};
use super::{Described, Offered, Read, Source, Stretch};
use message::Message;
pub(super) use message::Tuples;
use peek::{Answer, Peek};

const PLUGIN: &str = "pgoutput";

/// A slot, and the publication that it is read through.
#[derive(Clone, Debug)]
pub(crate) struct Pgoutput {
    pub slot: SlotName,
    pub publication: String,
    version: String,
    /// What the stream that is followed has told of relations: it does so once.
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    /// The server's process whose stream it was.
    process: Option<i32>,
    answer: Answer,
}

impl Pgoutput {
    /// Asks the server whether it lets itself be read so. Needs slot and publication.
    pub(super) async fn probe(
        connection: &mut Connection,
        slot: &SlotName,
        publication: String,
    ) -> Result<Pgoutput> {
        check_server(connection.facts.server_version_num)?;
        let version = format!("{PLUGIN} {}", connection.facts.server_version);
        let source = Pgoutput { slot: slot.clone(), publication, version, heard: Arc::default() };
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

    /// The slot as a stream.
    pub(super) async fn follow(&self, settings: &PostgresSettings) -> Result<Stream> {
        let publication = escape_identifier(&self.publication);
        let options = [("proto_version", "1"), ("publication_names", publication.as_str())];
        Stream::start(settings, self.slot.as_str(), &options, marks).await
    }

    fn peek(&self, upto: Lsn, lines_max: Option<u32>) -> Peek<'_> {
        Peek { slot: &self.slot, publication: &self.publication, upto, lines_max }
    }
}

/// The plugin of older minor releases uses memory that it has given back, when a session reads on after a read that failed:
/// the server may crash. We read so when a transaction cannot be printed.
pub(crate) fn check_server(version_num: u32) -> Result<()> {
    let (major, minor) = (version_num / 10_000, version_num % 10_000);
    let first = match major {
        ..=14 => None,
        15 => Some(15),
        16 => Some(11),
        17 => Some(7),
        18 => Some(1),
        _ => return Ok(()),
    };
    let remedy = match first {
        Some(first) if minor >= first => return Ok(()),
        Some(first) => format!("update the server to {major}.{first} or later, or use source = \"wal2json\""),
        None => "use source = \"wal2json\", or a newer PostgreSQL".to_owned(),
    };
    let message =
        format!("with PostgreSQL {major}.{minor} a read through pgoutput that fails may crash the server");
    Err(Error::new(Kind::Refused, message).hint(remedy))
}

/// The name of our publication.
pub(crate) fn publication_of(slot: &SlotName) -> String {
    format!("{slot}_pub")
}

fn marks(message: &[u8]) -> Result<Mark> {
    if !matches!(message.first(), Some(b'B' | b'C')) {
        return Ok(Mark::Inside);
    }
    Ok(match Message::parse(message)? {
        Message::Begin(begin) => Mark::Begin(begin.lsn),
        Message::Commit { end_lsn, .. } => Mark::Commit(end_lsn),
        _ => Mark::Inside,
    })
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
        mut take: impl for<'a> FnMut(Event<'a, Tuples<'a>>) -> Result<()>,
    ) -> Result<Read> {
        if let Some(stream) = session.stream {
            let mut heard = std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
            if heard.process != Some(stream.process()) {
                heard = Heard { process: Some(stream.process()), answer: Answer::default() };
            }
            let mut length = Length::default();
            let was_cut = stream
                .read(stretch.upto, stretch.lines_max, |lsn, message| {
                    length.add(message.len());
                    heard.answer.take(lsn, message, &mut take)
                })
                .await?;
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
            let Length { lines, bytes, .. } = length;
            return Ok(Read { lines, bytes, was_cut });
        }
        self.peek(stretch.upto, stretch.lines_max).read(session.tx, session.waiting, take).await
    }

    async fn acknowledge(&self, connection: &Connection, upto: Lsn) -> Result<Slot> {
        slot::confirm(connection, &self.slot, upto).await
    }

    fn described(&self) -> Described {
        Described::Pgoutput { slot: self.slot.clone(), plugin: self.version.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_could_crash_are_refused_with_the_way_out() {
        for good in [150_015, 150_020, 160_011, 170_007, 180_001, 180_006, 190_000] {
            check_server(good).expect("it has the mend");
        }
        for (bad, remedy) in
            [(140_024, "a newer PostgreSQL"), (150_014, "15.15"), (160_010, "16.11"), (180_000, "18.1")]
        {
            let hint = format!("{:?}", check_server(bad).expect_err("it lacks the mend"));
            assert!(hint.contains(remedy), "{hint}");
        }
    }
}
