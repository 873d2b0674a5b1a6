//! Which tables a snapshot holds, and whether our role may read all of their rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use syncdata_service::postgres::ServerContext as _;

use postgres_protocol::escape::escape_identifier;
use serde::{Deserialize, Serialize};
use syncdata_formats::manifest::{Generated, Relation};
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_formats::{Error, Kind, Result};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};
use tracing::warn;

use super::rows::KeyPlaces;
use crate::capture::shape::ShapeMemory;
use crate::capture::{Capture, CatalogTable, Memory};
use crate::source::{catalog, columns};

/// What is asked for: the tables that are captured, or some of them.
#[derive(Clone, Debug)]
pub(crate) struct Selection<'a> {
    pub captured: &'a [TablePattern],
    pub only: Option<&'a [TablePattern]>,
    pub memory: &'a Memory,
    /// That decides what is captured, where one does.
    pub publication: Option<String>,
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
    pub oid: u32,
    /// The files that hold its rows, each with the relation that it belongs to: those of all partitions.
    pub files: String,
    /// What its changes come through.
    publication: Option<String>,
    /// Rows come in the order of the key, which its index has.
    is_ordered: bool,
}

/// A table that is not in the copy, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    pub table: TableName,
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
    /// Somebody was in the way: trying again may be all that it takes.
    #[serde(skip)]
    pub passes: bool,
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
    oid: u32,
    files: String,
    /// Partitions whose changes are in no stream.
    unlogged: Vec<TableName>,
    /// Foreign ones, each after the table that it is a partition of.
    foreign: Vec<(TableName, TableName)>,
}

