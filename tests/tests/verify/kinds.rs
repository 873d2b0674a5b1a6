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

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("the file is there");
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).expect("the file is ours");
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
            &[("damaged", 2)],
        ),
        (
            "a manifest that says something else, and a change file behind it",
            |a| {
                let text = fs::read_to_string(&a.segments[1].manifest).expect("there");
                fs::write(&a.segments[1].manifest, text.replace("15.18", "15.19")).expect("ours");
                flip(&a.segments[2].file, 40);
            },
            &[("damaged", 2), ("damaged", 3)],
        ),
        (
            "the newest manifest says something else",
            |a| {
                let text = fs::read_to_string(&a.segments[3].manifest).expect("there");
                fs::write(&a.segments[3].manifest, text.replace("15.18", "15.19")).expect("ours");
            },
            &[("damaged", 4)],
        ),
        (
            "a manifest that names another one before it",
            |a| {
                let text = fs::read_to_string(&a.segments[2].manifest).expect("there");
                let (head, tail) = text.split_once(r#""previous":{"seq":2,"sha256":""#).expect("a link");
                let flipped = if tail.starts_with('0') { "1" } else { "0" };
                let text = format!(r#"{head}"previous":{{"seq":2,"sha256":"{flipped}{}"#, &tail[1..]);
                fs::write(&a.segments[2].manifest, text).expect("ours");
            },
            &[("foreign", 3), ("damaged", 3)],
        ),
        (
            "archive.json of another archive, and a change file",
            |a| {
                let text = fs::read_to_string(a.dir().join("archive.json")).expect("there");
                fs::write(a.dir().join("archive.json"), text.replace(&a.archive_id(), OTHER_ARCHIVE))
                    .expect("ours");
                flip(&a.segments[2].file, 40);
            },
            &[("foreign", 0), ("damaged", 3)],
        ),
        (
            "head.json names another day",
            |a| edit(&a.dir().join("head.json"), "segments/2026-02-05", "segments/2026-02-06"),
            &[("damaged", 0)],
        ),
        (
            "a lost manifest whose change file is there, and a head that names it",
            |a| remove(&a.segments[3].manifest),
            &[("lost", 4)],
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

/// What must have been there is missing, whether the range begins or ends with it.
#[tokio::test]
async fn a_range_misses_what_is_lost_at_its_edges() {
    let cases: &[(&[usize], &[&str], &[u64])] = &[
        (&[2], &["--from", "3", "--to", "4"], &[3]),
        (&[1], &["--from", "2", "--to", "4"], &[2]),
        (&[2], &["--from", "2", "--to", "4"], &[3]),
        (&[0], &["--to", "3"], &[1]),
        (&[3], &["--from", "2026-02-05"], &[4]),
        (&[3], &["--from", "3"], &[4]),
        (&[1], &["--from", "3"], &[]),
        (&[3], &["--to", "4"], &[]),
        (&[3], &["--to", "2026-02-05T10:30:02Z"], &[]),
    ];
    for (gone, arguments, lost) in cases {
        let archive = Archive::forged();
        for at in *gone {
            remove(&archive.segments[*at].manifest);
            remove(&archive.segments[*at].file);
        }
        let code = i32::from(!lost.is_empty());
        let report = archive.verify(arguments).await.expect_code(code).json();
        let problems = report["problems"].as_array().expect("a list").iter();
        let named: Vec<u64> = problems.map(|p| p["segment"].as_u64().expect("a number")).collect();
        assert_eq!(named, *lost, "{arguments:?} without {gone:?}: {report:#}");
        let missing = report["missing"].as_array().expect("a list").iter();
        assert!(missing.clone().all(|missing| missing["class"] == "lost"), "{report:#}");
        assert_eq!(missing.count(), lost.len(), "{report:#}");
    }
    let archive = Archive::forged();
    let report = archive.verify(&["--from", "4", "--to", "8"]).await.expect_code(0).json();
    let expected = serde_json::json!([{"from": 5, "to": 7, "class": "not-yet-shipped"}]);
    assert_eq!(report["missing"], expected, "{report:#}");
}

/// One file that cannot be read hides nothing of the others.
#[tokio::test]
async fn what_cannot_be_read_is_listed_beside_what_is_wrong() {
    let archive = Archive::forged();
    flip(&archive.segments[0].file, 40);
    remove(&archive.segments[2].file);
    fs::create_dir(&archive.segments[2].file).expect("ours");
    let before = tree(&archive.dir());
    let report = archive.verify(&[]).await.expect_code(1).json();
    assert_eq!(tree(&archive.dir()), before, "verify changes nothing");
    let problems = report["problems"].as_array().expect("a list");
    assert_eq!(problems.len(), 2, "{report:#}");
}

/// Every path, its size and when it was changed.
fn tree(folder: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let meta = entry.metadata().expect("it is there");
        found.push((entry.path(), meta.len(), meta.modified().expect("a time")));
        if meta.is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found.sort();
    found
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
    by_hand(&["no-such.manifest.json"]).await.expect_code(2);
    let both = by_hand(&["no-such.manifest.json", &path(2)]).await.expect_code(2).json();
    let verdicts = |report: &Value| -> Vec<(String, String)> {
        let problems = report["problems"].as_array().expect("a list").iter();
        let mut verdicts: Vec<_> = problems.map(|p| (text(&p["verdict"]), text(&p["file"]))).collect();
        verdicts.sort();
        verdicts
    };
    let changes = archive.segments[2].file.to_str().expect("plain").to_owned();
    let expected = [
        ("damaged".to_owned(), changes.clone()),
        ("unreadable".to_owned(), "no-such.manifest.json".to_owned()),
    ];
    assert_eq!(verdicts(&both), expected);
    remove(&archive.segments[2].file);
    let lost = by_hand(&[&path(2)]).await.expect_code(1).json();
    assert_eq!(verdicts(&lost), [("lost".to_owned(), changes)]);
    let renamed = archive.folder.path().join("renamed.manifest.json");
    fs::copy(&archive.segments[1].manifest, &renamed).expect("ours");
    let foreign = by_hand(&[renamed.to_str().expect("plain")]).await.expect_code(1).json();
    assert_eq!(verdicts(&foreign)[0].0, "foreign");
    let twice = by_hand(&[&path(1), &path(1)]).await.expect_code(1).json();
    assert_eq!(verdicts(&twice)[0].0, "foreign");
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
