//! What the types of columns are made of: enums and composites can be altered, also below domains, arrays and other
//! composites, and values have another text then, though nobody touches the tables that have them.

use std::collections::{BTreeMap, HashMap};

use syncdata_formats::{Error, Result};
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::capture::MadeOf;

pub(super) type Types = HashMap<u32, Alterable>;

/// A type that can be altered.
#[derive(Debug)]
pub(super) struct Alterable {
    pub made_of: MadeOf,
    /// Who altered it since it was made.
    pub altered_by: Vec<u32>,
}

/// Types that were there from the first have numbers below 16384.
const ALTERABLE: &str = "WITH RECURSIVE below(root, type) AS (
    SELECT DISTINCT a.atttypid, a.atttypid FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
    UNION
    SELECT b.root, part.type FROM below b JOIN pg_type t ON t.oid = b.type CROSS JOIN LATERAL (
      SELECT t.typbasetype WHERE t.typtype = 'd'
      UNION ALL SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
      UNION ALL SELECT a.atttypid FROM pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
      UNION ALL SELECT r.rngsubtype FROM pg_range r
        WHERE t.typtype IN ('r', 'm') AND t.oid IN (r.rngtypid, r.rngmultitypid)) part(type)),
  facts(root, attribute, label, nested, altered_by) AS (
    SELECT b.root, CASE WHEN NOT a.attisdropped THEN concat_ws(',', t.oid, a.attnum, a.atttypid, a.atttypmod) END, NULL,
      true, CASE WHEN a.xmin <> t.xmin THEN a.xmin::text END
    FROM below b JOIN pg_type t ON t.oid = b.type AND t.typtype = 'c'
      JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0
    UNION ALL
    SELECT b.root, NULL, e.oid || ' ' || hashtext(e.enumlabel), b.root <> b.type,
      CASE WHEN e.xmin <> t.xmin THEN e.xmin::text END
    FROM below b JOIN pg_type t ON t.oid = b.type JOIN pg_enum e ON e.enumtypid = t.oid)
  SELECT root, coalesce(hashtext(string_agg(attribute, ' ' ORDER BY attribute)), 0),
    array_remove(array_agg(label), NULL), bool_or(nested), array_remove(array_agg(DISTINCT altered_by), NULL)
  FROM facts GROUP BY root";

/// Those that columns of tables have, by their numbers.
pub(super) async fn alterable(client: &impl GenericClient) -> Result<Types> {
    let mut types = Types::new();
    let rows = client.query_typed(ALTERABLE, &[]).await;
    for row in &rows.context(|| "reading what the source's types are made of".to_owned())? {
        let labels: Result<BTreeMap<u32, i32>> = row.get::<_, Vec<&str>>(2).into_iter().map(label).collect();
        let made_of = MadeOf { attributes: row.get(1), labels: labels?, is_nested: row.get(3) };
        let altered_by = row.get::<_, Vec<&str>>(4).into_iter().filter_map(|xid| xid.parse().ok()).collect();
        types.insert(row.get(0), Alterable { made_of, altered_by });
    }
    Ok(types)
}

/// `16404 -1234`
fn label(text: &str) -> Result<(u32, i32)> {
    let parsed = text.split_once(' ').and_then(|(oid, hash)| Some((oid.parse().ok()?, hash.parse().ok()?)));
    parsed.ok_or_else(|| Error::bad_input("what the catalog says of a label", text))
}
