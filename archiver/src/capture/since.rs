//! Since when each table is captured without interruption, and whether it was empty then.
//!
//! Pure: what the catalog and the stream say goes in. What it claims must be exact, or is not claimed: a base copy that
//! is made of changes alone would lack the rows of a table that was not empty.
//!
//! A pattern has been in force since the slot began, or since the poll that first knew it. What it lists has been
//! captured for as long, if it had its name and place then. Two facts of the catalog tell: the transactions that made
//! a table and that named it last. The stream shows both if they committed while the slot was there. Of a table that was
//! there before, the rows are counted: as many as the stream has added, less those that it removed, means that it was empty.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Manifest, OpCounts, Since};
use syncdata_formats::name::{TableName, TablePattern};

/// What is remembered from poll to poll.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CaptureMemory {
    /// Each pattern of the settings, and since when it has been in force.
    patterns: BTreeMap<String, Lsn>,
    spans: Vec<Span>,
    /// What the chain says already.
    told: BTreeMap<TableName, Since>,
    /// The rows up to here are in the balances; `None` without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted_to: Option<Lsn>,
}

/// One table under one name, captured from one position to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    /// 0 where only the archive knows of it.
    pub oid: u32,
    pub name: TableName,
    pub from: Lsn,
    /// It had no rows at `from`.
    pub empty: bool,
    /// Captured up to here and no more; `None` while it is.
    pub to: Option<Lsn>,
    /// Its pattern has been in force since then.
    in_force: Lsn,
    /// When the catalog was read that showed it first.
    seen_at: Lsn,
    /// The transaction that made it, where all that it ever held was written to WAL.
    made_by: Option<u32>,
    /// The transaction that gave it its name.
    named_by: u32,
    /// While it is not known whether it had rows: those that the stream has added and removed since.
    balance: Option<Balance>,
}

/// Rows that came and went. What is left over is what was there before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Balance {
    inserted: u64,
    deleted: u64,
}

/// A captured table as the catalog shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub oid: u32,
    pub made_by: Option<u32>,
    pub named_by: u32,
    /// Nothing but the stream can have altered its rows, or what they mean, since the look before.
    pub untouched: bool,
}

/// One look at the catalog.
#[derive(Debug)]
pub(crate) struct Look<'a> {
    pub patterns: &'a [TablePattern],
    pub tables: &'a BTreeMap<TableName, Sighting>,
    /// All before is archived, or was not captured.
    pub position: Lsn,
    /// Where WAL ended after the catalog had been read.
    pub catalog_at: Lsn,
}

/// What a stretch of the stream showed.
#[derive(Debug, Default)]
pub(crate) struct Stretch<'a> {
    /// Ends of those transactions that were watched for.
    pub seen: BTreeMap<u32, Lsn>,
    pub counts: Vec<&'a BTreeMap<TableName, OpCounts>>,
    /// Where the next one begins, if all of this is published.
    pub upto: Lsn,
}

impl Balance {
    /// What TRUNCATE removed nobody has counted.
    fn with(self, counts: &OpCounts) -> Option<Balance> {
        (counts.truncate == 0).then(|| Balance {
            inserted: self.inserted + counts.insert,
            deleted: self.deleted + counts.delete,
        })
    }

    /// As many as there are now if there were none before.
    fn rows(self) -> Option<u64> {
        self.inserted.checked_sub(self.deleted)
    }
}

impl CaptureMemory {
    /// For a spool that begins where an archive ends.
    pub(crate) fn of_chain(
        told: BTreeMap<TableName, Since>,
        captured: &BTreeSet<TableName>,
    ) -> CaptureMemory {
        let span = |(name, since): (&TableName, &Since)| Span {
            oid: 0,
            name: name.clone(),
            from: since.lsn,
            empty: since.empty,
            to: None,
            in_force: since.lsn,
            seen_at: since.lsn,
            made_by: None,
            named_by: 0,
            balance: None,
        };
        let spans = told.iter().filter(|(name, _)| captured.contains(name)).map(span).collect();
        CaptureMemory { spans, told, ..CaptureMemory::default() }
    }

    /// For another database in the place of this one.
    pub(crate) fn forget_tables(&mut self) {
        let told = std::mem::take(&mut self.told);
        *self = CaptureMemory { told, ..CaptureMemory::default() };
    }

