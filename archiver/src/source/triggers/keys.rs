//! Tables by the keys that are noted of them, and the two questions that a batch asks of each.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::Seen;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::postgres::{ServerContext as _, sqlstate};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row, Transaction};

use super::noted::is_new;
use super::row::Asked;
use crate::source::ask::many;

/// A table whose touched rows are read.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub oid: u32,
    pub name: TableName,
    is_partitioned: bool,
    key: Vec<KeyColumn>,
    /// The columns of the key in the order that they have in the table, as rows say them: number, and place in the key.
    in_order: BTreeMap<i16, usize>,
    /// Those that travel.
    pub(super) columns: Vec<String>,
    asked_of_key: BTreeMap<i16, Asked>,
    pub(super) asked: Vec<Asked>,
}

#[derive(Clone, Debug)]
struct KeyColumn {
    name: String,
    /// Type and collation as SQL.
    type_name: String,
    collation: Option<String>,
    /// What the index calls equal.
    equals: String,
}

/// The columns that a row trigger was given, by number and by what they were called, with the index that makes them a key. All of
/// it, and none that may be NULL, or there is no key. A domain stands for its base: its checks are functions of others, which would run
/// with our rights. What a key WITHOUT OVERLAPS calls equal is equality no more, but of its types there is one.
const KEYS: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', k.place, a.attname::text,
    (WITH RECURSIVE below(type, modifier) AS (SELECT a.atttypid, a.atttypmod
        UNION ALL SELECT d.typbasetype, d.typtypmod FROM below b JOIN pg_type d ON d.oid = b.type WHERE d.typtype = 'd')
      SELECT format_type(b.type, b.modifier) FROM below b JOIN pg_type d ON d.oid = b.type WHERE d.typtype <> 'd'),
    (SELECT format('%I.%I', s.nspname, l.collname) FROM pg_collation l JOIN pg_namespace s ON s.oid = l.collnamespace
      WHERE l.oid = a.attcollation),
    (SELECT coalesce(format('OPERATOR(%I.%s)', s.nspname, o.oprname), 'OPERATOR(pg_catalog.=)')
      FROM unnest(x.numbers, x.classes) u(number, class)
        LEFT JOIN (pg_opclass f JOIN pg_am h ON h.oid = f.opcmethod AND h.amname = 'btree'
          JOIN pg_amop m ON m.amopfamily = f.opcfamily AND m.amoplefttype = f.opcintype AND m.amoprighttype = f.opcintype
            AND m.amopstrategy = 3
          JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace s ON s.oid = o.oprnamespace) ON f.oid = u.class
      WHERE u.number = a.attnum AND u.class IS NOT NULL),
    a.atttypid, a.attnum
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL unnest(string_to_array(encode(t.tgargs, 'escape'), '\\000')) WITH ORDINALITY k(argument, place)
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped AND a.attnotnull
      AND k.argument = a.attnum || ':' || md5(a.attname)
    LEFT JOIN LATERAL (SELECT i.indkey::int2[] AS numbers, i.indclass::oid[] AS classes FROM pg_index i
      WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
        AND ARRAY(SELECT u.number::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(number, place)
            WHERE u.place <= i.indnkeyatts ORDER BY 1)
          = ARRAY(SELECT split_part(u.argument, ':', 1) FROM unnest(string_to_array(encode(t.tgargs, 'escape'), '\\000')) u(argument)
            WHERE u.argument <> '' ORDER BY 1)
      ORDER BY i.indisprimary DESC, i.indexrelid LIMIT 1) x ON true
  WHERE c.oid = ANY ($1) AND t.tgname = 'syncdata_note_' || c.oid AND k.argument <> ''
  ORDER BY c.oid, k.place";

const COLUMNS: &str = "SELECT a.attrelid, a.attname::text, a.atttypid FROM pg_attribute a
  WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
  ORDER BY a.attrelid, a.attnum";

