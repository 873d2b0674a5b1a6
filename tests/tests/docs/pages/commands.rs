//! Commands that stand in a page, and whether our programs know them.

use std::path::Path;

use syncdata_tests::Program;

use super::{blocks, code_spans};

const PROGRAMS: [&str; 2] = ["syncdata-archiver", "syncdata-applier"];

/// Lines of shell blocks and spans of prose that begin with a program of ours and have a word more.
pub(crate) fn commands_in(page: &str) -> Vec<String> {
    let lines = blocks(page).into_iter().filter(|block| block.kind == "sh").flat_map(|block| block.lines);
    let is_ours = |line: &&str| {
        PROGRAMS.iter().any(|program| line.strip_prefix(program).is_some_and(|rest| rest.starts_with(' ')))
    };
    // What another program is given of it is not ours.
    let ours = |line: &str| line.split(" | ").next().unwrap_or(line).to_owned();
    lines.chain(code_spans(page)).filter(is_ours).map(ours).collect()
}

/// Runs each as far as its settings file, which is not there: whatever the parser refuses ends before that. Says what
/// was printed by those that it refused.
pub(crate) async fn refused_by_parser(commands: &[String], folder: &Path) -> Vec<String> {
    let mut refused = Vec::new();
    for command in commands {
        let mut words = words(command).into_iter();
        let name = words.next().expect("a command has a first word");
        let name = PROGRAMS.into_iter().find(|program| *program == name).expect("chosen by its name");
        let none = format!("--config={}", folder.join("none.toml").display());
        let arguments = std::iter::once(none).chain(words);
        let finished = Program::new(name, arguments, folder).env("HOME", folder).run().await;
        if !finished.stderr.contains("reading the settings file") {
            refused.push(finished.to_string());
        }
    }
    refused
}

/// As a shell takes a plain command apart: quotes, and a comment at the end.
fn words(command: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut word, mut quote): (Option<String>, Option<char>) = (None, None);
    for c in command.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    assert!(quote.is_none(), "a quote is not closed: {command}");
    words.extend(word);
    words
}

#[test]
fn a_command_is_taken_apart_as_a_shell_does() {
    assert_eq!(words("a 'b c'  --x=\"\" # no"), ["a", "b c", "--x="]);
}

#[test]
fn commands_stand_in_blocks_and_in_prose() {
    let page = "`syncdata-applier` and `syncdata-applier sync`\n```sh\nsyncdata-archiver run\nls\n```\n";
    assert_eq!(commands_in(page), ["syncdata-archiver run", "syncdata-applier sync"]);
}
