//! A production server with tables and a slot, and what its archive says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;
use syncdata_tests::world::{World, WorldOptions};
use toml::{Table, Value};

use crate::reader::{self, Segment};

pub(crate) const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";

pub(crate) async fn world(schema: &str) -> World {
    world_with(WorldOptions::default(), schema).await
}

pub(crate) async fn world_with(options: WorldOptions, schema: &str) -> World {
    let world = options.start().await;
    world.source.execute(schema).await;
    world.make_slot().await;
    world
}

/// One poll that finds nothing wrong; all segments of the archive after it.
pub(crate) async fn poll(world: &World) -> Vec<Segment> {
    world.archiver(["run", "--once"]).succeed().await;
    reader::segments(world.archive_dir())
}

/// One poll, and the shapes of the lines that it added.
pub(crate) async fn news(world: &World) -> Vec<String> {
    let before = shapes(&reader::segments(world.archive_dir())).len();
    shapes(&poll(world).await).split_off(before)
}

pub(crate) fn shapes(segments: &[Segment]) -> Vec<String> {
    segments.iter().flat_map(|segment| &segment.lines).map(|line| Line::parse(line).shape()).collect()
}

/// A segment whose manifest says that changes of exactly these tables are missing.
pub(crate) fn gaps(segments: &[Segment]) -> Vec<String> {
    let gaps = segments.iter().filter_map(|segment| segment.manifest["gaps"].as_array()).flatten();
    gaps.map(|gap| gap["tables"].to_string()).collect()
}

/// Every gap of the archive: `orders: partition changed`.
pub(crate) fn gaps_with_reasons(world: &World) -> BTreeSet<String> {
    let segments = reader::segments(world.archive_dir());
    let gaps = segments.iter().filter_map(|segment| segment.manifest["gaps"].as_array()).flatten();
    let words = |gap: &serde_json::Value| {
        let reason = gap["reason"].as_str().expect("a reason").to_owned();
        let tables = gap["tables"].as_array().cloned().unwrap_or_default();
        let words = move |table: &serde_json::Value| format!("{}: {reason}", table.as_str().expect("a name"));
        tables.iter().map(words).collect::<Vec<_>>()
    };
    gaps.flat_map(words).collect()
}

/// The archiver's settings with changes, in a file of their own. An empty value takes a setting out.
pub(crate) fn settings(world: &World, name: &str, changes: &[(&str, &str)]) -> PathBuf {
    let text = std::fs::read_to_string(world.archiver_config()).expect("the world wrote it");
    let mut settings: Table = text.parse().expect("the world wrote TOML");
    for (key, value) in changes {
        settings.remove(*key);
        if !value.is_empty() {
            settings.insert((*key).to_owned(), Value::from(*value));
        }
    }
    let path = world.folder().join(name);
    write_private(&path, &settings.to_string());
    path
}

pub(crate) fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("the world's folder is writable");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).expect("the file is ours");
}

/// A line of a change file; values keep the text that they have there.
#[derive(Debug)]
pub(crate) struct Line(BTreeMap<String, Box<RawValue>>);

impl Line {
    pub(crate) fn parse(text: &str) -> Line {
        Line(serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    /// A value as JSON text; empty when it is absent.
    pub(crate) fn raw(&self, key: &str) -> &str {
        self.0.get(key).map_or("", |value| value.get())
    }

    /// A string without its quotes.
    pub(crate) fn word(&self, key: &str) -> &str {
        self.raw(key).trim_matches('"')
    }

    pub(crate) fn table(&self) -> String {
        serde_json::from_str(self.raw("table")).expect("a table's name is a string")
    }

    pub(crate) fn data(&self) -> BTreeMap<String, Box<RawValue>> {
        serde_json::from_str(self.raw("data")).expect("data is an object")
    }

    /// Without what differs from run to run.
    pub(crate) fn shape(&self) -> String {
        if self.word("op") == "COMMIT" {
            return format!("COMMIT {}", self.raw("changes"));
        }
        let mut shape = format!("{} {}", self.table(), self.word("op"));
        for (prefix, key) in [("", "data"), ("old ", "old_keys")] {
            if self.0.contains_key(key) {
                shape.push_str(&format!(" {prefix}{}", self.raw(key)));
            }
        }
        shape
    }
}

pub(crate) fn listing(tables: &[&str]) -> WorldOptions {
    let tables: Vec<Value> = tables.iter().map(|&table| table.into()).collect();
    WorldOptions::default().archiver_setting("tables", tables)
}

/// A poll that finds a gap: the tables of all gaps so far.
pub(crate) async fn poll_with_gap(world: &World) -> Vec<String> {
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    gaps(&reader::segments(world.archive_dir()))
}