impl Table {
    /// Those of these tables, by oid, whose rows can be found by what is noted. What is wrong with another one, its triggers do not
    /// fit to it any more.
    pub(crate) async fn read(
        client: &(impl GenericClient + Sync),
        oids: &[u32],
    ) -> Result<BTreeMap<u32, Option<Table>>> {
        let doing = "reading the keys of tables that were touched";
        let mut found: BTreeMap<u32, Option<Table>> = oids.iter().map(|oid| (*oid, None)).collect();
        let mut broken = Vec::new();
        for row in &many(client, doing, KEYS, &[(&oids, Type::OID_ARRAY)]).await? {
            let oid: u32 = row.get(0);
            let (Some(name), Some(equals)) =
                (row.get::<_, Option<String>>(5), row.get::<_, Option<String>>(8))
            else {
                broken.push(oid);
                continue;
            };
            let Some(entry) = found.get_mut(&oid) else { continue };
            if entry.is_none() {
                *entry = Some(Table {
                    oid,
                    name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2))?,
                    is_partitioned: row.get(3),
                    key: Vec::new(),
                    in_order: BTreeMap::new(),
                    columns: Vec::new(),
                    asked_of_key: BTreeMap::new(),
                    asked: Vec::new(),
                });
            }
            let table = entry.as_mut().expect("made above");
            let number: i16 = row.get(10);
            table.asked_of_key.insert(number, Asked::new(&name, row.get(9)));
            table.key.push(KeyColumn { name, type_name: row.get(6), collation: row.get(7), equals });
            table.in_order.insert(number, table.key.len());
        }
        for row in &many(client, doing, COLUMNS, &[(&oids, Type::OID_ARRAY)]).await? {
            if let Some(Some(table)) = found.get_mut(&row.get::<_, u32>(0)) {
                let name: String = row.get(1);
                table.asked.push(Asked::new(&name, row.get(2)));
                table.columns.push(name);
            }
        }
        for oid in broken {
            found.insert(oid, None);
        }
        Ok(found)
    }

    /// The columns that are its key, for manifests.
    pub(crate) fn key(&self) -> Vec<String> {
        self.key.iter().map(|column| column.name.clone()).collect()
    }

    pub(super) fn asked_of_key(&self) -> Vec<Asked> {
        self.asked_of_key.values().cloned().collect()
    }

    /// Keys that had a row in the snapshot before; all that were touched, where that snapshot is not known exactly. As the
    /// earliest note has them: so the row was called, for who compares texts.
    pub(super) fn gone(&self, since: &Seen, is_exact: bool) -> String {
        let names =
            self.in_order.values().map(|place| format!("k.first{place}")).collect::<Vec<_>>().join(", ");
        // What came into a partition that was made and left since is in no count: its row may have been another partition's,
        // where it went first.
        let went_first = if self.is_partitioned { " OR k.first_op <> 'I'" } else { "" };
        let had_row = if is_exact {
            format!(
                "WHERE (EXISTS (SELECT FROM {} r WHERE {}))::int - k.came + k.went > 0{went_first}",
                self.from(),
                self.is_row()
            )
        } else {
            String::new()
        };
        let first = |(place, column): (usize, &KeyColumn)| {
            format!(
                ", ((array_agg(n.key[{place}] ORDER BY n.change_id))[1])::{} AS first{place}",
                column.type_name
            )
        };
        let firsts: String = self.places().zip(&self.key).map(first).collect();
        let first_op = ", (array_agg(n.op ORDER BY n.change_id))[1] AS first_op";
        let firsts = if self.is_partitioned { firsts + first_op } else { firsts };
        format!("COPY (SELECT {names} FROM ({}) k {had_row}) TO STDOUT", self.keys_with(since, &firsts))
    }

    /// The rows that the touched keys have now.
    pub(super) fn there(&self, since: &Seen) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|name| format!("r.{}", escape_identifier(name))).collect();
        format!(
            "COPY (SELECT {} FROM ({}) k JOIN {} r ON {}) TO STDOUT",
            columns.join(", "),
            self.keys(since),
            self.from(),
            self.is_row()
        )
    }

    /// Each key once, in the sense of its type, with how many rows came under it and how many went.
    fn keys(&self, since: &Seen) -> String {
        self.keys_with(since, "")
    }

    /// The same with further values of each.
    fn keys_with(&self, since: &Seen, more: &str) -> String {
        let column = |(place, column): (usize, &KeyColumn)| {
            let collation =
                column.collation.as_ref().map_or_else(String::new, |name| format!(" COLLATE {name}"));
            // No name of theirs is in it: a column may have the name of one of ours.
            format!("(n.key[{place}]::{}){collation} AS k{place}", column.type_name)
        };
        let columns: Vec<String> = self.places().zip(&self.key).map(column).collect();
        let places: Vec<String> = self.places().map(|place| place.to_string()).collect();
        format!(
            "SELECT {}, count(*) FILTER (WHERE n.op = 'I') AS came, count(*) FILTER (WHERE n.op = 'D') AS went{more} \
             FROM syncdata.changes n WHERE n.relid = {} AND n.op IN ('I', 'U', 'D') AND {} GROUP BY {}",
            columns.join(", "),
            self.oid,
            is_new(since),
            places.join(", ")
        )
    }

    fn from(&self) -> String {
        format!("{}{}", if self.is_partitioned { "" } else { "ONLY " }, self.name.sql())
    }

    fn is_row(&self) -> String {
        let equal = |(place, column): (usize, &KeyColumn)| {
            format!("r.{} {} k.k{place}", escape_identifier(&column.name), column.equals)
        };
        self.places().zip(&self.key).map(equal).collect::<Vec<_>>().join(" AND ")
    }

    fn places(&self) -> RangeInclusive<usize> {
        1..=self.key.len()
    }
}

