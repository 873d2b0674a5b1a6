//! Why a try at a transaction ended without a commit.

use syncdata_formats::error::{Error, Kind};
use syncdata_formats::name::TableName;

use crate::batch::TxPlace;
use crate::table::Difference;
use crate::target::{Poison, Rejection};

pub(crate) enum Ended {
    Stop(TableName, Box<Stop>),
    Failed(Error),
}

/// A table that stops in the middle of the group.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    pub before: TxPlace,
    pub poison: Poison,
}

impl<E: Into<Error>> From<E> for Ended {
    fn from(error: E) -> Ended {
        Ended::Failed(error.into())
    }
}

impl Ended {
    /// The table has another shape than the rows.
    pub(crate) fn unfit(
        table: &TableName,
        before: TxPlace,
        line: Option<u64>,
        difference: &Difference,
    ) -> Ended {
        let reason = difference.to_string();
        let poison = Poison { table: table.clone(), seq: before.seq, line, sqlstate: None, reason };
        Ended::Stop(table.clone(), Box::new(Stop { before, poison }))
    }

    /// The server refused a record.
    pub(crate) fn rejected(rejection: Rejection) -> Ended {
        let Rejection { table, place, sqlstate, reason } = rejection;
        let poison =
            Poison { table: table.clone(), seq: place.tx.seq, line: Some(place.line), sqlstate, reason };
        Ended::Stop(table, Box::new(Stop { before: place.tx, poison }))
    }
}

impl Stop {
    /// Why the table is quarantined, and what to do about it.
    pub(crate) fn reason_and_remedy(&self) -> String {
        let Poison { table, reason, .. } = &self.poison;
        match reason.contains("; run: ") {
            true => reason.clone(),
            false => format!("{reason}; mend it, then run: syncdata-applier retry {table}"),
        }
    }

    /// For those who want everything to stop there.
    pub(crate) fn into_error(self) -> Error {
        let Poison { table, line, reason, .. } = self.poison;
        let line = line.map_or(String::new(), |line| format!(", line {line}"));
        let seq = self.before.seq;
        Error::new(
            Kind::Rejected,
            format!("Failed to apply changes of {table}: segment {seq}{line}: {reason}"),
        )
        .hint("nothing of this transaction was applied; mend the cause, or set on_error = \"quarantine\"")
    }
}
