//! Which tables a snapshot holds, and whether our role may read all of their rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use syncdata_service::postgres::ServerContext as _;

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::manifest::{Generated, Relation};
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_formats::{Error, Kind, Result};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};
use tracing::warn;

use super::rows::KeyPlaces;
use crate::capture::{Capture, CatalogTable, Remembered};
use crate::source::catalog;

/// What is asked for: the tables that are captured, or some of them.
#[derive(Clone, Debug)]
pub(crate) struct Selection<'a> {
    pub captured: &'a [TablePattern],
    pub only: Option<&'a [TablePattern]>,
    pub remembered: &'a Remembered,
}

/// A table as the snapshot sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub name: TableName,
    pub relation: Relation,
    /// Those that have storage, in their order.
    pub columns: Vec<String>,
    pub sequences: BTreeMap<String, Option<i64>>,
    is_partitioned: bool,
    /// As of its last ANALYZE; `None` when there was none.
    pub rows_estimate: Option<u64>,
}

/// What the catalog says of a table beside its columns.
#[derive(Debug)]
struct Standing {
    is_partitioned: bool,
    may_enter_schema: bool,
    may_select: bool,
    /// Policies would keep rows from us.
    filtered: bool,
    rows_estimate: Option<u64>,
}

const STANDING: &str = "SELECT n.nspname::text, c.relname::text, c.relkind = 'p', has_schema_privilege(n.oid, 'USAGE'),
    has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid),
    (SELECT CASE WHEN bool_or(p.reltuples < 0) THEN NULL ELSE sum(p.reltuples)::int8 END
      FROM (SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf UNION SELECT c.oid WHERE c.relkind = 'r') t
      JOIN pg_class p ON p.oid = t.relid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN unnest($1::text[], $2::text[]) AS wanted(nspname, relname)
      ON wanted.nspname = n.nspname AND wanted.relname = c.relname
  WHERE c.relkind IN ('r', 'p')";

/// Sequences of serial and identity columns.
const SEQUENCES: &str = "SELECT tn.nspname::text, t.relname::text, sn.nspname::text, s.relname::text,
    has_sequence_privilege(s.oid, 'SELECT') OR has_sequence_privilege(s.oid, 'USAGE'), q.last_value
  FROM pg_class s JOIN pg_namespace sn ON sn.oid = s.relnamespace
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.refclassid = 'pg_class'::regclass
      AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
    JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
    JOIN unnest($1::text[], $2::text[]) AS wanted(nspname, relname)
      ON wanted.nspname = tn.nspname AND wanted.relname = t.relname
    LEFT JOIN pg_sequences q ON q.schemaname = sn.nspname AND q.sequencename = s.relname
  WHERE s.relkind = 'S'";

impl Selection<'_> {
    /// The names of the tables, as the catalog is now.
    pub(crate) async fn resolve(&self, client: &impl GenericClient) -> Result<BTreeSet<TableName>> {
        let (schemas, catalog) = catalog::catalog(client).await?;
        self.select(&schemas, &catalog)
    }

    fn select(&self, schemas: &BTreeSet<String>, catalog: &[CatalogTable]) -> Result<BTreeSet<TableName>> {
        let captured = match (self.captured, self.only) {
            // A daemon that is told its tables on its command line has none in its settings.
            ([], Some(only)) => only,
            (captured, _) => captured,
        };
        let tables = Capture::resolve(captured, schemas, catalog, self.remembered)?.tables;
        let Some(only) = self.only else { return Ok(tables) };
        let mut selected = BTreeSet::new();
        for pattern in only {
            let before = selected.len();
            selected.extend(tables.iter().filter(|table| pattern.matches(table)).cloned());
            if selected.len() == before && !tables.iter().any(|table| pattern.matches(table)) {
                let message = format!("{pattern} is no table that is captured");
                return Err(Error::new(Kind::BadInput, message).hint(
                    "a copy of a table whose changes are not archived is of no use: correct the name, or add the \
                     table to `tables` first (of a partition, the captured ancestor is the table)",
                ));
            }
        }
        Ok(selected)
    }
}

impl Table {
    /// The tables in the order of their names. That a row might be kept from us is refused for all of them at once,
    /// with the statements that a DBA has to run.
    pub(crate) async fn read_all(
        client: &impl GenericClient,
        names: &BTreeSet<TableName>,
        role: &str,
    ) -> Result<Vec<Table>> {
        let mut standings = standings(client, names).await?;
        check_rights(&standings, role)?;
        let mut relations = catalog::relations(client, names).await?;
        let mut sequences = sequences(client, names).await?;
        let table = |name: &TableName| {
            let (standing, relation) = (standings.remove(name)?, relations.remove(name)?);
            let travels = relation.columns.iter().filter(|c| c.generated != Some(Generated::Virtual));
            Some(Table {
                columns: travels.map(|column| column.name.clone()).collect(),
                sequences: sequences.remove(name).unwrap_or_default(),
                is_partitioned: standing.is_partitioned,
                rows_estimate: standing.rows_estimate,
                name: name.clone(),
                relation,
            })
        };
        Ok(names.iter().filter_map(table).collect())
    }

    pub(crate) fn key(&self) -> KeyPlaces {
        KeyPlaces::of(&self.relation.key, &self.columns).expect("a key's columns have storage")
    }