/// Those of the tables of which a key cannot be understood any more: a label of an enum or a type became another one while the
/// transaction was open that noted it.
pub(crate) async fn not_understood(
    tx: &mut Transaction<'_>,
    tables: &[Table],
    since: &Seen,
) -> Result<BTreeSet<TableName>> {
    let mut found = BTreeSet::new();
    for table in tables {
        let doing = || format!("reading the keys of {}", table.name);
        let inner = tx.transaction().await.context(doing)?;
        let counted = inner.batch_execute(&format!("SELECT count(*) FROM ({}) k", table.keys(since))).await;
        match counted.context(doing) {
            Ok(()) => {}
            Err(error) if is_of_values(&error) => drop(found.insert(table.name.clone())),
            Err(error) => return Err(error),
        }
        inner.rollback().await.context(doing)?;
    }
    Ok(found)
}

/// The server could not read a value, or make one.
pub(crate) fn is_of_values(error: &Error) -> bool {
    const DATA_EXCEPTION: &str = "22";
    sqlstate(error).is_some_and(|state| state.code().starts_with(DATA_EXCEPTION))
}

/// Those of the tables whose rows our role does not see, or not all of them.
pub(crate) async fn unreadable(client: &(impl GenericClient + Sync), oids: &[u32]) -> Result<Vec<String>> {
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.oid = ANY ($1) AND NOT c.relispartition AND (row_security_active(c.oid)
        OR NOT has_table_privilege(c.oid, 'SELECT') OR NOT has_schema_privilege(n.oid, 'USAGE')) ORDER BY 1, 2";
    let rows = many(client, "asking which tables may be read", sql, &[(&oids, Type::OID_ARRAY)]).await?;
    let name = |row: &Row| Ok(TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))?.to_string());
    rows.iter().map(name).collect()
}

/// What nobody can read by its notes.
pub(crate) fn does_not_fit(table: &TableName) -> Error {
    let message = format!("the triggers of {table} do not fit to its key any more");
    Error::new(Kind::Refused, message)
        .hint("run `syncdata-archiver setup --create-triggers`; what was changed meanwhile is then declared as missing")
}
