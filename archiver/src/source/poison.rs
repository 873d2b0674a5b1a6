//! The one transaction that cannot be read.

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::{Error, Kind};
use syncdata_service::postgres::sqlstate;
use tokio_postgres::error::SqlState;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Poison {
    /// Where the source says so.
    pub xid: Option<u32>,
    pub end_lsn: Lsn,
    /// The last commit that can still be read, if the answer has one before it.
    pub readable_upto: Option<Lsn>,
    /// Relations that cannot be read alone.
    pub tables: Vec<TableName>,
    /// Other relations that it changed; `None` when that cannot be read either.
    pub besides: Option<Vec<TableName>>,
}

impl Poison {
    pub(crate) fn into_error(self, cause: Error) -> Error {
        let tables = self.tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let tables = if tables.is_empty() { "no table alone" } else { &tables };
        // What may help without a loss comes first.
        let mut first = cause.hint_text().map_or_else(String::new, |hint| format!("{hint}; or, "));
        if self.may_be_the_sum(&cause) {
            first = format!(
                "the slot still hands out what is archived before it, and both may only be too large together: first \
                 bring the backup host back, or set confirm = \"spooled\"; or, {first}"
            );
        }
        let (end_lsn, which) = (self.end_lsn, self.name());
        let message = match self.xid {
            Some(xid) => format!(
                "transaction {xid} (commit ends at {end_lsn}) of {tables} cannot be read; all before it is archived"
            ),
            None => {
                format!("a transaction (commit ends at {end_lsn}) cannot be read; all before it is archived")
            }
        };
        Error::new(Kind::Corrupt, message)
        .hint(format!(
            "{first}to go on without it, run `syncdata-archiver declare-gap --upto {end_lsn} --reason \"{which} \
             cannot be read\"`; the tables are then stale until their next snapshot"
        ))
        .caused_by(cause)
    }

    pub(crate) fn name(&self) -> String {
        self.xid.map_or("a transaction".to_owned(), |xid| format!("transaction {xid}"))
    }

    /// A limit counts all that the answer has, from where the slot stands.
    fn may_be_the_sum(&self, cause: &Error) -> bool {
        self.readable_upto.is_some() && sqlstate(cause) == Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_gives_the_command_to_run() {
        let poison = Poison {
            xid: Some(754),
            end_lsn: Lsn::from_u64(0x20),
            readable_upto: None,
            tables: vec!["notes".parse().expect("a name")],
            besides: Some(Vec::new()),
        };
        let report = poison.into_error(Error::new(Kind::BadInput, "too long")).report();
        assert!(report.contains("declare-gap --upto 0/20 --reason"), "{report}");
        assert!(report.contains("of notes cannot be read"), "{report}");
    }
}
