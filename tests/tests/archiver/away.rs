//! The backup host is away, refuses, is full, or loses what it had: that costs time, not changes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use syncdata_tests::proxy::{Direction, Proxy};
use syncdata_tests::workload::TABLES;
use syncdata_tests::{Workload, World, WorldOptions};

use crate::operator::{self, SLOT};
use crate::{reader, replay};

async fn world(options: WorldOptions) -> (World, Workload) {
    let world = options.start().await;
    let workload = Workload::new(11);
    workload.create_tables(&world.source).await;
    world.source.execute(SLOT).await;
    workload.fill(&world.source).await;
    (world, workload)
}

/// A way to be away.
#[derive(Clone, Copy, Debug)]
enum Absence {
    Stopped,
    OtherHostKey,
    FolderGone,
    /// As a disk that is not mounted.
    FolderEmpty,
    NoSpace,
}

impl Absence {
    const ALL: [Absence; 5] = [
        Absence::Stopped,
        Absence::OtherHostKey,
        Absence::FolderGone,
        Absence::FolderEmpty,
        Absence::NoSpace,
    ];

    /// What tells it from the others.
    fn words(self) -> &'static str {
        match self {
            Absence::Stopped => "refused",
            Absence::OtherHostKey => "host key",
            Absence::FolderGone => "does not exist",
            Absence::FolderEmpty => "has no archive.json any more",
            Absence::NoSpace => "shipping segment",
        }
    }

    fn begin(self, world: &mut World) {
        let archive = world.archive_dir().to_owned();
        match self {
            Absence::Stopped => world.backup.stop(),
            Absence::OtherHostKey => {
                let known = fs::read_to_string(world.backup.known_hosts()).expect("known_hosts");
                fs::write(world.folder().join("known_hosts"), &known).expect("our folder");
                let (host, _) = known.split_once(' ').expect("a line");
                let other =
                    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMlak1kawjf501PFMn4QnKCs78G3Cukn4KQ6zut19K/T";
                fs::write(world.backup.known_hosts(), format!("{host} {other}\n")).expect("known_hosts");
                world.backup.restart();
            }
            Absence::FolderGone => fs::rename(&archive, aside(world)).expect("our folder"),
            Absence::FolderEmpty => {
                fs::rename(&archive, aside(world)).expect("our folder");
                fs::create_dir(&archive).expect("our folder");
            }
            Absence::NoSpace => {
                world.backup.limit_files(Some(600));
                world.backup.restart();
            }
        }
    }

    fn end(self, world: &mut World) {
        match self {
            Absence::Stopped => world.backup.restart(),
            Absence::OtherHostKey => {
                let known = fs::read_to_string(world.folder().join("known_hosts")).expect("kept above");
                fs::write(world.backup.known_hosts(), known).expect("known_hosts");
            }
            Absence::FolderGone | Absence::FolderEmpty => {
                fs::remove_dir(world.archive_dir()).ok();
                fs::rename(aside(world), world.archive_dir()).expect("nothing was written meanwhile");
            }
            Absence::NoSpace => {
                world.backup.limit_files(None);
                world.backup.restart();
            }
        }
    }
}

fn aside(world: &World) -> PathBuf {
    world.folder().join("archive-aside")
}

