//! Which tables are published: what others did to the publication is seen here.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::Result;
use tokio_postgres::types::Type;

use crate::capture::{CatalogRow, CatalogTable, NO_IDENTITY, Publication, RelationKind, Stream};
use crate::source::ask::{Asked, many};

/// What all of it has to be. The fields of younger versions are asked for as JSON.
const ROWS: &str = "SELECT p.oid, p.xmin::text::int8, r.prrelid, r.oid, r.xmin::text::int8,
    p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND NOT p.puballtables AND NOT p.pubviaroot
      AND coalesce(to_jsonb(p)->>'pubgencols', 's') = 's',
    to_jsonb(r)->>'prqual' IS NULL AND to_jsonb(r)->>'prattrs' IS NULL, LEAVING(p), LEAVING(r)
  FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = $1";

/// Somebody is taking the row away or writing it anew, and has perhaps committed before our position: a commit that waits
/// for a standby is in the stream before anybody sees it. One that ended otherwise leaves its number behind. The row has the
/// half of the number that comes round: it is the nearest to the newest that the snapshot may show, and what is above that,
/// as parts of transactions that are under way may be, had not ended.
const LEAVING: &str = "(SELECT coalesce(CASE WHEN ROW.xmax::text = '0' OR age.full < 3 THEN false
    WHEN age.full >= age.newest THEN true
    ELSE pg_xact_status(age.full::text::xid8) <> 'aborted' END, false)
  FROM (SELECT newest, newest + ((ROW.xmax::text::int8 - newest + 2147483648) & 4294967295) - 2147483648 AS full
    FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS newest) AS now) AS age)";

/// Tables whose updates could not be published, beside those that have no identity at all. Before 18 no generated column
/// is published, and from 18 on none that is not stored. The system's own tables have numbers below 16384.
const UNPUBLISHABLE: &str = "SELECT c.oid FROM pg_class c WHERE c.relkind = 'r' AND c.oid >= 16384 AND EXISTS (
    SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND CASE WHEN c.relreplident = 'f' THEN a.attgenerated = 'v'
        ELSE (a.attgenerated = 'v' OR a.attgenerated <> '' AND current_setting('server_version_num')::int < 180000)
          AND EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND a.attnum = ANY(x.indkey::int2[])
            AND CASE WHEN c.relreplident = 'i' THEN x.indisreplident ELSE x.indisprimary END) END)";

/// Partitioned tables of which every partition has a key, also one that is made later. FULL is not handed down.
const KEYED: &str = "SELECT c.oid FROM pg_class c WHERE c.relkind = 'p' AND EXISTS (SELECT FROM pg_index x
    WHERE x.indrelid = c.oid AND x.indisprimary AND x.indisvalid AND x.indimmediate)";

/// Adds to the catalog which tables are published, and takes out those that cannot be.
pub(crate) async fn look(client: &impl Asked, publication: &str, tables: &mut [CatalogTable]) -> Result<()> {
    let doing = "reading the publication";
    let mut published: BTreeMap<u32, Vec<CatalogRow>> = BTreeMap::new();
    let leaving = |row: &str| LEAVING.replace("ROW", row);
    let sql = ROWS.replace("LEAVING(p)", &leaving("p")).replace("LEAVING(r)", &leaving("r"));
    for row in &many(client, doing, &sql, &[(&publication, Type::TEXT)]).await? {
        let mark = |place: usize| {
            let xid = row.get::<_, Option<i64>>(place);
            xid.and_then(|xid| u32::try_from(xid).ok()).unwrap_or_default()
        };
        let (whole, all_rows): (bool, Option<bool>) = (row.get(5), row.get(6));
        let (Some(relation), Some(member)) = (row.get::<_, Option<u32>>(2), row.get::<_, Option<u32>>(3))
        else {
            continue;
        };
        if whole && all_rows == Some(true) {
            let of_all = CatalogRow { oid: row.get(0), mark: mark(1), is_leaving: row.get(7) };
            let is_leaving = row.get::<_, Option<bool>>(8).unwrap_or_default();
            published.insert(relation, vec![of_all, CatalogRow { oid: member, mark: mark(4), is_leaving }]);
        }
    }
    let oids = async |sql| -> Result<BTreeSet<u32>> {
        Ok(many(client, doing, sql, &[]).await?.iter().map(|row| row.get(0)).collect())
    };
    let (unpublishable, keyed) = (oids(UNPUBLISHABLE).await?, oids(KEYED).await?);
    for table in tables {
        if table.kind == RelationKind::Partitioned {
            table.identity_usable = keyed.contains(&table.oid);
        }
        if table.kind == RelationKind::Table && (!table.identity_usable || unpublishable.contains(&table.oid))
        {
            table.kind = NO_IDENTITY;
        }
        let rows = published.remove(&table.oid).unwrap_or_default();
        table.stream = Stream::Published(Publication { rows });
    }
    Ok(())
}
