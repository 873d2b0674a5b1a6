//! Positions come from the chain and the slot: whatever the files on the backup host claim, no change that the slot
//! still offers is passed over, and what was archived of a history that production has lost is never forgotten.

use std::fs;
use std::path::{Path, PathBuf};

use syncdata_formats::change::Commit;
use syncdata_formats::digest::Digest;
use syncdata_formats::layout::SegmentName;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Link, Manifest};
use syncdata_formats::name::TableName;
use syncdata_formats::segment::SegmentWriter;
use syncdata_formats::time::Timestamp;
use syncdata_tests::world::Plugin;
use syncdata_tests::{Finished, World, WorldOptions};

use crate::operator::{self, SLOT};
use crate::{reader, replay, scene};

const TABLES: [&str; 1] = ["notes"];

async fn world_with(options: WorldOptions) -> World {
    let world = options.start().await;
    world.source.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)").await;
    world.source.execute(SLOT).await;
    write(&world, 1).await;
    world
}

async fn world() -> World {
    let world = world_with(WorldOptions::default()).await;
    run(&world, 0).await;
    world
}

async fn write(world: &World, id: u64) {
    world.source.execute(&format!("INSERT INTO notes VALUES ({id}, 'row {id}')")).await;
}

async fn run(world: &World, code: i32) -> Finished {
    world.archiver(["run", "--once"]).run().await.expect_code(code)
}

fn head_path(world: &World) -> PathBuf {
    world.archive_dir().join("head.json")
}

fn covered(world: &World) -> Lsn {
    let head = reader::json(&head_path(world));
    head["covered_lsn"].as_str().expect("a position").parse().expect("an LSN")
}

/// Somebody writes another position into head.json.
fn claim(world: &World, position: Lsn) {
    let text = fs::read_to_string(head_path(world)).expect("a head");
    let claimed = text.replace(&format!("\"{}\"", covered(world)), &format!("\"{position}\""));
    fs::write(head_path(world), claimed).expect("our folder");
}

#[tokio::test]
async fn no_bit_of_the_head_moves_a_position_past_what_the_slot_offers() {
    let world = world().await;
    for bit in 0..48 {
        let flipped = Lsn::from_u64(covered(&world).as_u64() ^ (1 << bit));
        claim(&world, flipped);
        write(&world, 2 + bit).await;
        run(&world, 0).await;
        replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    }
    assert_eq!(operator::gaps(&world).len(), 0);
}

#[tokio::test]
async fn a_new_spool_does_not_believe_the_head_over_the_slot_either() {
    let world = world().await;
    for bit in [8, 16, 24, 30, 40, 47] {
        let raised = Lsn::from_u64(covered(&world).as_u64() | (1 << bit));
        claim(&world, raised);
        fs::remove_dir_all(world.spool_dir()).expect("our folder");
        write(&world, 2 + bit).await;
        run(&world, 0).await;
        replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    }
    assert_eq!(operator::gaps(&world).len(), 0);
}

/// The remedy of the message is to move the spool aside.
#[tokio::test]
async fn a_flipped_bit_in_the_spools_state_is_refused() {
    let world = world().await;
    let state = world.spool_dir().join("state.json");
    let sound = fs::read(&state).expect("a state");
    for at in (0..sound.len()).step_by(41) {
        let mut flipped = sound.clone();
        flipped[at] ^= 1;
        if serde_json::from_slice::<serde_json::Value>(&flipped).ok()
            == serde_json::from_slice::<serde_json::Value>(&sound).ok()
        {
            continue;
        }
        fs::write(&state, &flipped).expect("our folder");
        let refused = run(&world, 2).await;
        assert!(refused.stderr.contains("move the spool aside"), "byte {at}: {refused}");
    }
    fs::rename(world.spool_dir(), world.folder().join("aside")).expect("our folder");
    write(&world, 2).await;
    run(&world, 0).await;
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}

