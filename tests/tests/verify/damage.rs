//! Every kind of damage to an archive is found and named.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use syncdata_formats::digest::Digest;
use syncdata_tests::forge::Forge;
use syncdata_tests::world::ARCHIVER_ROLE;

use crate::scene::{
    SEGMENTS, Scene, append, beside, copy, document, forget_recent, name_of, write_document, zero, zstd,
};

/// Row 57.
#[tokio::test]
async fn a_flipped_bit_is_found_wherever_it_is() {
    let scene = Scene::start().await;
    assert_eq!(scene.is_sound("untouched", true).await["segments"], SEGMENTS);
    let files: [(&str, PathBuf, bool); 5] = [
        ("change file", scene.changes(2), true),
        ("manifest", scene.manifest(2), true),
        ("newest manifest without keys", scene.manifest(SEGMENTS), false),
        ("signature", scene.signature(2), true),
        ("archive.json", scene.dir().join("archive.json"), true),
    ];
    for (what, path, keys) in files {
        let sound = fs::read(&path).expect("there");
        // The first line of a signature is a comment that nobody signs.
        let first =
            if what == "signature" { 1 + sound.iter().position(|b| *b == b'\n').expect("lines") } else { 0 };
        // When it was made, and by which version, nothing else says.
        let told = String::from_utf8_lossy(&sound).find("\"created_at\"").filter(|_| what == "archive.json");
        let end = told.unwrap_or(sound.len());
        for at in (first..end).step_by((end - first).div_ceil(13)) {
            let mut damaged = sound.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).expect("ours");
            let finished = scene.verify(keys, &[]).await;
            assert_eq!(finished.code(), Some(1), "{what}, byte {at}: {finished}");
            let report = finished.json();
            let named = report["problems"].to_string();
            // An identity that is sound by itself is told by all that contradict it.
            assert!(
                named.contains(&name_of(&path)) || what == "archive.json" && named.contains("foreign"),
                "{what}, byte {at}: {report:#}"
            );
        }
        fs::write(&path, &sound).expect("ours");
    }
    // Of the head only what it says of segments can be held against them.
    let sound = fs::read(scene.head()).expect("there");
    let text = String::from_utf8_lossy(&sound).into_owned();
    for part in ["format", "archive_id", "\"seq\":5", "segments/", "sha256\":\""] {
        let at = text.find(part).expect(part) + part.len() - 1;
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        fs::write(scene.head(), &damaged).expect("ours");
        scene.finds(part, false, "damaged", "head.json").await;
    }
}

