//! `declare-gap`: what an operator gives up is published as missing, and the slot goes past it.

use serde::{Deserialize, Serialize};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::{Error, Result};

use crate::poll::archiver::Archiver;

/// What is given up. As it travels to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeclareGap {
    pub upto: Lsn,
    pub reason: String,
}

#[derive(Debug)]
pub(crate) struct Declared {
    upto: Lsn,
    /// Why the backup host does not have it.
    away: Option<Error>,
}

pub(crate) async fn declare_gap(archiver: &mut Archiver, gap: &DeclareGap) -> Result<Declared> {
    let outcome = archiver.declare_gap(gap.upto, &gap.reason).await?;
    Ok(Declared { upto: gap.upto, away: outcome.away })
}

impl Declared {
    pub(crate) fn exit_code(&self) -> u8 {
        u8::from(self.away.is_some())
    }

    pub(crate) fn text(&self) -> String {
        let message = format!("gap declared up to {}", self.upto);
        match &self.away {
            None => message,
            Some(away) => format!(
                "{message}\nit is in the spool, not yet on the backup host, and the slot waits for that: {}",
                away.one_line()
            ),
        }
    }
}
