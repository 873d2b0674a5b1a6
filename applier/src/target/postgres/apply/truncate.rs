//! TRUNCATE of the source: one statement here too, as far as the server lets it.

use syncdata_formats::name::TableName;
use syncdata_service::postgres::failure;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::watched::Changed;
use super::{Failed, Rejection, Writer, sql};
use crate::table::Table;
use crate::target::postgres::local::LOCK_TIMEOUT;
use crate::target::postgres::step::Prepared;

/// A statement that waits for a reader longer than this gives up, so that those who queue after it get on.
const TRUNCATE_LOCK_TIMEOUT: &str = "1s";

impl Writer {
    /// One statement for all of them; where it fails, its first table is as good as any. What it may not name is emptied
    /// row by row.
    pub(super) async fn truncate(&mut self, client: &Client, prepared: &Prepared) -> Result<(), Failed> {
        let Some(first) = prepared.batch.tables.iter().find_map(|table| table.truncated) else {
            return Ok(());
        };
        let truncated: Vec<&Table> = truncated(prepared).collect();
        let (deleted, emptied) = self.apart(&truncated);
        let mut statements = vec![format!("SET LOCAL lock_timeout = '{TRUNCATE_LOCK_TIMEOUT}'")];
        if !emptied.is_empty() {
            statements.push(sql::truncate(emptied.into_iter()));
        }
        let before = statements.len() + deleted.len();
        // Nobody attaches a partition with rows meanwhile, which would be taken for ours.
        let hold = |table: &&Table| format!("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", table.sql());
        statements.extend(deleted.iter().map(hold));
        statements.extend(deleted.iter().map(|table| format!("DELETE FROM {}", table.sql())));
        statements.push(format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"));
        let done = client.simple_query(&statements.join("; ")).await;
        let done = done.map_err(|error| Failed::of(prepared, first, failure("truncating tables", error)))?;
        let rows = done.iter().filter_map(|answer| match answer {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        let names: Vec<TableName> = deleted.iter().map(|table| table.name.clone()).collect();
        let rows: Vec<u64> = rows.skip(before).take(names.len()).collect();
        if let Some(watched) = &mut self.watched {
            names.iter().zip(rows).for_each(|(table, rows)| watched.hit(table, Changed::deleted(rows)));
        }
        Ok(())
    }

    /// The tables that the server lets nobody truncate, because others refer to them that go on by themselves; and the
    /// rest. A table to which one of the first refers is one of them: it could not be named alone.
    fn apart<'t>(&self, truncated: &[&'t Table]) -> (Vec<&'t Table>, Vec<&'t Table>) {
        let mut deleted: Vec<&Table> = Vec::new();
        loop {
            let is_named = |name: &TableName| {
                truncated.iter().any(|table| table.name == *name)
                    && deleted.iter().all(|table| table.name != *name)
            };
            let is_tied = |table: &&&Table| {
                let is_new = deleted.iter().all(|known| known.name != table.name);
                is_new && table.referenced_by.iter().any(|name| !is_named(name))
            };
            match truncated.iter().find(is_tied) {
                Some(table) => deleted.push(table),
                None => break,
            }
        }
        let rest = truncated.iter().filter(|table| deleted.iter().all(|known| known.name != table.name));
        let rest = rest.copied().collect();
        (deleted, rest)
    }

    /// A local table that is not truncated with it refers to a truncated one: the server would refuse, and CASCADE
    /// would empty a table that nobody asked to be emptied. One that is synced goes on by itself, where the foreign key
    /// is of no consequence meanwhile.
    pub(super) fn blocked_truncate(&self, prepared: &Prepared) -> Option<Rejection> {
        let is_truncated = |name: &TableName| truncated(prepared).any(|table| table.name == *name);
        let goes_on = |name: &TableName| self.replica && self.synced.contains(name);
        prepared.batch.tables.iter().find_map(|table| {
            let record = &prepared.batch.records[table.truncated? as usize];
            let local = &table.target.table;
            let outsider = local.referenced_by.iter().find(|name| !is_truncated(name) && !goes_on(name))?;
            Some(Rejection {
 server_words: None,
                table: local.name.clone(),
                place: record.place,
                // Of a synced one it is the rows that stand in the way, which are newer, or older.
                sqlstate: Some(if self.synced.contains(outsider) { "23503" } else { "0A000" }.into()),
                reason: format!(
                    "the source truncated it, and the local table {outsider}, which was not truncated, refers to it"
                ),
                remedy: None,
                in_doubt: false,
            })
        })
    }
}

fn truncated(prepared: &Prepared) -> impl Iterator<Item = &Table> {
    let tables = prepared.batch.tables.iter().filter(|table| table.truncated.is_some());
    tables.map(|table| &*table.target.table)
}
