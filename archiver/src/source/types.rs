//! What the types of columns are made of: enums and composites can be altered, also below domains, arrays and other
//! composites, and values have another text then, though nobody touches the tables that have them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use syncdata_formats::{Error, Result};

use super::ask::{Asked, many};
use crate::capture::{Alteration, Labels, MadeOf};

pub(super) type Types = HashMap<u32, Alterable>;

/// A type that can be altered.
#[derive(Debug)]
pub(super) struct Alterable {
    pub made_of: MadeOf,
    /// `None` for one that is as it was made.
    pub alteration: Option<Alteration>,
    /// Of an enum, in their order.
    pub labels: Option<Labels>,
}

/// Types that were there from the first have numbers below 16384. What a type was made of, and nobody has written since,
/// came with the command that made it: that wrote on whom its array depends, which nothing alters. `plain`: a value is a
/// label, or `listed`: an array of labels.
const ALTERABLE: &str = "WITH RECURSIVE below(root, type, plain, listed) AS (
    SELECT DISTINCT a.atttypid, a.atttypid, true, false FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
    UNION
    SELECT b.root, part.type, b.plain AND part.plain, b.listed OR part.listed
      FROM below b JOIN pg_type t ON t.oid = b.type CROSS JOIN LATERAL (
      SELECT t.typbasetype, true, false WHERE t.typtype = 'd'
      UNION ALL SELECT t.typelem, NOT b.listed, true WHERE t.typcategory = 'A' AND t.typelem <> 0
      UNION ALL SELECT a.atttypid, false, false FROM pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
      UNION ALL SELECT r.rngsubtype, false, false FROM pg_range r
        WHERE t.typtype IN ('r', 'm') AND t.oid IN (r.rngtypid, r.rngmultitypid)) part(type, plain, listed)),
  made(type, row, xmin, cmin) AS (
    SELECT t.oid, t.typrelid, d.xmin, d.cmin FROM pg_type t LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass
        AND d.objid = t.typarray AND d.refclassid = 'pg_type'::regclass AND d.refobjid = t.oid AND d.deptype = 'i'
      WHERE t.oid IN (SELECT type FROM below) AND t.typtype IN ('c', 'e')),
  facts(root, attribute, label, nested, altered_by, own, place, plain, listed) AS (
    SELECT b.root, CASE WHEN NOT a.attisdropped THEN concat_ws(',', t.type, a.attnum, a.atttypid, a.atttypmod) END, NULL,
      true, CASE WHEN (a.xmin = t.xmin AND a.cmin = t.cmin AND a.xmax::text = '0') IS NOT TRUE THEN a.xmin::text END, NULL,
      NULL::float4, false, false
    FROM below b JOIN made t ON t.type = b.type JOIN pg_attribute a ON a.attrelid = t.row AND a.attnum > 0
    UNION ALL
    SELECT b.root, NULL, e.oid || ' ' || hashtext(e.enumlabel), b.root <> b.type, altered.by,
      concat_ws(' ', e.oid, coalesce(altered.by, '0'), e.enumlabel), e.enumsortorder, b.plain, b.listed
    FROM below b JOIN made t ON t.type = b.type JOIN pg_enum e ON e.enumtypid = t.type CROSS JOIN LATERAL (SELECT
      CASE WHEN (e.xmin = t.xmin AND e.cmin = t.cmin AND e.xmax::text = '0') IS NOT TRUE THEN e.xmin::text END) altered(by))
  SELECT root, coalesce(hashtext(string_agg(attribute, ' ' ORDER BY attribute)), 0),
    array_remove(array_agg(label), NULL), bool_or(nested), array_remove(array_agg(DISTINCT altered_by), NULL),
    array_remove(array_agg(own ORDER BY place), NULL), bool_and(plain), bool_or(listed)
  FROM facts GROUP BY root";

/// Those that columns of tables have, by their numbers.
pub(super) async fn alterable(client: &impl Asked) -> Result<Types> {
    let mut types = Types::new();
    for row in &many(client, "reading what the source's types are made of", ALTERABLE, &[]).await? {
        let labels: Result<BTreeMap<u32, i32>> = row.get::<_, Vec<&str>>(2).into_iter().map(label).collect();
        let made_of = MadeOf { attributes: row.get(1), labels: labels?, is_nested: row.get(3) };
        let by: BTreeSet<u32> =
            row.get::<_, Vec<&str>>(4).into_iter().filter_map(|xid| xid.parse().ok()).collect();
        let (is_plain, is_list) = (row.get::<_, bool>(6), row.get::<_, bool>(7));
        let labels = row.get::<_, Vec<&str>>(5).into_iter().filter(|_| is_plain);
        let labels: Vec<(u32, Option<u32>, String)> = labels.filter_map(own_label).collect();
        let is_enum = !made_of.is_nested && !labels.is_empty();
        let names = is_enum.then(|| labels.iter().map(|(oid, _, label)| (*oid, label.clone())).collect());
        let labels = labels.into_iter().map(|(_, by, label)| (label, by)).collect();
        let alteration = (!by.is_empty()).then_some(Alteration { by, labels, is_list });
        types.insert(row.get(0), Alterable { made_of, alteration, labels: names });
    }
    Ok(types)
}

/// `16404 754 sad`, with who wrote it; 0 for a label that its type was made with.
fn own_label(text: &str) -> Option<(u32, Option<u32>, String)> {
    let mut words = text.splitn(3, ' ');
    let (oid, xid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((oid, Some(xid).filter(|xid| *xid != 0), words.next()?.to_owned()))
}

/// `16404 -1234`
fn label(text: &str) -> Result<(u32, i32)> {
    let parsed = text.split_once(' ').and_then(|(oid, hash)| Some((oid.parse().ok()?, hash.parse().ok()?)));
    parsed.ok_or_else(|| Error::bad_input("what the catalog says of a label", text))
}
