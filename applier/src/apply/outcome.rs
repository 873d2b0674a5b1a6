//! Why a try at a transaction ended without a commit.

use syncdata_formats::error::{Error, Kind};
use syncdata_formats::name::TableName;

use crate::batch::{Place, TxPlace};
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
    /// What one TRUNCATE named with it, where that is the reason.
    pub held_with: Vec<TableName>,
    /// What is told to be done may leave other rows than the source has: nothing but a new base makes it live.
    pub in_doubt: bool,
    /// What is told to be done is a statement for the server that has the table.
    pub is_statement: bool,
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
        let Difference { what, remedy, in_doubt } = difference;
        let (reason, remedy) = (what.clone(), Some(format!("run: {remedy}")));
        let (seq, sqlstate, server_words) = (before.seq, None, None);
        let poison = Poison { table: table.clone(), seq, line, sqlstate, reason, remedy, server_words };
        let (held_with, in_doubt) = (Vec::new(), *in_doubt);
        let stop = Stop { before, poison, held_with, in_doubt, is_statement: true };
        Ended::Stop(table.clone(), Box::new(stop))
    }

    /// The target says that it cannot have the table so, and what to do.
    pub(crate) fn refused(table: &TableName, before: TxPlace, difference: &Difference) -> Ended {
        match Ended::unfit(table, before, None, difference) {
            Ended::Stop(table, stop) => Ended::Stop(table, Box::new(Stop { is_statement: false, ..*stop })),
            failed @ Ended::Failed(_) => failed,
        }
    }

    /// One TRUNCATE names the table and others that cannot take it: none of them does, until all do.
    pub(crate) fn held(table: &TableName, with: Vec<TableName>, place: Place) -> Ended {
        let names: Vec<String> = with.iter().map(ToString::to_string).collect();
        let reason = format!("the source truncated it together with {}, which is held up", names.join(", "));
        let words: Vec<String> = with.iter().map(TableName::shell_word).collect();
        let remedy = format!(
            "mend what holds that up, then run: syncdata-applier retry {} {}",
            table.shell_word(),
            words.join(" ")
        );
        let poison = Poison {
            table: table.clone(),
            seq: place.tx.seq,
            line: Some(place.line),
            sqlstate: None,
            reason,
            remedy: Some(remedy),
            server_words: None,
        };
        let stop = Stop { before: place.tx, poison, held_with: with, in_doubt: false, is_statement: false };
        Ended::Stop(table.clone(), Box::new(stop))
    }

    /// The server refused a record.
    pub(crate) fn rejected(rejection: Rejection) -> Ended {
        let Rejection { table, place, sqlstate, reason, remedy, server_words, in_doubt } = rejection;
        let (seq, line) = (place.tx.seq, Some(place.line));
        let poison = Poison { table: table.clone(), seq, line, sqlstate, reason, remedy, server_words };
        let (before, held_with) = (place.tx, Vec::new());
        Ended::Stop(table, Box::new(Stop { before, poison, held_with, in_doubt, is_statement: false }))
    }
}

impl Stop {
    /// Why the table is quarantined, and what to do about it.
    pub(crate) fn reason_and_remedy(&self) -> String {
        let Poison { table, reason, remedy, .. } = &self.poison;
        match remedy {
            Some(_) => self.poison.words(),
            None => format!("{reason}; mend it, then run: syncdata-applier retry {}", table.shell_word()),
        }
    }

    /// For those who want everything to stop there.
    pub(crate) fn into_error(self) -> Error {
        let reason = self.poison.words();
        let Poison { table, line, .. } = self.poison;
        let line = line.map_or(String::new(), |line| format!(", line {line}"));
        let seq = self.before.seq;
        Error::new(
            Kind::Rejected,
            format!("Failed to apply changes of {table}: segment {seq}{line}: {reason}"),
        )
        .hint("nothing of this transaction was applied; mend the cause, or set on_error = \"quarantine\"")
    }
}
