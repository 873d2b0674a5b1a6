//! The rooms of a program, and which of them may know which: edges run one way, from the command line down to the
//! shared crates. A stranger who reads a room has to read only what lies below it. And of files, none that know each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the top to the bottom. A room knows those of later lines, and none beside it or above it.
const ARCHIVER: &[&[&str]] = &[
    &["program"],
    &["operations"],
    &["proof"],
    &["poll", "snapshot", "prune", "rollup"],
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

/// What documents are made of lies below them; a mark is part of a segment's manifest, so proofs lie below those.
const FORMATS: &[&[&str]] = &[
    &["floor", "ack", "head", "identity", "rollup"],
    &["chain", "segment"],
    &["manifest"],
    &["proof"],
    &["snapshot"],
    &["relation", "frame", "change"],
    &["layout", "tar"],
    &["lsn", "time", "digest", "name", "types", "signature"],
    &["json", "printed"],
    &["document", "number"],
    &["error"],
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
fn every_edge_of_the_formats_runs_down() {
    assert_runs_down("shared/formats", FORMATS);
}

#[test]
fn the_map_names_every_room() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md"))
        .expect("the map");
    for program in ["archiver", "applier", "shared/formats", "shared/service", "shared/archive"] {
        for room in
            fs::read_dir(sources(program)).expect("the sources").map(|entry| entry.expect("an entry").path())
        {
            let name = room.file_stem().expect("a name").to_string_lossy().into_owned();
            let is_named = ["lib", "main"].contains(&name.as_str())
                || is_of_tests(&room)
                || [format!("`{name}`"), format!("`{name}/`"), format!("/{name}`"), format!("/{name}/`")]
                    .iter()
                    .any(|written| map.contains(written));
            assert!(is_named, "{program}: the code map of ARCHITECTURE.md does not say what `{name}` holds");
        }
    }
}

#[test]
fn no_two_files_know_each_other() {
    for program in ["archiver", "applier", "shared/formats", "shared/service", "shared/archive"] {
        let found = circles(&modules_of(&sources(program)));
        assert!(found.is_empty(), "{program}: files that know each other: {}", found.join(", "));
    }
}

#[test]
fn files_that_know_each_other_are_named() {
    let modules = [
        ("a", "use super::b::{self, Thing};"),
        ("b", "use crate::{\n    c::d,\n    e,\n};"),
        ("c", "use self::d::Part;"),
        ("c::d", "use super::Whole;\nfn f() { crate::a::go() }"),
        ("e", "// crate::a::prose\n#[cfg(test)]\nmod tests { use crate::a; }"),
    ];
    let modules = modules.map(|(name, code)| (name.to_owned(), code.to_owned()));
    // `c` and `c::d` are one thing in two files.
    assert_eq!(circles(&modules.into()), ["a -> b", "b -> c::d", "c::d -> a"]);
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
    let first = |edge: &Edge| order[1].contains(&edge.to.as_str()) || order[2].contains(&edge.to.as_str());
    assert!(edges.iter().any(first), "nothing was read");
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
    let root = sources(program);
    let mut edges = Vec::new();
    for room in fs::read_dir(&root).expect("the sources").map(|entry| entry.expect("an entry").path()) {
        let from = room.file_stem().expect("a name").to_string_lossy().into_owned();
        // The map, which names its rooms.
        if from == "main" || from == "lib" || is_of_tests(&room) {
            continue;
        }
        for file in files_in(&room).into_iter().filter(|file| !is_of_tests(file)) {
            let text = fs::read_to_string(&file).expect("a source file");
            let others = rooms_named_in(&text).filter(|(_, to)| *to != from);
            edges.extend(others.map(|(line, to)| Edge { from: from.clone(), to, file: file.clone(), line }));
        }
    }
    edges
}

fn sources(program: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(program).join("src")
}

fn is_of_tests(file: &Path) -> bool {
    let name = file.file_stem().expect("a name");
    ["tests", "sample", "fuzz"].iter().any(|of_tests| name == *of_tests)
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

/// The code of every file, by the path of its module.
fn modules_of(root: &Path) -> BTreeMap<String, String> {
    let mut modules = BTreeMap::new();
    for file in files_in(root).into_iter().filter(|file| !is_of_tests(file)) {
        let below = file.strip_prefix(root).expect("a file of it").with_extension("");
        let mut path: Vec<_> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        path.retain(|part| part != "mod");
        // The root names its rooms, and is known by none.
        if !["lib", "main"].contains(&path.join("::").as_str()) {
            modules.insert(path.join("::"), fs::read_to_string(&file).expect("a source file"));
        }
    }
    modules
}

/// The edges that lead in a circle. A type and the files of its own folder that read, check or write it are one thing.
fn circles(modules: &BTreeMap<String, String>) -> Vec<String> {
    let is_part =
        |part: &str, whole: &str| part.strip_prefix(whole).is_some_and(|rest| rest.starts_with("::"));
    let mut edges: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (from, code) in modules {
        for path in paths_in(code, from) {
            let named =
                (1..=path.len()).rev().find_map(|length| modules.get_key_value(&path[..length].join("::")));
            if let Some((to, _)) = named
                && to != from
                && !is_part(to, from)
                && !is_part(from, to)
            {
                edges.insert((from, to));
            }
        }
    }
    // A file that knows no other is in no circle, and then neither is the edge to it; the same of one that nobody knows.
    loop {
        let before = edges.len();
        let known: BTreeSet<&str> = edges.iter().map(|(_, to)| *to).collect();
        let knowing: BTreeSet<&str> = edges.iter().map(|(from, _)| *from).collect();
        edges.retain(|(from, to)| known.contains(from) && knowing.contains(to));
        if edges.len() == before {
            return edges.iter().map(|(from, to)| format!("{from} -> {to}")).collect();
        }
    }
}

/// Every path that begins with `crate`, `super` or `self`, from the root on; of a list in braces, one for each.
fn paths_in(code: &str, of: &str) -> Vec<Vec<String>> {
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = lines.collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            if !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
                let text = &code[at..];
                found.extend(spelled_out(text).into_iter().map(|path| from_root(&path, of)));
            }
        }
    }
    found
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`, as far as it is a path.
fn spelled_out(text: &str) -> Vec<String> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let (head, rest) = text.split_at(end);
    let Some(list) = rest.strip_prefix('{').filter(|_| head.ends_with("::")) else {
        return vec![head.to_owned()];
    };
    let list = list.split(['}', ';']).next().unwrap_or_default();
    list.split([',', '{']).map(|item| format!("{head}{}", item.trim())).collect()
}

fn from_root(path: &str, of: &str) -> Vec<String> {
    let mut at: Vec<&str> = of.split("::").collect();
    for part in path.split("::") {
        match part {
            "crate" => at.clear(),
            "super" => drop(at.pop()),
            "self" | "" => {}
            name => at.push(name),
        }
    }
    at.into_iter().map(str::to_owned).collect()
}