#[tokio::test]
async fn a_backup_host_that_was_away_gets_everything_in_order() {
    let (mut world, mut workload) = world(WorldOptions::default()).await;
    let daemon = world.archiver(["run"]).spawn();
    assert_eq!(operator::poll(&world).await.exit_code, 0, "{}", daemon.stderr());
    for (number, absence) in Absence::ALL.into_iter().enumerate() {
        let before = operator::confirmed(&world).await;
        absence.begin(&mut world);
        for _ in 0..2 {
            workload.run(&world.source, 5).await;
            let answer = operator::poll(&world).await;
            assert_eq!(answer.exit_code, 1, "{absence:?}: {answer:?}\n{}", daemon.stderr());
        }
        let status = operator::status(&world).await;
        let reason = status["archive"]["out_of_reach"].as_str().unwrap_or_default();
        assert!(reason.contains(absence.words()), "{absence:?}: {status}");
        assert_eq!(status["healthy"], false);
        // The daemon polls by itself, too, while something is wrong.
        assert!(status["spool"]["unshipped_segments"].as_u64() >= Some(2), "{absence:?}: {status}");
        // Each hop's lag: the first is none, the second begins with the oldest segment that waits.
        // Of what the server writes for itself some may come between the poll and this look.
        assert!(status["spool"]["behind_source_bytes"].as_u64() < Some(1000), "{status}");
        assert!(status["spool"]["behind_source_seconds"].is_u64(), "{status}");
        assert!(status["spool"]["unshipped_seconds"].is_u64(), "{status}");
        assert!(status["spool"]["unshipped_since"].as_str() >= status["start_time"].as_str(), "{status}");
        assert_eq!(
            operator::confirmed(&world).await,
            before,
            "{absence:?}: only what is shipped is confirmed"
        );
        absence.end(&mut world);
        let answer = operator::poll(&world).await;
        assert_eq!(answer.exit_code, 0, "{absence:?}: {answer:?}\n{}", daemon.stderr());
        assert_eq!(operator::status(&world).await["healthy"], true, "{absence:?}");
        replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
        let told = |words: &str| daemon.stderr().matches(words).count();
        assert_eq!(told("has everything again"), number + 1, "{}", daemon.stderr());
        // Once, also where the words change: how it broke, and how it stays.
        assert_eq!(told("does not have everything yet"), number + 1, "{}", daemon.stderr());
    }
    daemon.stop().await.expect_code(0);
    assert_head_is_right(&world);
}

fn assert_head_is_right(world: &World) {
    let head = reader::json(&world.archive_dir().join("head.json"));
    let last = reader::last_manifest(world.archive_dir()).expect("segments");
    assert_eq!(head["seq"], last["seq"]);
}

#[tokio::test]
async fn with_confirm_spooled_production_forgets_what_the_spool_has() {
    let options = WorldOptions::default().archiver_setting("confirm", "spooled");
    let (mut world, mut workload) = world(options).await;
    world.archiver(["run", "--once"]).succeed().await;
    let before = operator::confirmed(&world).await;
    world.backup.stop();
    workload.run(&world.source, 5).await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(operator::confirmed(&world).await > before);
    world.backup.restart();
    world.archiver(["run", "--once"]).succeed().await;
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
}

/// Half open: the connection stands, nobody answers.
#[tokio::test]
async fn a_frozen_backup_host_stops_neither_capture_nor_sigterm() {
    let (world, mut workload) = world(WorldOptions::default()).await;
    world.archiver(["run", "--once"]).succeed().await;
    workload.run(&world.source, 5).await;
    world.backup.freeze();
    let daemon = world.archiver(["run"]).spawn();
    // In the middle of the first poll, which waits for the backup host.
    operator::status(&world).await;
    daemon.stop().await.expect_code(0);
    let run = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(run.stderr.contains("does not complete the SSH handshake"), "{run}");
    let unshipped = world.archiver(["status", "--json"]).run().await.json();
    assert_eq!(unshipped["spool"]["unshipped_segments"], 1, "captured all the same");
    world.backup.thaw();
    world.archiver(["run", "--once"]).succeed().await;
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
}

#[tokio::test]
async fn a_connection_cut_anywhere_in_an_upload_costs_nothing() {
    let (mut world, mut workload) = world(WorldOptions::default()).await;
    let proxy = Proxy::start(world.backup.address());
    let line = format!("[127.0.0.1]:{} {}\n", proxy.port(), world.backup.host_key("ed25519"));
    fs::write(world.backup.known_hosts(), line).expect("our folder");
    world.set_archiver("archive_port", i64::from(proxy.port()));
    world.archiver(["run", "--once"]).succeed().await;
    let mut cut_runs = 0;
    for bytes in [1, 900, 2500, 4500, 6500, 8000, 10_000, 14_000, 20_000] {
        workload.run(&world.source, 12).await;
        // More cuts than a run has attempts.
        proxy.cut_every(Direction::Up, bytes, 40);
        let run = world.archiver(["run", "--once"]).run().await;
        cut_runs += u32::from(run.code() == Some(1));
        assert!(matches!(run.code(), Some(0 | 1)), "{bytes}: {run}");
        // Whatever has a final name is whole.
        reader::segments(world.archive_dir());
        proxy.cut_every(Direction::Down, u64::MAX, 1);
        world.archiver(["run", "--once"]).succeed().await;
    }
    assert!(cut_runs >= 4, "{cut_runs} runs were cut");
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
}

