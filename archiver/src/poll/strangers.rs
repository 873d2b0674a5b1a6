//! Segments of the archive that the spool does not know: the source is asked whether they are of its history.

use syncdata_archive::ArchiveHandle;
use syncdata_formats::chain::Verified;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::Seen;
use syncdata_formats::{Error, Kind as What, Result};
use syncdata_service::config::{Config, Source as Kind};

use crate::capture::{Capture, Memory};
use crate::ship::adoption::{self, Claims};
use crate::ship::ownership::Met;
use crate::source::catalog::{self, Slot};
use crate::source::connection::Connection;
use crate::source::pgoutput::publication;
use crate::source::production::Production;
use crate::source::{Offered, Source as _, slot};
use crate::spool::{ArchivedCommit, LastBefore, Opened};

/// Who is asked about segments that the spool does not know.
pub(super) struct Asked<'a> {
    pub config: &'a Config,
    pub source: &'a Production,
    pub archive: &'a ArchiveHandle,
    pub slot: &'a Slot,
    pub timeline: u32,
    /// Where the source's WAL ends.
    pub flush: Lsn,
    pub passes_over_mistakes: bool,
}

impl Asked<'_> {
    /// What the slot does not know, it cannot vouch for: then nothing of the archive is taken over. A spool in use goes
    /// on without it.
    pub(super) async fn about_strangers(
        &self,
        connection: &mut Connection,
        opened: &Opened,
        mut met: Met,
    ) -> Result<Met> {
        let read_upto = met.state(opened).position();
        let passed = met.strangers.iter().find(|segment| segment.manifest().end_lsn < read_upto);
        if let Some(other) = passed.filter(|_| !met.is_fresh()) {
            let message = format!(
                "segment {} of the archive is not of this spool, which has read up to {read_upto} and has nothing of it",
                other.manifest().seq
            );
            return Ok(met.without_archive(Error::new(What::Conflict, message).hint(
                "another archiver writes to this archive, of a clone of this host perhaps: stop one of them, and take the \
                 archive from before that segment",
            )));
        }
        if self.config.source == Kind::Triggers {
            return match self.about_batches(connection, &met.strangers).await {
                Err(error) if !met.is_fresh() => Ok(met.without_archive(error)),
                asked => asked.map(|()| met),
            };
        }
        // Not of the source's history, or not yet to be held against it: a manifest without a commit has nothing that the slot would
        // have to offer again, but what the source commits up to its end is not in it.
        let beyond = met.strangers.iter().find(|segment| segment.manifest().end_lsn > self.flush);
        if let Some(other) = beyond.filter(|_| !met.is_fresh()) {
            let error = adoption::past_the_end(other.manifest(), self.flush);
            return Ok(met.without_archive(error));
        }
        let confirmed = self.slot.confirmed_flush_lsn.unwrap_or_default();
        let open: Vec<Verified> =
            met.strangers.iter().filter(|segment| segment.manifest().end_lsn > confirmed).cloned().collect();
        if open.is_empty() {
            return Ok(met);
        }
        let claims = match Claims::read(self.archive, &open).await {
            Err(error) if !met.is_fresh() => return Ok(met.without_archive(error)),
            claims => claims?,
        };
        let memory = met.state(opened).memory.clone();
        let (offered, capture) = self.offered(connection, &memory, claims.end_lsn()).await?;
        let travels_as = |relation: &TableName| capture.table_of(relation);
        match claims.check(&offered, confirmed, travels_as) {
            Ok(()) => {
                met.last_commit = claims.last();
                met.before_end = self.newest_up_to(connection, claims.end_lsn()).await?;
                Ok(met)
            }
            Err(error) if met.is_fresh() => Err(error),
            Err(error) => Ok(met.without_archive(error)),
        }
    }

    /// Notes do not say what was archived of them, but what a batch has shown, its source still has. What is read next is
    /// read since before them.
    async fn about_batches(&self, connection: &Connection, strangers: &[Verified]) -> Result<()> {
        let client = connection.session.client();
        let seen = catalog::seen(client).await?;
        for manifest in strangers.iter().map(Verified::manifest) {
            let Some(batch) = &manifest.source.batch else { continue };
            let from = manifest.source.timeline;
            let end = match from == self.timeline {
                true => Some(self.flush),
                false => {
                    catalog::switch_point(client, from, self.timeline, &self.config.postgres()?.user).await?
                }
            };
            let is_there = Seen::parse(&batch.snapshot).is_some_and(|shown| seen.includes(&shown));
            if !is_there || end < Some(batch.wal_lsn) {
                return Err(adoption::not_shown(manifest));
            }
        }
        Ok(())
    }

    /// The last transaction that the slot offers up to there.
    async fn newest_up_to(&self, connection: &mut Connection, place: Lsn) -> Result<Option<LastBefore>> {
        let commits = self.source.commits(connection, place).await;
        let commits = commits.map_err(|error| slot::explain_to(error, self.config, connection))?;
        let newest = commits.iter().rfind(|commit| commit.end_lsn <= place);
        Ok(newest.map(|newest| {
            let (xid, ts) = (newest.xid, newest.committed_at);
            let commit = ArchivedCommit { end_lsn: newest.end_lsn, xid, ts };
            LastBefore { place, commit, kind: self.source.described().kind() }
        }))
    }

    /// The transactions up to `upto`, and the tables that are captured of this source.
    async fn offered(
        &self,
        connection: &mut Connection,
        memory: &Memory,
        upto: Lsn,
    ) -> Result<(Vec<Offered>, Capture)> {
        let tx = connection.transaction().await?;
        let (schemas, catalog) = catalog::catalog(&tx, publication::of(self.config).as_deref()).await?;
        drop(tx);
        let (capture, mistake) =
            Capture::passing_over_mistakes(&self.config.tables, &schemas, &catalog, memory);
        if let Some(mistake) = mistake.filter(|_| !self.passes_over_mistakes) {
            return Err(mistake);
        }
        let offered = self.source.offered(connection, &capture, upto).await;
        let offered = offered.map_err(|error| slot::explain_to(error, self.config, connection))?;
        Ok((offered, capture))
    }
}
