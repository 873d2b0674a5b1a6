//! What the source's catalog says of captured tables: their columns now, and what tells how they became so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Column, Generated, Identity, Relation, ReplicaIdentity};
use syncdata_formats::name::TableName;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::postgres::{ServerContext as _, sqlstate};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};
use tracing::info;

use super::ask::{Asked, many};
use crate::capture::shape::{KeyIndex, Shape, ShapeColumn, ShapeMemory};
use crate::capture::since::Sighting;
use crate::capture::{Capture, CatalogTable};

/// Columns with what old rows have in them, as the type's output function prints it. A partitioned table has no rows
/// of its own: there it is what its partitions agree on. A DEFERRABLE primary key is no key here: rows share its values
/// for a moment, and PostgreSQL itself names no row by it; nor is one that not every partition has so, as while it is
/// given to one after the other. A constant is a tree of constants and their conversions alone.
/// What the server computes and keeps is in no publication before 18: there it travels as little as what it does not keep.
/// Nothing here locks a table: `pg_partition_tree` and `pg_get_expr` of a relation would, and polls would wait for
/// whoever holds one, and others for them.
const RELATIONS: &str =
    "SELECT n.nspname::text, c.relname::text, c.relreplident::text,
    key.columns, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    CASE WHEN a.attgenerated = 's' AND $3 AND current_setting('server_version_num')::int < 180000 THEN 'v'
      ELSE a.attgenerated::text END,
    a.attidentity::text, a.attnum,
    CASE WHEN c.relkind = 'r' THEN CASE WHEN a.atthasmissing THEN array_to_string(a.attmissingval, '') END
      ELSE (WITH RECURSIVE tree(oid) AS (SELECT c.oid
          UNION ALL SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
        SELECT CASE WHEN count(DISTINCT array_to_string(l.attmissingval, '')) = 1
          THEN min(array_to_string(l.attmissingval, '')) END
        FROM tree JOIN pg_class p ON p.oid = tree.oid AND p.relkind <> 'p'
          JOIN pg_attribute l ON l.attrelid = p.oid AND l.attname = a.attname
        WHERE l.atthasmissing AND NOT l.attisdropped) END,
    CASE WHEN a.attgenerated = '' AND d.adbin::text !~ '[{](?!CONST|RELABELTYPE|FUNCEXPR|COERCETODOMAIN )'
        AND d.adbin::text !~ ':funcformat [03]'
        AND NOT EXISTS (SELECT FROM regexp_matches(d.adbin::text, ':funcid ([0-9]+)', 'g') f(id)
          JOIN pg_proc p ON p.oid = f.id[1]::oid WHERE p.provolatile <> 'i')
      THEN pg_get_expr(d.adbin, 0) END,
    c.oid
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN unnest($1::text[], $2::text[]) AS wanted(nspname, relname)
      ON wanted.nspname = n.nspname AND wanted.relname = c.relname
    CROSS JOIN LATERAL (SELECT ARRAY(
      SELECT a.attname::text FROM pg_index x, unnest(x.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
      WHERE x.indrelid = c.oid AND x.indisprimary AND x.indimmediate AND x.indisvalid AND k.place <= x.indnkeyatts
        AND (c.relkind = 'r' OR NOT EXISTS (WITH RECURSIVE tree(oid) AS (SELECT c.oid
            UNION ALL SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
          SELECT FROM tree JOIN pg_class p ON p.oid = tree.oid AND p.relkind = 'r'
          WHERE NOT EXISTS (SELECT FROM pg_index y
            WHERE y.indrelid = p.oid AND y.indisprimary AND y.indimmediate AND y.indisvalid)))
      ORDER BY k.place) OFFSET 0) AS key(columns)
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
  WHERE c.relkind IN ('r', 'p')
  ORDER BY c.oid, a.attnum";

/// Enum types of columns, below domains and arrays too.
const LABELS: &str = "WITH RECURSIVE below(relation, type) AS (
    SELECT a.attrelid, a.atttypid FROM pg_attribute a
      WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT b.relation, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END
      FROM below b JOIN pg_type t ON t.oid = b.type
      WHERE t.typtype = 'd' OR t.typcategory = 'A' AND t.typelem <> 0)
  SELECT b.relation, format_type(t.oid, NULL),
    ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
  FROM below b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'e'";

/// A table was made by the transaction that made its system columns, and got its name and place by the one that wrote
/// the row of its type last. Its first file has its own number: one that was unlogged before has another.
const SHAPES: &str = "SELECT c.oid, c.relfilenode, s.xmin::text::int8, t.xmin::text::int8,
    c.relkind = 'p' OR c.relfilenode = c.oid,
    a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.atthasmissing THEN array_to_string(a.attmissingval, '') END,
    c.xmin::text::int8, a.xmin::text::int8,
    (SELECT x.indexrelid FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary AND x.indimmediate AND x.indisvalid)
  FROM pg_class c JOIN pg_attribute s ON s.attrelid = c.oid AND s.attnum = -1 JOIN pg_type t ON t.oid = c.reltype
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE c.oid = ANY($1) ORDER BY c.oid, a.attnum";

const COUNTABLE: &str = "SELECT n.nspname::text, c.relname::text, c.relkind = 'p'
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN unnest($1::text[], $2::text[]) AS wanted(nspname, relname)
      ON wanted.nspname = n.nspname AND wanted.relname = c.relname
  WHERE c.relkind IN ('r', 'p') AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
    AND NOT row_security_active(c.oid)";

/// What polls compare with what they saw before.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub tables: BTreeMap<TableName, Sighting>,
    pub shapes: BTreeMap<u32, Shape>,
}

/// The captured tables and their partitions.
pub(crate) async fn standing(
    client: &impl Asked,
    capture: &Capture,
    catalog: &[CatalogTable],
) -> Result<Standing> {
    let captured: BTreeMap<u32, _> =
        capture.captured(catalog).map(|captured| (captured.0.oid, captured)).collect();
    let oids: Vec<u32> = captured.keys().copied().collect();
    let doing = "reading how the source's tables became what they are";
    let rows = many(client, doing, SHAPES, &[(&oids, Type::OID_ARRAY)]).await?;
    let mut standing = Standing::default();
    for row in &rows {
        let oid: u32 = row.get(0);
        let Some((relation, target)) = captured.get(&oid) else { continue };
        let shape = || Shape {
            table: target.table.clone(),
            filenode: row.get(1),
            columns: Vec::new(),
            writers: BTreeSet::new(),
            key: row.get::<_, Option<u32>>(11).map(|oid| KeyIndex { oid, seen_at: Lsn::default() }),
        };
        let shape = standing.shapes.entry(oid).or_insert_with(shape);
        shape.columns.extend(shape_column(row)?);
        for writer in [row.get::<_, Option<i64>>(9), row.get(10)].into_iter().flatten() {
            shape.writers.insert(xid(writer)?);
        }
        if !target.is_partition {
            let (made, named): (i64, i64) = (row.get(2), row.get(3));
            let untouched = capture.is_untouched(&target.table);
            let has_first_name = made == named && relation.marks.is_named_at_birth();
            let made_by = (has_first_name && untouched && row.get(4)).then_some(xid(made)?);
            let sighting = Sighting { oid, made_by, named_by: xid(named)?, untouched };
            standing.tables.insert(target.table.clone(), sighting);
        }
    }
    Ok(standing)
}

/// What a count of tables came to. One for which there was no time is nowhere.
#[derive(Debug, Default)]
pub(crate) struct RowsCounted {
    /// They have just so many rows in the transaction's snapshot.
    pub as_expected: BTreeSet<TableName>,
    pub otherwise: BTreeSet<TableName>,
    /// Somebody holds them.
    pub locked: BTreeSet<TableName>,
    /// It takes too long, or we have no right to.
    pub refused: BTreeSet<TableName>,
}

/// Each by itself, those that should have the fewest rows first, and all in ten seconds.
pub(crate) async fn with_rows(
    client: &(impl GenericClient + Sync),
    tables: &BTreeMap<TableName, u64>,
) -> Result<RowsCounted> {
    const BUDGET: Duration = Duration::from_secs(10);
    let doing = "counting the rows of tables";
    let began = Instant::now();
    let (schemas, names): (Vec<&str>, Vec<&str>) = tables.keys().map(|t| (t.schema(), t.name())).unzip();
    let wanted = [(&schemas as _, Type::TEXT_ARRAY), (&names as _, Type::TEXT_ARRAY)];
    let mut countable = Vec::new();
    for row in &many(client, doing, COUNTABLE, &wanted).await? {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))?;
        let only = if row.get(2) { "" } else { "ONLY " };
        countable.extend(tables.get(&table).map(|expected| (*expected, table, only)));
    }
    countable.sort_unstable();
    let is_countable = |name: &&TableName| countable.iter().any(|(_, table, _)| table == *name);
    let refused = tables.keys().filter(|name| !is_countable(name)).cloned().collect();
    let mut rows = RowsCounted { refused, ..RowsCounted::default() };
    for (expected, table, only) in countable {
        let left = BUDGET.saturating_sub(began.elapsed()).as_millis();
        if left == 0 {
            break;
        }
        let settings = format!(
            "SAVEPOINT counted; SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '{left}ms'"
        );
        client.batch_execute(&settings).await.context(|| doing.to_owned())?;
        let limit = expected.saturating_add(1);
        let count = format!("SELECT count(*) FROM (SELECT FROM {only}{} LIMIT {limit}) r", table.sql());
        let outcome = match many(client, doing, &count, &[]).await {
            Ok(counted) => {
                let counted = counted.first().map(|row| u64::try_from(row.get::<_, i64>(0)));
                if counted == Some(Ok(expected)) { &mut rows.as_expected } else { &mut rows.otherwise }
            }
            Err(error) if sqlstate(&error).is_none() => return Err(error),
            Err(error) => {
                info!(relation = %table, error = %error.one_line(), "its rows could not be counted");
                if error.kind() == Kind::Locked { &mut rows.locked } else { &mut rows.refused }
            }
        };
        outcome.insert(table);
        client.batch_execute("ROLLBACK TO SAVEPOINT counted").await.context(|| doing.to_owned())?;
    }
    Ok(rows)
}

