//! The fuse of a poll: what it lets go of when the slot keeps more WAL than the guard allows.

use std::collections::BTreeSet;

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::name::TableName;
use tracing::error;

use crate::poll::guard::{self, Load, Pressure};
use crate::poll::steps::{Poll, is_local_disk_full};
use crate::source::poison::Poison;
use crate::source::slot;

impl Poll<'_> {
    /// The fuse: production's disk is worth more than this copy.
    pub(super) async fn relieve(&mut self) -> Result<()> {
        self.outcome.pressure = guard::decide(self.load());
        if self.outcome.pressure == Pressure::None {
            return Ok(());
        }
        // This loses nothing, and may be enough.
        self.release_wal(self.spool.position()).await?;
        let load = self.load();
        match guard::decide(load) {
            Pressure::GiveUp => {
                self.give_up(load.retained).await?;
                self.ship().await
            }
            Pressure::None | Pressure::ConfirmFromSpool => {
                self.outcome.pressure = Pressure::ConfirmFromSpool;
                Ok(())
            }
        }
    }

    fn load(&self) -> Load {
        let flush = self.position.flush;
        Load {
            retained: flush.bytes_since(self.slot.restart_lsn.unwrap_or(flush)),
            guard: self.config.wal_guard.as_u64(),
            is_stuck: self.outcome.away.is_some() || self.answer_failed || self.outcome.held_back.is_some(),
            spool_full: self.outcome.held_back.is_some(),
            unread: flush.bytes_since(self.spool.position()),
        }
    }

    async fn give_up(&mut self, retained: u64) -> Result<()> {
        let cause = match self.outcome.away {
            Some(_) => "the backup host did not take what was read and the spool was full",
            None => "there was no room in the spool for what was to be read",
        };
        let reason = format!("the WAL guard gave up: {retained} bytes of WAL were retained, {cause}");
        let gap = Gap { from: self.spool.position(), to: self.position.flush, reason, tables: None };
        if let Err(error) = self.publish_gap(gap.clone()).await {
            if !is_local_disk_full(&error) {
                return Err(error);
            }
            // Production's disk cannot wait until there is room to say so: the next poll that can write finds the slot
            // ahead of the archive, and publishes that.
            self.spool.reload()?;
            error!(from = %gap.from, to = %gap.to, reason = %gap.reason, error = %error.one_line(),
                "gap: changes are missing, and the spool's disk has no room to say so");
            self.outcome.gaps.push(gap);
        }
        self.release_wal(self.position.flush).await
    }

    /// A transaction that cannot be read keeps production's WAL: its tables have a gap, the others go on.
    pub(super) async fn give_up_transaction(&mut self, poison: &Poison) -> Result<()> {
        let (_, capture) = self.reading().describe(self.connection, self.spool.state()).await?;
        let travels_as = |relation: &TableName| capture.tables_of(relation);
        let relations = poison.besides.as_ref().map(|besides| poison.tables.iter().chain(besides));
        let tables: Option<BTreeSet<TableName>> =
            relations.map(|relations| relations.flat_map(travels_as).collect());
        let reason = format!(
            "the WAL guard gave up {}, which cannot be read: more WAL than wal_guard was retained before it",
            poison.name()
        );
        let tables = tables.filter(|tables| !tables.is_empty()).map(|tables| tables.into_iter().collect());
        error!(xid = poison.xid, lsn = %poison.end_lsn, ?tables, "the WAL guard gives up a transaction that cannot be read");
        self.publish_gap(Gap { from: self.spool.position(), to: poison.end_lsn, reason, tables }).await?;
        self.outcome.pressure = Pressure::GiveUp;
        Ok(())
    }

    /// Of a source with another history than the archive's nothing can be kept: past the guard, its WAL goes.
    pub(super) async fn let_go_of_all(&mut self) -> Result<()> {
        let load = self.load();
        if load.retained <= load.guard {
            return Ok(());
        }
        error!(
            retained = load.retained,
            "the WAL guard acts: the source has diverged, and its slot moves on unread"
        );
        self.release_wal(self.position.flush).await
    }

    async fn release_wal(&mut self, upto: Lsn) -> Result<()> {
        self.connection.let_go().await?;
        self.slot = slot::release_wal(self.connection, &self.config.slot_name, upto).await?;
        Ok(())
    }
}