/// Adds a segment with one row to the archive, as somebody would who may write there. Its commit ends at `end_lsn`.
fn append(archive: &Path, end_lsn: Lsn, row: u32) -> PathBuf {
    let path = reader::manifests(archive).pop().expect("a segment");
    let bytes = fs::read(&path).expect("a manifest");
    let last = Manifest::decode(&bytes).expect("a sound manifest");
    let ts = Timestamp::now();
    let mut writer = SegmentWriter::new(Vec::new(), 3, last.end_lsn).expect("memory");
    let line = format!(
        "{{\"table\":\"notes\",\"op\":\"INSERT\",\"data\":{{\"id\":{row},\"text\":\"forged\"}},\"lsn\":\"{}\",\"ts\":\"{ts}\"}}\n",
        last.end_lsn
    );
    let table: TableName = "notes".parse().expect("a name");
    writer.row(&table, syncdata_formats::change::Op::Insert, line.as_bytes()).expect("memory");
    writer.commit(&Commit { xid: 99_999, changes: 1, lsn: last.end_lsn, end_lsn, ts }).expect("as counted");
    let (content, summary) = writer.finish().expect("closed");
    let name = SegmentName { seq: last.seq.next(), end_lsn };
    let manifest = Manifest {
        seq: name.seq,
        previous: Some(Link { seq: last.seq, sha256: Digest::of(&bytes) }),
        file: Some(summary.change_file(name)),
        records: summary.records,
        transactions: summary.transactions,
        tables: summary.tables.clone(),
        start_lsn: last.end_lsn,
        end_lsn,
        span: Some(summary.span),
        created_at: ts,
        ..last
    };
    let day = archive.join("segments").join(ts.day().to_string());
    fs::create_dir_all(&day).expect("our folder");
    fs::write(day.join(name.file_name()), content).expect("our folder");
    let path = day.join(name.manifest_name());
    fs::write(&path, manifest.encode()).expect("our folder");
    path
}

async fn flush(world: &World) -> Lsn {
    world.source.value("SELECT pg_current_wal_flush_lsn()").await.parse().expect("an LSN")
}

/// What the slot offers is read into the spool, whatever stands in the archive; nothing of the foreign segment becomes
/// ours, and with the archive as it was everything arrives.
async fn assert_not_adopted(world: &World, says: &str) {
    let before = operator::confirmed(world).await;
    write(world, 2).await;
    let forged = append(world.archive_dir(), flush(world).await, 7000);
    for id in 3..5 {
        let refused = run(world, 1).await;
        // From then on the spool has a segment of that number, too.
        let says = if id == 3 { says } else { "another archiver writes to this archive" };
        assert!(refused.stderr.contains(says), "{refused}");
        assert!(refused.stderr.contains("segment 0000000002"), "it is named: {refused}");
        assert_eq!(operator::confirmed(world).await, before, "{refused}");
        write(world, id).await;
    }
    fs::remove_file(forged.with_file_name(reader::json(&forged)["file"].as_str().expect("a file")))
        .expect("ours");
    fs::remove_file(forged).expect("ours");
    run(world, 0).await;
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(world).len(), 0);
}

#[tokio::test]
async fn with_keys_a_segment_without_our_signature_is_not_adopted() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("signing.key");
    let world = world_with(WorldOptions::default()).await;
    world.archiver(["keygen", key.to_str().expect("UTF-8")]).succeed().await;
    let mut world = world;
    world.set_archiver("signing_key", key.to_str().expect("UTF-8"));
    run(&world, 0).await;
    assert_not_adopted(&world, "signature").await;
}

/// The archive is older than the key: a new spool takes it over once without.
#[tokio::test]
async fn a_new_spool_takes_over_an_archive_that_was_not_signed_as_the_hint_says() {
    let world = world().await;
    write(&world, 2).await;
    run(&world, 0).await;
    let key = world.folder().join("signing.key");
    let key = key.to_str().expect("UTF-8");
    world.archiver(["keygen", key]).succeed().await;
    let settings = scene::settings(&world, "signed.toml", &[("signing_key", key)]);
    let signed = ["run", "--once", "--config", settings.to_str().expect("UTF-8")];
    fs::remove_dir_all(world.spool_dir()).expect("our folder");
    write(&world, 3).await;
    let refused = world.archiver(signed).run().await.expect_code(2);
    assert!(refused.stderr.contains("does not carry the signature of signing_key"), "{refused}");
    assert!(refused.stderr.contains("start the new spool once without signing_key"), "{refused}");
    run(&world, 0).await;
    write(&world, 4).await;
    world.archiver(signed).succeed().await;
    let newest = reader::manifests(world.archive_dir()).pop().expect("segments");
    assert!(newest.with_extension("json.minisig").exists(), "{newest:?}");
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}

#[tokio::test]
async fn without_keys_a_segment_of_commits_that_never_were_is_not_adopted() {
    let world = world().await;
    assert_not_adopted(&world, "does not offer").await;
}

