//! The steps of a poll, each by itself. In which order they are taken is `run`'s to say.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::name::TableName;
use syncdata_formats::signature::SigningKey;
use syncdata_formats::snapshot::{Seen, SnapshotId};
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Confirm, Source};
use syncdata_service::postgres::sqlstate;
use tracing::info;

use crate::poll::gap;
use crate::poll::mended;
use crate::poll::outcome::{Outcome, View};
use crate::segment::cut::Watch;
use crate::segment::publish::publish_gap;
use crate::segment::reading::Reading;
use crate::ship::origin;
use crate::ship::shipper::Shipper;
use crate::source::Source as _;
use crate::source::catalog::{Position, Slot};
use crate::source::connection::Connection;
use crate::source::look::Look;
use crate::source::poison::Poison;
use crate::source::production::Production;
use crate::source::slot;
use crate::source::triggers::{reader, upkeep};
use crate::spool::{HeldSnapshot, Spool};

/// The state of the poll that is running.
pub(crate) struct Poll<'a> {
    pub config: &'a Config,
    pub shipper: &'a Shipper,
    pub signing_key: Option<&'a SigningKey>,
    pub spool: &'a mut Spool,
    pub connection: &'a mut Connection,
    pub snapshots: &'a mut BTreeMap<SnapshotId, HeldSnapshot>,
    pub watch: &'a Watch,
    pub slot: Slot,
    pub source: &'a Production,
    pub position: Position,
    /// The catalog as it is where this poll's reading ends.
    pub look: Look,
    /// What head.json says since this poll: all before is archived, by position and by clock.
    pub head: Option<(Lsn, Timestamp)>,
    /// Where and why the reading has to end early.
    pub poison: Option<Poison>,
    /// The slot keeps more WAL than it may: names in the settings that match nothing do not keep it from moving.
    pub passes_over_mistakes: bool,
    /// An answer of the source could not be had, for whatever reason.
    pub answer_failed: bool,
    /// Whether what the backup host holds is looked at, beside what is sent.
    pub looks_back: bool,
    pub outcome: Outcome,
}

impl<'a> Poll<'a> {
    /// A slot that is ahead of the archive has lost changes: that is published, once.
    pub(super) async fn find_gap(&mut self) -> Result<()> {
        let (state, archived) = (self.spool.state(), self.spool.position());
        let gap = gap::of_slot(state, archived, &self.connection.facts, &self.slot);
        let is_told = gap.is_some();
        if let Some(gap) = gap {
            self.publish_gap(gap).await?;
        }
        let oid = self.connection.facts.database_oid;
        self.spool.update(|state| {
            // That all tables are others is told by that gap of all.
            if is_told && state.source.database_oid != oid {
                state.forget_tables();
            }
            state.source.database_oid = oid;
        })
    }

    pub(super) async fn publish_gap(&mut self, gap: Gap) -> Result<()> {
        let reading = self.reading();
        let (source, capture) = reading.describe(self.connection, self.spool.state()).await?;
        let end = gap.to;
        let manifest = publish_gap(self.spool, source, &capture, end, vec![gap], self.signing_key)?;
        self.outcome.gaps.extend(manifest.gaps);
        Ok(())
    }

