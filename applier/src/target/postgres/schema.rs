//! Reads local tables from the catalog.

use std::collections::BTreeMap;
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use tokio_postgres::{GenericClient, Row};

use crate::plan::state::TableState;
use crate::table::{Column, Shape, Table, TextEquality, UniqueIndex};

const TABLES: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text
FROM unnest($1::text[], $2::text[]) AS wanted(schema, name)
JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'";

// A domain stands for the type below it, however deep. What is defined by its owner may be defined otherwise at the
// source: a domain, a composite or a range, alone or in an array. (Texts without a limit keep every text.) For a column that
// comes rows are written anew where its value is another one for each of them, or may be refused.
const COLUMNS: &str = "
WITH RECURSIVE below(declared, oid, modifier) AS (
    SELECT DISTINCT a.atttypid, a.atttypid, -1 FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT below.declared, t.typbasetype, greatest(below.modifier, t.typtypmod) FROM below
    JOIN pg_catalog.pg_type t ON t.oid = below.oid AND t.typtype = 'd'
),
types AS MATERIALIZED (
    SELECT declared.oid AS declared, below.oid AS base, below.modifier, n.nspname, t.typname, t.typtype,
        element.oid AS element,
        element.typtype IN ('d', 'c', 'r', 'm') AND element.typnamespace <> 'pg_catalog'::regnamespace AS is_theirs,
        declared.typtype = 'd' AND (declared.typnotnull OR EXISTS (
            SELECT FROM pg_catalog.pg_constraint k WHERE k.contypid = declared.oid) OR declared.typbasetype <> below.oid)
            AS is_checked,
        EXISTS (SELECT FROM pg_catalog.pg_cast k WHERE k.castsource = 'text'::regtype AND k.casttarget = below.oid
            AND k.castfunc <> 0 AND k.oid >= 16384) AS has_cast
    FROM below
    JOIN pg_catalog.pg_type t ON t.oid = below.oid AND t.typtype <> 'd'
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    JOIN pg_catalog.pg_type declared ON declared.oid = below.declared
    JOIN pg_catalog.pg_type element
        ON element.oid = CASE WHEN declared.typcategory = 'A' AND declared.typelem <> 0 THEN declared.typelem ELSE declared.oid END
),
compared AS MATERIALIZED (
    SELECT types.*, own.nspname AS own_schema, own.oprname, own.is_whole FROM types
    LEFT JOIN LATERAL (
        SELECT s.nspname, o.oprname, c.opcintype = types.base AS is_whole
        FROM pg_catalog.pg_opclass c
        JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
        JOIN pg_catalog.pg_amop e ON e.amopfamily = c.opcfamily AND e.amopstrategy = 3
            AND e.amoplefttype = c.opcintype AND e.amoprighttype = c.opcintype
        JOIN pg_catalog.pg_operator o ON o.oid = e.amopopr
        JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace
        WHERE c.opcdefault AND c.opcintype IN (types.base, types.element) AND (s.nspname <> 'pg_catalog' OR o.oid >= 16384)
        LIMIT 1
    ) AS own ON true
)
SELECT a.attrelid, a.attnum, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
    pg_catalog.quote_ident(t.nspname) || '.' || pg_catalog.quote_ident(t.typname),
    t.nspname = 'pg_catalog', t.typname::text, t.typtype = 'e', coalesce(l.collisdeterministic, true),
    a.attnotnull, a.atthasdef, a.attgenerated <> '', a.attidentity::text,
    coalesce('OPERATOR(' || pg_catalog.quote_ident(t.own_schema) || '.'
        || CASE WHEN t.is_whole THEN t.oprname END || ')', '='),
    t.is_theirs AND NOT (t.base IN ('text'::regtype, 'varchar'::regtype) AND t.modifier = -1),
    pg_catalog.format_type(t.base, greatest(a.atttypmod, t.modifier)),
    (SELECT d.oid FROM pg_catalog.pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> ''),
    a.xmin::text::int8,
    a.attgenerated = 's' OR a.attidentity <> '' OR a.atthasdef AND NOT a.atthasmissing AND a.attgenerated = '' OR t.is_checked,
    t.oprname IS NOT NULL,
    t.has_cast,
    CASE WHEN a.attgenerated = 's' THEN (
        SELECT ps.nspname || '.' || p.relname FROM pg_catalog.pg_partition_tree(a.attrelid) tree
        JOIN pg_catalog.pg_class p ON p.oid = tree.relid JOIN pg_catalog.pg_namespace ps ON ps.oid = p.relnamespace
        JOIN pg_catalog.pg_attribute pa ON pa.attrelid = p.oid AND pa.attname = a.attname
        JOIN pg_catalog.pg_attrdef pd ON pd.adrelid = p.oid AND pd.adnum = pa.attnum
        JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE tree.isleaf AND pg_catalog.pg_get_expr(pd.adbin, pd.adrelid) <> pg_catalog.pg_get_expr(d.adbin, d.adrelid)
        ORDER BY 1 LIMIT 1) END