    /// Takes in what the catalog shows now.
    pub(crate) fn look(&mut self, look: &Look<'_>) {
        // What was counted and never published comes again, or was passed over.
        if self.counted_to != Some(look.position) {
            self.uncounted(|_| true);
        }
        let in_force = |pattern: &TablePattern| {
            let text = pattern.to_string();
            let since = self.patterns.get(&text).copied().unwrap_or(look.position);
            (text, since)
        };
        let patterns: BTreeMap<String, Lsn> = look.patterns.iter().map(in_force).collect();
        for span in self.spans.iter_mut().filter(|span| span.to.is_none()) {
            match look.tables.get(&span.name) {
                Some(seen) if span.oid == seen.oid || span.oid == 0 => span.oid = seen.oid,
                _ => span.to = Some(look.position.max(span.from)),
            }
        }
        for (name, seen) in look.tables {
            if self.spans.iter().any(|span| span.to.is_none() && &span.name == name) {
                continue;
            }
            let listed = look.patterns.iter().filter(|pattern| pattern.matches(name));
            let since = listed.filter_map(|pattern| patterns.get(&pattern.to_string())).min();
            let in_force = since.copied().unwrap_or(look.catalog_at);
            // Under a pattern that an earlier look knew, a table that is new was made, named or moved since.
            let is_first = in_force == look.position;
            self.spans.push(Span {
                oid: seen.oid,
                name: name.clone(),
                from: if is_first { in_force } else { look.catalog_at },
                empty: false,
                to: None,
                in_force,
                seen_at: look.catalog_at,
                made_by: seen.made_by,
                named_by: seen.named_by,
                balance: (is_first && seen.untouched).then(Balance::default),
            });
        }
        self.patterns = patterns;
        self.forget_old();
    }

    /// The transactions of which it matters whether the stream shows them.
    pub(crate) fn watched(&self) -> BTreeSet<u32> {
        self.spans.iter().filter(|span| span.to.is_none()).map(|span| span.named_by).collect()
    }

    /// Takes in what the stream showed since the look before.
    pub(crate) fn settle(&mut self, stretch: &Stretch<'_>) {
        for span in self.spans.iter_mut().filter(|span| span.to.is_none()) {
            let named = stretch.seen.get(&span.named_by).filter(|end| **end > span.in_force);
            match named {
                // Made under this name while it was listed: all of it is in the stream, from its own transaction on.
                // What came before under this name may have been another table.
                Some(end) if span.made_by == Some(span.named_by) => {
                    (span.from, span.empty) = (Lsn::from_u64(end.as_u64().saturating_sub(1)), true);
                }
                // What it had under another name is not.
                Some(_) if span.from < span.seen_at => {
                    (span.from, span.empty, span.balance) = (span.seen_at, false, None);
                }
                _ => {}
            }
            for counts in stretch.counts.iter().filter_map(|counts| counts.get(&span.name)) {
                span.balance = span.balance.and_then(|balance| balance.with(counts));
            }
        }
        let counts_any = self.open().any(|span| span.balance.is_some());
        self.counted_to = counts_any.then_some(stretch.upto);
    }

    /// The tables of which it can be proved that they were empty: those that have just so many rows, now that all of the
    /// stream was seen.
    pub(crate) fn provable(&self) -> BTreeMap<TableName, u64> {
        let rows = |span: &Span| Some((span.name.clone(), span.balance?.rows()?));
        self.open().filter_map(rows).collect()
    }

    /// Changes of these tables are missing from the stream: nothing follows from what it brought.
    pub(crate) fn uncounted(&mut self, is_one: impl Fn(&TableName) -> bool) {
        for span in self.spans.iter_mut().filter(|span| span.to.is_none() && is_one(&span.name)) {
            span.balance = None;
        }
    }

    /// Another spool has read on from there, and not of these tables.
    pub(crate) fn leave(&mut self, has_left: impl Fn(&TableName) -> bool, from: Lsn) {
        for span in self.spans.iter_mut().filter(|span| span.to.is_none() && has_left(&span.name)) {
            span.to = Some(from.max(span.from));
        }
    }

    /// What came of the proof: it is not tried again.
    pub(crate) fn prove(&mut self, proved: &BTreeSet<TableName>) {
        for span in self.spans.iter_mut().filter(|span| span.to.is_none() && span.balance.is_some()) {
            span.balance = None;
            if proved.contains(&span.name) {
                (span.from, span.empty) = (span.in_force, true);
            }
        }
        self.counted_to = None;
    }

    /// What a manifest that ends there has to say; nothing if the chain says it already.
    pub(crate) fn news(&self, end: Lsn) -> BTreeMap<TableName, Since> {
        let since = self.since(end);
        if since == self.told { BTreeMap::new() } else { since }
    }

    /// What a manifest of the chain has said.
    pub(crate) fn told_by(&mut self, manifest: &Manifest) {
        if !manifest.capture_since.is_empty() {
            self.told = manifest.capture_since.clone();
        }
    }

    fn since(&self, end: Lsn) -> BTreeMap<TableName, Since> {
        let open = self.spans.iter().filter(|span| span.to.is_none() && span.from <= end);
        open.map(|span| (span.name.clone(), Since { lsn: span.from, empty: span.empty })).collect()
    }

