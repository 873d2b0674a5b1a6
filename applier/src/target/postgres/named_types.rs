//! Types that columns are made of and somebody can alter beside the table: enums, composites, also below arrays, domains and
//! ranges. With a label that gets another name, or an attribute that comes or goes, rows say something else at once.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::table::{Memory, Types};
use crate::target::postgres::lost::Lost;

/// The labels of enums by their numbers, the attributes of composites by those of the composites. Types of the server itself
/// nobody alters: they have numbers below 16384.
const TYPES: &str = "
WITH RECURSIVE used(tab, typ) AS (
    SELECT a.attrelid, a.atttypid FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
    UNION
    SELECT u.tab, below.typ FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.typ
    CROSS JOIN LATERAL (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem WHERE t.typcategory = 'A'
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS below(typ)
    WHERE below.typ >= 16384
)
SELECT u.tab, 'label ' || e.oid, e.enumlabel::text, pg_catalog.format_type(u.typ, NULL),
    ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = u.tab AND a.atttypid = u.typ AND a.attnum > 0 AND NOT a.attisdropped)
FROM used u JOIN pg_catalog.pg_enum e ON e.enumtypid = u.typ
UNION ALL
SELECT u.tab, 'composite ' || t.typrelid,
    (SELECT coalesce(pg_catalog.string_agg(a.attnum || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum), '')
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
    NULL, NULL
FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.typ WHERE t.typtype = 'c'";

/// Those of a table.
#[derive(Debug, Default)]
pub(super) struct NamedTypes {
    pub(super) types: Types,
    labels: BTreeMap<String, Label>,
}

#[derive(Debug)]
struct Label {
    enum_type: String,
    /// That are of this very type.
    columns: Vec<String>,
}

/// By the numbers of the tables.
pub(super) async fn of(client: &impl GenericClient, tables: &[u32]) -> Result<BTreeMap<u32, NamedTypes>> {
    let mut found: BTreeMap<u32, NamedTypes> = BTreeMap::new();
    let rows = client.query(TYPES, &[&tables]).await;
    for row in rows.context(|| "looking for the types of the local columns".to_owned())? {
        let (key, text): (String, String) = (row.get(1), row.get(2));
        let of_table = found.entry(row.get(0)).or_default();
        if let Some(enum_type) = row.get(3) {
            of_table.labels.insert(key.clone(), Label { enum_type, columns: row.get(4) });
        }
        of_table.types.insert(key, text);
    }
    Ok(found)
}

impl NamedTypes {
    /// What was altered beside the rows. A label that has another name at the source as well is as it should be.
    pub(super) fn lost(
        &self,
        memory: &Memory,
        source_labels: &BTreeMap<String, Vec<String>>,
    ) -> Option<Lost> {
        for (key, was, is) in memory.altered_types(&self.types) {
            let Some(label) = self.labels.get(key) else { return Some(Lost::TypeAltered) };
            let follows = |column: &String| {
                let labels = source_labels.get(column);
                labels.is_some_and(|labels| labels.contains(is) && !labels.contains(was))
            };
            if label.columns.is_empty() || !label.columns.iter().all(follows) {
                // Of a column of an array, a domain or a composite nobody here knows what the source calls it.
                let can_be_taken_back = !label.columns.is_empty() && self.is_free(&label.enum_type, was);
                let (enum_type, was, is) = (label.enum_type.clone(), was.clone(), is.clone());
                return Some(Lost::Relabelled { enum_type, was, is, can_be_taken_back });
            }
        }
        None
    }

    /// Whether no label of that type has that name now.
    fn is_free(&self, enum_type: &str, name: &str) -> bool {
        let has_it = |(key, label): (&String, &Label)| {
            label.enum_type == enum_type && self.types.get(key).is_some_and(|now| now == name)
        };
        !self.labels.iter().any(has_it)
    }
}
