//! Foreign keys, as a catalog has them.

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::proof::ForeignKey;
use tokio_postgres::{GenericClient, Row};

use super::ServerContext as _;

/// One of them. Of a partitioned table there is one, not one more for each partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogKey {
    pub table: TableName,
    pub key: ForeignKey,
    /// How a referred column is compared with the one that refers to it, column by column.
    pub operators: Vec<String>,
    /// False: NOT ENFORCED.
    pub is_enforced: bool,
    /// The last column is a PERIOD, which several rows may cover together.
    pub has_period: bool,
}

// Newer servers have more columns; to_jsonb asks for them without naming them.
const FOREIGN_KEYS: &str = "SELECT n.nspname::text, c.relname::text, k.conname::text, rn.nspname::text, r.relname::text,
    ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY x(num, place)
      JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.num ORDER BY x.place),
    ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY x(num, place)
      JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.num ORDER BY x.place),
    ARRAY(SELECT 'OPERATOR(' || pg_catalog.quote_ident(own.nspname) || '.' || o.oprname || ')'
      FROM pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY x(op, place)
      JOIN pg_catalog.pg_operator o ON o.oid = x.op
      JOIN pg_catalog.pg_namespace own ON own.oid = o.oprnamespace ORDER BY x.place),
    coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::bool, true),
    coalesce((pg_catalog.to_jsonb(k) ->> 'conperiod')::bool, false)
  FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_class r ON r.oid = k.confrelid JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
  WHERE k.contype = 'f' AND k.conparentid = 0
  ORDER BY 1, 2, 3";

impl CatalogKey {
    pub async fn all(client: &impl GenericClient) -> Result<Vec<CatalogKey>> {
        let rows = client.query_typed(FOREIGN_KEYS, &[]).await;
        let rows = rows.context(|| "asking the catalog for foreign keys".to_owned())?;
        rows.iter().map(CatalogKey::of).collect()
    }

    fn of(row: &Row) -> Result<CatalogKey> {
        let key = ForeignKey {
            name: row.get(2),
            columns: row.get(5),
            references: TableName::new(row.get::<_, &str>(3), row.get::<_, &str>(4))?,
            key: row.get(6),
            orphans: None,
        };
        Ok(CatalogKey {
            table: TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))?,
            key,
            operators: row.get(7),
            is_enforced: row.get(8),
            has_period: row.get(9),
        })
    }

    /// The query for rows of `table` that refer to nothing in `parent`, both as they stand in FROM, with these columns.
    pub fn orphans(&self, table: &str, parent: &str, columns: &[String]) -> String {
        let of = |name: &String| format!("c.{}", escape_identifier(name));
        let list: Vec<String> = columns.iter().map(of).collect();
        let refers: Vec<String> =
            self.key.columns.iter().map(|name| format!("{} IS NOT NULL", of(name))).collect();
        let pairs = self.key.columns.iter().zip(&self.key.key).zip(&self.operators);
        let same: Vec<String> = pairs
            .map(|((column, referred), operator)| {
                format!("p.{} {operator} {}", escape_identifier(referred), of(column))
            })
            .collect();
        format!(
            "SELECT {} FROM {table} AS c WHERE {} AND NOT EXISTS (SELECT FROM {parent} AS p WHERE {})",
            list.join(", "),
            refers.join(" AND "),
            same.join(" AND "),
        )
    }

    /// Why its rows are not looked at.
    pub fn is_skipped(&self) -> Option<&'static str> {
        match (self.is_enforced, self.has_period) {
            (false, _) => Some("it is NOT ENFORCED"),
            (true, true) => Some("it has a PERIOD"),
            (true, false) => None,
        }
    }
}