const STANDING: &str = "SELECT n.nspname::text, c.relname::text, c.relkind = 'p',
    coalesce(has_schema_privilege(n.oid, 'USAGE'), false), coalesce(has_table_privilege(c.oid, 'SELECT'), false),
    row_security_active(c.oid),
    (WITH RECURSIVE tree(oid) AS (SELECT c.oid UNION ALL SELECT i.inhrelid FROM tree
        JOIN pg_inherits i ON i.inhparent = tree.oid JOIN pg_class k ON k.oid = i.inhrelid AND k.relispartition)
      SELECT CASE WHEN bool_or(p.reltuples < 0) THEN NULL ELSE sum(p.reltuples)::int8 END
      FROM tree JOIN pg_class p ON p.oid = tree.oid AND p.relkind <> 'p'),
    c.oid,
    (WITH RECURSIVE tree(oid) AS (SELECT c.oid UNION ALL SELECT i.inhrelid FROM tree
        JOIN pg_inherits i ON i.inhparent = tree.oid JOIN pg_class k ON k.oid = i.inhrelid AND k.relispartition)
      SELECT string_agg(f.oid || '/' || f.relfilenode, ' ' ORDER BY f.oid) FROM tree JOIN pg_class f ON f.oid = tree.oid),
    ARRAY(WITH RECURSIVE tree(oid) AS (SELECT c.oid WHERE c.relkind = 'p' UNION ALL SELECT i.inhrelid FROM tree
        JOIN pg_inherits i ON i.inhparent = tree.oid)
      SELECT part.name FROM tree
        JOIN pg_class u ON u.oid = tree.oid JOIN pg_namespace un ON un.oid = u.relnamespace,
        unnest(ARRAY[un.nspname::text, u.relname::text]) WITH ORDINALITY part(name, place)
      WHERE u.relpersistence = 'u' ORDER BY u.oid, part.place),
    ARRAY(WITH RECURSIVE tree(oid, parent) AS (SELECT c.oid, 0::oid WHERE c.relkind = 'p'
        UNION ALL SELECT i.inhrelid, i.inhparent FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
      SELECT part.name FROM tree
        JOIN pg_class u ON u.oid = tree.oid JOIN pg_namespace un ON un.oid = u.relnamespace
        JOIN pg_class o ON o.oid = tree.parent JOIN pg_namespace pn ON pn.oid = o.relnamespace,
        unnest(ARRAY[pn.nspname::text, o.relname::text, un.nspname::text, u.relname::text])
          WITH ORDINALITY part(name, place)
      WHERE u.relkind = 'f' ORDER BY u.oid, part.place)
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
    pub(crate) async fn resolve(&self, client: &(impl GenericClient + Sync)) -> Result<BTreeSet<TableName>> {
        let (schemas, catalog) = catalog::catalog(client, self.publication.as_deref()).await?;
        self.select(&schemas, &catalog)
    }

    fn select(&self, schemas: &BTreeSet<String>, catalog: &[CatalogTable]) -> Result<BTreeSet<TableName>> {
        let captured = match (self.captured, self.only) {
            // A daemon that is told its tables on its command line has none in its settings.
            ([], Some(only)) => only,
            (captured, _) => captured,
        };
        let tables = Capture::resolve(captured, schemas, catalog, self.memory)?.tables;
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
    /// The tables in the order of their names, and those whose rows might be kept from us, with the statements that a
    /// DBA has to run.
    pub(crate) async fn read_all(
        client: &(impl GenericClient + Sync),
        names: &BTreeSet<TableName>,
        role: &str,
        publication: Option<&str>,
    ) -> Result<(Vec<Table>, Vec<LeftOut>)> {
        let mut standings = standings(client, names).await?;
        let closed = closed(&mut standings, role);
        let mut relations =
            columns::relations(client, names, &ShapeMemory::default(), publication, None, None).await?;
        let mut sequences = sequences(client, names).await?;
        let table = |name: &TableName| {
            let (standing, relation) = (standings.remove(name)?, relations.remove(name)?);
            let travels = relation.columns.iter().filter(|c| c.generated != Some(Generated::Virtual));
            Some(Table {
                columns: travels.map(|column| column.name.clone()).collect(),
                sequences: sequences.remove(name).unwrap_or_default(),
                is_partitioned: standing.is_partitioned,
                rows_estimate: standing.rows_estimate,
                oid: standing.oid,
                files: standing.files,
                is_ordered: !relation.key.is_empty(),
                publication: publication.map(str::to_owned),
                name: name.clone(),
                relation,
            })
        };
        Ok((names.iter().filter_map(table).collect(), closed))
    }

    /// The same table once more, `None` when there is none of that name and number any more.
    pub(crate) async fn as_it_is_now(&self, client: &(impl GenericClient + Sync)) -> Result<Option<Table>> {
        let name = BTreeSet::from([self.name.clone()]);
        let standing = standings(client, &name).await?.remove(&self.name);
        let publication = self.publication.as_deref();
        let mut relations =
            columns::relations(client, &name, &ShapeMemory::default(), publication, None, None).await?;
        let now = |(standing, relation): (Standing, _)| Table {
            relation,
            oid: standing.oid,
            files: standing.files,
            ..self.clone()
        };
        Ok(standing.zip(relations.remove(&self.name)).map(now).filter(|now| now.oid == self.oid))
    }

    pub(crate) fn is_partitioned(&self) -> bool {
        self.is_partitioned
    }

    pub(crate) fn is_ordered(&self) -> bool {
        self.is_ordered
    }

    /// To plan a query the server looks into every index, and fails at a broken one; a COPY of the table itself looks
    /// into none. It copies neither partitions nor generated columns.
    fn passes_by_indexes(&self) -> bool {
        let is_plain =
            !self.is_partitioned && self.relation.columns.iter().all(|column| column.generated.is_none());
        !self.is_ordered && !self.relation.key.is_empty() && is_plain
    }

    /// The same table, to be read as it lies: for one whose index is broken.
    pub(crate) fn as_it_lies(&self) -> Table {
        Table { is_ordered: false, ..self.clone() }
    }

    pub(crate) fn key(&self) -> KeyPlaces {
        let key = if self.is_ordered { self.relation.key.as_slice() } else { &[] };
        KeyPlaces::of(key, &self.columns).expect("a key's columns have storage")
    }

    /// All rows in the order of the key, which its index has. Inheritance children are tables of their own, partitions
    /// are not.
    pub(crate) fn copy_statement(&self) -> String {
        let list = |names: &[String]| {
            names.iter().map(|name| escape_identifier(name)).collect::<Vec<_>>().join(", ")
        };
        let order = match self.is_ordered {
            false => String::new(),
            true => format!(" ORDER BY {}", list(&self.relation.key)),
        };
        if self.passes_by_indexes() {
            return format!("COPY {} ({}) TO STDOUT", self.name.sql(), list(&self.columns));
        }
        format!("COPY (SELECT {} FROM {}{order}) TO STDOUT", list(&self.columns), self.source())
    }

    pub(crate) fn source(&self) -> String {
        format!("{}{}", if self.is_partitioned { "" } else { "ONLY " }, self.name.sql())
    }
}

async fn standings(
    client: &(impl GenericClient + Sync),
    names: &BTreeSet<TableName>,
) -> Result<HashMap<TableName, Standing>> {
    let rows = about(client, STANDING, names, "asking what may be read of the tables").await?;
    let standing = |row: &Row| {
        let unlogged: Vec<String> = row.get(9);
        let unlogged = unlogged.chunks_exact(2).map(|name| TableName::new(&name[0], &name[1]));
        let foreign: Vec<String> = row.get(10);
        let foreign = foreign
            .chunks_exact(4)
            .map(|name| Ok((TableName::new(&name[0], &name[1])?, TableName::new(&name[2], &name[3])?)));
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))?;
        Ok((
            table,
            Standing {
                is_partitioned: row.get(2),
                may_enter_schema: row.get(3),
                may_select: row.get(4),
                filtered: row.get(5),
                rows_estimate: row.get::<_, Option<i64>>(6).and_then(|rows| u64::try_from(rows).ok()),
                oid: row.get(7),
                files: row.get::<_, Option<String>>(8).unwrap_or_default(),
                unlogged: unlogged.collect::<Result<_>>()?,
                foreign: foreign.collect::<Result<_>>()?,
            },
        ))
    };
    rows.iter().map(standing).collect()
}

