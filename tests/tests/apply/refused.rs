//! Archives that are not what they should be, walked one by one with the real program: each is refused, the segment or
//! the file is named, and nothing of it is applied. Hashes agree wherever a forger could make them agree.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use syncdata_formats::digest::Digest;
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Manifest;
use syncdata_formats::signature::SigningKey;
use syncdata_tests::forge::Forged;
use syncdata_tests::{Finished, Forge, LocalCopy};

/// Two segments are applied, the third waits.
struct Scene {
    copy: LocalCopy,
    next: Forged,
    /// Every file of the archive as it should be.
    sound: Vec<(PathBuf, Vec<u8>)>,
}

fn row(id: u32) -> String {
    format!(r#"{{"table":"t","op":"INSERT","data":{{"id":{id},"v":"value {id}"}}}}"#)
}

fn rows(ids: std::ops::Range<u32>) -> Vec<String> {
    ids.map(row).collect()
}

impl Scene {
    async fn start() -> Scene {
        let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
        copy.forge.relation("t", &["id integer not null", "v text"], &["id"]);
        copy.forge.segment(&[rows(0..10)]);
        copy.forge.segment(&[rows(10..20)]);
        copy.applier(&["add-tables", "t"]).succeed().await;
        copy.sync(0).await;
        let next = copy.forge.segment(&[rows(20..60), rows(60..100)]);
        let sound = files(&copy.archive_dir());
        Scene { copy, next, sound }
    }

    fn manifest(&self) -> Manifest {
        Manifest::decode(&fs::read(&self.next.manifest).expect("forged")).expect("sound")
    }

    /// With a head that does not give it away.
    fn write_manifest(&self, bytes: impl AsRef<[u8]>) {
        fs::write(&self.next.manifest, bytes).expect("ours");
        fs::remove_file(self.copy.archive_dir().join("head.json")).ok();
    }

    /// Another change file, and a manifest that promises just these bytes.
    fn write_file(&self, bytes: &[u8]) {
        fs::write(&self.next.file, bytes).expect("ours");
        let mut manifest = self.manifest();
        let file = manifest.file.as_mut().expect("it has one");
        (file.bytes, file.sha256) = (bytes.len() as u64, Digest::of(bytes));
        self.write_manifest(manifest.encode());
    }

    /// … and just these lines.
    fn write_lines(&self, lines: &[u8]) {
        self.write_file(&compressed(lines));
        let mut manifest = self.manifest();
        let file = manifest.file.as_mut().expect("it has one");
        (file.content_bytes, file.content_sha256) = (lines.len() as u64, Digest::of(lines));
        self.write_manifest(manifest.encode());
    }

    /// Runs a pass that must not apply anything, and brings the archive back.
    async fn refuses(&self, what: &str, says: &str) {
        let run = self.copy.applier(&["sync"]).run().await;
        self.stands(&run, what).await;
        assert!(matches!(run.code(), Some(1 | 2)), "{what}: {run}");
        let words = format!("{}{}", run.stdout, run.stderr);
        assert!(words.contains(says), "{what}: {says:?} is not in {run}");
        self.restore();
    }

    /// Nothing of the third segment is there, in the copy or beside the cache.
    async fn stands(&self, run: &Finished, what: &str) {
        let found = "SELECT (SELECT count(*) FROM t), (SELECT seq FROM data_sync_checkpoint), \
                     (SELECT string_agg(DISTINCT state, '') FROM data_sync_table_state)";
        assert_eq!(self.copy.rows(found).await, "20,2,live", "{what}: {run}");
        assert!(!self.copy.folder().join("x").exists(), "{what}: written outside the cache");
    }

    fn restore(&self) {
        fs::remove_dir_all(self.copy.archive_dir()).expect("ours");
        for (path, bytes) in &self.sound {
            fs::create_dir_all(path.parent().expect("a file")).expect("ours");
            fs::write(path, bytes).expect("ours");
        }
    }

    /// After all: the sound archive is taken.
    async fn ends_well(&self) {
        self.copy.sync(0).await;
        assert_eq!(self.copy.rows("SELECT count(*) FROM t").await, "100");
    }
}

/// As the archiver does it: with a checksum.
fn compressed(lines: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("memory");
    encoder.include_checksum(true).expect("a parameter of zstd");
    std::io::Write::write_all(&mut encoder, lines).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else {
            let bytes = fs::read(&entry).expect("a file");
            found.push((entry, bytes));
        }
    }
    found
}

