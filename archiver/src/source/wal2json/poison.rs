//! Finds the one transaction that cannot be read, so that all before it can be saved and it can be named.

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_service::faults;

use super::commits::{commits, offered};
use super::line::Line;
use super::peek::Peek;
use super::{Wal2json, filter};
use crate::capture::Capture;
use crate::source::connection::{Connection, while_in_use};
use crate::source::event::Transaction;
use crate::source::poison::Poison;
use crate::source::slot::Trouble;

/// What lies before `upto` could not be read: why? `None` when all of it can be read after all, or nothing can be said. Every
/// attempt may make the server print a gigabyte, so that none is made twice.
pub(in crate::source) async fn locate(
    connection: &mut Connection,
    source: &Wal2json,
    capture: &Capture,
    upto: Lsn,
) -> Result<Option<Poison>> {
    let filter = filter::of(capture);
    let whole = &source.peek(&filter, upto, None);
    let commits = commits(connection, whole).await?;
    // commits[..readable] can be read, commits[..unreadable] cannot.
    let (mut readable, mut unreadable) = (0, commits.len());
    if unreadable == 0 {
        return Ok(None);
    }
    while unreadable - readable > 1 {
        let middle = readable + (unreadable - readable) / 2;
        let upto = commits[middle - 1].end_lsn;
        if can_read(connection, &Peek { upto, lines_max: None, ..*whole }).await? {
            readable = middle;
        } else {
            unreadable = middle;
        }
    }
    // The last one has not been tried: it was taken for unreadable because the whole is.
    if unreadable == commits.len() && can_read(connection, whole).await? {
        return Ok(None);
    }
    let Transaction { xid, end_lsn, .. } = commits[unreadable - 1];
    let only_it = Peek { upto: end_lsn, lines_max: None, ..*whole };
    if unreadable == commits.len() && can_read(connection, &only_it).await? {
        // What lies after the last commit belongs to none: the next commit will show it.
        return Ok(None);
    }
    let readable_upto = readable.checked_sub(1).map(|last| commits[last].end_lsn);
    let relations: Vec<_> = capture.relations().map(|name| (name.clone(), filter::alone(name))).collect();
    let tables = tables(connection, &only_it, relations.clone()).await?;
    // It may have rows under a name that is no relation's any more: then nobody can say of which tables it is.
    let besides = match tables.is_empty() || capture.has_former_names() {
        true => None,
        false => besides(connection, &only_it, relations, &tables).await?,
    };
    Ok(Some(Poison { xid: Some(xid), end_lsn, readable_upto, tables, besides }))
}

/// A connection that breaks, or a call that somebody cancels, says nothing of what was to be read.
async fn can_read(connection: &mut Connection, peek: &Peek<'_>) -> Result<bool> {
    let read = while_in_use(async || {
        faults::hit("poison.before_try")?;
        peek.run(connection, Line::check).await
    });
    match read.await {
        Ok(()) => Ok(true),
        Err(error) if Trouble::of(&error) == Trouble::Content => Ok(false),
        Err(error) => Err(error.context("looking for the transaction that cannot be read")),
    }
}

/// Halves the relations until single ones are left that fail alone.
async fn tables(
    connection: &mut Connection,
    peek: &Peek<'_>,
    relations: Vec<(TableName, String)>,
) -> Result<Vec<TableName>> {
    let mut suspects = halves(relations);
    let mut found = Vec::new();
    while let Some(some) = suspects.pop() {
        let filter = some.iter().map(|(_, filter)| filter.as_str()).collect::<Vec<_>>().join(",");
        if can_read(connection, &Peek { filter: &filter, ..*peek }).await? {
            continue;
        }
        match <[_; 1]>::try_from(some) {
            Ok([(name, _)]) => found.push(name),
            Err(several) => suspects.extend(halves(several)),
        }
    }
    found.sort();
    Ok(found)
}

/// What the transaction changed beside the tables that cannot be read.
async fn besides(
    connection: &mut Connection,
    peek: &Peek<'_>,
    mut relations: Vec<(TableName, String)>,
    unreadable: &[TableName],
) -> Result<Option<Vec<TableName>>> {
    relations.retain(|(name, _)| !unreadable.contains(name));
    let filter = relations.iter().map(|(_, filter)| filter.as_str()).collect::<Vec<_>>().join(",");
    let transactions = match offered(connection, &Peek { filter: &filter, ..*peek }).await {
        Err(error) if Trouble::of(&error) == Trouble::Content => return Ok(None),
        transactions => transactions?,
    };
    let it = transactions.into_iter().find(|offered| offered.transaction.end_lsn == peek.upto);
    Ok(Some(it.map(|offered| offered.relations.into_iter().collect()).unwrap_or_default()))
}

/// One alone stays one: it is to be tried.
fn halves<T>(mut some: Vec<T>) -> Vec<Vec<T>> {
    let second = some.split_off(some.len().div_ceil(2));
    [some, second].into_iter().filter(|half| !half.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_have_everything_and_get_smaller() {
        assert_eq!(halves(vec![1, 2, 3]), [vec![1, 2], vec![3]]);
        assert_eq!(halves(vec![1]), [vec![1]]);
        assert!(halves(Vec::<u8>::new()).is_empty());
    }
}
