//! Empties tables for good, and no other table with them. TRUNCATE is refused where a table that stays refers to one of
//! them, even an empty one; then rows are deleted, once it is known that nothing refers to them.

use std::collections::BTreeMap;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::db_error;
use tokio_postgres::Client;

use crate::table::Table;
use crate::target::postgres::local::Local;
use crate::target::postgres::writers::UNDER_REPLICA;

// A partition stands for its root; what a partition inherits its root says.
const OUTSIDERS: &str = "
SELECT coalesce(pg_catalog.pg_partition_root(f.confrelid)::oid, f.confrelid), f.conrelid::pg_catalog.regclass::text,
    pg_catalog.quote_ident(f.conname),
    ARRAY(SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.unnest(f.conkey) k
          JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k)
FROM pg_catalog.pg_constraint f
WHERE f.contype = 'f' AND f.conparentid = 0
    AND coalesce(pg_catalog.pg_partition_root(f.confrelid)::oid, f.confrelid) = ANY ($1::oid[])
    AND coalesce(pg_catalog.pg_partition_root(f.conrelid)::oid, f.conrelid) <> ALL ($1::oid[])
ORDER BY 2, 3";

/// A foreign key of a table that stays.
struct Outsider {
    referenced: u32,
    table: String,
    constraint: String,
    columns: Vec<String>,
}

/// In a transaction that somebody else commits.
pub async fn empty(local: &Local, tables: &BTreeMap<TableName, Table>) -> Result<()> {
    let client = local.session.client();
    local.announce_writes().await?;
    let oids: Vec<u32> = tables.values().map(|table| table.oid).collect();
    let rows = client.query(OUTSIDERS, &[&oids]).await.context(doing)?;
    let outsider = |row: &tokio_postgres::Row| Outsider {
        referenced: row.get(0),
        table: row.get(1),
        constraint: row.get(2),
        columns: row.get(3),
    };
    let outsiders: Vec<Outsider> = rows.iter().map(outsider).collect();

    let (deleted, truncated) = apart(tables, &outsiders);
    // Nobody can begin to refer to a row of theirs any more; readers go on.
    for table in &deleted {
        run(client, &format!("LOCK TABLE {} IN EXCLUSIVE MODE", table.sql())).await?;
    }
    for outsider in &outsiders {
        outsider.check(client, tables).await?;
    }

    if local.replica && local.may_be_refused().await? {
        run(client, UNDER_REPLICA).await?;
    }
    if !truncated.is_empty() {
        let list: Vec<String> = truncated.iter().map(|table| table.sql()).collect();
        run(client, &format!("TRUNCATE {}", list.join(", "))).await?;
    }
    if !deleted.is_empty() {
        let prepare = match local.replica {
            true => UNDER_REPLICA,
            false => "SET CONSTRAINTS ALL DEFERRED",
        };
        run(client, prepare).await?;
    }
    for table in deleted {
        run(client, &format!("DELETE FROM {}", table.sql())).await?;
    }
    Ok(())
}

/// The tables that cannot be truncated, those that refer before those that they refer to, and the rest.
fn apart<'t>(
    tables: &'t BTreeMap<TableName, Table>,
    outsiders: &[Outsider],
) -> (Vec<&'t Table>, Vec<&'t Table>) {
    let mut deleted: Vec<&Table> = Vec::new();
    let is_deleted = |deleted: &[&Table], name: &TableName| deleted.iter().any(|table| table.name == *name);
    // To which one of them refers cannot be truncated either: it would have to be named with it.
    loop {
        let is_tied = |table: &&Table| {
            outsiders.iter().any(|outsider| outsider.referenced == table.oid)
                || table.referenced_by.iter().any(|name| is_deleted(&deleted, name))
        };
        let new = tables.values().find(|table| !is_deleted(&deleted, &table.name) && is_tied(table));
        match new {
            Some(table) => deleted.push(table),
            None => break,
        }
    }
    let truncated = tables.values().filter(|table| !is_deleted(&deleted, &table.name)).collect();

    let mut ordered: Vec<&Table> = Vec::new();
    while !deleted.is_empty() {
        let others = deleted.clone();
        let is_free = |table: &&Table| {
            table.referenced_by.iter().all(|name| *name == table.name || !is_deleted(&others, name))
        };
        // In a circle any is as good as another: the server says what it thinks of it.
        let next = deleted.iter().position(is_free).unwrap_or(0);
        ordered.push(deleted.remove(next));
    }
    (ordered, truncated)
}

impl Outsider {
    async fn check(&self, client: &Client, tables: &BTreeMap<TableName, Table>) -> Result<()> {
        let refers: Vec<String> = self.columns.iter().map(|column| format!("{column} IS NOT NULL")).collect();
        let select = format!("SELECT EXISTS (SELECT FROM {} WHERE {})", self.table, refers.join(" AND "));
        let row = client.query_one(&select, &[]).await;
        let refers: bool = row
            .context(|| format!("looking for rows of {} that refer to one of the tables", self.table))?
            .get(0);
        if !refers {
            return Ok(());
        }
        let referenced = tables.values().find(|table| table.oid == self.referenced);
        let referenced = referenced.map_or_else(String::new, |table| table.name.to_string());
        let (table, constraint) = (&self.table, &self.constraint);
        let message =
            format!("rows of {table}, which is not synced, refer to {referenced} (constraint {constraint})");
        Err(Error::new(Kind::Conflict, message).hint(format!(
            "nothing was changed. Delete those rows, or run: ALTER TABLE {table} DROP CONSTRAINT {constraint}"
        )))
    }
}

fn doing() -> String {
    "emptying the tables".to_owned()
}

/// With what the server says beside its message: which table it was.
async fn run(client: &Client, statement: &str) -> Result<()> {
    let done = client.batch_execute(statement).await.context(doing);
    done.map_err(|error| {
        let detail = db_error(&error).and_then(|error| error.detail()).map(str::to_owned);
        let hint = "nothing was changed; somebody may be reading them, or refer to them";
        let words = [detail.as_deref(), error.hint_text(), Some(hint)];
        let words: Vec<&str> = words.into_iter().flatten().collect();
        let words = words.join("; ");
        error.hint(words)
    })
}
