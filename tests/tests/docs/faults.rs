//! The table of faults names tests that exist.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Names of functions that follow a test attribute, and the cases of the suite that both archives pass.
fn tests_in(text: &str) -> HashSet<String> {
    let mut found = HashSet::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some((name, arguments)) = function.and_then(|function| function.split_once('(')) {
            if marked || arguments.starts_with("bench: &mut Bench)") {
                found.insert(name.to_owned());
            }
            marked = false;
        }
        marked |= line == "#[test]" || line.starts_with("#[tokio::test");
    }
    found
}

fn collect(folder: &Path, found: &mut HashSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources can be listed") {
        let path = entry.expect("a folder of sources can be listed").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            found.extend(tests_in(&text));
        }
    }
}

/// (number, the last column) of every row.
fn rows(table: &str) -> Vec<(usize, &str)> {
    fn row(line: &str) -> Option<(usize, &str)> {
        let cells: Vec<&str> = line.split(" | ").collect();
        let number = cells.first()?.trim_start_matches("| ").parse().ok()?;
        Some((number, cells.last()?.trim_end_matches(" |")))
    }
    table.lines().filter_map(row).collect()
}

#[test]
fn every_test_that_the_table_of_faults_names_exists() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
    let mut tests = HashSet::new();
    for folder in [
        "shared/formats/src",
        "shared/service/src",
        "shared/archive/src",
        "archiver/src",
        "applier/src",
        "tests/src",
        "tests/tests",
    ] {
        collect(&workspace.join(folder), &mut tests);
    }
    let table = fs::read_to_string(workspace.join("docs/faults.md")).expect("docs/faults.md is there");
    let rows = rows(&table);
    let numbers: Vec<usize> = rows.iter().map(|(number, _)| *number).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "every row has a number of its own: {numbers:?}"
    );
    for (number, named) in rows.iter().filter(|(_, named)| *named != "open") {
        for name in named.split(", ") {
            let test = name.trim_matches('`');
            assert!(tests.contains(test), "row {number}: there is no test {test:?}");
        }
    }
}