FROM pg_catalog.pg_attribute a
JOIN compared t ON t.declared = a.atttypid
LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum";

const UNIQUE: &str = "
SELECT i.indrelid, i.indimmediate, i.indisexclusion,
    ARRAY(SELECT k.attnum FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
          WHERE k.place <= i.indnkeyatts ORDER BY k.place),
    EXISTS (SELECT FROM pg_catalog.unnest(i.indcollation) AS k(used)
            JOIN pg_catalog.pg_collation l ON l.oid = k.used WHERE NOT l.collisdeterministic)
FROM pg_catalog.pg_index i
WHERE i.indrelid = ANY($1::oid[]) AND i.indisunique AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indrelid, NOT i.indisprimary, i.indexrelid";

// A partition stands for its root: the two are truncated together. What points to the table itself acts on it too.
const REFERENCES: &str = "
WITH f AS (
    SELECT coalesce(pg_catalog.pg_partition_root(confrelid)::oid, confrelid) AS referenced,
        coalesce(pg_catalog.pg_partition_root(conrelid)::oid, conrelid) AS referring,
        confdeltype IN ('c', 'n', 'd') AS on_delete, confupdtype IN ('c', 'n', 'd') AS on_update
    FROM pg_catalog.pg_constraint WHERE contype = 'f'
)
SELECT f.referenced, n.nspname::text, c.relname::text, f.referring <> f.referenced,
    bool_or(f.on_delete), bool_or(f.on_update)
FROM f
JOIN pg_catalog.pg_class c ON c.oid = f.referring
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE f.referenced = ANY($1::oid[])
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3";

/// Those of the tables that exist, each with all that applying needs to know.
pub async fn load(client: &impl GenericClient, names: &[TableName]) -> Result<BTreeMap<TableName, Table>> {
    let doing = || "reading the local tables from the catalog".to_owned();
    let schemas: Vec<&str> = names.iter().map(TableName::schema).collect();
    let relations: Vec<&str> = names.iter().map(TableName::name).collect();
    let rows = client.query(TABLES, &[&schemas, &relations]).await.context(doing)?;
    let mut tables: BTreeMap<u32, Table> = BTreeMap::new();
    for row in rows {
        let table = table(&row)?;
        tables.insert(table.oid, table);
    }
    let oids: Vec<u32> = tables.keys().copied().collect();
    for (oid, columns) in columns(client, &oids).await? {
        of(&mut tables, oid)?.columns = columns;
    }
    for row in client.query(UNIQUE, &[&oids]).await.context(doing)? {
        let oid: u32 = row.get(0);
        let keys: Vec<i16> = row.get(3);
        let table = of(&mut tables, oid)?;
        let place = |key: &i16| table.columns.iter().position(|column| column.attnum == *key);
        // A system column in an index has no place; such an index is no key of ours.
        if let Some(columns) = keys.iter().map(place).collect() {
            let (immediate, overlaps, is_loose) = (row.get(1), row.get(2), row.get(4));
            table.unique.push(UniqueIndex { columns, immediate, overlaps, is_loose });
        }
    }
    for row in client.query(REFERENCES, &[&oids]).await.context(doing)? {
        let (schema, name, by_other): (&str, &str, bool) = (row.get(1), row.get(2), row.get(3));
        let table = of(&mut tables, row.get(0))?;
        if by_other {
            table.referenced_by.push(TableName::new(schema, name)?);
        }
        table.acts_on_delete |= row.get::<_, bool>(4);
        table.acts_on_update |= row.get::<_, bool>(5);
    }
    Ok(tables.into_values().map(|table| (table.name.clone(), table)).collect())
}

