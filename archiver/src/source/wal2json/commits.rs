//! Which transactions the slot offers, without their rows.

use std::collections::BTreeSet;

use syncdata_formats::name::TableName;
use syncdata_formats::{Error, Kind, Result};

use crate::source::connection::{Connection, while_in_use};
use crate::source::wal2json::line::{JsonString, Line, Target, Transaction};
use crate::source::wal2json::slot::Peek;

/// A transaction, and the relations of the filter that it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    pub transaction: Transaction,
    pub relations: BTreeSet<TableName>,
}

/// Every transaction in reach of the peek, in the order of their commits.
pub(crate) async fn offered(connection: &mut Connection, peek: &Peek<'_>) -> Result<Vec<Offered>> {
    let mut found = Vec::new();
    while_in_use(async || {
        found.clear();
        let mut relations = BTreeSet::new();
        let take = |line: &str| {
            match Line::parse(line)? {
                Line::Commit(transaction) => {
                    found.push(Offered { transaction, relations: std::mem::take(&mut relations) });
                }
                Line::Row(row) => drop(relations.insert(name_of(&row.target)?)),
                Line::Truncate(target) => drop(relations.insert(name_of(&target)?)),
                Line::Begin(_) | Line::Message => {}
            }
            Ok(())
        };
        peek.run(connection, take).await
    })
    .await?;
    Ok(found)
}

/// The same of all transactions of the database: no row is printed, so that none can stand in the way.
pub(crate) async fn commits(connection: &mut Connection, whole: &Peek<'_>) -> Result<Vec<Transaction>> {
    let bare = Peek { filter: "", lines_max: None, ..whole.clone() };
    Ok(offered(connection, &bare).await?.into_iter().map(|offered| offered.transaction).collect())
}

fn name_of(target: &Target<'_>) -> Result<TableName> {
    TableName::new(unescape(target.schema)?, unescape(target.table)?)
}

fn unescape(json: JsonString<'_>) -> Result<String> {
    serde_json::from_str(json).map_err(|error| {
        Error::new(Kind::Corrupt, "wal2json printed a name that is no JSON string").caused_by(error)
    })
}
