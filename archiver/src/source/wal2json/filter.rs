//! wal2json's table filter. It goes by the names of leaf tables, and what it lets through beyond what is captured is
//! dropped when the row is read.

use std::collections::BTreeSet;

use syncdata_formats::name::{TableName, TablePattern};

use crate::capture::Capture;

/// Selects no table at all.
pub(super) const NOTHING: &str = "";

/// `add-tables` for all that is captured.
pub(super) fn of(capture: &Capture) -> String {
    if capture.patterns().contains(&TablePattern::All) || capture.expects_strangers() {
        return "*.*".to_owned();
    }
    let by_pattern = capture.patterns().iter().map(|pattern| match pattern {
        TablePattern::All => "*.*".to_owned(),
        TablePattern::Schema(schema) => format!("{}.*", escape(schema)),
        TablePattern::Table(name) => alone(name),
    });
    let others = capture.beyond_patterns().map(alone);
    by_pattern.chain(others).collect::<BTreeSet<String>>().into_iter().collect::<Vec<_>>().join(",")
}

/// What selects one relation.
pub(super) fn alone(table: &TableName) -> String {
    format!("{}.{}", escape(table.schema()), escape(table.name()))
}

/// wal2json knows no quotes; a backslash takes the meaning from the character after it.
fn escape(part: &str) -> String {
    let mut escaped = String::with_capacity(part.len());
    for c in part.chars() {
        if c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{CatalogTable, Memory, RelationKind, Span, Tally};
    use syncdata_formats::lsn::Lsn;
    use syncdata_formats::snapshot::Seen;

    fn catalog() -> [CatalogTable; 4] {
        [
            CatalogTable::plain(2, "sales.orders", RelationKind::Partitioned, None),
            CatalogTable::plain(3, "sales.orders_2026", RelationKind::Partitioned, Some(2)),
            CatalogTable::plain(4, "parts.orders_2026_01", RelationKind::Table, Some(3)),
            CatalogTable::plain(6, "\"we ird,.*\\\"", RelationKind::Table, None),
        ]
    }

    fn capture(pattern: &str, catalog: &[CatalogTable], memory: &Memory) -> Capture {
        let schemas = ["public", "sales", "parts"].map(str::to_owned).into();
        let patterns = [pattern.parse().expect("a pattern")];
        Capture::resolve(&patterns, &schemas, catalog, memory).expect("resolves")
    }

    fn filter(pattern: &str) -> String {
        of(&capture(pattern, &catalog(), &Memory::default()))
    }

    #[test]
    fn it_names_partitions_that_lie_elsewhere() {
        assert_eq!(filter("sales.*"), "parts.orders_2026_01,sales.*,sales.orders_2026");
        assert_eq!(filter("*"), "*.*");
    }

    #[test]
    fn rows_under_names_that_nobody_knows_are_looked_for_under_all_names() {
        let seen = Seen { xmin: 10, xmax: 10, xip: Vec::new() };
        let first = capture("sales.*", &catalog(), &Memory::default());
        let to = Lsn::from_u64(8);
        let spans = Span { from: Lsn::default(), to, looked_at: to };
        let mut memory = first.remember(&Memory::default(), &Tally::default(), &seen, spans, true);
        memory.relations.values_mut().for_each(|known| known.rows = Some(0));
        let mut renamed = catalog();
        renamed[2].name = "parts.old".parse().expect("a name");
        assert_eq!(of(&capture("sales.*", &renamed, &memory)), "*.*");
        assert_ne!(of(&capture("sales.*", &catalog(), &memory)), "*.*");
    }

    #[test]
    fn it_escapes_what_wal2json_reads_as_syntax() {
        assert_eq!(filter("\"we ird,.*\\\""), "public.we\\ ird\\,\\.\\*\\\\");
    }
}
