//! Reads an archive as an auditor does: with stock tools, and without the programs under test.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// One segment as it lies on the backup host.
#[derive(Debug)]
pub(crate) struct Segment {
    pub manifest: Value,
    pub lines: Vec<String>,
}

/// All segments in order. Sizes, digests and links are checked with the tools of an operator on the way.
pub(crate) fn segments(archive: &Path) -> Vec<Segment> {
    let mut previous = Value::Null;
    let mut segments = Vec::new();
    for path in manifests(archive) {
        let manifest = json(&path);
        assert_eq!(manifest["previous"], previous, "{}", path.display());
        previous = serde_json::json!({"seq": manifest["seq"], "sha256": sha256sum(&path)});
        let lines = match manifest["file"].as_str() {
            Some(file) => lines(&path.with_file_name(file), &manifest),
            None => Vec::new(),
        };
        segments.push(Segment { manifest, lines });
    }
    segments
}

/// The files of all manifests, in order.
pub(crate) fn manifests(archive: &Path) -> Vec<PathBuf> {
    let mut manifests: Vec<PathBuf> = Vec::new();
    for day in list(&archive.join("segments")) {
        manifests
            .extend(list(&day).into_iter().filter(|path| path.to_string_lossy().ends_with(".manifest.json")));
    }
    manifests.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
    manifests
}

pub(crate) fn last_manifest(archive: &Path) -> Option<Value> {
    manifests(archive).last().map(|path| json(path))
}

pub(crate) fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the file is there");
    serde_json::from_str(&text).expect("the file is JSON")
}

fn lines(path: &Path, manifest: &Value) -> Vec<String> {
    assert_eq!(manifest["sha256"], sha256sum(path), "{}", path.display());
    assert_eq!(manifest["bytes"], std::fs::metadata(path).expect("the file is there").len());
    let output = Command::new("zstdcat").arg(path).output().expect("zstdcat is installed");
    assert!(output.status.success(), "zstdcat {}", path.display());
    assert_eq!(manifest["content_bytes"], output.stdout.len());
    String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
}

fn sha256sum(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum is installed");
    assert!(output.status.success(), "sha256sum {}", path.display());
    String::from_utf8_lossy(&output.stdout).split(' ').next().expect("a digest").to_owned()
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the folder can be listed").path()).collect();
    paths.sort();
    paths
}
