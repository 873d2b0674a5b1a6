//! Every line with which a doctor warns or fails is seen in a scenario that breaks that thing: of each message some words
//! stand in a test.

use std::fs;
use std::path::{Path, PathBuf};

/// Whatever finds something: the doctors, and `setup`.
const FINDERS: [&str; 4] = ["archiver/src", "applier/src", "shared/service/src", "shared/archive/src"];

/// So many letters of a message are no accident.
const WINDOW: usize = 14;

fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut files: Vec<PathBuf> =
        entries.flat_map(|entry| rust_files(&entry.expect("an entry").path())).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "rs"));
    files
}

/// Words that go on in the next line are on one.
fn read(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a source");
    let mut joined = String::new();
    for part in text.split("\\\n") {
        joined.push_str(if joined.is_empty() { part } else { part.trim_start() });
    }
    joined
}

/// The string literals of a piece of Rust, in order.
fn literals(code: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), code);
    while let Some(begin) = rest.find('"') {
        rest = &rest[begin + 1..];
        let mut is_escaped = false;
        let end = rest.find(|c| {
            let ends = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            ends
        });
        let end = end.expect("a literal ends");
        found.push(rest[..end].to_owned());
        rest = &rest[end + 1..];
    }
    found
}

/// What stands between the parentheses that `code` begins with.
fn arguments(code: &str) -> &str {
    let (mut depth, mut is_text, mut is_escaped) = (0, false, false);
    for (at, c) in code.char_indices() {
        match c {
            '"' if !is_escaped => is_text = !is_text,
            '(' if !is_text => depth += 1,
            ')' if !is_text => depth -= 1,
            _ => {}
        }
        is_escaped = is_text && c == '\\' && !is_escaped;
        if depth == 0 {
            return &code[..=at];
        }
    }
    code
}

/// The messages of the calls that warn or fail.
fn messages(code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    for call in ["Finding::warn(", "Finding::fail("] {
        for (at, _) in code.match_indices(call) {
            let arguments = arguments(&code[at + call.len() - 1..]);
            let mut words = literals(arguments);
            if arguments.trim_start_matches(['(', ' ', '\n']).starts_with('"') {
                // The subject.
                words.remove(0);
            }
            // Else they were put together before.
            let before = code[..at].rfind("format!(").map(|begin| &code[begin + "format!".len()..]);
            let before = before.and_then(|code| literals(self::arguments(code)).into_iter().next());
            found.extend(words.into_iter().next().or(before));
        }
    }
    found
}

/// Pieces between what differs from case to case.
fn is_seen(message: &str, tests: &str) -> bool {
    let pieces = message.split(['{', '}']).step_by(2).map(|piece| piece.replace("\\\"", "\""));
    let pieces: Vec<Vec<char>> = pieces.map(|piece| piece.chars().collect()).collect();
    let longest = pieces.iter().map(Vec::len).max().unwrap_or(0);
    let window = WINDOW.min(longest);
    pieces
        .iter()
        .flat_map(|piece| piece.windows(window.max(1)))
        .any(|window| tests.contains(&window.iter().collect::<String>()))
}

#[test]
fn every_line_of_the_doctors_is_produced_by_a_test() {
    let tests = rust_files(&in_project("tests/tests"));
    let tests: String =
        tests.iter().filter(|file| !file.ends_with("docs/doctor.rs")).map(|file| read(file)).collect();
    // As it is said, and as a literal that quotes it.
    let tests = tests.replace("\\\"", "\"");
    let files: Vec<PathBuf> = FINDERS.iter().flat_map(|path| rust_files(&in_project(path))).collect();
    let all: Vec<(PathBuf, String)> = files
        .into_iter()
        .flat_map(|file| messages(&read(&file)).into_iter().map(move |message| (file.clone(), message)))
        .collect();
    assert!(all.len() > 40, "{all:?}");
    let unseen: Vec<&(PathBuf, String)> =
        all.iter().filter(|(_, message)| !is_seen(message, &tests)).collect();
    assert!(unseen.is_empty(), "no test breaks what these lines name: {unseen:#?}");
}

#[test]
fn messages_are_found_wherever_they_are_put_together() {
    let code = r#"
        Finding::warn("key", format!("{}: the (odd) \"key\" of {name}", 7)).remedy("run it");
        let message = format!("{table} went away at {}", now());
        Finding::fail(SUBJECT, message).remedy("bring it back");
        #[cfg(test)] Finding::fail("x", "y")"#;
    let found = messages(code);
    assert_eq!(found, [r#"{}: the (odd) \"key\" of {name}"#, "{table} went away at {}"]);
    assert!(is_seen(&found[0], "a test says: the (odd) \"key\" of users"));
    assert!(!is_seen(&found[1], "another test"));
}
