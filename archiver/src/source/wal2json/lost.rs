//! Changes that wal2json drops: an UPDATE or DELETE of a table without a replica identity is a warning, and no line.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::name::TableName;
use syncdata_service::postgres::Notices;

use super::{Wal2json, filter};
use crate::capture::Capture;
use crate::source::connection::Connection;

/// Of a table of which more may have been said than anybody has counted: nothing is news any more before the slot moves.
const UNCOUNTED: u64 = u64::MAX;

/// Changes that the plugin dropped, by table: it says so in warnings that come before the first line, so that no
/// more is known than that they lie in this answer.
#[derive(Debug, Default)]
pub(crate) struct LostChanges {
    counts: BTreeMap<TableName, u64>,
    /// Tables that may have lost changes when nobody can say which did.
    suspects: BTreeSet<TableName>,
}

impl LostChanges {
    pub(crate) fn read(said: &Notices, capture: &Capture) -> LostChanges {
        let mut lost = LostChanges::default();
        // It may have been a partition, or have had its name, for a while only.
        let travels = |relation: &TableName| capture.tables_of(relation);
        if said.dropped > 0 {
            lost.suspects = capture.without_identity.iter().flat_map(travels).collect();
        }
        for notice in &said.notices {
            let Some((_, relation)) = notice.message.split_once(" in table ") else { continue };
            if !notice.message.starts_with("no ") {
                continue;
            }
            let found = capture.without_identity.iter().find(|name| as_warned(name) == relation);
            let name = found.cloned().or_else(|| name_in(relation));
            for table in name.iter().flat_map(travels) {
                *lost.counts.entry(table).or_default() += notice.times;
            }
        }
        lost
    }

    /// Tables that may have lost changes.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.counts.keys().chain(&self.suspects)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.suspects.is_empty()
    }

    /// The slot repeats its warnings until it moves; only those beyond the known ones are news.
    pub(crate) fn newer_than(&self, known: &BTreeMap<TableName, u64>) -> Vec<TableName> {
        let news = self.counts.iter().filter(|(table, count)| known.get(*table) < Some(count));
        let named = news.map(|(table, _)| table);
        let suspects = self.suspects.iter().filter(|table| known.get(*table) < Some(&UNCOUNTED));
        named.chain(suspects).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// An answer that was cut repeats fewer than a longer one before it said.
    pub(crate) fn added_to(self, mut known: BTreeMap<TableName, u64>) -> BTreeMap<TableName, u64> {
        for (table, count) in self.counts {
            let most = known.entry(table).or_default();
            *most = count.max(*most);
        }
        known.extend(self.suspects.into_iter().map(|table| (table, UNCOUNTED)));
        known
    }
}

impl Wal2json {
    /// The warnings about what commits up to `upto`, as `added_to` counts them.
    pub(crate) async fn warned_about(
        &self,
        connection: &mut Connection,
        capture: &Capture,
        upto: Lsn,
    ) -> Result<BTreeMap<TableName, u64>> {
        let filter = filter::of(capture);
        self.peek(&filter, upto, None).run(connection, |_| Ok(())).await?;
        let said = connection.session.take_notices();
        Ok(LostChanges::read(&said, capture).added_to(BTreeMap::new()))
    }
}

/// wal2json puts the names in quotes and escapes nothing.
fn as_warned(table: &TableName) -> String {
    format!("\"{}\".\"{}\"", table.schema(), table.name())
}

fn name_in(relation: &str) -> Option<TableName> {
    let (schema, name) = relation.strip_prefix('"')?.strip_suffix('"')?.split_once("\".\"")?;
    TableName::new(schema, name).ok()
}

/// The gap that they are, for a segment of that span.
pub(crate) fn gap(lost: &[TableName], from: Lsn, to: Lsn) -> Option<Gap> {
    let reason = "UPDATE or DELETE without a replica identity: wal2json cannot say which rows".to_owned();
    (!lost.is_empty() && from < to).then(|| Gap { from, to, reason, tables: Some(lost.to_vec()) })
}

#[cfg(test)]
mod tests {
    use syncdata_formats::name::TablePattern;
    use syncdata_service::postgres::Notice;
    use tokio_postgres::error::SqlState;

    use super::*;
    use crate::capture::{CatalogTable, RelationKind};

    fn capture(name: &TableName) -> Capture {
        let table = CatalogTable {
            oid: 1,
            name: name.clone(),
            kind: RelationKind::Table,
            partition_of: None,
            heir_of: Vec::new(),
            identity_usable: false,
            virtual_columns: Vec::new(),
            storage: Default::default(),
            marks: Default::default(),
            columns: Default::default(),
            layout: Default::default(),
            making: Default::default(),
            stream: Default::default(),
        };
        let patterns = [TablePattern::Table(name.clone())];
        Capture::resolve(&patterns, &BTreeSet::new(), &[table], &Default::default()).expect("resolves")
    }

    fn warning(message: &str) -> Notice {
        Notice {
            severity: "WARNING".into(),
            sqlstate: SqlState::SUCCESSFUL_COMPLETION,
            message: message.into(),
            times: 1,
        }
    }

    #[test]
    fn warnings_about_lost_changes_name_their_table() {
        let name = TableName::new("s", "a\".\"b in table \"x").expect("a name");
        let message = "no tuple identifier for UPDATE in table \"s\".\"a\".\"b in table \"x\"";
        let said = Notices { notices: vec![warning(message), warning(message), warning("else")], dropped: 0 };
        let lost = LostChanges::read(&said, &capture(&name));
        assert_eq!(lost.newer_than(&BTreeMap::new()), std::slice::from_ref(&name));
        assert!(lost.newer_than(&lost.counts).is_empty(), "said before");
        let fewer = BTreeMap::from([(name.clone(), 1)]);
        assert_eq!(lost.newer_than(&fewer), std::slice::from_ref(&name));
        let more = BTreeMap::from([(name.clone(), 3), ("other".parse().expect("a name"), 1)]);
        assert_eq!(lost.added_to(more.clone()), more);
    }

    #[test]
    fn when_more_was_said_than_is_kept_every_table_without_identity_is_suspect() {
        let name: TableName = "t".parse().expect("a name");
        let said = Notices { notices: Vec::new(), dropped: 1 };
        let lost = LostChanges::read(&said, &capture(&name));
        let known = BTreeMap::from([(name.clone(), 5)]);
        assert_eq!(lost.newer_than(&known), std::slice::from_ref(&name));
        let lost_again = LostChanges::read(&said, &capture(&name));
        assert!(lost_again.newer_than(&lost.added_to(known)).is_empty(), "told once");
    }
}