/// A flipped bit at so many places, evenly spread.
fn flips(bytes: &[u8], places: usize) -> Vec<Vec<u8>> {
    let flip = |n: usize| {
        let mut flipped = bytes.to_vec();
        flipped[n * bytes.len() / places] ^= 1 << (n % 8);
        flipped
    };
    (0..places).map(flip).collect()
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_refused_with_the_file_s_name() {
    let scene = Scene::start().await;
    for path in [&scene.next.file, &scene.next.manifest] {
        let sound = fs::read(path).expect("forged");
        for flipped in flips(&sound, 24) {
            fs::write(path, flipped).expect("ours");
            scene.refuses("a flipped bit", "0000000003-").await;
        }
    }
    scene.ends_well().await;
    // The head is a hint: one that is not whole is named and done without.
    let head = scene.copy.archive_dir().join("head.json");
    for flipped in flips(&fs::read(&head).expect("forged"), 24) {
        fs::write(&head, flipped).expect("ours");
        let run = scene.copy.applier(&["sync"]).run().await;
        assert!(matches!(run.code(), Some(0 | 1)), "{run}");
        assert_eq!(scene.copy.rows("SELECT count(*) FROM t").await, "100");
    }
}

#[tokio::test]
async fn a_file_that_is_not_one_whole_frame_is_refused_although_its_hash_agrees() {
    let scene = Scene::start().await;
    let file = fs::read(&scene.next.file).expect("forged");
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    for (what, bytes) in [
        ("truncated by a byte", file[..file.len() - 1].to_vec()),
        ("truncated to a half", file[..file.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("glued to itself", [file.as_slice(), &file].concat()),
        ("with a byte behind", [file.as_slice(), &[0]].concat()),
        ("with a skippable frame behind", [file.as_slice(), &skippable].concat()),
        ("with a skippable frame in front", [&skippable, file.as_slice()].concat()),
        ("with a tail of zeros", [&file[..file.len() - 20], &[0; 20]].concat()),
    ] {
        scene.write_file(&bytes);
        scene.refuses(what, "0000000003-").await;
        // And where nothing agrees.
        fs::write(&scene.next.file, &bytes).expect("ours");
        scene.refuses(what, "0000000003-").await;
    }
    scene.ends_well().await;
}

#[tokio::test]
async fn bombs_are_refused_within_the_limit_of_memory() {
    let scene = Scene::start().await;
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 1).expect("memory");
    scene.write_file(&bomb);
    let run = scene.copy.applier(&["sync"]).spawn();
    let mut peak = 0;
    while let Some(kib) = run.peak_kib() {
        peak = peak.max(kib);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let run = run.ended().await.expect_code(2);
    assert!(peak < 128 * 1024, "{peak} KiB");
    assert!(run.stderr.contains("0000000003-"), "{run}");
    scene.stands(&run, "a bomb").await;
    scene.restore();
    let deep = format!(
        r#"{{"table":"t","op":"INSERT","data":{{"id":{}1{}}},"lsn":"0/1","ts":"2026-02-05T10:30:00Z"}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    scene.write_lines((deep + "\n").as_bytes());
    scene.refuses("nested without end", "line 1").await;
    scene.write_lines(&vec![b'x'; 8 << 20]);
    scene.refuses("a line without end", "0000000003-").await;
    scene.ends_well().await;
}

#[tokio::test]
async fn names_that_lead_elsewhere_links_and_folders_are_refused() {
    let scene = Scene::start().await;
    let name = scene.manifest().file.expect("it has one").file;
    let text = fs::read_to_string(&scene.next.manifest).expect("forged");
    for elsewhere in [
        "../x",
        "../../../x",
        "/etc/passwd",
        "a\\u0000b",
        "",
        ".",
        "x",
        "0000000002-0000000016B3F00.jsonl.zst",
    ] {
        scene.write_manifest(text.replace(&name, elsewhere));
        scene.refuses(elsewhere, "0000000003-").await;
    }
    let outside = scene.copy.folder().join("outside");
    for path in [&scene.next.file, &scene.next.manifest] {
        fs::rename(path, &outside).expect("ours");
        symlink(&outside, path).expect("ours");
        scene.refuses("a link", "0000000003").await;
        fs::remove_file(path).expect("ours");
        fs::create_dir(path).expect("ours");
        scene.refuses("a folder in its place", "0000000003").await;
    }
    scene.ends_well().await;
}

#[tokio::test]
async fn segments_that_are_missing_repeated_or_out_of_order_are_refused() {
    let mut scene = Scene::start().await;
    let fourth = scene.copy.forge.segment(&[rows(100..110)]);
    scene.sound = files(&scene.copy.archive_dir());
    let day = scene.next.manifest.parent().expect("a day").to_owned();
    let move_to = |from: &Path, to: &Path| fs::rename(from, to).expect("ours");
    fs::remove_file(&scene.next.manifest).expect("forged");
    scene.refuses("missing in the middle", "segment 0000000003 is missing").await;
    fs::remove_file(&scene.next.file).expect("forged");
    scene.refuses("a change file alone is missing", "0000000003-").await;
    // The two change places, by name and by content.
    let aside = scene.copy.folder().join("aside");
    move_to(&scene.next.manifest, &aside);
    move_to(&fourth.manifest, &scene.next.manifest);
    move_to(&aside, &fourth.manifest);
    scene.refuses("reordered", "0000000003-").await;
    let later = day.with_file_name("2026-02-06");
    fs::create_dir(&later).expect("ours");
    let name = scene.next.manifest.file_name().expect("a file");
    fs::copy(&scene.next.manifest, later.join(name)).expect("ours");
    let mut other = scene.manifest();
    other.archiver = "another".into();
    fs::write(later.join(name), other.encode()).expect("ours");
    let run = scene.copy.applier(&["sync"]).run().await.expect_code(2);
    assert!(run.stderr.contains("segment 0000000003 comes again"), "{run}");
    // The sound one came first and is applied; nothing behind it is.
    assert_eq!(scene.copy.rows("SELECT count(*) FROM t").await, "100");
    scene.restore();
    scene.copy.sync(0).await;
    assert_eq!(scene.copy.rows("SELECT count(*) FROM t").await, "110");
    // The end, which the head names.
    let fifth = scene.copy.forge.segment(&[rows(110..120)]);
    fs::remove_file(&fifth.manifest).expect("forged");
    assert!(scene.copy.sync(1).await.contains("segment 0000000005 is missing"));
}

#[tokio::test]
async fn a_chain_that_does_not_meet_is_refused() {
    let scene = Scene::start().await;
    let sound = scene.manifest();
    let mut overlapping = sound.clone();
    overlapping.start_lsn = Lsn::from_u64(sound.start_lsn.as_u64() - 1);
    let mut behind = sound.clone();
    behind.start_lsn = Lsn::from_u64(sound.start_lsn.as_u64() + 1);
    let mut renumbered = sound.clone();
    renumbered.seq = SegmentSeq::new(7).expect("a number");
    let mut unlinked = sound.clone();
    unlinked.previous = None;
    let mut other = sound.clone();
    other.previous.as_mut().expect("the third").sha256 = Digest::of(b"another");
    for (what, manifest) in [
        ("overlapping", overlapping),
        ("with a hole", behind),
        ("renumbered", renumbered),
        ("without a link", unlinked),
        ("behind another", other),
    ] {
        scene.write_manifest(manifest.encode());
        scene.refuses(what, "0000000003-").await;
    }
    scene.ends_well().await;
}

#[tokio::test]
async fn a_segment_of_another_archive_and_a_first_segment_that_is_missing_are_refused() {
    let scene = Scene::start().await;
    let elsewhere = scene.copy.folder().join("elsewhere");
    let mut forge = Forge::new(&elsewhere);
    forge.relation("t", &["id integer not null", "v text"], &["id"]);
    forge.segment(&[rows(0..10)]);
    forge.segment(&[rows(10..20)]);
    let foreign = forge.segment(&[rows(500..540), rows(540..580)]);
    fs::copy(&foreign.file, &scene.next.file).expect("ours");
    scene.write_manifest(fs::read(&foreign.manifest).expect("forged"));
    scene.refuses("of another archive", "belongs to archive").await;
    scene.ends_well().await;
    // A copy that has nothing yet, and an archive without its beginning.
    let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    copy.forge.relation("t", &["id integer not null", "v text"], &["id"]);
    let first = copy.forge.segment(&[rows(0..10)]);
    copy.forge.segment(&[rows(10..20)]);
    fs::remove_file(&first.manifest).expect("forged");
    copy.applier(&["add-tables", "t"]).succeed().await;
    assert!(copy.sync(2).await.contains("segment 0000000001 is missing"));
    assert_eq!(copy.rows("SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn an_archive_that_was_put_back_to_an_earlier_day_is_refused() {
    let scene = Scene::start().await;
    scene.ends_well().await;
    for (path, _) in &scene.sound {
        if path.to_string_lossy().contains("0000000002-") || path.to_string_lossy().contains("0000000003-") {
            fs::remove_file(path).expect("ours");
        }
    }
    for head in [true, false] {
        if !head {
            fs::remove_file(scene.copy.archive_dir().join("head.json")).expect("forged");
        }
        assert!(scene.copy.sync(2).await.contains("rolled back"));
        assert_eq!(scene.copy.rows("SELECT count(*) FROM t").await, "100");
    }
}

#[tokio::test]
async fn a_chain_that_an_attacker_has_written_anew_is_refused_where_a_key_is_set() {
    let scene = Scene::start().await;
    let (copy, forged) = (&scene.copy, &scene.next);
    let (_, public) = SigningKey::generate().expect("a key");
    let (secret, _) = SigningKey::generate().expect("the attacker's");
    let key = copy.folder().join("key.pub");
    fs::write(&key, public).expect("ours");
    let attacker = SigningKey::parse(&secret, None).expect("its own text");
    let name = forged.manifest.file_name().and_then(|name| name.to_str()).expect("our own names");
    let signature = attacker.sign(&fs::read(&forged.manifest).expect("forged"), name).expect("a signature");
    let beside = forged.manifest.with_file_name(format!("{name}.minisig"));
    for signed in [false, true] {
        if signed {
            fs::write(&beside, &signature).expect("ours");
        }
        let run = copy.applier(&["sync"]).env("SYNCDATA_VERIFY_KEY", &key).run().await.expect_code(2);
        assert!(run.stderr.contains("0000000003-"), "{run}");
        scene.stands(&run, "rewritten").await;
    }
}

#[tokio::test]
async fn documents_of_another_format_are_refused_and_unknown_fields_are_ignored() {
    let scene = Scene::start().await;
    let text = fs::read_to_string(&scene.next.manifest).expect("forged");
    for (what, changed) in [
        ("a future format", text.replace(r#"{"format":1,"#, r#"{"format":2,"#)),
        ("a key that stands twice", text.replace(r#"{"format":1,"#, r#"{"format":1,"format":1,"#)),
        ("a byte order mark", format!("\u{feff}{text}")),
        ("a second document", format!("{text}{text}")),
        ("nothing", String::new()),
        ("line ends of another system", text.replace(r#"{"format":1,"#, "{\"format\":1,\r\n")),
        ("another type", text.replace(r#""records":80"#, r#""records":"80""#)),
    ] {
        assert_ne!(text, changed, "{what}");
        scene.write_manifest(changed);
        scene.refuses(what, "0000000003-").await;
    }
    let identity = scene.copy.archive_dir().join("archive.json");
    let sound = fs::read_to_string(&identity).expect("forged");
    fs::write(&identity, sound.replace(r#""format":1"#, r#""format":2"#)).expect("ours");
    scene.refuses("a future archive", "format 2").await;
    // Fields of a later version do no harm.
    scene.write_manifest(text.replace(r#"{"format":1,"#, r#"{"format":1,"later":{"a":[1]},"#));
    scene.ends_well().await;
}