/// The same, each with what is known of the source's columns behind its own.
pub async fn load_known(
    client: &impl GenericClient,
    names: &[TableName],
    states: &BTreeMap<TableName, TableState>,
) -> Result<BTreeMap<TableName, Table>> {
    let mut tables = load(client, names).await?;
    for (name, table) in &mut tables {
        let Some(state) = states.get(name) else { continue };
        table.source_columns.clone_from(&state.source_columns);
        table.paired.clone_from(&state.paired);
    }
    Ok(tables)
}

/// The columns of tables, by the tables' numbers.
pub(super) async fn columns(client: &impl GenericClient, oids: &[u32]) -> Result<BTreeMap<u32, Vec<Column>>> {
    let mut columns: BTreeMap<u32, Vec<Column>> = BTreeMap::new();
    let rows = client.query(COLUMNS, &[&oids]).await;
    for row in rows.context(|| "reading the columns of the local tables".to_owned())? {
        columns.entry(row.get(0)).or_default().push(column(&row));
    }
    Ok(columns)
}

fn of(tables: &mut BTreeMap<u32, Table>, oid: u32) -> Result<&mut Table> {
    // The statements see one snapshot each: a table may have gone in between.
    tables.get_mut(&oid).ok_or_else(|| Error::new(Kind::Locked, "the local tables changed while being read"))
}

fn table(row: &Row) -> Result<Table> {
    let (schema, name, kind): (&str, &str, &str) = (row.get(1), row.get(2), row.get(3));
    Ok(Table {
        name: TableName::new(schema, name)?,
        oid: row.get(0),
        shape: if kind == "p" { Shape::Partitioned } else { Shape::Ordinary },
        columns: Vec::new(),
        unique: Vec::new(),
        referenced_by: Vec::new(),
        acts_on_delete: false,
        acts_on_update: false,
        source_columns: Default::default(),
        paired: Default::default(),
        source_key: None,
    })
}

fn column(row: &Row) -> Column {
    let (builtin, base_name, is_enum, deterministic): (bool, &str, bool, bool) =
        (row.get(5), row.get(6), row.get(7), row.get(8));
    let identity: &str = row.get(12);
    Column {
        name: row.get(2),
        attnum: row.get(1),
        type_name: row.get(3),
        plain_type: row.get(15),
        expression: row.get(16),
        altered_in: u32::try_from(row.get::<_, i64>(17)).expect("a transaction's number"),
        rewrites: row.get(18),
        base_type: row.get(4),
        text_equality: match base_name {
            _ if is_enum => TextEquality::Exact,
            name if builtin && deterministic => text_equality(name),
            _ => TextEquality::Unknown,
        },
        equality: row.get(13),
        is_loose: !deterministic,
        has_own_equality: row.get(19),
        is_by_name: row.get(14),
        has_own_cast: row.get(20),
        computed_otherwise_in: row.get(21),
        not_null: row.get(9),
        has_default: row.get(10),
        generated: row.get(11),
        identity_always: identity == "a",
        identity: !identity.is_empty(),
    }
}

/// Of the types that PostgreSQL brings. What is not listed is left to the server: an interval of 24 hours
/// equals one of a day, a box equals any box of its area.
fn text_equality(base_name: &str) -> TextEquality {
    match base_name {
        "int2" | "int4" | "int8" | "oid" | "bool" | "uuid" | "text" | "varchar" | "name" | "char"
        | "bytea" | "date" | "timestamp" | "timestamptz" | "time" | "macaddr" | "macaddr8" | "inet"
        | "cidr" | "bit" | "varbit" | "xid8" | "pg_lsn" => TextEquality::Exact,
        "numeric" => TextEquality::Numeric,
        "bpchar" => TextEquality::Padded,
        _ => TextEquality::Unknown,
    }
}
