//! Tables by the keys that are noted of them, and the two questions that a batch asks of each.

use std::collections::BTreeMap;

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::Seen;
use syncdata_formats::{Error, Kind, Result};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

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
    /// Those that travel.
    pub(super) columns: Vec<String>,
    pub(super) asked_of_key: Vec<Asked>,
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
/// it, or there is no key.
const KEYS: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', k.place, a.attname::text,
    format_type(a.atttypid, a.atttypmod),
    (SELECT format('%I.%I', s.nspname, l.collname) FROM pg_collation l JOIN pg_namespace s ON s.oid = l.collnamespace
      WHERE l.oid = a.attcollation),
    (SELECT format('OPERATOR(%I.%s)', s.nspname, o.oprname)
      FROM unnest(x.numbers, x.classes) u(number, class) JOIN pg_opclass f ON f.oid = u.class
        JOIN pg_amop m ON m.amopfamily = f.opcfamily AND m.amoplefttype = f.opcintype AND m.amoprighttype = f.opcintype
          AND m.amopstrategy = 3
        JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace s ON s.oid = o.oprnamespace WHERE u.number = a.attnum),
    a.atttypid
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL unnest(string_to_array(encode(t.tgargs, 'escape'), '\\000')) WITH ORDINALITY k(argument, place)
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
      AND k.argument = a.attnum || ':' || md5(a.attname)
    LEFT JOIN LATERAL (SELECT i.indkey::int2[] AS numbers, i.indclass::oid[] AS classes FROM pg_index i
      WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
        AND ARRAY(SELECT u.number::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(number, place)
            WHERE u.place <= i.indnkeyatts ORDER BY 1)
          = ARRAY(SELECT split_part(u.argument, ':', 1) FROM unnest(string_to_array(encode(t.tgargs, 'escape'), '\\000')) u(argument)
            WHERE u.argument <> '' ORDER BY 1)
      ORDER BY i.indisprimary DESC, i.indexrelid LIMIT 1) x ON true
  WHERE c.oid = ANY ($1) AND t.tgname = 'syncdata_note' AND k.argument <> ''
  ORDER BY c.oid, k.place";

const COLUMNS: &str = "SELECT a.attrelid, a.attname::text, a.atttypid FROM pg_attribute a
  WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
  ORDER BY a.attrelid, a.attnum";

impl Table {
    /// Those of these tables, by oid, whose rows can be found by what is noted. What is wrong with another one, its triggers do not
    /// fit to it any more.
    pub(crate) async fn read(
        client: &impl GenericClient,
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
                    columns: Vec::new(),
                    asked_of_key: Vec::new(),
                    asked: Vec::new(),
                });
            }
            let table = entry.as_mut().expect("made above");
            table.asked_of_key.push(Asked::new(&name, row.get(9)));
            table.key.push(KeyColumn { name, type_name: row.get(6), collation: row.get(7), equals });
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

    /// Keys that had a row in the snapshot before; all that were touched, where that snapshot is not known exactly.
    pub(super) fn gone(&self, since: &Seen, is_exact: bool) -> String {
        let names = self.names_of_key("k");
        let had_row = if is_exact {
            format!(
                "WHERE (EXISTS (SELECT FROM {} r WHERE {}))::int - k.came + k.went > 0",
                self.from(),
                self.is_row()
            )
        } else {
            String::new()
        };
        format!("COPY (SELECT {names} FROM ({}) k {had_row}) TO STDOUT", self.keys(since))
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
        let column = |(place, column): (usize, &KeyColumn)| {
            let collation =
                column.collation.as_ref().map_or_else(String::new, |name| format!(" COLLATE {name}"));
            format!(
                "(n.key[{}]::{}){collation} AS {}",
                place + 1,
                column.type_name,
                escape_identifier(&column.name)
            )
        };
        let columns: Vec<String> = self.key.iter().enumerate().map(column).collect();
        let places: Vec<String> = (1..=self.key.len()).map(|place| place.to_string()).collect();
        format!(
            "SELECT {}, count(*) FILTER (WHERE n.op = 'I') AS came, count(*) FILTER (WHERE n.op = 'D') AS went \
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
        let equal = |column: &KeyColumn| {
            let name = escape_identifier(&column.name);
            format!("r.{name} {} k.{name}", column.equals)
        };
        self.key.iter().map(equal).collect::<Vec<_>>().join(" AND ")
    }

    fn names_of_key(&self, of: &str) -> String {
        let names = self.key.iter().map(|column| format!("{of}.{}", escape_identifier(&column.name)));
        names.collect::<Vec<_>>().join(", ")
    }
}

/// Those of the tables whose rows our role does not see, or not all of them.
pub(crate) async fn unreadable(client: &impl GenericClient, oids: &[u32]) -> Result<Vec<String>> {
    let sql = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.oid = ANY ($1) AND NOT c.relispartition AND (row_security_active(c.oid)
        OR NOT has_table_privilege(c.oid, 'SELECT') OR NOT has_schema_privilege(n.oid, 'USAGE')) ORDER BY 1";
    let rows = many(client, "asking which tables may be read", sql, &[(&oids, Type::OID_ARRAY)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What nobody can read by its notes.
pub(crate) fn does_not_fit(table: &TableName) -> Error {
    let message = format!("the triggers of {table} do not fit to its key any more");
    Error::new(Kind::Refused, message)
        .hint("run `syncdata-archiver setup --create-triggers`; what was changed meanwhile is then declared as missing")
}
