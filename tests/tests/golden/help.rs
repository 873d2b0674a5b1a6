//! Help, manual pages and what bash is told of both programs. The commands are those that the program lists itself, and what they list again;
//! and the one that only units know.

use std::path::Path;

use expect_test::{ExpectFile, expect_file};
use syncdata_tests::Program;

async fn print(program: &'static str, arguments: &[&str], folder: &Path) -> String {
    Program::new(program, arguments, folder).env("HOME", folder).succeed().await.stdout
}

/// The names below "Commands:"; most commands have none.
fn commands(help: &str) -> Vec<&str> {
    let (_, list) = help.split_once("Commands:\n").unwrap_or_default();
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next()).collect()
}

async fn check_help(program: &'static str, expected: ExpectFile) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut all = print(program, &["--help"], folder.path()).await;
    let mut left: Vec<String> = commands(&all).into_iter().rev().map(str::to_owned).collect();
    left.insert(0, "daemon-ended".to_owned());
    while let Some(command) = left.pop() {
        let words: Vec<&str> = std::iter::once("help").chain(command.split(' ')).collect();
        let help = print(program, &words, folder.path()).await;
        // Help about help would list itself for ever.
        let below = if command.ends_with("help") { Vec::new() } else { commands(&help) };
        left.extend(below.into_iter().rev().map(|below| format!("{command} {below}")));
        all.push_str(&format!("\n==== {command}\n{help}"));
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
async fn completions_are_as_they_were() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let applier = print("syncdata-applier", &["completions", "bash"], folder.path()).await;
    expect_file!["files/applier-completions.txt"].assert_eq(&applier);
    let archiver = print("syncdata-archiver", &["completions", "bash"], folder.path()).await;
    expect_file!["files/archiver-completions.txt"].assert_eq(&archiver);
}

#[tokio::test]
async fn manual_pages_are_as_they_were() {
    check_manual("syncdata-applier", expect_file!["files/applier-man.txt"]).await;
    check_manual("syncdata-archiver", expect_file!["files/archiver-man.txt"]).await;
}