#[tokio::test]
async fn a_new_spool_adopts_no_commits_that_never_were() {
    let world = world().await;
    write(&world, 2).await;
    append(world.archive_dir(), flush(&world).await, 7000);
    fs::remove_dir_all(world.spool_dir()).expect("our folder");
    let before = operator::confirmed(&world).await;
    let refused = run(&world, 2).await;
    assert!(refused.stderr.contains("does not offer"), "{refused}");
    assert_eq!(operator::confirmed(&world).await, before, "{refused}");
}

/// The spool comes from a backup: the segments that it does not know are production's own.
#[tokio::test]
async fn a_restored_spool_adopts_the_segments_that_the_slot_still_offers() {
    let mut world = world().await;
    let saved = world.folder().join("saved-spool");
    copy(&world.spool_dir(), &saved);
    for id in 2..6 {
        write(&world, id).await;
        // Shipped, and killed before the slot moved.
        world.archiver(["run", "--once"]).fault("slot.before_advance=kill").run().await;
    }
    world.source.crash();
    world.source.resume().await;
    fs::remove_dir_all(world.spool_dir()).expect("our folder");
    copy(&saved, &world.spool_dir());
    write(&world, 6).await;
    run(&world, 0).await;
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(done.success());
}

/// A disk snapshot of production is restored: same cluster, same timeline, another history.
#[tokio::test]
async fn a_source_that_was_rolled_back_has_diverged_for_good() {
    let mut world = world().await;
    let restored = world.source.copied(false).await;
    world.source.execute("INSERT INTO notes SELECT i, 'lost' FROM generate_series(2, 500) i").await;
    run(&world, 0).await;
    let before = reader::manifests(world.archive_dir()).len();
    world.set_archiver("pg_port", i64::from(restored.port()));
    run(&world, 2).await;
    // Its WAL grows past the end of the archive.
    restored.execute("INSERT INTO notes SELECT i, 'other' FROM generate_series(3, 4000) i").await;
    for _ in 0..3 {
        let stopped = run(&world, 2).await;
        assert!(stopped.stderr.contains("has diverged from the archive"), "{stopped}");
        assert!(stopped.stderr.contains("new archive_dir"), "{stopped}");
    }
    assert_eq!(reader::manifests(world.archive_dir()).len(), before, "nothing is published");
    let status = world.archiver(["status"]).run().await.expect_code(1);
    assert!(status.stdout.contains("diverged"), "{status}");
}

/// Nobody looked while the WAL of the restored server was shorter than the archive.
#[tokio::test]
async fn a_rollback_is_found_by_the_last_archived_commit() {
    for new_spool in [false, true] {
        let mut world = world().await;
        let restored = world.source.copied(false).await;
        world.source.execute("INSERT INTO notes SELECT i, 'lost' FROM generate_series(2, 500) i").await;
        run(&world, 0).await;
        restored.execute("INSERT INTO notes SELECT i, 'other' FROM generate_series(3, 4000) i").await;
        let before = reader::manifests(world.archive_dir()).len();
        world.set_archiver("pg_port", i64::from(restored.port()));
        if new_spool {
            fs::remove_dir_all(world.spool_dir()).expect("our folder");
        }
        let stopped = run(&world, 2).await;
        let says = if new_spool { "does not offer" } else { "has diverged from the archive" };
        assert!(stopped.stderr.contains(says), "{stopped}");
        run(&world, 2).await;
        assert_eq!(reader::manifests(world.archive_dir()).len(), before, "nothing is published");
    }
}

/// Nothing that was archived is missing, so nothing has diverged; but what idle polls had passed over is another history
/// now. Whether the backup host can say how far that was or not.
#[tokio::test]
async fn a_rollback_into_what_idle_polls_had_covered_is_read_again() {
    for case in ["head.json is there", "it is lost", "away since", "away all the time"] {
        let tables: Vec<toml::Value> = vec!["notes".into()];
        let mut world =
            world_with(WorldOptions::default().over_sftp().archiver_setting("tables", tables)).await;
        run(&world, 0).await;
        world.source.execute("CREATE TABLE others (id int, filling text)").await;
        run(&world, 0).await;
        let restored = world.source.copied(false).await;
        if case == "away all the time" {
            world.backup.stop();
        }
        let fill = "INSERT INTO others SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i";
        world.source.execute(fill).await;
        world.archiver(["run", "--once"]).run().await;
        match case {
            "it is lost" => fs::remove_file(head_path(&world)).expect("a head"),
            "away since" => world.backup.stop(),
            _ => {}
        }
        world.set_archiver("pg_port", i64::from(restored.port()));
        for passed in [false, true] {
            let row = if passed { "(21, 'after')" } else { "(20, 'before')" };
            restored.execute(&format!("INSERT INTO notes VALUES {row}")).await;
            if passed {
                restored.execute(fill).await;
                restored.execute(fill).await;
            }
            let polled = world.archiver(["run", "--once"]).run().await;
            if !case.starts_with("away") {
                assert_eq!((polled.code(), has(&world, "before")), (Some(0), true), "{case}: {polled}");
            }
        }
        if case.starts_with("away") {
            world.backup.restart();
            run(&world, 0).await;
        }
        assert_eq!((has(&world, "before"), has(&world, "after")), (true, true), "{case}");
    }
}

