use super::*;

impl CatalogTable {
    /// One of which nothing else is known.
    pub(crate) fn plain(oid: u32, name: &str, kind: RelationKind, partition_of: Option<u32>) -> CatalogTable {
        CatalogTable {
            oid,
            name: name.parse().expect("a name"),
            kind,
            partition_of,
            heir_of: Vec::new(),
            identity_usable: true,
            virtual_columns: Vec::new(),
            storage: Default::default(),
            marks: Default::default(),
            columns: Default::default(),
            layout: Default::default(),
            making: Default::default(),
            stream: Default::default(),
        }
    }
}

pub(super) fn table(oid: u32, name: &str, kind: RelationKind, partition_of: Option<u32>) -> CatalogTable {
    CatalogTable {
        storage: Storage { file: oid, toast: 0 },
        marks: Marks { changed: 1, named: 1, born: 1, attached: partition_of.map(|_| 1), ..Marks::default() },
        ..CatalogTable::plain(oid, name, kind, partition_of)
    }
}

fn catalog() -> Vec<CatalogTable> {
    use RelationKind::{NotCaptured, Partitioned, Table};
    vec![
        table(1, "users", Table, None),
        table(2, "sales.orders", Partitioned, None),
        table(3, "sales.orders_2026", Partitioned, Some(2)),
        table(4, "parts.orders_2026_01", Table, Some(3)),
        table(5, "sales.totals", NotCaptured("a materialized view"), None),
        table(6, "\"we ird,.*\\\"", Table, None),
    ]
}

fn resolve(patterns: &[&str], memory: &Memory) -> Result<Capture> {
    let patterns: Vec<TablePattern> = patterns.iter().map(|p| p.parse().expect("a pattern")).collect();
    let schemas = ["public", "sales", "parts", "empty"].map(str::to_owned).into();
    Capture::resolve(&patterns, &schemas, &catalog(), memory)
}

fn travels(capture: &Capture, relation: &str) -> Option<String> {
    capture.table_of(&relation.parse().expect("a name")).map(|table| table.to_string())
}

pub(super) fn looks_for(capture: &Capture, relation: &str) -> bool {
    let relation = relation.parse().expect("a name");
    capture.beyond_patterns().any(|name| *name == relation)
}

#[test]
fn a_partition_travels_as_the_listed_ancestor_nearest_to_the_root() {
    for (patterns, travels_as) in [
        (&["sales.orders"][..], Some("sales.orders")),
        (&["sales.orders", "parts.orders_2026_01"], Some("sales.orders")),
        (&["sales.orders_2026"], Some("sales.orders_2026")),
        (&["parts.orders_2026_01"], Some("parts.orders_2026_01")),
        (&["sales.*"], Some("sales.orders")),
        (&["*"], Some("sales.orders")),
        // A pattern means tables, not the partitions that lie in its schema.
        (&["parts.*"], None),
        (&["users"], None),
    ] {
        let capture = resolve(patterns, &Memory::default()).expect("resolves");
        assert_eq!(travels(&capture, "parts.orders_2026_01").as_deref(), travels_as, "{patterns:?}");
    }
}

#[test]
fn names_that_match_nothing_are_errors() {
    for (pattern, says) in
        [("user", "no table user"), ("missing.*", "no schema missing"), ("sales.totals", "materialized view")]
    {
        let error = resolve(&["users", pattern], &Memory::default()).expect_err("refused");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(resolve(&["empty.*"], &Memory::default()).is_ok(), "an empty schema may fill later");
    let error = resolve(&[], &Memory::default()).expect_err("refused");
    assert_eq!(error.to_string(), "No tables in whitelist");
}

#[test]
fn relations_that_are_not_captured_do_not_travel_under_a_pattern() {
    let capture = resolve(&["sales.*"], &Memory::default()).expect("resolves");
    assert_eq!(travels(&capture, "sales.totals"), None);
    assert_eq!(
        travels(&capture, "sales.new").as_deref(),
        Some("sales.new"),
        "created and dropped between polls"
    );
}

#[test]
fn the_identity_that_counts_is_the_partitions() {
    let mut catalog = catalog();
    catalog[1].identity_usable = false;
    catalog[3].identity_usable = false;
    let patterns = ["sales.orders".parse().expect("a pattern")];
    let capture =
        Capture::resolve(&patterns, &BTreeSet::new(), &catalog, &Memory::default()).expect("resolves");
    let names: Vec<String> = capture.without_identity.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["parts.orders_2026_01"]);
}
