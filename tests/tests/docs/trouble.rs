//! docs/trouble.md: what it quotes is printed by the programs, and what it tells to run is taken by them.

use crate::pages::{commands_in, page, printed_by_the_sources, refused_by_parser};

const PAGE: &str = "docs/trouble.md";
/// What the earlier tool printed, and people still search for.
const PHRASES: [&str; 4] = [
    "SFTP client not connected",
    "No tables in whitelist",
    "Table not found locally",
    "Failed to apply changes",
];

/// The messages in the headings.
fn quoted(page: &str) -> Vec<&str> {
    let headings = page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    headings.collect()
}

#[test]
fn every_message_of_the_page_is_printed_by_a_program() {
    let page = page(PAGE);
    let printed = printed_by_the_sources();
    let quoted = quoted(&page);
    let headings = page.lines().filter(|line| line.starts_with("### ")).count();
    assert_eq!(quoted.len(), headings, "every entry is headed by its message");
    let unknown: Vec<_> = quoted
        .iter()
        .filter(|message| !printed.iter().any(|literal| literal.contains(message.trim_matches(['…', ' ']))))
        .collect();
    assert!(unknown.is_empty(), "printed nowhere: {unknown:#?}");
    for phrase in PHRASES {
        assert!(quoted.iter().any(|message| message.starts_with(phrase)), "{phrase:?} has no entry");
    }
    let short: Vec<_> = quoted.iter().filter(|message| message.trim_matches(['…', ' ']).len() < 12).collect();
    assert!(short.is_empty(), "too short to mean one message: {short:?}");
}

#[tokio::test]
async fn every_command_of_the_pages_is_one_that_its_program_takes() {
    let commands =
        [PAGE, "docs/sources.md"].iter().flat_map(|path| commands_in(&page(path))).collect::<Vec<_>>();
    assert!(commands.len() > 40, "{commands:?}");
    let folder = tempfile::tempdir().expect("a folder");
    let refused = refused_by_parser(&commands, folder.path()).await;
    assert!(refused.is_empty(), "{refused:#?}");
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_found() {
    let commands =
        ["syncdata-applier resync --nope".to_owned(), "syncdata-archiver declare-gap --upto x".to_owned()];
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(refused_by_parser(&commands, folder.path()).await.len(), 2);
}