/// Row 58, with a manifest that does not vouch for it and with one that does.
#[tokio::test]
async fn files_that_are_longer_shorter_or_other_are_found() {
    let scene = Scene::start().await;
    let sound = fs::read(scene.changes(3)).expect("there");
    let file = name_of(&scene.changes(3));
    let skippable = [0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    let damages: [(&str, Vec<u8>); 6] = [
        ("a byte less", sound[..sound.len() - 1].to_vec()),
        ("half of it", sound[..sound.len() / 2].to_vec()),
        ("glued", [sound.clone(), sound.clone()].concat()),
        ("a byte more", [sound.clone(), vec![0]].concat()),
        ("a skippable frame behind", [sound.clone(), skippable.to_vec()].concat()),
        (
            "a tail of zeros",
            [sound[..sound.len() / 2].to_vec(), vec![0; sound.len() - sound.len() / 2]].concat(),
        ),
    ];
    let manifest = document(&scene.manifest(3));
    let (bytes, sha256) = (&manifest["content_bytes"], &manifest["content_sha256"]);
    for (what, damaged) in damages {
        fs::write(scene.changes(3), &damaged).expect("ours");
        scene.finds(what, true, "damaged", &file).await;
        scene.vouch(&damaged, bytes.as_u64().expect("a number"), sha256.as_str().expect("a digest"));
        scene.finds(what, false, "damaged", &file).await;
        scene.restore();
    }
}

/// Row 59.
#[tokio::test]
async fn bombs_go_off_in_nobody_s_memory() {
    let scene = Scene::start().await;
    let file = name_of(&scene.changes(3));
    let empty = Digest::of(b"").to_string();
    let deep = |depth: usize| {
        let line = format!(
            r#"{{"table":"t","op":"INSERT","data":{{"id":{}1{}}}}}"#,
            "[".repeat(depth),
            "]".repeat(depth)
        );
        (zstd(&format!("printf '%s\\n' '{line}' | zstd -q --check")), line + "\n")
    };
    let (nested, line) = deep(30_000);
    let bombs = [
        ("a gibibyte of zeros", zstd("head -c 1G /dev/zero | zstd -q --check"), 5000, empty.clone()),
        (
            "a gibibyte in one line",
            zstd("head -c 1G /dev/zero | tr '\\0' x | zstd -q --check"),
            1 << 20,
            empty.clone(),
        ),
        (
            "a window of a gibibyte",
            zstd("head -c 200M /dev/zero | zstd -q --check --long=30"),
            200 << 20,
            empty,
        ),
        ("endless nesting", nested, line.len() as u64, Digest::of(line.as_bytes()).to_string()),
    ];
    for (what, bomb, content_bytes, content_sha256) in bombs {
        scene.vouch(&bomb, content_bytes, &content_sha256);
        // Address space for all threads and libraries; a gibibyte of content would not fit.
        let line = scene.world.applier(["verify", "--json"]).shell_line();
        let shell =
            Command::new("sh").args(["-c", &format!("ulimit -v 900000; {line}")]).output().expect("sh");
        let said = String::from_utf8_lossy(&shell.stdout);
        assert_eq!(shell.status.code(), Some(1), "{what}: {said} {}", String::from_utf8_lossy(&shell.stderr));
        let report: Value = serde_json::from_str(&said).expect("a document");
        assert!(report["problems"].to_string().contains(&file), "{what}: {report:#}");
        scene.restore();
    }
}

/// Row 60.
#[tokio::test]
async fn names_that_lead_elsewhere_are_not_followed() {
    let scene = Scene::start().await;
    for name in ["../../archive.json", "/etc/passwd", "a\u{0}b", "other.jsonl.zst"] {
        scene.rewrite(|seq, manifest| {
            if seq == 3 {
                manifest["file"] = json!(name);
            }
        });
        scene.finds(name, false, "damaged", &name_of(&scene.manifest(3))).await;
        scene.restore();
    }
    for path in [scene.changes(3), scene.manifest(3)] {
        let what = name_of(&path);
        let verdict_of = if what.ends_with(".zst") { what.clone() } else { "segment 3".to_owned() };
        fs::rename(&path, scene.sound.path().join("elsewhere")).expect("ours");
        symlink(scene.sound.path().join("elsewhere"), &path).expect("ours");
        scene.finds(&format!("{what} is a link"), true, "lost", &verdict_of).await;
        fs::remove_file(&path).expect("ours");
        fs::create_dir(&path).expect("ours");
        scene.finds(&format!("{what} is a folder"), true, "lost", &verdict_of).await;
        scene.restore();
    }
}

/// Rows 54, 61 and 64.
#[tokio::test]
async fn what_is_missing_is_named_and_what_is_newest_comes_again() {
    let scene = Scene::start().await;
    for (what, gone, named) in
        [("in front", 1, "segment 1"), ("in the middle", 3, "segment 3"), ("at the end", 5, "head.json")]
    {
        for path in [scene.manifest(gone), scene.changes(gone), scene.signature(gone)] {
            fs::rename(&path, scene.sound.path().join(name_of(&path))).expect("ours");
        }
        scene.finds(what, true, "lost", named).await;
        scene.restore();
    }
    fs::remove_file(scene.changes(2)).expect("ours");
    scene.finds("a change file", true, "lost", "0000000002").await;
    scene.restore();

    // Taken back to an earlier state as a whole it is a sound archive; whoever remembers more is told.
    let (newest, sha256) =
        (scene.manifest(5), document(&scene.head())["sha256"].as_str().expect("a digest").to_owned());
    let remembered = format!("5={sha256}");
    scene.verify(true, &["--holds", &remembered]).await.expect_code(0);
    let before = scene.manifest(4);
    let head = json!({"seq": 4, "manifest": before.strip_prefix(scene.dir()).expect("below").to_str().expect("plain"),
        "sha256": Digest::of(&fs::read(&before).expect("there")).to_string()});
    for path in [newest.clone(), scene.changes(5), beside(&newest, ".manifest.json.minisig")] {
        fs::remove_file(path).expect("ours");
    }
    scene.finds("rolled back, with its head", true, "lost", "head.json").await;
    let mut old = document(&scene.head());
    for (key, value) in head.as_object().expect("an object") {
        old[key] = value.clone();
    }
    forget_recent(&mut old);
    write_document(&scene.head(), &old);
    scene.is_sound("rolled back, head and all", true).await;
    let report = scene.verify(true, &["--holds", &remembered]).await.expect_code(1).json();
    assert!(
        report["problems"][0]["what"].as_str().is_some_and(|what| what.contains("taken back")),
        "{report:#}"
    );
    scene.restore();

    type Damage = fn(&Path);
    let remove: Damage = |path| fs::remove_file(path).expect("ours");
    for (what, damage) in [("zeros", zero as Damage), ("gone", remove)] {
        for path in [scene.changes(SEGMENTS), scene.manifest(SEGMENTS)] {
            damage(&path);
            let found = scene.verify(true, &[]).await;
            assert_eq!(found.code(), Some(1), "{what} {}: {found}", name_of(&path));
            scene.world.archiver(["run", "--once"]).run().await.expect_code(0);
            scene.is_sound(&format!("{what} {}, sent again", name_of(&path)), true).await;
        }
    }
}

/// Rows 62 and 63.
#[tokio::test]
async fn segments_twice_reordered_renumbered_overlapping_or_of_another_archive_are_found() {
    let scene = Scene::start().await;
    let second = scene.manifest(2);
    let other_name = second.with_file_name(name_of(&second).replace("0000000002-", "0000000006-"));
    fs::copy(&second, &other_name).expect("ours");
    scene.finds("twice, under a later number", true, "foreign", "0000000006").await;
    scene.restore();

    let again = second.with_file_name("0000000002-00000000FFFFFFFF.manifest.json");
    fs::copy(&second, &again).expect("ours");
    scene.finds("twice, under its own number", true, "foreign", "0000000002").await;
    scene.restore();

    let (one, other) = (scene.manifest(2), scene.manifest(3));
    let (first, third) = (fs::read(&one).expect("there"), fs::read(&other).expect("there"));
    fs::write(&one, third).expect("ours");
    fs::write(&other, first).expect("ours");
    scene.finds("in another order", true, "foreign", "0000000002").await;
    scene.restore();

    scene.rewrite(|seq, manifest| {
        if seq == 3 {
            manifest["seq"] = json!(4);
        }
    });
    scene.finds("renumbered", false, "damaged", "0000000003").await;
    scene.restore();

    let start = document(&scene.manifest(2))["start_lsn"].clone();
    scene.rewrite(|seq, manifest| {
        if seq == 3 {
            manifest["start_lsn"] = start.clone();
        }
    });
    scene.finds("overlapping", false, "foreign", "0000000003").await;
    scene.restore();

    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null", "v text"], &["id"]);
    let foreign = forge.segment(&[vec![r#"{"table":"t","op":"INSERT","data":{"id":1,"v":"x"}}"#]]);
    let first = scene.manifest(1);
    for path in [first.clone(), scene.changes(1)] {
        fs::remove_file(path).expect("ours");
    }
    for path in [&foreign.manifest, &foreign.file] {
        fs::copy(path, first.with_file_name(name_of(path))).expect("ours");
    }
    scene.finds("of another archive", false, "foreign", &name_of(&foreign.manifest)).await;
}

/// Rows 65 and 66.
#[tokio::test]
async fn a_head_of_long_ago_is_noted_and_a_rewritten_chain_needs_keys() {
    let scene = Scene::start().await;
    let mut head = document(&scene.head());
    head["covered_at"] = json!("2020-01-01T00:00:00Z");
    write_document(&scene.head(), &head);
    let report = scene.is_sound("an old head", true).await;
    assert!(report["notes"].to_string().contains("stands still, or this is an old copy"), "{report:#}");
    scene.restore();
    let text = scene.world.applier(["verify"]).succeed().await.stdout;
    assert!(text.contains("5 signatures were not checked: verify_key is not set"), "{text}");

    scene.rewrite(|_, manifest| manifest["source"]["server_version"] = json!("15.99"));
    scene.is_sound("rewritten, without keys", false).await;
    scene.finds("rewritten, with keys", true, "unsigned", "0000000001").await;
    scene.restore();
    fs::remove_file(scene.signature(4)).expect("ours");
    scene.finds("without its signature", true, "unsigned", "0000000004").await;
}

/// Row 67.
#[tokio::test]
async fn documents_of_another_form_are_refused_by_name() {
    let scene = Scene::start().await;
    let sound = fs::read(scene.manifest(SEGMENTS)).expect("there");
    let text = String::from_utf8(sound).expect("UTF-8");
    let newest = name_of(&scene.manifest(SEGMENTS));
    for (what, bytes) in [
        ("a future format", text.replacen("\"format\":1", "\"format\":2", 1)),
        ("a key that stands twice", text.replacen("{\"format\":1", "{\"format\":1,\"format\":1", 1)),
        ("a byte order mark", format!("\u{feff}{text}")),
        ("a carriage return", text.replacen("}\n", "}\r\n", 1)),
        ("no line end", text.trim_end().to_owned()),
    ] {
        assert_ne!(bytes, text, "{what}");
        scene.replace_newest(bytes.as_bytes());
        scene.finds(what, false, "damaged", &newest).await;
        scene.restore();
    }
    scene.replace_newest(text.replacen("{\"format\":1", "{\"format\":1,\"later\":{\"x\":[1]}", 1).as_bytes());
    scene.is_sound("a field of a later version", false).await;
}

#[tokio::test]
async fn missing_segments_are_told_apart() {
    let scene = Scene::start().await;
    let classes = |report: &Value| report["missing"].clone();
    let ahead = scene.verify(true, &["--from", "4", "--to", "8"]).await.expect_code(0).json();
    assert_eq!(classes(&ahead), json!([{"from": 6, "to": 7, "class": "not-yet-shipped"}]));

    for path in [scene.manifest(SEGMENTS), scene.signature(SEGMENTS)] {
        append(&path, b"");
        fs::remove_file(path).expect("ours");
    }
    fs::remove_file(scene.head()).expect("ours");
    let on_its_way = scene.is_sound("a change file before its manifest", true).await;
    assert_eq!(classes(&on_its_way), json!([{"from": 5, "to": 5, "class": "not-yet-shipped"}]));
    scene.restore();

    let floor = document(&scene.manifest(3));
    let floor = json!({"format": 1, "archive_id": floor["archive_id"], "seq": 3, "previous": floor["previous"],
        "pruned_at": "2026-02-05T00:00:00Z"});
    write_document(&scene.dir().join("floor.json"), &floor);
    for seq in [1, 1] {
        for path in [scene.changes(seq), scene.signature(seq), scene.manifest(seq)] {
            fs::remove_file(path).expect("ours");
        }
    }
    let pruned = scene.is_sound("pruned", true).await;
    assert_eq!(classes(&pruned), json!([{"from": 1, "to": 2, "class": "pruned"}]));
    let fourth = scene.manifests()[1].clone();
    fs::remove_file(&fourth).expect("ours");
    let lost = scene.verify(true, &[]).await.expect_code(1).json();
    assert_eq!(classes(&lost)[0], json!({"from": 4, "to": 4, "class": "lost"}), "{lost:#}");
    let text = scene.world.applier(["verify"]).run().await.expect_code(1).stdout;
    assert!(
        text.contains("missing       segment 4: lost") && text.contains("segments 1 to 2: pruned"),
        "{text}"
    );
    assert!(text.contains("result        1 problem: segment 4: it is missing"), "{text}");
}

/// Base copies: two of them, the second with differences from the first.
#[tokio::test]
async fn base_copies_are_proved_to_their_last_file() {
    let mut scene = Scene::start().await;
    let source = &scene.world.source;
    source.execute(&format!("GRANT pg_read_all_data TO {ARCHIVER_ROLE}")).await;
    source.execute("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(100, 3000) i").await;
    for _ in 0..2 {
        scene.world.archiver(["run", "--once"]).succeed().await;
        scene.world.archiver(["snapshot"]).succeed().await;
        scene.world.source.execute("UPDATE t SET v = 'changed' WHERE id = 500").await;
        // Their names hold the time, to the second.
        scene.world.source.query("SELECT pg_sleep(1.1)").await;
    }
    scene.sound = tempfile::tempdir().expect("a folder");
    copy(scene.dir(), &scene.sound.path().join("archive"));
    let report = scene.is_sound("two base copies", true).await;
    assert_eq!(report["snapshots"], 2, "{report:#}");
    let folders = || {
        let folders = fs::read_dir(scene.dir().join("snapshots")).expect("snapshots");
        let mut folders: Vec<PathBuf> = folders.map(|entry| entry.expect("an entry").path()).collect();
        folders.sort();
        folders
    };
    let newest = || folders().pop().expect("a snapshot");
    let files = || {
        let all = folders().into_iter().flat_map(|folder| fs::read_dir(folder).expect("a folder"));
        let files: Vec<PathBuf> = all.map(|entry| entry.expect("an entry").path()).collect();
        files
    };
    let of = |ending: &str| {
        let mut found = files().into_iter().filter(|path| path.to_string_lossy().ends_with(ending));
        found.next().unwrap_or_else(|| panic!("no {ending}"))
    };
    for ending in [".copy.zst", ".delta.zst"] {
        let file = of(ending);
        let mut bytes = fs::read(&file).expect("there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(&file, bytes).expect("ours");
        scene.finds(&format!("a flipped bit in {ending}"), true, "damaged", &name_of(&file)).await;
        let report = scene.verify(true, &[]).await.json();
        let mut problems = report["problems"].as_array().expect("a list").iter();
        let is_it = |problem: &Value| problem["file"].to_string().contains(&name_of(&file));
        assert!(problems.all(is_it), "the files that it leads to are sound: {report:#}");
        append(&file, b"x");
        scene.finds(&format!("a longer {ending}"), true, "damaged", &name_of(&file)).await;
        fs::remove_file(&file).expect("ours");
        scene.finds(&format!("{ending} is gone"), true, "lost", &name_of(&file)).await;
        let quick = scene.verify(true, &["--quick"]).await.expect_code(1).json();
        assert!(quick["problems"].to_string().contains(&name_of(&file)), "{quick:#}");
        scene.restore();
    }
    let manifest = newest().join("snapshot.manifest.json");
    append(&manifest, b" ");
    scene.finds("its manifest", true, "damaged", "snapshot.manifest.json").await;
    scene.restore();
    fs::remove_file(newest().join("snapshot.manifest.json.sha256")).expect("ours");
    scene.finds("its digest", true, "lost", "snapshot.manifest.json").await;
    scene.restore();
    fs::remove_file(newest().join("snapshot.manifest.json.minisig")).expect("ours");
    scene.finds("its signature", true, "unsigned", "snapshot.manifest.json.minisig").await;
    scene.restore();
    fs::write(newest().join("x.part"), "half").expect("ours");
    fs::remove_file(&manifest).expect("ours");
    let report = scene.is_sound("leftovers", true).await;
    let notes = report["notes"].to_string();
    assert!(
        notes.contains("x.part is the rest of an upload") && notes.contains("has no manifest"),
        "{notes}"
    );
}