/// A table with columns of floating or numeric type.
#[derive(Debug)]
pub(crate) struct Numbers {
    pub name: TableName,
    pub columns: Vec<String>,
    is_partitioned: bool,
}

impl Numbers {
    /// How many values of each are no number, or infinite.
    pub(crate) fn statement(&self) -> String {
        let count = |column: &String| {
            format!(
                "count(*) FILTER (WHERE {}::text IN ('NaN', 'Infinity', '-Infinity'))",
                escape_identifier(column)
            )
        };
        let counts: Vec<String> = self.columns.iter().map(count).collect();
        let only = if self.is_partitioned { "" } else { "ONLY " };
        format!("SELECT {} FROM {only}{}", counts.join(", "), self.name.sql())
    }
}

pub(crate) async fn with_numbers(
    client: &(impl GenericClient + Sync),
    tables: &BTreeSet<TableName>,
) -> Result<Vec<Numbers>> {
    let sql = "SELECT n.nspname::text, c.relname::text, c.relkind = 'p', array_agg(a.attname::text ORDER BY a.attnum)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN unnest($1::text[], $2::text[]) AS wanted(nspname, relname)
          ON wanted.nspname = n.nspname AND wanted.relname = c.relname
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND a.atttypid IN ('float4'::regtype, 'float8'::regtype, 'numeric'::regtype)
      WHERE c.relkind IN ('r', 'p') GROUP BY 1, 2, 3 ORDER BY 1, 2";
    let (schemas, names): (Vec<&str>, Vec<&str>) = tables.iter().map(|t| (t.schema(), t.name())).unzip();
    let wanted = [(&schemas as _, Type::TEXT_ARRAY), (&names as _, Type::TEXT_ARRAY)];
    let rows = many(client, "looking for columns of numbers", sql, &wanted).await?;
    let numbers = |row: &Row| {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))?;
        Ok(Numbers { name, is_partitioned: row.get(2), columns: row.get(3) })
    };
    rows.iter().map(numbers).collect()
}

