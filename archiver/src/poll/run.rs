//! The order of a poll.
//!
//! ```text
//! peek ──▶ spool (synced) ──▶ backup host ──▶ head ──▶ confirm
//!    └── again, while the answer was cut ◀──────────────────┘
//! ```
//! The order of these lines is the promise: the slot moves after the changes are safe where `confirm` says. After a
//! crash the position is derived from spool and archive; nothing is taken from memory.

use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Source;
use tracing::warn;

use crate::poll::guard::Pressure;
use crate::poll::outcome::Outcome;
use crate::poll::steps::Poll;
use crate::ship::origin;
use crate::source::slot::Trouble;

impl Poll<'_> {
    pub(super) async fn run(mut self) -> Result<Outcome> {
        self.refuse_diverged().await?;
        self.find_gap().await?;
        self.look_back().await?;
        self.ship().await?;
        self.confirm().await?;
        self.read_under_the_fuse().await?;
        self.ship().await?;
        self.confirm().await?;
        self.forget_notes().await?;
        self.relieve().await?;
        self.look_at_snapshots().await?;
        self.look_around().await?;
        Ok(self.outcome)
    }

    /// Reads all there is. The fuse does not wait for whoever has to mend what keeps an answer from coming.
    async fn read_under_the_fuse(&mut self) -> Result<()> {
        // Every round lets go of a transaction, or of what the spool holds.
        const ROUNDS_MAX: usize = 1000;
        for _ in 0..ROUNDS_MAX {
            let Err(error) = self.read_all().await else { return Ok(()) };
            self.answer_failed = true;
            let stood = self.slot.confirmed_flush_lsn;
            self.relieve().await?;
            let poison = self.poison.take();
            if self.slot.confirmed_flush_lsn > stood && poison.is_some() {
                // It may have been too large only together with what the spool holds.
            } else if let Some(poison) = poison.clone().filter(|_| self.outcome.pressure != Pressure::None) {
                self.give_up_transaction(&poison).await?;
                self.ship().await?;
                self.confirm().await?;
            } else {
                self.poison = poison;
                return Err(error);
            }
            self.answer_failed = false;
        }
        Ok(())
    }

    /// Nothing is read or published before an operator decides.
    pub(crate) async fn refuse_diverged(&mut self) -> Result<()> {
        let Some(why) = self.spool.state().diverged.clone() else { return Ok(()) };
        self.let_go_of_all().await?;
        Err(origin::diverged(&why))
    }

    /// A gap that an operator declares: told first, then the slot moves past it. What can be read is read before,
    /// so that no more is given up than has to be.
    pub(super) async fn declare(mut self, upto: Lsn, reason: &str) -> Result<Outcome> {
        self.connection.let_go().await?;
        let diverged = self.spool.state().diverged.is_some();
        if diverged {
            self.check_snapshots(upto)?;
            // What it offers belongs to another history than the archive's: none of it is read.
            self.check_upto(upto)?;
        } else {
            self.find_gap().await?;
            // What waits for the backup host may be all that fills the spool.
            self.ship().await?;
            self.confirm().await?;
        }
        if !diverged && let Err(error) = self.read_all().await {
            // Whether what comes after it can be read is not known yet.
            if Trouble::of(&error) == Trouble::Transient {
                return Err(error);
            }
            warn!(error = %error.one_line(), "this is what the declared gap steps over");
            self.spool.reload()?;
        }
        if let Some(error) = self.outcome.held_back.take() {
            let what = "no gap is declared, since changes that can be read would be given up with it";
            return Err(error.context(what));
        }
        self.check_upto(upto)?;
        let from = self.spool.position();
        if let Some(poison) = &self.poison
            && upto < poison.end_lsn
        {
            let message =
                format!("the transaction that cannot be read ends at {}, past {upto}", poison.end_lsn);
            return Err(Error::new(Kind::BadInput, message).hint(format!("use --upto {}", poison.end_lsn)));
        }
        self.publish_gap(Gap { from, to: upto, reason: reason.to_owned(), tables: None }).await?;
        // Only now: without the gap the divergence must not be forgotten.
        if diverged {
            let (timeline, oldest) = (self.position.timeline, self.slot.catalog_xmin);
            self.spool.update(|state| {
                state.gives_numbers_again(oldest);
                (state.diverged, state.last_commit) = (None, None);
                (state.newest_commit, state.commit_before_tip) = (None, None);
                state.source.timeline = timeline;
                (state.last_batch, state.acknowledged) = (None, None);
            })?;
        }
        // With the backup host away the slot stays: what lies before the gap may be in the spool alone.
        self.ship().await?;
        self.confirm().await?;
        Ok(self.outcome)
    }

    /// No base copy of the lost history may be one of what comes after the gap.
    fn check_snapshots(&self, upto: Lsn) -> Result<()> {
        let known = self.spool.state().newest_snapshot.as_ref();
        let held = self.snapshots.values().chain(known);
        let Some(last) = held.filter(|snapshot| snapshot.end_lsn > upto).max_by_key(|held| held.end_lsn)
        else {
            return Ok(());
        };
        let message = format!(
            "a gap up to {upto} cannot be declared: the snapshot {} has rows as of {}, and it has to end past that",
            last.id, last.end_lsn
        );
        let hint = format!("the source's WAL ends at {}: wait until it has passed that", self.position.flush);
        Err(Error::new(Kind::BadInput, message).hint(hint))
    }

    fn check_upto(&self, upto: Lsn) -> Result<()> {
        // A slot that was moved already has nothing before its position to give.
        let from = self.spool.position();
        if upto > from && upto <= self.position.flush {
            return Ok(());
        }
        let message = format!("a gap up to {upto} cannot be declared: it must end past {from}");
        let hint = match self.config.source {
            // Positions of batches are numbers of ours.
            Source::Triggers => format!("use --upto {}", self.position.flush),
            Source::Wal2json | Source::Pgoutput => {
                format!("what is before {from} is archived; the source's WAL ends at {}", self.position.flush)
            }
        };
        Err(Error::new(Kind::BadInput, message).hint(hint))
    }
}
