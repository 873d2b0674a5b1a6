//! What the sources can print: their string literals, with `…` for what is filled in.

use std::fs;
use std::path::Path;

use super::workspace;

const SOURCES: [&str; 5] =
    ["shared/formats/src", "shared/service/src", "shared/archive/src", "archiver/src", "applier/src"];

/// Every literal of the programs' sources, tests left out.
pub(crate) fn printed_by_the_sources() -> Vec<String> {
    let mut found = Vec::new();
    for folder in SOURCES {
        collect(&workspace().join(folder), &mut found);
    }
    found
}

fn collect(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources can be listed") {
        let path = entry.expect("a folder of sources can be listed").path();
        let is_test =
            path.file_stem().is_some_and(|stem| ["tests", "sample", "fuzz"].iter().any(|name| stem == *name));
        if path.is_dir() && !is_test {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            let text = text.split("#[cfg(test)]\nmod tests {").next().expect("a split has a first part");
            found.extend(literals(text).iter().map(|literal| as_printed(literal)));
        }
    }
}

/// The contents of the string literals of a source file, as they are written there.
fn literals(mut text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    while let Some(at) = text.find(['"', '/', '\'']) {
        let rest = &text[at..];
        text = if rest.starts_with("//") {
            rest.split_once('\n').map_or("", |(_, rest)| rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") || rest.starts_with("'\\''") {
            &rest[rest[1..].find('\'').map_or(1, |end| end + 2)..]
        } else if rest.starts_with('"') && text[..at].ends_with("r#") {
            rest.split_once("\"#").map_or("", |(_, rest)| rest)
        } else if let Some(inside) = rest.strip_prefix('"') {
            let end = end_of_literal(inside);
            found.push(&inside[..end]);
            inside.get(end + 1..).unwrap_or_default()
        } else {
            &rest[1..]
        };
    }
    found
}

fn end_of_literal(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.find(|c| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    end.unwrap_or(text.len())
}

/// Escapes resolved, `{…}` replaced.
fn as_printed(literal: &str) -> String {
    let mut printed = String::new();
    let mut chars = literal.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                Some('n') => printed.push('\n'),
                Some(other) => printed.push(other),
                None => {}
            },
            '{' if chars.next_if_eq(&'{').is_some() => printed.push('{'),
            '}' if chars.next_if_eq(&'}').is_some() => printed.push('}'),
            '{' => {
                for inside in chars.by_ref() {
                    if inside == '}' {
                        break;
                    }
                }
                if !printed.ends_with('…') {
                    printed.push('…');
                }
            }
            c => printed.push(c),
        }
    }
    printed
}

#[test]
fn literals_are_read_as_they_are_printed() {
    let source = r##"// "no"
        let a = format!("segment {seq}{line}: \"{}\" is \
            gone {{}}", b); let c = '"'; let d = r#"raw"#; f("second")"##;
    let found: Vec<String> = literals(source).iter().map(|literal| as_printed(literal)).collect();
    assert_eq!(found, ["segment …: \"…\" is gone {}", "second"]);
}