    pub(super) fn reading(&self) -> Reading<'a> {
        Reading {
            config: self.config,
            source: self.source,
            signing_key: self.signing_key,
            watch: self.watch,
            passes_over_mistakes: self.passes_over_mistakes,
        }
    }

    /// Sends again what the backup host has lost since.
    pub(super) async fn look_back(&mut self) -> Result<()> {
        if self.outcome.away.is_some() || !self.looks_back {
            return Ok(());
        }
        self.outcome.away = self.shipper.look_back(self.spool).await?;
        Ok(())
    }

    /// Sends what waits, and then says in head.json how far that goes: without it nobody who has lost this spool
    /// could tell an idle slot that moved on from one that lost changes.
    pub(super) async fn ship(&mut self) -> Result<()> {
        if self.outcome.away.is_some() {
            return Ok(());
        }
        let sent = self.shipper.ship(self.spool).await?;
        self.outcome.shipped += sent.segments;
        self.outcome.away = sent.away;
        // Before the slot was read to its end once, nobody knows how fresh the archive is.
        let covered = self.spool.state().covered_at.map(|at| (self.spool.position(), at));
        if let Some((_, at)) = covered
            && self.outcome.away.is_none()
            && self.head != covered
        {
            self.outcome.away = self.shipper.publish_head(self.spool.state(), at).await?;
            self.head = covered.filter(|_| self.outcome.away.is_none());
        }
        Ok(())
    }

    /// Lets the slot move up to what is safe where `confirm` says.
    pub(super) async fn confirm(&mut self) -> Result<()> {
        let upto = match self.config.confirm {
            Confirm::Spooled => Some(self.spool.position()),
            Confirm::Shipped => self.spool.shipped_position().max(self.head.map(|(covered, _)| covered)),
        };
        match upto {
            Some(upto) => self.advance(upto).await,
            None => Ok(()),
        }
    }

    async fn advance(&mut self, upto: Lsn) -> Result<()> {
        if self.slot.confirmed_flush_lsn >= Some(upto) {
            return Ok(());
        }
        self.slot = self.source.acknowledge(self.connection, upto).await?;
        Ok(())
    }

    /// Notes whose rows are safe may go. The settings' limit for them is production's too.
    pub(super) async fn forget_notes(&mut self) -> Result<()> {
        if self.config.source != Source::Triggers {
            return Ok(());
        }
        let noted = self.slot.confirmed_flush_lsn.max(self.spool.state().acknowledged);
        self.spool.update(|state| state.acknowledged = noted)?;
        let Some(last) = self.spool.state().last_batch.as_ref() else { return Ok(()) };
        let safe = self.slot.confirmed_flush_lsn >= Some(last.position);
        let client = self.connection.session.client();
        let (Some(seen), Some(reader)) = (Seen::parse(&last.snapshot), reader::read(client).await?) else {
            return Ok(());
        };
        upkeep::date_rearming(self.connection, &reader).await?;
        upkeep::keep_guard(self.connection, &reader, self.config.wal_guard.as_u64()).await?;
        if safe { upkeep::rotate(self.connection, &seen).await } else { Ok(()) }
    }

    pub(super) fn explain(&self, error: Error) -> Error {
        slot::explain_to(error, self.config, self.connection)
    }

    /// Which snapshots there are, and which gaps they have mended.
    pub(super) async fn look_at_snapshots(&mut self) -> Result<()> {
        if self.outcome.away.is_some() || !self.looks_back {
            return Ok(());
        }
        let known = std::mem::take(self.snapshots);
        let verify_key = self.signing_key.map(SigningKey::verify_key);
        let held = match self.shipper.snapshots(known, verify_key).await {
            Ok(held) => held,
            Err(away) => {
                self.outcome.away = Some(away);
                return Ok(());
            }
        };
        // One that was taken since the poll began has rows up to now.
        let (now, user) =
            (Position::read(self.connection.session.client()).await?, &self.config.postgres()?.user);
        let state = self.spool.state();
        if let Some(why) = origin::undone(state, &held, self.connection, &now, user).await? {
            *self.snapshots = held;
            self.spool.update(|state| state.diverged = Some(why.clone()))?;
            return Err(origin::diverged(&why));
        }
        let captured = &self.outcome.view.capture.tables;
        let gaps = mended::unmended(&self.spool.state().gaps, held.values(), captured);
        if gaps.len() < self.spool.state().gaps.len() {
            info!(left = gaps.len(), "snapshots have mended gaps");
        }
        let newest = held.values().next_back().cloned();
        *self.snapshots = held;
        self.spool.update(|state| (state.gaps, state.newest_snapshot) = (gaps, newest))
    }

    /// The tables that are captured, as the source's catalog is now.
    pub(crate) async fn captured(&mut self) -> Result<BTreeSet<TableName>> {
        let (_, capture) = self.reading().describe(self.connection, self.spool.state()).await?;
        Ok(capture.tables)
    }

    /// The end of a poll: old files go, and what `status` shows.
    pub(super) async fn look_around(&mut self) -> Result<()> {
        self.spool.sweep(self.config.spool_max.as_u64())?;
        // As late as can be: a slot that was made again has handed out fewer than this one by now.
        self.slot = slot::read(&self.connection.asked(), &self.config.slot_name).await?;
        let transactions = self.slot.transactions;
        self.spool.update(|state| state.slot_transactions = transactions)?;
        let view = View::look(self.connection, &self.config.slot_name, Some(self.source.about())).await?;
        let capture = std::mem::take(&mut self.outcome.view.capture);
        let archive_free = match self.outcome.away {
            Some(_) => None,
            None if !self.looks_back => None,
            None => self.shipper.archive().run(|archive| archive.room()).await.ok().flatten(),
        };
        self.outcome.view = View { capture, archive_free, ..view };
        Ok(())
    }
}

pub(super) fn is_local_disk_full(error: &Error) -> bool {
    error.kind() == Kind::NoSpace && sqlstate(error).is_none()
}