/// A clone of production's host, with its spool and its keys, archives where the other one has read already.
#[tokio::test]
async fn what_a_clone_of_this_host_archives_is_not_taken_for_ours() {
    let tables: Vec<toml::Value> = vec!["notes".into()];
    let options = WorldOptions::default().without_sftp().archiver_setting("tables", tables);
    let mut world = world_with(options).await;
    run(&world, 0).await;
    world.source.execute("CREATE TABLE others (id int, filling text)").await;
    run(&world, 0).await;
    let clone = world.source.copied(false).await;
    let spool = world.folder().join("clone-spool");
    let copied =
        std::process::Command::new("cp").arg("-a").arg(world.spool_dir()).arg(&spool).status().expect("cp");
    assert!(copied.success());
    let fill = "INSERT INTO others SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i";
    world.source.execute(fill).await;
    run(&world, 0).await;
    clone.execute("INSERT INTO notes VALUES (20, 'of the clone')").await;
    let beside = world.archiver(["run", "--once"]).env("SYNCDATA_PG_PORT", clone.port().to_string());
    beside.env("SYNCDATA_SPOOL_DIR", &spool).succeed().await;
    assert!(has(&world, "of the clone"));
    world.source.execute("INSERT INTO notes VALUES (30, 'ours')").await;
    let refused = world.archiver(["run", "--once"]).run().await;
    assert_ne!(refused.code(), Some(0), "{refused}");
    assert!(refused.stderr.contains("another archiver writes to this archive"), "{refused}");
    assert!(!has(&world, "ours"), "nothing goes on from what somebody else wrote");
}

/// Whether a row with that text is in the archive.
fn has(world: &World, text: &str) -> bool {
    reader::segments(world.archive_dir())
        .iter()
        .flat_map(|segment| &segment.lines)
        .any(|line| line.contains(text))
}

/// Of what was archived nothing is missing, and behind it stands a manifest without a commit: a gap alone, or a proof's
/// mark. What the restored server commits up to there would be passed over.
#[tokio::test]
async fn a_rollback_behind_a_manifest_without_a_commit_has_diverged() {
    for (plugin, is_proof) in [(Plugin::Wal2json, false), (Plugin::Wal2json, true), (Plugin::Pgoutput, false)]
    {
        let schema = "CREATE TABLE notes (id int PRIMARY KEY, text text);
            CREATE TABLE others (id int PRIMARY KEY, v text); INSERT INTO others VALUES (1, 'x')";
        let options = WorldOptions::default().without_sftp().plugin(plugin);
        let mut world = scene::world_with(options, schema).await;
        write(&world, 1).await;
        run(&world, 0).await;
        let restored = world.source.copied(false).await;
        world.source.execute("CREATE SCHEMA apart").await;
        if is_proof {
            world.archiver(["proof"]).succeed().await;
        } else {
            world.source.execute("ALTER TABLE others ALTER v TYPE bytea USING v::bytea").await;
            run(&world, 1).await;
        }
        let manifests = reader::manifests(world.archive_dir());
        let newest = reader::json(manifests.last().expect("segments"));
        assert_eq!(
            (newest["records"].as_u64(), newest["proof"].is_object()),
            (Some(0), is_proof),
            "{newest}"
        );
        // The slot goes back, and all is as it was.
        world.source.crash();
        world.source.resume().await;
        run(&world, 0).await;
        restored.execute("INSERT INTO notes VALUES (2, 'other')").await;
        restored.execute("SELECT pg_logical_emit_message(false, 'p', repeat('x', 8000000))").await;
        restored.execute("INSERT INTO notes VALUES (3, 'other')").await;
        world.set_archiver("pg_port", i64::from(restored.port()));
        for _ in 0..2 {
            let stopped = run(&world, 2).await;
            assert!(stopped.stderr.contains("has diverged from the archive"), "{plugin:?}: {stopped}");
        }
        assert_eq!(reader::manifests(world.archive_dir()), manifests, "nothing is published");
    }
}