    /// The tables as they are captured now.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(|span| span.to.is_none())
    }

    /// What ended long ago concerns nobody.
    fn forget_old(&mut self) {
        const ENDED_MAX: usize = 1000;
        let ended = self.spans.iter().filter(|span| span.to.is_some()).count();
        let mut surplus = ended.saturating_sub(ENDED_MAX);
        self.spans.retain(|span| {
            let goes = span.to.is_some() && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(position: u64) -> Lsn {
        Lsn::from_u64(position)
    }

    fn name(text: &str) -> TableName {
        text.parse().expect("a name")
    }

    /// A look at tables, each with its oid, who made it, and who named it.
    struct Scene {
        memory: CaptureMemory,
        tables: BTreeMap<TableName, Sighting>,
    }

    impl Scene {
        fn look(&mut self, patterns: &[&str], tables: &[(&str, u32, u32, u32)], position: u64) {
            let patterns: Vec<TablePattern> =
                patterns.iter().map(|p| p.parse().expect("a pattern")).collect();
            let sighting = |&(table, oid, made, named_by): &(&str, u32, u32, u32)| {
                (name(table), Sighting { oid, made_by: Some(made), named_by, untouched: true })
            };
            self.tables = tables.iter().map(sighting).collect();
            let (position, catalog_at) = (lsn(position), lsn(position + 9));
            let look = Look { patterns: &patterns, tables: &self.tables, position, catalog_at };
            self.memory.look(&look);
        }

        /// Inserted and deleted rows by table, and where transactions ended.
        fn settle(&mut self, seen: &[(u32, u64)], rows: &[(&str, u64, u64)]) {
            let counts = |&(table, insert, delete): &(&str, u64, u64)| {
                (name(table), OpCounts { insert, delete, ..OpCounts::default() })
            };
            let counts: BTreeMap<TableName, OpCounts> = rows.iter().map(counts).collect();
            let seen = seen.iter().map(|&(xid, end)| (xid, lsn(end))).collect();
            self.memory.settle(&Stretch { seen, counts: vec![&counts], upto: lsn(150) });
        }

        fn prove(&mut self, tables: &[&str]) {
            self.memory.prove(&tables.iter().map(|table| name(table)).collect());
        }

        fn says(&self, end: u64) -> Vec<(String, u64, bool)> {
            let news = self.memory.since(lsn(end));
            news.into_iter().map(|(name, s)| (name.to_string(), s.lsn.as_u64(), s.empty)).collect()
        }
    }

    fn scene() -> Scene {
        Scene { memory: CaptureMemory::default(), tables: BTreeMap::new() }
    }

    #[test]
    fn what_was_there_before_the_slot_is_empty_if_the_stream_accounts_for_all_rows() {
        let mut scene = scene();
        scene.look(&["*"], &[("a", 1, 5, 5), ("b", 2, 5, 5), ("gone", 3, 5, 5)], 100);
        scene.settle(&[], &[("a", 3, 1), ("gone", 0, 1)]);
        scene.settle(&[], &[("a", 2, 0)]);
        let expected = BTreeMap::from([(name("a"), 4), (name("b"), 0)]);
        assert_eq!(scene.memory.provable(), expected, "a row that went had come before");
        scene.prove(&["a"]);
        let says = [("a".into(), 100, true), ("b".into(), 100, false), ("gone".into(), 100, false)];
        assert_eq!(scene.says(100), says);
        assert!(scene.memory.provable().is_empty(), "once");
        let truncated =
            BTreeMap::from([(name("c"), OpCounts { insert: 9, truncate: 1, ..OpCounts::default() })]);
        scene.look(&["*", "c"], &[("c", 4, 5, 5)], 200);
        scene.memory.settle(&Stretch { seen: BTreeMap::new(), counts: vec![&truncated], upto: lsn(250) });
        assert!(scene.memory.provable().is_empty());
    }

    #[test]
    fn what_was_counted_and_is_read_again_proves_nothing() {
        for (position, is_provable) in [(150, true), (100, false), (200, false)] {
            let mut scene = scene();
            scene.look(&["*"], &[("a", 1, 5, 5)], 100);
            scene.settle(&[], &[("a", 1000, 0)]);
            scene.look(&["*"], &[("a", 1, 5, 5)], position);
            scene.settle(&[], &[("a", 1000, 0)]);
            assert_eq!(!scene.memory.provable().is_empty(), is_provable, "{position}");
        }
    }

    #[test]
    fn what_was_made_while_it_was_listed_is_empty_by_birth() {
        let mut scene = scene();
        scene.look(&["*"], &[("old", 1, 5, 5)], 100);
        scene.settle(&[], &[]);
        scene.prove(&[]);
        // Made, or only renamed, since the slot began; of the last one nobody knows how it came here.
        let tables = [("made", 2, 50, 50), ("moved", 4, 4, 4), ("old", 1, 5, 5), ("renamed", 3, 51, 52)];
        scene.look(&["*"], &tables, 200);
        assert_eq!(
            scene.says(208),
            [("old".into(), 100, false)],
            "the others, not before the catalog was read"
        );
        scene.settle(&[(50, 150), (52, 160)], &[("made", 9, 2)]);
        let expected = [
            ("made".into(), 149, true),
            ("moved".into(), 209, false),
            ("old".into(), 100, false),
            ("renamed".into(), 209, false),
        ];
        assert_eq!(scene.says(209), expected);
    }

    #[test]
    fn what_was_renamed_since_the_slot_began_is_captured_since_it_was_looked_at() {
        let mut scene = scene();
        scene.look(&["t"], &[("t", 1, 5, 60)], 100);
        scene.settle(&[(60, 105)], &[]);
        assert!(scene.memory.provable().is_empty());
        assert_eq!(scene.says(110), [("t".into(), 109, false)]);
        // The same number in what was before the pattern was in force is another matter.
        let mut scene = Scene { memory: CaptureMemory::default(), tables: BTreeMap::new() };
        scene.look(&["t"], &[("t", 1, 60, 60)], 100);
        scene.settle(&[(60, 90)], &[]);
        assert_eq!(scene.says(110), [("t".into(), 100, false)]);
    }

    #[test]
    fn what_leaves_and_returns_begins_anew_and_both_stretches_are_remembered() {
        let mut scene = scene();
        let (a, b) = (("a", 1, 5, 5), ("b", 2, 5, 5));
        scene.look(&["a", "b"], &[a, b], 100);
        scene.settle(&[], &[]);
        scene.prove(&["a", "b"]);
        scene.memory.told = scene.memory.since(lsn(150));
        assert!(scene.memory.news(lsn(160)).is_empty());
        scene.look(&["b"], &[b], 200);
        assert_eq!(scene.says(200), [("b".into(), 100, true)]);
        assert_eq!(scene.memory.news(lsn(200)).len(), 1);
        scene.look(&["b", "a"], &[("a", 1, 5, 5), b], 300);
        scene.settle(&[], &[]);
        scene.prove(&[]);
        assert_eq!(scene.says(400), [("a".into(), 300, false), ("b".into(), 100, true)]);
        let of_a: Vec<_> =
            scene.memory.spans.iter().filter(|s| s.name == name("a")).map(|s| (s.from, s.to)).collect();
        assert_eq!(of_a, [(lsn(100), Some(lsn(200))), (lsn(300), None)]);
    }

    #[test]
    fn a_new_table_under_an_old_name_begins_anew() {
        let mut scene = scene();
        scene.look(&["*"], &[("t", 1, 5, 5)], 100);
        scene.settle(&[], &[]);
        scene.prove(&[]);
        scene.look(&["*"], &[("t", 2, 70, 70)], 200);
        scene.settle(&[(70, 180)], &[]);
        assert_eq!(scene.says(210), [("t".into(), 179, true)]);
        let spans: Vec<_> = scene.memory.spans.iter().map(|s| (s.oid, s.to)).collect();
        assert_eq!(spans, [(1, Some(lsn(200))), (2, None)]);
    }

    #[test]
    fn a_database_that_was_made_again_begins_anew_whatever_the_numbers_of_its_tables() {
        let mut scene = scene();
        scene.look(&["*"], &[("t", 1, 5, 5)], 100);
        scene.settle(&[], &[]);
        scene.prove(&["t"]);
        scene.memory.told = scene.memory.since(lsn(150));
        assert_eq!(scene.says(150), [("t".into(), 100, true)]);
        scene.memory.forget_tables();
        scene.look(&["*"], &[("t", 1, 5, 5)], 200);
        scene.settle(&[], &[]);
        scene.prove(&[]);
        assert_eq!(scene.says(210), [("t".into(), 200, false)]);
        assert_eq!(scene.memory.news(lsn(210)).len(), 1, "the chain has to say so");
    }

    #[test]
    fn a_new_spool_knows_what_the_chain_says() {
        let told = BTreeMap::from([
            (name("a"), Since { lsn: lsn(7), empty: true }),
            (name("gone"), Since { lsn: lsn(7), empty: true }),
        ]);
        let memory = CaptureMemory::of_chain(told, &[name("a")].into());
        let mut scene = Scene { memory, tables: BTreeMap::new() };
        scene.look(&["*"], &[("a", 1, 5, 5), ("other", 2, 5, 5)], 300);
        scene.settle(&[], &[]);
        assert_eq!(scene.says(310), [("a".into(), 7, true), ("other".into(), 300, false)]);
    }
}
