//! `verify` names every kind of damage, and finds nothing wrong with a sound archive.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use syncdata_tests::forge::{Forge, Forged};
use syncdata_tests::program::{Finished, Program};
use syncdata_tests::world::World;

/// An id that no forged archive has.
const OTHER_ARCHIVE: &str = "00000000-0000-4000-8000-000000000000";

/// Four segments of one table.
struct Archive {
    folder: tempfile::TempDir,
    segments: Vec<Forged>,
}

impl Archive {
    fn forged() -> Archive {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let dir = folder.path().join("archive");
        let mut forge = Forge::new(&dir);
        forge.relation("users", &["id bigint not null", "name text"], &["id"]);
        let segments = (1..=4)
            .map(|id| {
                let row =
                    format!(r#"{{"table":"users","op":"INSERT","data":{{"id":{id},"name":"some text"}}}}"#);
                forge.segment(&[vec![row.clone()], vec![row]])
            })
            .collect();
        Archive { folder, segments }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    fn archive_id(&self) -> String {
        let identity = fs::read(self.dir().join("archive.json")).expect("the forge wrote it");
        let identity: Value = serde_json::from_slice(&identity).expect("a document");
        text(&identity["archive_id"])
    }

    async fn verify(&self, arguments: &[&str]) -> Finished {
        let all = [&["verify", "--json"], arguments].concat();
        Program::new("syncdata-archiver", all, self.folder.path())
            .env("SYNCDATA_ARCHIVE_DIR", self.dir())
            .run()
            .await
    }

    async fn problems(&self, arguments: &[&str]) -> Vec<(String, u64)> {
        let report = self.verify(arguments).await.expect_code(1).json();
        let problems = report["problems"].as_array().expect("a list of problems").iter();
        problems.map(|p| (text(&p["verdict"]), p["segment"].as_u64().unwrap_or(0))).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("the file is there");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("the file is ours");
}

fn append(path: &Path, more: &[u8]) {
    let bytes = [fs::read(path).expect("the file is there"), more.to_vec()].concat();
    fs::write(path, bytes).expect("the file is ours");
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("the file is there");
}

#[tokio::test]
async fn a_sound_archive_has_no_problems_and_its_counts_are_told() {
    let archive = Archive::forged();
    let report = archive.verify(&[]).await.expect_code(0).json();
    assert_eq!(report["sound"], true);
    assert_eq!(
        (&report["segments"], &report["records"], &report["transactions"]),
        (&4.into(), &8.into(), &8.into())
    );
    assert_eq!((&report["first_segment"], &report["last_segment"]), (&1.into(), &4.into()));
    assert_eq!(report["problems"], Value::Array(vec![]));
}

#[tokio::test]
async fn every_kind_of_damage_is_named_with_its_segment() {
    type Case = (&'static str, fn(&Archive), &'static [(&'static str, u64)]);
    let cases: &[Case] = &[
        ("a flipped bit in a change file", |a| flip(&a.segments[1].file, 40), &[("damaged", 2)]),
        ("bytes behind a change file", |a| append(&a.segments[1].file, b"\0"), &[("damaged", 2)]),
        (
            "two frames glued together",
            |a| {
                let twice = fs::read(&a.segments[1].file).expect("there");
                append(&a.segments[1].file, &twice);
            },
            &[("damaged", 2)],
        ),
        (
            "a cut change file",
            |a| {
                let bytes = fs::read(&a.segments[1].file).expect("there");
                fs::write(&a.segments[1].file, &bytes[..bytes.len() - 1]).expect("ours");
            },
            &[("damaged", 2)],
        ),
        (
            "a change file of zeros",
            |a| {
                let bytes = fs::metadata(&a.segments[3].file).expect("there").len();
                fs::write(&a.segments[3].file, vec![0; usize::try_from(bytes).expect("small")])
                    .expect("ours");
            },
            &[("damaged", 4)],
        ),
        ("a lost change file", |a| remove(&a.segments[2].file), &[("lost", 3)]),
        (
            "a manifest with another archive's id",
            |a| {
                let text = fs::read_to_string(&a.segments[1].manifest).expect("there");
                let ours = a.archive_id();
                assert!(text.contains(&ours), "the manifest names its archive");
                fs::write(&a.segments[1].manifest, text.replace(&ours, OTHER_ARCHIVE)).expect("ours");
            },
            &[("foreign", 2)],
        ),
        ("a flipped bit in a manifest", |a| flip(&a.segments[1].manifest, 0), &[("damaged", 2)]),
        (
            "a manifest that says something else",
            |a| {
                let text = fs::read_to_string(&a.segments[1].manifest).expect("there");
                fs::write(&a.segments[1].manifest, text.replace("15.18", "15.19")).expect("ours");
            },
            &[("foreign", 3)],
        ),
        (
            "a lost segment in the middle",
            |a| {
                remove(&a.segments[1].manifest);
                remove(&a.segments[1].file);
            },
            &[("lost", 2)],
        ),
        (
            "two lost segments in front",
            |a| {
                remove(&a.segments[0].manifest);
                remove(&a.segments[1].manifest);
            },
            &[("lost", 1), ("lost", 2)],
        ),
        ("a lost segment at the end", |a| remove(&a.segments[3].manifest), &[("lost", 4)]),
        ("archive.json gone", |a| remove(&a.dir().join("archive.json")), &[("lost", 0)]),
        ("archive.json damaged", |a| flip(&a.dir().join("archive.json"), 1), &[("damaged", 0)]),
        ("head.json damaged", |a| flip(&a.dir().join("head.json"), 1), &[("damaged", 0)]),
        (
            "damage in two places",
            |a| {
                flip(&a.segments[0].file, 30);
                remove(&a.segments[3].file);
            },
            &[("damaged", 1), ("lost", 4)],
        ),
    ];
    for (what, damage, problems) in cases {
        let archive = Archive::forged();
        damage(&archive);
        let found = archive.problems(&[]).await;
        let expected: Vec<(String, u64)> = problems.iter().map(|(v, s)| ((*v).to_owned(), *s)).collect();
        assert_eq!(found, expected, "{what}");
    }
}

#[tokio::test]
async fn a_segment_of_another_archive_and_a_rewritten_one_are_foreign() {
    let (archive, other) = (Archive::forged(), Archive::forged());
    for (from, to) in [
        (&other.segments[2].manifest, &archive.segments[2].manifest),
        (&other.segments[2].file, &archive.segments[2].file),
    ] {
        fs::copy(from, to).expect("both are ours");
    }
    let found = archive.problems(&[]).await;
    assert_eq!(found.first(), Some(&("foreign".to_owned(), 3)), "{found:?}");
}

#[tokio::test]
async fn leftovers_of_a_crash_are_notes() {
    let archive = Archive::forged();
    let day = archive.segments[0].file.parent().expect("a folder").to_owned();
    fs::write(day.join("0000000005-00000000016B9999.jsonl.zst.part"), "half").expect("ours");
    fs::write(day.join("0000000005-00000000016B9999.jsonl.zst"), "without a manifest").expect("ours");
    remove(&archive.dir().join("head.json"));
    let report = archive.verify(&[]).await.expect_code(0).json();
    assert_eq!(report["notes"].as_array().map(Vec::len), Some(3), "{report}");
}

#[tokio::test]
async fn quick_looks_at_manifests_and_sizes_only() {
    let archive = Archive::forged();
    flip(&archive.segments[1].file, 40);
    archive.verify(&["--quick"]).await.expect_code(0);
    append(&archive.segments[1].file, b"\0");
    assert_eq!(archive.problems(&["--quick"]).await, [("damaged".to_owned(), 2)]);
}

#[tokio::test]
async fn a_range_goes_by_number_day_or_time() {
    let archive = Archive::forged();
    flip(&archive.segments[0].file, 40);
    let segments = |report: Value| report["segments"].as_u64().expect("a count");
    assert_eq!(segments(archive.verify(&["--from", "2"]).await.expect_code(0).json()), 3);
    assert_eq!(segments(archive.verify(&["--from", "2", "--to", "4"]).await.expect_code(0).json()), 2);
    assert_eq!(segments(archive.verify(&["--from", "2026-02-06"]).await.expect_code(0).json()), 0);
    // Each segment holds two commits, a second apart, from 10:30:00 on.
    let late = archive.verify(&["--from", "2026-02-05T10:30:04Z"]).await.expect_code(0).json();
    assert_eq!(segments(late), 2);
    archive.verify(&["--from", "2026-02-05"]).await.expect_code(1);
    archive.verify(&["--from", "4", "--to", "2"]).await.expect_code(2);
}

#[tokio::test]
async fn manifests_are_verified_by_hand_without_an_archive() {
    let archive = Archive::forged();
    let path = |at: usize| archive.segments[at].manifest.to_str().expect("plain").to_owned();
    let by_hand = async |arguments: &[&str]| {
        let all = [&["verify", "--json"], arguments].concat();
        Program::new("syncdata-archiver", all, archive.folder.path()).run().await
    };
    by_hand(&[&path(1), &path(2)]).await.expect_code(0);
    flip(&archive.segments[2].file, 40);
    by_hand(&[&path(1)]).await.expect_code(0);
    by_hand(&[&path(1), &path(2)]).await.expect_code(1);
    by_hand(&["no-such.manifest.json"]).await.expect_code(1);
}

#[tokio::test]
async fn without_an_archive_nothing_can_be_said() {
    let empty = tempfile::tempdir().expect("a temporary folder can be made");
    let run = |dir: PathBuf| {
        Program::new("syncdata-archiver", ["verify"], empty.path()).env("SYNCDATA_ARCHIVE_DIR", dir).run()
    };
    run(empty.path().to_owned()).await.expect_code(2);
    run(empty.path().join("missing")).await.expect_code(2);
}

#[tokio::test]
async fn an_archive_made_by_the_archiver_is_verified_over_sftp() {
    let world = World::start().await;
    world.source.execute("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
    for id in 1..=3 {
        world.source.execute(&format!("INSERT INTO t VALUES ({id}, repeat('x', {id}000))")).await;
        world.archiver(["run", "--once"]).succeed().await;
    }
    let report = world.archiver(["verify", "--json"]).succeed().await.json();
    assert_eq!((&report["segments"], &report["records"]), (&3.into(), &3.into()));
    let text = world.archiver(["verify"]).succeed().await.stdout;
    assert!(text.contains("result        sound"), "{text}");
}
