//! Our triggers, as the catalog has them.

use std::collections::BTreeMap;

use syncdata_formats::Result;
use tokio_postgres::GenericClient;

use crate::capture::watch::Triggers;
use crate::source::ask::many;

/// A function notes for the table whose number it has: that of a table which is gone notes for nobody.
///
/// The last column: what notes rows came with the table, and nobody has touched it since. Who turns a trigger off and on writes
/// its row again, after whatever depends on it was written down.
const ALL: &str = "SELECT t.tgrelid,
    string_agg(concat_ws(' ', t.oid, t.xmin, t.tgenabled, f.xmin), ',' ORDER BY t.oid),
    bool_or(t.tgname LIKE 'syncdata\\_note\\_%' AND (f.proname = 'note_' || t.tgrelid
      OR f.proname IN (SELECT 'note_' || a.relid::oid FROM pg_partition_ancestors(t.tgrelid) a))), bool_or(t.tgname = 'syncdata_truncate'), bool_and(t.tgenabled = 'A'),
    bool_and(t.tgname = 'syncdata_truncate' OR coalesce(t.xmin = o.xmin AND t.xmax::text = '0' AND EXISTS (SELECT FROM pg_depend d
      WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid AND d.xmin = t.xmin
        AND t.cmin::text::int8 <= d.cmin::text::int8), false))
  FROM pg_trigger t LEFT JOIN pg_attribute o ON o.attrelid = t.tgrelid AND o.attnum = -6 JOIN pg_proc f ON f.oid = t.tgfoid JOIN pg_namespace n ON n.oid = f.pronamespace
  WHERE n.nspname = 'syncdata' GROUP BY t.tgrelid";

/// Of every relation that has some of ours.
pub(crate) async fn triggers(client: &(impl GenericClient + Sync)) -> Result<BTreeMap<u32, Triggers>> {
    let rows = many(client, "reading our triggers", ALL, &[]).await?;
    let triggers = rows.iter().map(|row| {
        let triggers = Triggers {
            text: row.get(1),
            notes_rows: row.get(2),
            notes_truncate: row.get(3),
            always: row.get(4),
            from_birth: row.get(5),
        };
        (row.get(0), triggers)
    });
    Ok(triggers.collect())
}
