//! An archive behind SFTP that the archiver made and signed, and what somebody may do to its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use syncdata_formats::digest::Digest;
use syncdata_tests::World;
use syncdata_tests::program::Finished;

pub(crate) const SEGMENTS: usize = 5;

/// The archive, and a copy of it from before the damage.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) sound: tempfile::TempDir,
}

impl Scene {
    pub(crate) async fn start() -> Scene {
        let mut world = World::start().await;
        let key = world.folder().join("key");
        world.archiver(["keygen", key.to_str().expect("plain")]).succeed().await;
        world.set_archiver("signing_key", key.to_str().expect("plain"));
        world.source.execute("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
        world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
        for id in 1..=SEGMENTS {
            world.source.execute(&format!("INSERT INTO t VALUES ({id}, repeat(md5('{id}'), 20))")).await;
            world.archiver(["run", "--once"]).succeed().await;
        }
        let sound = tempfile::tempdir().expect("a folder");
        copy(world.archive_dir(), &sound.path().join("archive"));
        Scene { world, sound }
    }

    fn public_key(&self) -> String {
        self.world.folder().join("key.pub").to_str().expect("plain").to_owned()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.world.archive_dir()
    }

    pub(crate) fn restore(&self) {
        for entry in fs::read_dir(self.dir()).expect("the archive") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("ours");
        }
        copy(&self.sound.path().join("archive"), self.dir());
    }

    pub(crate) fn manifests(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(self.dir().join("segments"))
            .expect("segments")
            .flat_map(|day| fs::read_dir(day.expect("a day").path()).expect("a day's folder"))
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.to_string_lossy().ends_with(".manifest.json"))
            .collect();
        found.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
        found
    }

    /// Of the segment with that number.
    pub(crate) fn manifest(&self, seq: usize) -> PathBuf {
        self.manifests()[seq - 1].clone()
    }

    pub(crate) fn changes(&self, seq: usize) -> PathBuf {
        beside(&self.manifest(seq), ".jsonl.zst")
    }

    pub(crate) fn signature(&self, seq: usize) -> PathBuf {
        beside(&self.manifest(seq), ".manifest.json.minisig")
    }

    pub(crate) fn head(&self) -> PathBuf {
        self.dir().join("head.json")
    }

    /// Changes manifests and makes everything that names them right again, as somebody would who knows the format.
    pub(crate) fn rewrite(&self, edit: impl Fn(usize, &mut Value)) {
        let mut previous = Value::Null;
        for (place, path) in self.manifests().iter().enumerate() {
            let mut manifest = document(path);
            if place > 0 {
                manifest["previous"] = previous;
            }
            edit(place + 1, &mut manifest);
            previous = json!({"seq": place + 1, "sha256": write_document(path, &manifest)});
        }
        self.name_in_head(&previous["sha256"]);
    }

    /// The newest manifest with these bytes, and a head that names them.
    pub(crate) fn replace_newest(&self, bytes: &[u8]) {
        fs::write(self.manifest(SEGMENTS), bytes).expect("ours");
        self.name_in_head(&json!(Digest::of(bytes).to_string()));
    }

    fn name_in_head(&self, sha256: &Value) {
        let mut head = document(&self.head());
        head["sha256"] = sha256.clone();
        forget_recent(&mut head);
        write_document(&self.head(), &head);
    }

    /// Segment 3 with that change file, for which its manifest vouches.
    pub(crate) fn vouch(&self, file: &[u8], content_bytes: u64, content_sha256: &str) {
        fs::write(self.changes(3), file).expect("ours");
        self.rewrite(|seq, manifest| {
            if seq == 3 {
                manifest["bytes"] = json!(file.len());
                manifest["sha256"] = json!(Digest::of(file).to_string());
                manifest["content_bytes"] = json!(content_bytes);
                manifest["content_sha256"] = json!(content_sha256);
            }
        });
    }

    pub(crate) async fn verify(&self, keys: bool, arguments: &[&str]) -> Finished {
        let all = [&["verify", "--json"], arguments].concat();
        let program = self.world.applier(all);
        if keys { program.env("SYNCDATA_VERIFY_KEY", self.public_key()) } else { program }.run().await
    }

    /// There is a problem of that verdict in a file whose path has that part.
    pub(crate) async fn finds(&self, what: &str, keys: bool, verdict: &str, file: &str) {
        let finished = self.verify(keys, &[]).await;
        assert_eq!(finished.code(), Some(1), "{what}: {finished}");
        let report = finished.json();
        let mut problems = report["problems"].as_array().expect("a list").iter();
        let is_it = |problem: &Value| {
            problem["verdict"] == verdict
                && problem["file"].as_str().is_some_and(|found| found.contains(file))
        };
        assert!(problems.any(is_it), "{what}: no {verdict} {file} in {report:#}");
    }

    pub(crate) async fn is_sound(&self, what: &str, keys: bool) -> Value {
        let finished = self.verify(keys, &[]).await;
        assert_eq!(finished.code(), Some(0), "{what}: {finished}");
        finished.json()
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("ours");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("ours");
        }
    }
}

pub(crate) fn beside(manifest: &Path, ending: &str) -> PathBuf {
    let name = manifest.file_name().expect("a name").to_string_lossy().replace(".manifest.json", ending);
    manifest.with_file_name(name)
}

pub(crate) fn document(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("the file")).expect("a document")
}

pub(crate) fn write_document(path: &Path, value: &Value) -> String {
    let bytes = format!("{value}\n").into_bytes();
    fs::write(path, &bytes).expect("ours");
    Digest::of(&bytes).to_string()
}

pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

pub(crate) fn append(path: &Path, more: &[u8]) {
    fs::write(path, [fs::read(path).expect("there"), more.to_vec()].concat()).expect("ours");
}

pub(crate) fn zero(path: &Path) {
    let bytes = usize::try_from(fs::metadata(path).expect("there").len()).expect("small");
    fs::write(path, vec![0; bytes]).expect("ours");
}

/// What the zstd of an operator makes of that script's output.
pub(crate) fn zstd(script: &str) -> Vec<u8> {
    let made = Command::new("bash").args(["-c", script]).output().expect("bash and zstd are installed");
    assert!(made.status.success(), "{script}: {}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// The newest segments that a head may name beside the newest: a hint, which a head that was put together need not have.
pub(crate) fn forget_recent(head: &mut Value) {
    head.as_object_mut().expect("a head is an object").remove("recent");
}
