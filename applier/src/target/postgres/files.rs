//! Which files the rows of a table are in. PostgreSQL gives it another one when it is emptied, and when all of its rows are
//! written anew for another shape. Where none of the table's changes did that, somebody has: rows are gone, or were
//! converted there and back.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::{GenericClient, Row};

use crate::table::{Column, KeptFile, Memory, Seen};
use crate::target::postgres::lost::Lost;

/// Of each table itself, or of its partitions. What VACUUM FULL and CLUSTER write they count; what is emptied nobody does
/// before the next VACUUM or ANALYZE. Whoever asks for a size waits for others who hold the table, or are about to: that one is
/// not asked for. A size is that of the file as it is, which may be another one than the catalog has shown: that is asked after it.
const FILES: &str = "
WITH held AS MATERIALIZED (
    SELECT DISTINCT relation FROM pg_catalog.pg_locks WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock'
        AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
)
SELECT wanted.oid, l.oid, l.relfilenode, l.reltablespace, l.reltuples < 0,
    pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.relname),
    pg_catalog.has_table_privilege(l.oid, 'SELECT'),
    CASE WHEN held.relation IS NULL THEN pg_catalog.pg_relation_size(l.oid) = 0 END,
    pg_catalog.pg_relation_filenode(l.oid) = l.relfilenode
FROM pg_catalog.unnest($1::oid[]) AS wanted(oid)
CROSS JOIN LATERAL (
    SELECT wanted.oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(wanted.oid) WHERE isleaf
) AS leaf(oid)
JOIN pg_catalog.pg_class l ON l.oid = leaf.oid AND l.relkind = 'r'
JOIN pg_catalog.pg_namespace n ON n.oid = l.relnamespace
LEFT JOIN held ON held.relation = l.oid
ORDER BY 1, 2";

/// Of a table that is none of partitions, or of a partition.
#[derive(Debug)]
pub(super) struct LeafFile {
    oid: u32,
    number: u32,
    tablespace: u32,
    /// `None`: somebody holds it, or is about to, and nobody knows what they do.
    is_empty: Option<bool>,
    is_uncounted: bool,
    name: String,
    is_readable: bool,
}

impl LeafFile {
    fn of(row: &Row) -> LeafFile {
        LeafFile {
            oid: row.get(1),
            number: row.get(2),
            tablespace: row.get(3),
            is_empty: row.get::<_, Option<bool>>(7).filter(|_| row.get::<_, Option<bool>>(8) == Some(true)),
            is_uncounted: row.get(4),
            name: row.get(5),
            is_readable: row.get(6),
        }
    }

    /// As it is noted. What could not be asked is as it was before, if it was known (`memory`), and the file is the same; else
    /// there may be rows in it.
    fn kept(&self, memory: Option<&Memory>, changed: Option<&str>) -> (u32, KeptFile) {
        let was_empty = || {
            let memory = memory.filter(|memory| memory.is_known_empty(self.oid, changed));
            memory.and_then(|memory| memory.files.as_ref()?.get(&self.oid)).map(|was| was.number)
        };
        let is_empty = self.is_empty.unwrap_or_else(|| was_empty() == Some(self.number));
        (self.oid, KeptFile { number: self.number, tablespace: self.tablespace, is_empty })
    }
}

/// As they are noted, after what was known of them before.
pub(super) fn kept(
    leaves: &[LeafFile],
    memory: Option<&Memory>,
    changed: Option<&str>,
) -> BTreeMap<u32, KeptFile> {
    leaves.iter().map(|leaf| leaf.kept(memory, changed)).collect()
}

/// The first of these partitions that is on another server. What that one has, it may have at any moment.
pub(super) async fn foreign(client: &impl GenericClient, parts: &[u32]) -> Result<Option<String>> {
    let select = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) \
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.oid = ANY ($1) AND c.relkind = 'f' ORDER BY c.oid LIMIT 1";
    let row = client.query_opt(select, &[&parts]).await.context(looking)?;
    Ok(row.map(|row| row.get(0)))
}

/// By the numbers of the tables.
pub(super) async fn of(client: &impl GenericClient, tables: &[u32]) -> Result<BTreeMap<u32, Vec<LeafFile>>> {
    let mut found: BTreeMap<u32, Vec<LeafFile>> = BTreeMap::new();
    let rows = client.query(FILES, &[&tables]).await;
    for row in rows.context(looking)? {
        found.entry(row.get(0)).or_default().push(LeafFile::of(&row));
    }
    Ok(found)
}

/// All transactions before this one are over. Whoever empties a table whose file is looked at later is a later one.
pub(super) async fn oldest_open(client: &impl GenericClient) -> Result<u32> {
    let select =
        "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.xid::text::int8";
    let oldest: i64 = client.query_one(select, &[]).await.context(looking)?.get(0);
    Ok(u32::try_from(oldest).expect("a transaction's number"))
}

/// Of a transaction from before. (What TRUNCATE takes away and somebody writes again is of a later one.)
fn is_older(seen: &Seen) -> String {
    format!("pg_catalog.age(t.xmin) > pg_catalog.age('{}'::pg_catalog.xid)", seen.before)
}