/// Those of the tables that have a row, or that we may not look into.
pub(crate) async fn with_any_rows(
    client: &(impl GenericClient + Sync),
    tables: &BTreeSet<TableName>,
) -> Result<BTreeSet<TableName>> {
    let doing = "looking which tables have rows";
    client
        .batch_execute("SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '10s'")
        .await
        .context(|| doing.to_owned())?;
    let (schemas, names): (Vec<&str>, Vec<&str>) = tables.iter().map(|t| (t.schema(), t.name())).unzip();
    let wanted = [(&schemas as _, Type::TEXT_ARRAY), (&names as _, Type::TEXT_ARRAY)];
    let mut found = tables.clone();
    for row in &many(client, doing, COUNTABLE, &wanted).await? {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))?;
        let only = if row.get(2) { "" } else { "ONLY " };
        let any = format!("SELECT EXISTS (SELECT FROM {only}{})", table.sql());
        if !many(client, doing, &any, &[]).await?.first().is_some_and(|row| row.get(0)) {
            found.remove(&table);
        }
    }
    Ok(found)
}

/// The named tables as they are now; those that are gone have no entry. What the catalog has forgotten of old rows,
/// `memory` may know. `publication`: what decides which changes are in the stream, where one does. `since`: where the changes
/// begin that are described with them. `capture`: the catalog as it was where they end, which has the labels that they may
/// say; a label may get another name before it is asked for here.
pub(crate) async fn relations(
    client: &impl Asked,
    tables: &BTreeSet<TableName>,
    memory: &ShapeMemory,
    publication: Option<&str>,
    since: Option<Lsn>,
    capture: Option<&Capture>,
) -> Result<BTreeMap<TableName, Relation>> {
    let (schemas, names): (Vec<&str>, Vec<&str>) = tables.iter().map(|t| (t.schema(), t.name())).unzip();
    let doing = "reading the columns of the source's tables";
    let is_published = publication.is_some();
    let wanted = [
        (&schemas as _, Type::TEXT_ARRAY),
        (&names as _, Type::TEXT_ARRAY),
        (&is_published as _, Type::BOOL),
    ];
    let rows = many(client, doing, RELATIONS, &wanted).await?;
    let mut found: BTreeMap<u32, Found> = BTreeMap::new();
    for row in &rows {
        let oid: u32 = row.get(12);
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))?;
        let (key, identity) = (row.get(3), replica_identity(row.get(2))?);
        let entry = found.entry(oid).or_insert_with(|| Found { table, columns: Vec::new(), key, identity });
        entry.columns.extend(column(row, oid, memory)?);
    }
    let oids: Vec<u32> = found.keys().copied().collect();
    let rows = many(client, "reading the labels of enum types", LABELS, &[(&oids, Type::OID_ARRAY)]).await?;
    let mut types: BTreeMap<u32, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for row in &rows {
        types.entry(row.get(0)).or_default().insert(row.get(1), row.get(2));
    }
    let described = |(oid, found): (u32, Found)| {
        let mut types = types.remove(&oid).unwrap_or_default();
        for column in capture.into_iter().flat_map(|_| &found.columns) {
            let labels =
                capture.zip(column.attnum).and_then(|(of, number)| of.labels(oid, number, &column.type_name));
            let names = labels.map(|labels| labels.iter().map(|(_, name)| name.clone()).collect());
            types.extend(names.map(|names| (column.type_name.clone(), names)));
        }
        let key_kept = since.is_some_and(|since| memory.has_kept_key(oid, since));
        let relation = Relation::described(found.columns, found.key, found.identity, types);
        (found.table, Relation { key_kept, ..relation })
    };
    Ok(found.into_iter().map(described).collect())
}

