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
use tracing::warn;

use crate::poll::outcome::Outcome;
use crate::poll::steps::Poll;
use crate::source::wal2json::slot::Trouble;

impl Poll<'_> {
    pub(super) async fn run(mut self) -> Result<Outcome> {
        self.find_gap().await?;
        self.look_back().await?;
        self.ship().await?;
        self.confirm().await?;
        if let Err(error) = self.read_all().await {
            // The fuse does not wait for the operator of a transaction that cannot be read.
            if self.poison.is_some() {
                self.relieve().await?;
            }
            return Err(error);
        }
        self.ship().await?;
        self.confirm().await?;
        self.relieve().await?;
        self.look_at_snapshots().await?;
        self.look_around().await?;
        Ok(self.outcome)
    }

    /// A gap that an operator declares: told first, then the slot moves past it. What can be read is read before,
    /// so that no more is given up than has to be.
    pub(super) async fn declare(mut self, upto: Lsn, reason: &str) -> Result<Outcome> {
        self.find_gap().await?;
        if let Err(error) = self.read_all().await {
            // Of what is behind it nobody knows yet whether it can be read.
            if Trouble::of(&error) == Trouble::Passing {
                return Err(error);
            }
            warn!(error = %error.one_line(), "this is what the declared gap steps over");
            self.spool.reload()?;
        }
        let from = self.spool.position();
        if upto <= from || upto > self.position.flush {
            let message = format!("a gap up to {upto} cannot be declared: it must end past {from}");
            let hint = format!(
                "what is before {from} is archived; the source's WAL ends at {}",
                self.position.flush
            );
            return Err(Error::new(Kind::BadInput, message).hint(hint));
        }
        if let Some(poison) = &self.poison
            && upto < poison.end_lsn
        {
            let message =
                format!("the transaction that cannot be read ends at {}, past {upto}", poison.end_lsn);
            return Err(Error::new(Kind::BadInput, message).hint(format!("use --upto {}", poison.end_lsn)));
        }
        self.publish_gap(Gap { from, to: upto, reason: reason.to_owned(), tables: None }).await?;
        // With the backup host away the slot stays: what lies before the gap may be in the spool alone.
        self.ship().await?;
        self.confirm().await?;
        Ok(self.outcome)
    }
}
