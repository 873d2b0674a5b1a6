//! A temporary table in which the rows of a replay are put together, beside the live one that they belong to.
//!
//! It has the columns of the live table and one more that says what is known of a row. Where not every value is known,
//! one more for each column says whether that one is.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use syncdata_formats::error::{Context, Error, Result};
use syncdata_service::postgres::ServerContext as _;

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::manifest::{self, Relation, ReplicaIdentity};
use syncdata_formats::name::TableName;
use tokio_postgres::Client;

use crate::history::keys::Told;
use crate::load::Halt;
use crate::table::{Column, Fit, Key, Shape, Table, TextEquality, UniqueIndex};

/// No column of a user has a name like these by accident.
pub(super) const STATE: &str = "syncdata:state";
const KNOWN: &str = "syncdata:known:";

/// So many columns a table may have.
const COLUMNS_MAX: usize = 1600;

/// What is known of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowState {
    /// It is there, with these values.
    Whole,
    /// It is there, and has these values beside others that nobody told.
    Part,
    Gone,
    /// Only needed for a row that went on from here: what lies there now is not known.
    Aside,
}

impl RowState {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            RowState::Whole => "whole",
            RowState::Part => "part",
            RowState::Gone => "gone",
            RowState::Aside => "aside",
        }
    }
}

/// The scratch table in which the wanted rows are put together.
#[derive(Debug)]
pub(super) struct Shadow {
    pub live: Arc<Table>,
    /// The temporary table as the writer of batches sees it.
    pub target: Arc<Fit>,
    /// The same for marks where a row has left its key: one that is there has another spelling of it, and stays.
    pub left: Arc<Fit>,
    pub relation: Arc<Relation>,
    /// Local columns that the archive has values for.
    pub written: Vec<usize>,
    /// Some values are not known: the extra columns are there.
    pub has_holes: bool,
    /// What rows that are older than a column have in it, of the columns of which the archive says that.
    pub missing: BTreeMap<usize, Option<String>>,
    /// Columns of `written` that every record tells together or not at all share a flag: a table may have as many
    /// columns as the server allows, and hardly any that are not always told.
    groups: Vec<Vec<usize>>,
}

impl Shadow {
    /// `told` are the column lists that records come with; `has_parts`: rows that no record tells whole. Refused: they
    /// cannot be put together.
    pub(super) fn new(
        number: usize,
        live: &Arc<Table>,
        key: &[usize],
        newest: &Relation,
        told: &Told,
        has_parts: bool,
    ) -> Result<Shadow, Halt> {
        let name = TableName::new("pg_temp", format!("syncdata_replay_{number}"))?;
        let forms: Vec<&Vec<String>> = told.whole.iter().chain(&told.part).collect();
        let told_at_all = forms.iter().copied().flatten().filter_map(|name| live.column(name));
        let described = newest.columns.iter().filter(|column| column.generated.is_none());
        let described = described.filter_map(|column| live.column(&column.name));
        let all: BTreeSet<usize> = told_at_all.chain(described).chain(key.iter().copied()).collect();
        let written: Vec<usize> = all.into_iter().filter(|&column| !live.columns[column].generated).collect();
        let is_short = |form: &Vec<String>| written.iter().any(|&c| !form.contains(&live.columns[c].name));
        let has_holes = has_parts || told.whole.iter().any(is_short);
        let groups = if has_holes { groups(live, key, &written, &forms) } else { Vec::new() };
        let numbered = newest.columns.iter().filter(|column| column.attnum.is_some());
        let missing = numbered.filter_map(|c| Some((live.column(&c.name)?, c.missing.clone()))).collect();
        // The writer of batches keeps the key twice.
        if live.columns.len() + key.len() + 1 + groups.len() > COLUMNS_MAX {
            let reason = format!(
                "it has {} columns, and the archive does not tell all of their values each time: that is more than can \
                 be put together here; mend it with resync",
                live.columns.len()
            );
            return Err(Halt::refused(&live.name, reason));
        }
        let mut columns: Vec<Column> = live.columns.iter().map(plain).collect();
        columns.push(Column::plain(STATE, "text", "pg_catalog.text"));
        if has_holes {
            columns.extend(
                (0..groups.len()).map(|group| Column::plain(&known(group), "boolean", "pg_catalog.bool")),
            );
        }
        let described = columns.iter().map(|column| manifest::Column {
            name: column.name.clone(),
            type_name: column.type_name.clone(),
            not_null: false,
            ..manifest::Column::default()
        });
        let key_names = key.iter().map(|&column| live.columns[column].name.clone()).collect();
        let relation = Relation::new(described.collect(), key_names, ReplicaIdentity::Default);
        let nettable =
            key.iter().all(|&column| live.columns[column].shared_equality() != TextEquality::Unknown);
        let table = Table {
            name,
            oid: 0,
            shape: Shape::Ordinary,
            columns,
            unique: vec![UniqueIndex {
                columns: key.to_vec(),
                immediate: true,
                overlaps: false,
                is_loose: false,
            }],
            referenced_by: Vec::new(),
            acts_on_delete: false,
            acts_on_update: false,
            source_columns: Default::default(),
            paired: Default::default(),
            source_key: None,
        };
        let key = Key {
            columns: key.to_vec(),
            arbiter: true,
            by_hand: false,
            deferrable: false,
            by_image: false,
            nettable,
            keeps: false,
        };
        let table = Arc::new(table);
        let left = Fit { table: Arc::clone(&table), key: Key { keeps: true, ..key.clone() } };
        Ok(Shadow {
            live: Arc::clone(live),
            target: Arc::new(Fit { table, key }),
            left: Arc::new(left),
            relation: Arc::new(relation),
            written,
            has_holes,
            missing,
            groups,
        })
    }

