//! The catalog as it is exactly where a poll's reading ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use syncdata_formats::Result;
use syncdata_formats::snapshot::Seen;
use tracing::debug;

use super::ask::Asked;
use super::catalog::{self, Position};
use crate::capture::{CatalogTable, NO_IDENTITY, RelationKind, UNLOGGED};

const ATTEMPTS_MAX: u32 = 10;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// The catalog at the end of one poll's reading.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub schemas: BTreeSet<String>,
    pub tables: Vec<CatalogTable>,
    /// The transactions that the catalog shows, and perhaps some more.
    pub seen: Seen,
    pub position: Position,
    /// Relations that were changed while we looked, again and again: what they were at the position is not known.
    pub unsettled: BTreeSet<u32>,
}

impl Look {
    /// A catalog that is read before the position shows nothing that comes after it, and one that is read after the
    /// position shows all that comes before. Where both say the same, it is the catalog at the position.
    ///
    /// `before`: it was read a moment ago.
    pub(crate) async fn take(
        client: &impl Asked,
        publication: Option<&str>,
        before: Option<Vec<CatalogTable>>,
    ) -> Result<Look> {
        let mut before = match before {
            Some(before) => before,
            None => catalog::catalog(client, publication).await?.1,
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let position = Position::settled(client).await?;
            let seen = catalog::seen(client).await?;
            let (schemas, tables) = catalog::catalog(client, publication).await?;
            let unsettled = differing(&before, &tables);
            if unsettled.is_empty() || attempt == ATTEMPTS_MAX {
                return Ok(Look { schemas, tables, seen, position, unsettled });
            }
            debug!(attempt, "tables were changed while the catalog was read, trying again");
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            before = tables;
        }
    }
}

/// By their oids.
pub(crate) fn differing(before: &[CatalogTable], after: &[CatalogTable]) -> BTreeSet<u32> {
    let by_oid = |tables: &[CatalogTable]| -> BTreeMap<u32, CatalogTable> {
        let carried = tables.iter().filter(|table| is_carried(table));
        carried.map(|table| (table.oid, table.clone())).collect()
    };
    let (before, after) = (by_oid(before), by_oid(after));
    let oids = before.keys().chain(after.keys()).copied();
    oids.filter(|oid| before.get(oid) != after.get(oid)).collect()
}

fn is_carried(table: &CatalogTable) -> bool {
    matches!(table.kind, RelationKind::Table | RelationKind::Partitioned | UNLOGGED | NO_IDENTITY)
}