async fn has_rows_in(
    client: &impl GenericClient,
    table: &TableName,
    leaf: &LeafFile,
    condition: &str,
) -> Result<bool> {
    let (only, name) = match leaf.is_readable {
        true => ("ONLY ", leaf.name.clone()),
        false => ("", table.sql()),
    };
    let select = format!(
        "SELECT EXISTS (SELECT FROM {only}{name} AS t WHERE t.tableoid = {}::oid AND {condition})",
        leaf.oid
    );
    Ok(client.query_one(&select, &[]).await.context(|| format!("looking for rows of {name}"))?.get(0))
}

fn looking() -> String {
    "looking for the files of the local tables".to_owned()
}

/// What somebody has done to the rows of a table, by the files that they are in.
pub(super) async fn look(
    client: &impl GenericClient,
    table: &TableName,
    memory: &Memory,
    columns: &[Column],
    leaves: &[LeafFile],
    changed: Option<&str>,
) -> Result<Option<Lost>> {
    let Some(before) = &memory.files else { return Ok(None) };
    let (is_explained, is_back) = (memory.explains_other_files(columns), memory.is_altered_and_back(columns));
    for leaf in leaves {
        let Some(was) = before.get(&leaf.oid).filter(|was| was.number != leaf.number) else { continue };
        let was_empty = memory.is_known_empty(leaf.oid, changed);
        // Another tablespace takes the blocks as they are, and the number of rows with them.
        let is_uncounted = leaf.is_uncounted && was.tablespace == leaf.tablespace;
        let may_differ = match &memory.seen {
            // For a column, all rows are written anew, and for one that was another meanwhile too.
            _ if is_explained && is_back && !was_empty => true,
            // There are some.
            Some(_) if is_explained && !was_empty => !has_rows_in(client, table, leaf, "true").await?,
            _ if is_explained => false,
            _ if is_uncounted => true,
            // VACUUM FULL and CLUSTER write the same rows, of the same transactions; ALTER TABLE makes them its own.
            Some(seen) if !was_empty => !has_rows_in(client, table, leaf, &is_older(seen)).await?,
            Some(_) => false,
            None => is_back,
        };
        if may_differ {
            return Ok(Some(Lost::Rewritten));
        }
    }
    for leaf in leaves.iter().filter(|leaf| !before.contains_key(&leaf.oid)) {
        if has_rows(client, leaf.oid, &leaf.name, leaf.is_readable).await? {
            return Ok(Some(Lost::PartWithRows(leaf.name.clone())));
        }
    }
    Ok(None)
}

/// How many blocks of a table are looked at for a row: what was deleted may fill the rest.
const LOOKED_AT: u32 = 128;

/// As many tables are asked at once.
const AT_ONCE: usize = 100;

/// Those that are known to have rows, by their names. Waits for nobody, and keeps no lock.
pub(super) async fn filled(client: &impl GenericClient, leaves: &[LeafFile]) -> Result<BTreeSet<String>> {
    let mut filled = BTreeSet::new();
    let asked: Vec<&LeafFile> =
        leaves.iter().filter(|leaf| leaf.is_empty == Some(false) && leaf.is_readable).collect();
    for leaves in asked.chunks(AT_ONCE) {
        let has_rows = |leaf: &&LeafFile| {
            format!("EXISTS (SELECT FROM ONLY {} AS t WHERE t.ctid < '({LOOKED_AT},0)')", leaf.name)
        };
        let asking: Vec<String> = leaves.iter().map(has_rows).collect();
        let select = format!("SELECT ARRAY[{}]", asking.join(", "));
        let begin = "SAVEPOINT syncdata_filled; SET LOCAL lock_timeout = '50ms'";
        client.batch_execute(begin).await.context(looking)?;
        let answer = client.query_one(&select, &[]).await;
        let end = "ROLLBACK TO SAVEPOINT syncdata_filled; RELEASE SAVEPOINT syncdata_filled";
        client.batch_execute(end).await.context(looking)?;
        let answer: Vec<bool> = match answer {
            Ok(row) => row.get(0),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => continue,
            Err(error) => return Err(error).context(looking),
        };
        let with_rows = leaves.iter().zip(answer).filter(|(_, has_rows)| *has_rows);
        filled.extend(with_rows.map(|(leaf, _)| leaf.name.clone()));
    }
    Ok(filled)
}

/// One of those that had rows, and has none now, or is gone. By their names, as a dump keeps them.
pub(super) async fn not_filled(
    client: &impl GenericClient,
    memory: &Memory,
    leaves: &[LeafFile],
) -> Result<Option<String>> {
    for name in memory.filled.iter().flatten() {
        let has_rows = match leaves.iter().find(|leaf| leaf.name == *name) {
            Some(leaf) => has_rows(client, leaf.oid, name, leaf.is_readable).await?,
            None => false,
        };
        if !has_rows {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

/// Of one that this role may only reach through another table: whether there is room for some.
pub(super) async fn has_rows(
    client: &impl GenericClient,
    oid: u32,
    name: &str,
    is_readable: bool,
) -> Result<bool> {
    let select = match is_readable {
        true => format!("SELECT EXISTS (SELECT FROM ONLY {name})"),
        false => format!("SELECT pg_catalog.pg_relation_size({oid}::oid) > 0"),
    };
    let row = client.query_one(&select, &[]).await;
    Ok(row.context(|| format!("looking for rows of {name}"))?.get(0))
}
