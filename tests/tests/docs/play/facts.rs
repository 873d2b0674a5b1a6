//! What the manual says of our tables and of `status`, held against what is there.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_tests::World;

use crate::pages::{code_spans, printed_by_the_sources};

/// The rows of tables in a page: their cells.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    rows.map(|row| row.split(" | ").map(str::trim).collect())
}

pub(super) async fn tables_and_columns_are_those_of_the_database(page: &str, world: &World) {
    let there = "SELECT table_name, string_agg(column_name, ', ' ORDER BY ordinal_position)
        FROM information_schema.columns WHERE table_schema = 'public'
        AND (starts_with(table_name, 'data_sync') OR table_name = 'tables_to_sync') GROUP BY table_name";
    let there = world.target.query(there).await.into_iter().map(|row| {
        let mut cells = row.into_iter().map(|cell| cell.expect("names are not NULL"));
        (cells.next().expect("a table"), cells.next().expect("its columns"))
    });
    let there: BTreeMap<String, String> = there.collect();
    let said = rows(page).filter_map(|cells| {
        let table = cells[0].strip_prefix('`')?.split('`').next()?;
        there.contains_key(table).then(|| (table.to_owned(), cells[1].to_owned()))
    });
    assert_eq!(said.collect::<BTreeMap<_, _>>(), there);
}

/// Each line has its row, and no row speaks of a line that no program prints.
pub(super) async fn lines_of_status_are_explained(page: &str, world: &World) {
    let printed = printed_by_the_sources();
    for (program, run) in
        [("syncdata-archiver", world.archiver(["status"])), ("syncdata-applier", world.applier(["status"]))]
    {
        let heading = format!("| `{program} status` | |");
        let table = page.split(&heading).nth(1).unwrap_or_else(|| panic!("no table of {program}"));
        let table = table.split("\n\n").next().expect("a split has a first part");
        let said: BTreeSet<&str> = rows(table).flat_map(|cells| code_spans(cells[0])).collect();
        let text = run.run().await.stdout;
        let labels =
            text.lines().filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(':').next());
        let labels = labels.map(|label| label.split(" (").next().expect("a split has a first part"));
        let labels: BTreeSet<&str> = labels.map(without_a_name).filter(|label| !label.is_empty()).collect();
        let unexplained: Vec<_> = labels.difference(&said).collect();
        assert!(unexplained.is_empty(), "{program}: no row for {unexplained:?}\n{text}");
        let is_printed = |label: &&&str| printed.iter().any(|literal| literal.contains(**label));
        let unknown: Vec<_> = said.iter().filter(|label| !is_printed(label)).collect();
        assert!(unknown.is_empty(), "{program} never prints {unknown:?}");
    }
}

/// `table users: pending` is the line `table`.
fn without_a_name(label: &str) -> &str {
    if label.starts_with("table ") { "table" } else { label }
}
