//! A batch, from its notes to the events of its one transaction: TRUNCATE, then keys that are gone, then rows that are there.
//!
//! All that goes comes before all that is there: values that have to be unique may have changed places.

use std::pin::pin;

use futures_util::TryStreamExt as _;
use memchr::memchr;
use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::Seen;
use syncdata_formats::time::Timestamp;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Transaction as Tx;
use tokio_postgres::types::Type;
use tokio_postgres::{SimpleColumn, SimpleQueryMessage};

use super::keys::Table;
use super::row::{Asked, Fields, not_understood};
use crate::source::Read;
use crate::source::ask::{many, one};
use crate::source::event::{Action, Event, Part, Place, Row, Transaction};
use crate::source::length::Length;
use crate::source::printing::quoted;

/// What is read in one snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub since: Seen,
    /// All up to `since` is archived, and nothing after it.
    pub is_exact: bool,
    /// Where the batch before ends, and where this one does.
    pub after: Lsn,
    pub position: Lsn,
    pub at: Timestamp,
    /// The newest of its transactions.
    pub xid: u32,
    /// Tables that were emptied, with their oids: nothing of before is left in them.
    pub truncated: Vec<(u32, TableName)>,
    /// Tables whose rows were touched.
    pub tables: Vec<Table>,
}

impl Batch {
    pub(super) async fn read(
        &self,
        tx: &Tx<'_>,
        mut take: impl for<'a> FnMut(Event<'a, &'a Fields<'a>>) -> Result<()>,
    ) -> Result<Read> {
        if self.truncated.is_empty() && self.tables.is_empty() {
            return Ok(Read::default());
        }
        let mut length = Length::default();
        let commit =
            Transaction { xid: self.xid, committed_at: self.at, lsn: self.after, end_lsn: self.position };
        take(Event::Begin(commit.begin()))?;
        for (oid, table) in &self.truncated {
            let (schema, name) = (quoted(table.schema()), quoted(table.name()));
            take(Event::Truncate(Place { lsn: self.after, schema: &schema, table: &name, oid: Some(*oid) }))?;
        }
        for table in &self.tables {
            if !self.truncated.iter().any(|(oid, _)| *oid == table.oid) {
                let sql = table.gone(&self.since, self.is_exact);
                let asked = table.asked_of_key();
                let what = (Action::Delete, Part::Identity, asked.as_slice());
                self.copy(tx, table, &sql, what, &mut length, &mut take).await?;
            }
        }
        for table in &self.tables {
            let what = (Action::Insert, Part::Columns, table.asked.as_slice());
            self.copy(tx, table, &table.there(&self.since), what, &mut length, &mut take).await?;
        }
        take(Event::Commit(commit))?;
        let Length { lines, bytes, .. } = length;
        length.finish();
        Ok(Read { lines, bytes, was_cut: false })
    }

    async fn copy(
        &self,
        tx: &Tx<'_>,
        table: &Table,
        sql: &str,
        (action, part, asked): (Action, Part, &[Asked]),
        length: &mut Length,
        take: &mut impl for<'a> FnMut(Event<'a, &'a Fields<'a>>) -> Result<()>,
    ) -> Result<()> {
        let doing = || format!("reading the touched rows of {}", table.name);
        let (schema, name) = (quoted(table.name.schema()), quoted(table.name.name()));
        let place = Place { lsn: self.after, schema: &schema, table: &name, oid: Some(table.oid) };
        let mut line = |line: &[u8]| {
            length.add(line.len());
            let fields = Fields::new(part, asked, line);
            take(Event::Row(Row { action, place, columns: &fields }))
        };
        let mut answer = pin!(tx.copy_out(sql).await.context(doing)?);
        let mut rest: Vec<u8> = Vec::new();
        while let Some(piece) = answer.try_next().await.context(doing)? {
            let mut piece = piece.as_ref();
            while let Some(end) = memchr(b'\n', piece) {
                if rest.is_empty() {
                    line(&piece[..end])?;
                } else {
                    rest.extend_from_slice(&piece[..end]);
                    line(&rest)?;
                    rest.clear();
                }
                piece = &piece[end + 1..];
            }
            rest.extend_from_slice(piece);
        }
        if rest.is_empty() { Ok(()) } else { Err(not_understood("a row that does not end")) }
    }
}

/// Those of the relations whose rows lie elsewhere now than the transaction's snapshot says. TRUNCATE, and ALTER TABLE that writes
/// rows anew, take them from older snapshots too: what was read of them may be too little. After a read nobody can do that any
/// more, until the transaction ends.
pub(crate) async fn moved(tx: &Tx<'_>, relations: &[u32]) -> Result<Vec<u32>> {
    let sql = "SELECT c.oid FROM pg_class c
      WHERE c.oid = ANY ($1) AND c.relkind = 'r' AND c.relfilenode <> coalesce(pg_relation_filenode(c.oid), 0)";
    let rows = many(tx, "looking whether rows were moved", sql, &[(&relations, Type::OID_ARRAY)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Whether the statements of these tables meant the tables, and the columns, that the transaction's snapshot says: names are
/// looked up as they are now. After the read nobody can alter them any more, until the transaction ends.
pub(crate) async fn are_as_seen(tx: &Tx<'_>, tables: &[Table]) -> Result<bool> {
    let doing = || "looking whether columns are what they were".to_owned();
    for table in tables {
        let name = table.name.sql();
        let oid: Option<u32> =
            one(tx, &doing(), "SELECT to_regclass($1)::oid", &[(&name, Type::TEXT)]).await?.get(0);
        // The names alone: no alias could be a column's too.
        let answer = tx.simple_query(&format!("SELECT (NULL::{name}).*")).await.context(doing)?;
        let now: Vec<&str> = answer
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row.columns()),
                _ => None,
            })
            .flatten()
            .map(SimpleColumn::name)
            .filter(|name| table.columns.iter().any(|column| column == name))
            .collect();
        if oid != Some(table.oid) || now != table.columns {
            return Ok(false);
        }
    }
    Ok(true)
}