/// What a power cut on the backup host leaves behind, of the newest files.
#[tokio::test]
async fn what_a_power_cut_took_is_sent_again() {
    let (world, mut workload) = world(WorldOptions::default()).await;
    for damage in 0..6 {
        workload.run(&world.source, 5).await;
        world.archiver(["run", "--once"]).succeed().await;
        let manifest = reader::manifests(world.archive_dir()).pop().expect("segments");
        let changes = manifest.with_file_name(reader::json(&manifest)["file"].as_str().expect("a file"));
        let whole = fs::read(&changes).expect("our file");
        match damage {
            0 => fs::write(&changes, vec![0; whole.len()]).expect("our file"),
            1 => fs::write(&changes, &whole[..whole.len() / 2]).expect("our file"),
            2 => fs::remove_file(&changes).expect("our file"),
            3 => fs::write(&manifest, "").expect("our file"),
            4 => fs::remove_file(&manifest).expect("our file"),
            _ => fs::remove_dir_all(manifest.parent().expect("its day")).expect("our folder"),
        }
        if damage % 2 == 0 {
            workload.run(&world.source, 3).await;
        }
        let run = world.archiver(["run", "--once"]).succeed().await;
        assert!(run.stderr.contains("lost a segment"), "{damage}: {run}");
        replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    }
}

#[tokio::test]
async fn a_signature_that_a_power_cut_took_is_sent_again() {
    let (mut world, mut workload) = world(WorldOptions::default()).await;
    let key = world.folder().join("signing.key").to_str().expect("a plain name").to_owned();
    world.archiver(["keygen", &key]).succeed().await;
    world.set_archiver("signing_key", key.as_str());
    world.archiver(["run", "--once"]).succeed().await;
    for damage in 0..3 {
        workload.run(&world.source, 2).await;
        world.archiver(["run", "--once"]).succeed().await;
        let manifest = reader::manifests(world.archive_dir()).pop().expect("segments");
        let signature = manifest.with_file_name(format!(
            "{}.minisig",
            manifest.file_name().and_then(|name| name.to_str()).expect("a plain name")
        ));
        let whole = fs::read(&signature).expect("it is signed");
        match damage {
            0 => fs::remove_file(&signature).expect("our file"),
            1 => fs::write(&signature, "").expect("our file"),
            _ => fs::write(&signature, vec![0; whole.len()]).expect("our file"),
        }
        let run = world.archiver(["run", "--once"]).succeed().await;
        assert!(run.stderr.contains("lost a segment"), "{damage}: {run}");
        assert!(fs::read(&signature).expect("sent again") == whole, "{damage}");
    }
}

#[tokio::test]
async fn a_hangup_reloads_and_polls_while_the_backup_host_is_away() {
    let (mut world, mut workload) = world(WorldOptions::default()).await;
    let mut daemon = world.archiver(["run"]).spawn();
    operator::poll(&world).await;
    world.backup.stop();
    workload.run(&world.source, 3).await;
    daemon.signal(Signal::HUP);
    daemon.says("settings reloaded").await;
    daemon.says("does not have everything yet").await;
    world.backup.restart();
    // Without anybody's help: the pause between polls is short while something is wrong.
    daemon.says("has everything again").await;
    let began = Instant::now();
    daemon.stop().await.expect_code(0);
    assert!(began.elapsed() < Duration::from_secs(10));
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
}
