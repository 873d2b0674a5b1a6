//! Partitions of captured tables that came or went since the last poll: no change tells the rows that they had.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::name::TableName;
use syncdata_service::finding::Finding;

use super::some;
use crate::capture::{Capture, CatalogTable, Memory};

pub(super) fn look(capture: &Capture, catalog: &[CatalogTable], memory: &Memory) -> Vec<Finding> {
    let now: BTreeMap<u32, &CatalogTable> = catalog.iter().map(|table| (table.oid, table)).collect();
    let mut lost: BTreeMap<&TableName, BTreeSet<String>> = BTreeMap::new();
    for (oid, known) in &memory.relations {
        let Some(table) = known.table.as_ref().filter(|_| known.parent.is_some()) else { continue };
        let is_partition = now.get(oid).is_some_and(|relation| relation.partition_of.is_some());
        if !is_partition && capture.tables.contains(table) {
            lost.entry(table).or_default().insert(known.name.to_string());
        }
    }
    let mut gained: BTreeMap<TableName, BTreeSet<String>> = BTreeMap::new();
    for relation in now.values() {
        let Some(root) = relation.partition_of.and_then(|parent| memory.relations.get(&parent)) else {
            continue;
        };
        if let Some(table) = root.table.as_ref().filter(|table| capture.tables.contains(*table))
            && !memory.relations.contains_key(&relation.oid)
        {
            gained.entry(table.clone()).or_default().insert(relation.name.to_string());
        }
    }
    let lost = lost.into_iter().map(|(table, names)| {
        let message = format!(
            "{table} lost {} since the last poll: the rows that were in it stay in every copy, since no change says that they are gone",
            some(&names)
        );
        let word = table.shell_word();
        Finding::warn("partitions", message).remedy(format!(
            "the next poll declares a gap of {table}, if there were rows; then: syncdata-archiver snapshot --tables {word}, and \
             on the local host: syncdata-applier resync {word}"
        ))
    });
    let gained = gained.into_iter().map(|(table, names)| {
        let message = format!("{table} gained {} since the last poll", some(&names));
        Finding::warn("partitions", message).remedy(
            "a copy that is partitioned itself needs one for the same rows: make it there before they come; one that had rows when \
             it was attached is a gap, and takes a snapshot and a resync",
        )
    });
    lost.chain(gained).collect()
}
