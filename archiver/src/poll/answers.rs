//! A poll's answers: all that the slot has, one after the other, and what lies before a transaction that cannot be read.

use syncdata_formats::lsn::Lsn;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Confirm};
use tracing::info;

use crate::poll::gap;
use crate::poll::steps::{Poll, is_local_disk_full};
use crate::segment::reading::{Batch, Taken};
use crate::source::connection::{ATTEMPTS_MAX, while_in_use};
use crate::source::poison::Poison;
use crate::source::slot::{self, Trouble};

impl Poll<'_> {
    /// Reads until nothing is left that had committed when the poll began.
    pub(super) async fn read_all(&mut self) -> Result<()> {
        if self.waits_for_more() {
            let (_, capture) = self.reading().describe(self.connection, self.spool.state()).await?;
            self.outcome.view.capture = capture;
            return Ok(());
        }
        let changes_max = self.config.poll_max_changes.get();
        // The server counts BEGIN and COMMIT too. Every further call decodes all that the slot keeps again.
        let mut lines_max = changes_max.saturating_add(changes_max / 4);
        loop {
            if self.spool.unshipped_bytes() >= self.config.spool_max.as_u64() {
                self.outcome.held_back = Some(spool_full(self.config));
                return Ok(());
            }
            let before = self.spool.position();
            let batch = match self.read_some(lines_max).await {
                Ok(batch) => batch,
                Err(error) if is_local_disk_full(&error) => {
                    self.spool.reload()?;
                    if self.spool.make_room()? {
                        continue;
                    }
                    // What does not fit together may fit one after the other, while what is shipped makes room.
                    if lines_max > 1 && self.outcome.away.is_none() {
                        lines_max = (lines_max / 16).max(1);
                        self.ship().await?;
                        self.confirm().await?;
                        continue;
                    }
                    self.outcome.held_back = Some(error);
                    return Ok(());
                }
                Err(error) => {
                    self.save_what_can_be_read(error).await?;
                    continue;
                }
            };
            let was_cut = batch.was_cut;
            self.note(batch);
            if !was_cut {
                return Ok(());
            }
            if self.spool.position() == before {
                // The whole answer was known already: the slot has not been confirmed that far.
                lines_max = lines_max.saturating_mul(2).min(i32::MAX.unsigned_abs());
            }
            self.ship().await?;
            self.confirm().await?;
        }
    }

    /// While the slot cannot move, every answer repeats all that it has, and production writes it into temporary
    /// files again. Nothing is lost by waiting: production keeps what was not read. So an answer is asked for when as
    /// much came as there was before, and while all answers together stay within a few times what they say.
    fn waits_for_more(&self) -> bool {
        const ANSWERS_MAX: u64 = 3;
        // So little stays in the server's memory.
        const FREE_BYTES: u64 = 256 << 10;
        let Some(read) = self.spool.state().rereading else { return false };
        let can_move = self.outcome.away.is_none() || self.config.confirm == Confirm::Spooled;
        if can_move || self.slot.confirmed_flush_lsn != Some(read.from) {
            return false;
        }
        let (before, new) = (read.upto.bytes_since(read.from), self.position.flush.bytes_since(read.upto));
        let is_spent = read.spent_bytes > read.answer_bytes.saturating_mul(ANSWERS_MAX);
        let is_dear = read.answer_bytes > FREE_BYTES;
        self.position.flush <= read.upto || is_dear && (new < before || is_spent)
    }

    async fn read_some(&mut self, lines_max: u32) -> Result<Batch> {
        self.spool.keep_reserve()?;
        self.read(self.position.flush, Some(lines_max)).await
    }

    async fn read(&mut self, upto: Lsn, lines_max: Option<u32>) -> Result<Batch> {
        let reading = self.reading();
        for _ in 0..ATTEMPTS_MAX {
            let follows = self.connection.stream.is_some();
            let taken = while_in_use(async || {
                reading.take(self.connection, self.spool, &self.slot, &self.look, upto, lines_max).await
            });
            match taken.await {
                Ok(Taken::Batch(batch)) => return Ok(*batch),
                Ok(Taken::SlotMoved(slot)) => self.slot = slot,
                // What was taken from the stream is not there again; the slot has all of it.
                Err(error) if follows => {
                    info!(reason = %error.one_line(), "the stream is left, and the slot is peeked at");
                    self.spool.reload()?;
                }
                Err(error) => return Err(error),
            }
            self.connection.let_go().await?;
            self.slot = slot::read(self.connection.session.client(), &self.config.slot_name).await?;
            self.find_gap().await?;
        }
        let message = format!("the slot {} does not stand still while it is read", self.config.slot_name);
        Err(Error::new(Kind::Locked, message).hint("look for another reader of the slot"))
    }

    fn note(&mut self, batch: Batch) {
        self.outcome.segments += batch.published.segments;
        self.outcome.records += batch.published.records;
        self.outcome.rows.add(&batch.published.rows.0);
        self.outcome.gaps.extend(batch.published.gaps);
        self.outcome.view.capture = batch.capture;
    }

    /// The answer could not be read as a whole. What lies before the transaction that stops it is saved first; then
    /// it is tried again by itself, since an answer may also have been too large for the server as a whole.
    async fn save_what_can_be_read(&mut self, error: Error) -> Result<()> {
        self.spool.discard_scratch()?;
        match Trouble::of(&error) {
            Trouble::Transient => return Err(error),
            Trouble::Slot => return Err(self.explain(error)),
            Trouble::Content => {}
        }
        let located = self.locate_poison().await.map_err(|error| self.explain(error))?;
        let Some(poison) = located else { return Err(self.explain(error)) };
        if poison.end_lsn <= self.spool.position() {
            // The slot goes past it when that is safe where `confirm` says.
            let stood = self.slot.confirmed_flush_lsn;
            self.ship().await?;
            self.confirm().await?;
            if self.slot.confirmed_flush_lsn >= Some(poison.end_lsn) {
                // Where it stood past it already, the same would come again, without end.
                return if self.slot.confirmed_flush_lsn > stood { Ok(()) } else { Err(self.explain(error)) };
            }
            let what = match gap::covers(&self.spool.state().gaps, poison.end_lsn) {
                true => "the slot stands before a declared gap",
                false => "the slot stands before what is archived, which cannot be read again",
            };
            self.poison = Some(poison);
            return Err(error.context(what).hint(
                "nothing after it can be read before the backup host has the segments that are in the spool: bring it back",
            ));
        }
        if let Some(upto) = poison.readable_upto.filter(|upto| *upto > self.spool.position()) {
            let batch = self.read(upto, None).await?;
            self.note(batch);
            self.ship().await?;
            return self.confirm().await;
        }
        self.poison = Some(poison.clone());
        Err(poison.into_error(self.explain(error)))
    }

    async fn locate_poison(&mut self) -> Result<Option<Poison>> {
        let (_, capture) = self.reading().describe(self.connection, self.spool.state()).await?;
        self.source.locate_poison(self.connection, &capture, self.spool.position(), self.position.flush).await
    }
}

fn spool_full(config: &Config) -> Error {
    let message =
        format!("the spool {} has reached spool_max ({})", config.spool_dir.display(), config.spool_max);
    Error::new(Kind::NoSpace, message).hint("bring the backup host back, or raise spool_max")
}
