//! What the types of columns are made of: enums and composites can be altered, also below domains, arrays and other
//! composites, and values have another text then, though nobody touches the tables that have them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use syncdata_formats::{Error, Result};

use super::ask::{Asked, many};
use crate::capture::{Alteration, MadeOf};

pub(super) type Types = HashMap<u32, Alterable>;

/// A type that can be altered.
#[derive(Debug)]
pub(super) struct Alterable {
    pub made_of: MadeOf,
    /// `None` for one that is as it was made.
    pub alteration: Option<Alteration>,
}

/// Types that were there from the first have numbers below 16384. What a type was made of, and nobody has written since,
/// came with the command that made it: that wrote on whom its array depends, which nothing alters.
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
  made(type, row, xmin, cmin) AS (
    SELECT t.oid, t.typrelid, d.xmin, d.cmin FROM pg_type t LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass
        AND d.objid = t.typarray AND d.refclassid = 'pg_type'::regclass AND d.refobjid = t.oid AND d.deptype = 'i'
      WHERE t.oid IN (SELECT type FROM below) AND t.typtype IN ('c', 'e')),
  facts(root, attribute, label, nested, altered_by, own) AS (
    SELECT b.root, CASE WHEN NOT a.attisdropped THEN concat_ws(',', t.type, a.attnum, a.atttypid, a.atttypmod) END, NULL,
      true, CASE WHEN (a.xmin = t.xmin AND a.cmin = t.cmin AND a.xmax::text = '0') IS NOT TRUE THEN a.xmin::text END, NULL
    FROM below b JOIN made t ON t.type = b.type JOIN pg_attribute a ON a.attrelid = t.row AND a.attnum > 0
    UNION ALL
    SELECT b.root, NULL, e.oid || ' ' || hashtext(e.enumlabel), b.root <> b.type, altered.by,
      CASE WHEN b.root = b.type THEN coalesce(altered.by, '0') || ' ' || e.enumlabel END
    FROM below b JOIN made t ON t.type = b.type JOIN pg_enum e ON e.enumtypid = t.type CROSS JOIN LATERAL (SELECT
      CASE WHEN (e.xmin = t.xmin AND e.cmin = t.cmin AND e.xmax::text = '0') IS NOT TRUE THEN e.xmin::text END) altered(by))
  SELECT root, coalesce(hashtext(string_agg(attribute, ' ' ORDER BY attribute)), 0),
    array_remove(array_agg(label), NULL), bool_or(nested), array_remove(array_agg(DISTINCT altered_by), NULL),
    array_remove(array_agg(own), NULL)
  FROM facts GROUP BY root";

/// Those that columns of tables have, by their numbers.
pub(super) async fn alterable(client: &impl Asked) -> Result<Types> {
    let mut types = Types::new();
    for row in &many(client, "reading what the source's types are made of", ALTERABLE, &[]).await? {
        let labels: Result<BTreeMap<u32, i32>> = row.get::<_, Vec<&str>>(2).into_iter().map(label).collect();
        let made_of = MadeOf { attributes: row.get(1), labels: labels?, is_nested: row.get(3) };
        let by: BTreeSet<u32> =
            row.get::<_, Vec<&str>>(4).into_iter().filter_map(|xid| xid.parse().ok()).collect();
        let labels = row.get::<_, Vec<&str>>(5).into_iter().filter_map(own_label).collect();
        let alteration = (!by.is_empty()).then_some(Alteration { by, labels });
        types.insert(row.get(0), Alterable { made_of, alteration });
    }
    Ok(types)
}

/// `754 sad`, and who wrote it; 0 for a label that its type was made with.
fn own_label(text: &str) -> Option<(String, Option<u32>)> {
    let (xid, label) = text.split_once(' ')?;
    Some((label.to_owned(), Some(xid.parse().ok()?).filter(|xid| *xid != 0)))
}

/// `16404 -1234`
fn label(text: &str) -> Result<(u32, i32)> {
    let parsed = text.split_once(' ').and_then(|(oid, hash)| Some((oid.parse().ok()?, hash.parse().ok()?)));
    parsed.ok_or_else(|| Error::bad_input("what the catalog says of a label", text))
}