    /// Which column says whether the value of that one is known.
    pub(super) fn known(&self, column: usize) -> String {
        let group = self.groups.iter().position(|group| group.contains(&column));
        known(group.expect("each column that is written has a flag where there are holes"))
    }

    /// The flags, each with a column that it is about.
    pub(super) fn flags(&self) -> impl Iterator<Item = (String, usize)> + '_ {
        self.groups.iter().enumerate().map(|(number, group)| (known(number), group[0]))
    }

    /// Vanishes with the transaction.
    pub(super) async fn create(&self, client: &Client) -> Result<()> {
        let doing = || format!("making room for rows of {}", self.live.name);
        let types = domains(client, &self.live).await.context(doing)?;
        let own = self.live.columns.iter().map(|column| {
            let below = types.iter().find(|(name, _)| *name == column.name);
            // A domain may forbid the NULLs of a row that is gone.
            let cast = below.map_or(String::new(), |(_, base)| format!("::{base}"));
            format!("{0}{cast} AS {0}", column.sql())
        });
        let ours = self.target.table.columns[self.live.columns.len()..].iter();
        let ours = ours.map(|column| format!("NULL::{} AS {}", column.base_type, column.sql()));
        let list: Vec<String> = own.chain(ours).collect();
        let name = escape_identifier(self.target.table.name.name());
        let create = format!(
            "CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA; \
             CREATE UNIQUE INDEX ON {} ({})",
            list.join(", "),
            self.live.sql(),
            self.sql(),
            self.live.column_list(&self.target.key.columns)
        );
        client.batch_execute(&create).await.context(doing)?;
        Ok(())
    }

    /// What the source emptied is gone; what comes later comes anew.
    pub(super) async fn empty(&self, client: &Client) -> Result<()> {
        let gone = format!(
            "UPDATE {} SET {state} = '{}' WHERE {state} <> '{}'",
            self.sql(),
            RowState::Gone.as_str(),
            RowState::Aside.as_str(),
            state = escape_identifier(STATE),
        );
        client
            .batch_execute(&gone)
            .await
            .context(|| format!("emptying the rows put together for {}", self.live.name))?;
        Ok(())
    }

    pub(super) fn sql(&self) -> String {
        self.target.table.name.sql()
    }
}

fn known(group: usize) -> String {
    format!("{KNOWN}{group}")
}

/// The columns by which of the forms have them. A row whose older values nobody tells comes with its key alone.
fn groups(live: &Table, key: &[usize], written: &[usize], forms: &[&Vec<String>]) -> Vec<Vec<usize>> {
    let sets: Vec<HashSet<&str>> =
        forms.iter().map(|form| form.iter().map(String::as_str).collect()).collect();
    let mut groups: BTreeMap<Vec<bool>, Vec<usize>> = BTreeMap::new();
    for &column in written {
        let name = live.columns[column].name.as_str();
        let told = sets.iter().map(|form| form.contains(name)).chain([key.contains(&column)]);
        groups.entry(told.collect()).or_default().push(column);
    }
    groups.into_values().collect()
}

/// A column without everything that makes a row refused. Rows of the shadow are told apart by its index alone, as the server
/// compares them.
fn plain(column: &Column) -> Column {
    Column {
        not_null: false,
        has_default: false,
        identity: false,
        identity_always: false,
        generated: column.generated,
        is_loose: false,
        has_own_equality: false,
        is_by_name: false,
        ..column.clone()
    }
}

/// Columns whose type is a domain, with the type below it, modifier included.
async fn domains(client: &Client, table: &Table) -> Result<Vec<(String, String)>, Error> {
    const BELOW: &str = "
        WITH RECURSIVE below(name, type, modifier) AS (
            SELECT a.attname::text, a.atttypid, a.atttypmod FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT below.name, t.typbasetype, t.typtypmod FROM below
            JOIN pg_catalog.pg_type t ON t.oid = below.type AND t.typtype = 'd'
        )
        SELECT below.name, pg_catalog.format_type(below.type, below.modifier) FROM below
        JOIN pg_catalog.pg_type t ON t.oid = below.type AND t.typtype <> 'd'
        JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attname = below.name AND a.atttypid <> below.type";
    let rows = client.query(BELOW, &[&table.oid]).await.context(|| "reading domains".to_owned())?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
