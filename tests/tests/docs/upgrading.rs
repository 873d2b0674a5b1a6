//! docs/upgrading.md speaks of the formats of this version.

use syncdata_formats::document::FORMAT;

use crate::pages::{page, workspace};

/// What stands after this heading of a row, in its second column.
fn written_now(page: &str, what: &str) -> String {
    let row = page.lines().find(|line| line.starts_with(&format!("| {what}")));
    let row = row.unwrap_or_else(|| panic!("no row of {what:?}"));
    row.split(" | ").nth(1).expect("a second column").to_owned()
}

#[test]
fn the_page_says_which_formats_are_written() {
    let page = page("docs/upgrading.md");
    let folder = workspace().join("applier/src/target/postgres");
    let files =
        std::fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("an entry").path());
    let is_migration = |name: &str| name.starts_with("meta") && name.ends_with(".sql");
    let migrations =
        files.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_migration));
    assert_eq!(written_now(&page, "tables in the local database"), migrations.count().to_string());
    for document in ["archive (", "a base copy"] {
        assert_eq!(written_now(&page, document), FORMAT.to_string());
    }
}