    /// All rows in the order of the key, which its index has. Inheritance children are tables of their own, partitions
    /// are not.
    pub(crate) fn copy_statement(&self) -> String {
        let list = |names: &[String]| {
            names.iter().map(|name| escape_identifier(name)).collect::<Vec<_>>().join(", ")
        };
        let order = match self.relation.key.as_slice() {
            [] => String::new(),
            key => format!(" ORDER BY {}", list(key)),
        };
        format!("COPY (SELECT {} FROM {}{order}) TO STDOUT", list(&self.columns), self.source())
    }

    fn source(&self) -> String {
        format!("{}{}", if self.is_partitioned { "" } else { "ONLY " }, self.name.sql())
    }
}

async fn standings(
    client: &impl GenericClient,
    names: &BTreeSet<TableName>,
) -> Result<HashMap<TableName, Standing>> {
    let rows = about(client, STANDING, names, "asking what may be read of the tables").await?;
    let standing = |row: &Row| {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))?;
        Ok((
            table,
            Standing {
                is_partitioned: row.get(2),
                may_enter_schema: row.get(3),
                may_select: row.get(4),
                filtered: row.get(5),
                rows_estimate: row.get::<_, Option<i64>>(6).and_then(|rows| u64::try_from(rows).ok()),
            },
        ))
    };
    rows.iter().map(standing).collect()
}

fn check_rights(standings: &HashMap<TableName, Standing>, role: &str) -> Result<()> {
    let role = escape_identifier(role);
    let (mut problems, mut statements) = (Vec::new(), BTreeSet::new());
    let sorted: BTreeMap<_, _> = standings.iter().collect();
    for (table, standing) in sorted {
        if !standing.may_enter_schema {
            statements
                .insert(format!("GRANT USAGE ON SCHEMA {} TO {role};", escape_identifier(table.schema())));
        }
        if !standing.may_select {
            statements.insert(format!("GRANT SELECT ON {} TO {role};", table.sql()));
        }
        if !(standing.may_enter_schema && standing.may_select) {
            problems.push(format!("{table} may not be read"));
        }
        if standing.filtered {
            statements.insert(format!("ALTER ROLE {role} BYPASSRLS;"));
            problems.push(format!("row level security would hide rows of {table}"));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let message = format!("no complete copy can be taken: {}", problems.join("; "));
    let statements: Vec<String> = statements.into_iter().collect();
    Err(Error::new(Kind::Refused, message).hint(format!(
        "run as superuser: {} (or once for all tables: GRANT pg_read_all_data TO {role};)",
        statements.join(" ")
    )))
}

async fn sequences(
    client: &impl GenericClient,
    names: &BTreeSet<TableName>,
) -> Result<HashMap<TableName, BTreeMap<String, Option<i64>>>> {
    let rows = about(client, SEQUENCES, names, "reading the sequences of the tables").await?;
    let mut found: HashMap<TableName, BTreeMap<String, Option<i64>>> = HashMap::new();
    for row in &rows {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))?;
        let sequence = TableName::new(row.get::<_, String>(2), row.get::<_, String>(3))?;
        if row.get(4) {
            found.entry(table).or_default().insert(sequence.to_string(), row.get(5));
        } else {
            warn!(%table, %sequence, "the role may not read the sequence: the snapshot goes without its value");
        }
    }
    Ok(found)
}

async fn about(
    client: &impl GenericClient,
    sql: &str,
    names: &BTreeSet<TableName>,
    doing: &str,
) -> Result<Vec<Row>> {
    let (schemas, names): (Vec<&str>, Vec<&str>) = names.iter().map(|t| (t.schema(), t.name())).unzip();
    let rows = client.query_typed(sql, &[(&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)]).await;
    rows.context(|| doing.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::RelationKind;

    fn names(names: &[&str]) -> Vec<TablePattern> {
        names.iter().map(|name| name.parse().expect("a pattern")).collect()
    }

    fn catalog() -> Vec<CatalogTable> {
        let table = |oid, name: &str, kind, partition_of| CatalogTable {
            oid,
            name: name.parse().expect("a name"),
            kind,
            partition_of,
            identity_usable: true,
            virtual_columns: Vec::new(),
        };
        vec![
            table(1, "users", RelationKind::Table, None),
            table(2, "sales.orders", RelationKind::Partitioned, None),
            table(3, "sales.orders_2026", RelationKind::Table, Some(2)),
        ]
    }

    #[test]
    fn only_what_is_captured_is_copied_and_partitions_through_their_ancestor() {
        let schemas = ["public", "sales"].map(str::to_owned).into();
        for (captured, only, selected) in [
            (&["*"][..], None, Some("users sales.orders")),
            (&["*"], Some(&["sales.*"][..]), Some("sales.orders")),
            (&["*"], Some(&["users", "users"]), Some("users")),
            (&[], Some(&["users"]), Some("users")),
            (&["users"], Some(&["sales.orders"]), None),
            (&["*"], Some(&["sales.orders_2026"]), None),
            (&["*"], Some(&["user"]), None),
            (&[], None, None),
        ] {
            let (captured, only) = (names(captured), only.map(names));
            let remembered = Remembered::default();
            let selection = Selection { captured: &captured, only: only.as_deref(), remembered: &remembered };
            let found = selection.select(&schemas, &catalog()).ok();
            let found =
                found.map(|tables| tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(found.as_deref(), selected, "{captured:?} {only:?}");
        }
    }
}
