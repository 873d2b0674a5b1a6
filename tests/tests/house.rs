//! The rooms of a program, and which of them may know which: edges run one way, from the command line down to the
//! shared crates. A stranger who reads a room has to read only what lies below it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the top to the bottom. A room knows those of later lines, and none beside it or above it.
const ARCHIVER: &[&[&str]] = &[
    &["program"],
    &["operations"],
    &["proof"],
    &["poll", "snapshot", "prune"],
    &["ship", "segment"],
    &["spool", "source"],
    &["capture"],
];

/// Passes load what waits for a base beside them, and a replay begins with one: a load lies below both.
const APPLIER: &[&[&str]] = &[
    &["program"],
    &["operations"],
    &["pass", "history"],
    &["proof"],
    &["load"],
    &["apply"],
    &["target", "archive"],
    &["plan"],
    &["batch"],
    &["table"],
];

#[test]
fn every_edge_of_the_archiver_runs_down() {
    assert_runs_down("archiver", ARCHIVER);
}

#[test]
fn every_edge_of_the_applier_runs_down() {
    assert_runs_down("applier", APPLIER);
}

#[test]
fn an_edge_upwards_or_to_a_neighbour_is_named() {
    let edge = |from: &str, to: &str| Edge {
        from: from.to_owned(),
        to: to.to_owned(),
        file: PathBuf::from("a.rs"),
        line: 7,
    };
    assert_eq!(objection(ARCHIVER, &edge("poll", "ship")), None);
    for (from, to) in [("ship", "poll"), ("poll", "snapshot"), ("spool", "cellar"), ("attic", "spool")] {
        let says = objection(ARCHIVER, &edge(from, to)).expect("an objection");
        assert!(says.contains(from) && says.contains(to) && says.contains("a.rs:7"), "{says}");
    }
}

#[test]
fn edges_are_found_wherever_they_stand() {
    let text = "use crate::poll::{a, b};\n// crate::prose\n  crate::spool::take(); crate::ship::it()\n";
    let found: Vec<(usize, String)> = rooms_named_in(text).collect();
    let expected = [(1, "poll"), (3, "spool"), (3, "ship")];
    assert_eq!(found, expected.map(|(line, room)| (line, room.to_owned())));
}

#[derive(Debug)]
struct Edge {
    from: String,
    to: String,
    file: PathBuf,
    line: usize,
}

fn assert_runs_down(program: &str, order: &[&[&str]]) {
    let edges = edges_of(program);
    assert!(edges.iter().any(|edge| edge.from == "program" && edge.to == "operations"), "nothing was read");
    let wrong: Vec<String> = edges.iter().filter_map(|edge| objection(order, edge)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with an edge, in words.
fn objection(order: &[&[&str]], edge: &Edge) -> Option<String> {
    let Edge { from, to, file, line } = edge;
    let floor_of = |room: &str| order.iter().position(|rooms| rooms.contains(&room));
    let place = format!("{}:{line}", file.display());
    match (floor_of(from), floor_of(to)) {
        (Some(above), Some(below)) if above < below => None,
        (Some(_), Some(_)) => Some(format!("{place}: {from} uses {to}, which is not below it")),
        _ => Some(format!(
            "{place}: {from} uses {to}: a room without a place in the order (tests/tests/house.rs)"
        )),
    }
}

fn edges_of(program: &str) -> Vec<Edge> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(program).join("src");
    let mut edges = Vec::new();
    for room in fs::read_dir(&root).expect("the sources").map(|entry| entry.expect("an entry").path()) {
        let from = room.file_stem().expect("a name").to_string_lossy().into_owned();
        // The map, which names its rooms.
        if from == "main" || from == "lib" {
            continue;
        }
        for file in files_in(&room) {
            let text = fs::read_to_string(&file).expect("a source file");
            let others = rooms_named_in(&text).filter(|(_, to)| *to != from);
            edges.extend(others.map(|(line, to)| Edge { from: from.clone(), to, file: file.clone(), line }));
        }
    }
    edges
}

fn files_in(path: &Path) -> BTreeSet<PathBuf> {
    if path.is_file() {
        return [path.to_owned()].into();
    }
    let entries = fs::read_dir(path).expect("a folder");
    entries.flat_map(|entry| files_in(&entry.expect("an entry").path())).collect()
}

/// Every `crate::room`, with the number of its line.
fn rooms_named_in(text: &str) -> impl Iterator<Item = (usize, String)> {
    let code = text.lines().zip(1..).filter(|(line, _)| !line.trim_start().starts_with("//"));
    code.flat_map(|(line, number)| {
        let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
        line.split("crate::").skip(1).map(move |rest| {
            let room: String = rest.chars().take_while(is_name).collect();
            assert!(!room.is_empty(), "line {number}: one `use` for each room, please: {line}");
            (number, room)
        })
    })
}
