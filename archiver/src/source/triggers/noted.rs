//! What was noted between two snapshots, by table.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::snapshot::Seen;
use syncdata_formats::{Error, Result};
use tokio_postgres::GenericClient;

use crate::source::ask::many;

/// Notes that the statement shows, and `seen` does not.
pub(super) fn is_new(seen: &Seen) -> String {
    let running: Vec<String> = seen.xip.iter().map(u64::to_string).collect();
    format!("(xid >= '{}'::xid8 OR xid = ANY ('{{{}}}'::xid8[]))", seen.xmax, running.join(","))
}

/// Everything that was noted since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Of which tables rows were touched, by oid.
    pub touched: BTreeSet<u32>,
    /// TRUNCATE names each relation by itself.
    pub truncated: BTreeSet<u32>,
    /// Rows were touched whose keys could not be read.
    pub unknown: BTreeSet<u32>,
    /// The newest transaction of those that noted something of these relations.
    pub xids: BTreeMap<u32, u64>,
}

impl Noted {
    /// In the snapshot of the transaction.
    pub(crate) async fn read(client: &(impl GenericClient + Sync), since: &Seen) -> Result<Noted> {
        let sql = format!(
            "SELECT relid, bool_or(op IN ('I', 'U', 'D')), bool_or(op = 'T'), bool_or(op = '?'), max(xid::text::numeric)::text
             FROM syncdata.changes WHERE {} GROUP BY relid",
            is_new(since)
        );
        let mut noted = Noted::default();
        for row in &many(client, "reading which tables were touched", &sql, &[]).await? {
            let oid: u32 = row.get(0);
            let sets = [&mut noted.touched, &mut noted.truncated, &mut noted.unknown];
            for (place, set) in (1_usize..).zip(sets) {
                if row.get::<_, bool>(place) {
                    set.insert(oid);
                }
            }
            let xid: &str = row.get(4);
            let xid = xid.parse().map_err(|_| Error::bad_input("a transaction's number", xid))?;
            noted.xids.insert(oid, xid);
        }
        Ok(noted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_running_is_looked_for_by_its_numbers() {
        let seen = Seen { xmin: 754, xmax: 760, xip: vec![754, 757] };
        assert_eq!(is_new(&seen), "(xid >= '760'::xid8 OR xid = ANY ('{754,757}'::xid8[]))");
    }
}