/// When the spool was new, the slot stood past all that is archived. The rollback comes later.
#[tokio::test]
async fn a_rollback_is_found_by_a_spool_that_came_after_the_archive() {
    let mut world = world().await;
    let restored = world.source.copied(false).await;
    write(&world, 2).await;
    run(&world, 0).await;
    fs::remove_dir_all(world.spool_dir()).expect("our folder");
    run(&world, 0).await;
    restored.execute("INSERT INTO notes VALUES (2, 'other')").await;
    restored.execute("SELECT pg_logical_emit_message(false, 'p', repeat('x', 8000000))").await;
    restored.execute("INSERT INTO notes VALUES (3, 'other')").await;
    world.set_archiver("pg_port", i64::from(restored.port()));
    let stopped = run(&world, 2).await;
    assert!(stopped.stderr.contains("has diverged from the archive"), "{stopped}");
}

/// An operator decides that the restored server is the truth from here on: a gap of everything, which resync mends.
#[tokio::test]
async fn a_declared_gap_is_the_way_on_after_a_divergence() {
    let mut world = world().await;
    world.source.execute("CREATE TABLE orders (id int PRIMARY KEY) PARTITION BY RANGE (id)").await;
    world.set_archiver("tables", ["notes", "orders"].map(toml::Value::from).to_vec());
    run(&world, 0).await;
    let restored = world.source.copied(false).await;
    world.source.execute("INSERT INTO notes VALUES (2, 'lost')").await;
    for _ in 0..50 {
        world.source.execute("SELECT pg_current_xact_id()").await;
    }
    run(&world, 0).await;
    restored.execute("INSERT INTO notes SELECT i, 'other' FROM generate_series(3, 400) i").await;
    world.set_archiver("pg_port", i64::from(restored.port()));
    let stopped = run(&world, 2).await;
    assert!(stopped.stderr.contains("declare-gap --upto"), "{stopped}");
    let upto = restored.value("SELECT pg_current_wal_flush_lsn()").await;
    world.archiver(["declare-gap", "--upto", &upto, "--reason", "restored"]).succeed().await;
    let gaps = operator::gaps(&world);
    assert_eq!((gaps.len(), gaps[0]["tables"].is_null()), (1, true), "{gaps:?}");
    // The transactions of the other history had these numbers too.
    restored.execute("CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10)").await;
    restored.execute("INSERT INTO orders VALUES (1)").await;
    restored.execute("ALTER TABLE orders_1 RENAME TO orders_first").await;
    restored.execute("INSERT INTO notes VALUES (1000, 'after')").await;
    run(&world, 1).await;
    let gaps = operator::gaps(&world);
    assert!(gaps.iter().any(|gap| gap["tables"].to_string().contains("\"orders\"")), "{gaps:?}");
    let lines: String =
        reader::segments(world.archive_dir()).into_iter().flat_map(|segment| segment.lines).collect();
    assert_eq!((lines.contains("other"), lines.contains("after")), (false, true));
}

#[tokio::test]
async fn an_archive_is_founded_in_an_empty_place_only() {
    for kept in ["segments", "head.json", "snapshots"] {
        let world = world_with(WorldOptions::default()).await;
        run(&world, 0).await;
        let archive = world.archive_dir();
        fs::create_dir_all(archive.join("snapshots/00000000016B3D40-20260205T103000Z")).expect("our folder");
        for entry in fs::read_dir(archive).expect("our folder") {
            let entry = entry.expect("listed");
            if entry.file_name() == kept {
                continue;
            }
            let removed = match entry.file_type().expect("known").is_dir() {
                true => fs::remove_dir_all(entry.path()),
                false => fs::remove_file(entry.path()),
            };
            removed.expect("our folder");
        }
        fs::remove_dir_all(world.spool_dir()).expect("our folder");
        write(&world, 2).await;
        let before = operator::confirmed(&world).await;
        let refused = run(&world, 2).await;
        assert!(refused.stderr.contains("archive.json") && refused.stderr.contains(kept), "{refused}");
        assert!(!archive.join("archive.json").exists(), "nothing is founded");
        assert_eq!(operator::confirmed(&world).await, before);
    }
}