struct Found {
    table: TableName,
    columns: Vec<Column>,
    key: Vec<String>,
    identity: ReplicaIdentity,
}

fn shape_column(row: &Row) -> Result<Option<ShapeColumn>> {
    let Some(attnum) = row.get::<_, Option<i16>>(5) else { return Ok(None) };
    Ok(Some(ShapeColumn {
        attnum: number(attnum)?,
        name: row.get(6),
        type_name: row.get(7),
        missing: row.get(8),
        label: None,
    }))
}

/// `None` for a table without columns, which the outer join shows as a row without one.
fn column(row: &Row, oid: u32, memory: &ShapeMemory) -> Result<Option<Column>> {
    let Some(name) = row.get::<_, Option<String>>(4) else { return Ok(None) };
    let generated = match row.get::<_, &str>(7) {
        "" => None,
        "s" => Some(Generated::Stored),
        "v" => Some(Generated::Virtual),
        other => return Err(Error::bad_input("a kind of generated column", other)),
    };
    let identity = match row.get::<_, &str>(8) {
        "" => None,
        "a" => Some(Identity::Always),
        "d" => Some(Identity::ByDefault),
        other => return Err(Error::bad_input("a kind of identity column", other)),
    };
    let attnum = number(row.get(9))?;
    // What was said first stays: a partition may come that has another value in rows of its own.
    let missing = match memory.missing(oid, attnum) {
        Some(known) => known.map(str::to_owned),
        None => row.get(10),
    };
    Ok(Some(Column {
        name,
        type_name: row.get(5),
        not_null: row.get(6),
        generated,
        identity,
        attnum: Some(attnum),
        missing,
        default: row.get(11),
    }))
}

fn number(attnum: i16) -> Result<u16> {
    u16::try_from(attnum).map_err(|_| Error::bad_input("a column's number", &attnum.to_string()))
}

fn xid(number: i64) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::bad_input("a transaction's number", &number.to_string()))
}

fn replica_identity(code: &str) -> Result<ReplicaIdentity> {
    match code {
        "d" => Ok(ReplicaIdentity::Default),
        "f" => Ok(ReplicaIdentity::Full),
        "i" => Ok(ReplicaIdentity::Index),
        "n" => Ok(ReplicaIdentity::Nothing),
        other => Err(Error::bad_input("a replica identity", other)),
    }
}
