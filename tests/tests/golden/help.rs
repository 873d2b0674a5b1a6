//! Help and manual pages of both programs. The commands are those that the program lists itself.

use std::path::Path;

use expect_test::{ExpectFile, expect_file};
use syncdata_tests::Program;

async fn print(program: &'static str, arguments: &[&str], folder: &Path) -> String {
    Program::new(program, arguments, folder).env("HOME", folder).succeed().await.stdout
}

/// The names below "Commands:".
fn commands(help: &str) -> Vec<&str> {
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next()).collect()
}

async fn check_help(program: &'static str, expected: ExpectFile) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let help = print(program, &["--help"], folder.path()).await;
    let mut all = help.clone();
    for command in commands(&help) {
        all.push_str(&format!("\n==== {command}\n"));
        all.push_str(&print(program, &["help", command], folder.path()).await);
    }
    expected.assert_eq(&all);
}

async fn check_manual(program: &'static str, expected: ExpectFile) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let page = print(program, &["man"], folder.path()).await;
    expected.assert_eq(&page.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[tokio::test]
async fn help_of_every_command_is_as_it_was() {
    check_help("syncdata-applier", expect_file!["files/applier-help.txt"]).await;
    check_help("syncdata-archiver", expect_file!["files/archiver-help.txt"]).await;
}

#[tokio::test]
async fn manual_pages_are_as_they_were() {
    check_manual("syncdata-applier", expect_file!["files/applier-man.txt"]).await;
    check_manual("syncdata-archiver", expect_file!["files/archiver-man.txt"]).await;
}