/// Takes out the tables of which no complete copy can be had.
fn closed(standings: &mut HashMap<TableName, Standing>, role: &str) -> Vec<LeftOut> {
    let role = escape_identifier(role);
    let mut closed = BTreeMap::new();
    for (table, standing) in &*standings {
        let (mut problems, mut statements) = (Vec::new(), Vec::new());
        if !standing.may_enter_schema {
            statements
                .push(format!("GRANT USAGE ON SCHEMA {} TO {role};", escape_identifier(table.schema())));
        }
        if !standing.may_select {
            statements.push(format!("GRANT SELECT ON {} TO {role};", table.sql()));
        }
        if !(standing.may_enter_schema && standing.may_select) {
            problems.push(format!("{table} may not be read"));
        }
        if standing.filtered {
            statements.push(format!("ALTER ROLE {role} BYPASSRLS;"));
            problems.push(format!("row level security would hide rows of {table}"));
        }
        let rights = || {
            let statements = statements.join(" ");
            format!(
                "run as superuser: {statements} (or once for all tables: GRANT pg_read_all_data TO {role};)"
            )
        };
        let mut remedies: Vec<String> = (!statements.is_empty()).then(rights).into_iter().collect();
        if !standing.unlogged.is_empty() {
            let names: Vec<String> = standing.unlogged.iter().map(ToString::to_string).collect();
            problems
                .push(format!("changes of its unlogged partitions are in no stream: {}", names.join(", ")));
            let set_logged = |name: &TableName| format!("ALTER TABLE {} SET LOGGED;", name.sql());
            let statements: Vec<String> = standing.unlogged.iter().map(set_logged).collect();
            remedies.push(format!("run as their owner: {}", statements.join(" ")));
        }
        if !standing.foreign.is_empty() {
            let names: Vec<String> = standing.foreign.iter().map(|(_, name)| name.to_string()).collect();
            problems
                .push(format!("changes of its foreign partitions are in no stream: {}", names.join(", ")));
            let detach = |(parent, name): &(TableName, TableName)| {
                format!("ALTER TABLE {} DETACH PARTITION {};", parent.sql(), name.sql())
            };
            let statements: Vec<String> = standing.foreign.iter().map(detach).collect();
            remedies.push(format!(
                "list its other partitions in `tables`, or run as owner: {}",
                statements.join(" ")
            ));
        }
        if !problems.is_empty() {
            let (reason, remedy) = (problems.join("; "), remedies.join("; "));
            closed.insert(table.clone(), LeftOut { table: table.clone(), reason, remedy, passes: false });
        }
    }
    standings.retain(|table, _| !closed.contains_key(table));
    closed.into_values().collect()
}

async fn sequences(
    client: &(impl GenericClient + Sync),
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
    client: &(impl GenericClient + Sync),
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
        vec![
            CatalogTable::plain(1, "users", RelationKind::Table, None),
            CatalogTable::plain(2, "sales.orders", RelationKind::Partitioned, None),
            CatalogTable::plain(3, "sales.orders_2026", RelationKind::Table, Some(2)),
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
            let memory = Memory::default();
            let selection =
                Selection { captured: &captured, only: only.as_deref(), memory: &memory, publication: None };
            let found = selection.select(&schemas, &catalog()).ok();
            let found =
                found.map(|tables| tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(found.as_deref(), selected, "{captured:?} {only:?}");
        }
    }
}
