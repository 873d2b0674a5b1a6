//! Which types of a server are compared: each of them is on one of two lists, so that a new one is decided on.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::proof::prints_alike;
use syncdata_tests::PostgresServer;

/// Not compared, and why: bytes that are no text; printed anew by major versions; the locale's; names of another catalog;
/// and what nobody can write.
const NOT_COMPARED: &str = r#""char" jsonpath aclitem money refcursor
    regproc regprocedure regoper regoperator regclass regtype regconfig regdictionary regnamespace regrole regcollation
    regdatabase pg_node_tree pg_ndistinct pg_dependencies pg_mcv_list pg_brin_bloom_summary
    pg_brin_minmax_multi_summary gtsvector"#;

#[tokio::test]
async fn every_type_of_a_server_is_compared_or_left_out_on_purpose() {
    let server = PostgresServer::start().await;
    let names = "SELECT string_agg(format_type(oid, NULL), ',') FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace
        AND typtype IN ('b', 'r', 'm') AND typcategory <> 'A'";
    let names = server.value(names).await;
    let names: BTreeSet<&str> = names.split(',').collect();
    assert!(names.len() > 60, "{names:?}");
    let left_out: BTreeSet<&str> = NOT_COMPARED.split_whitespace().collect();
    let is_alike = |name: &str| prints_alike(name, &BTreeMap::new());
    let undecided: Vec<&&str> =
        names.iter().filter(|name| is_alike(name) == left_out.contains(*name)).collect();
    assert!(
        undecided.is_empty(),
        "on neither list (ALIKE in shared/formats/src/proof/types.rs, NOT_COMPARED here), or on both: {undecided:?}"
    );
}
