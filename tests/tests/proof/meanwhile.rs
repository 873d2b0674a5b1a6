//! Proofs of a daemon, whose polls and settings go on changing beside them; and of a copy that somebody works on.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use syncdata_tests::program::Program;
use syncdata_tests::world::{World, WorldOptions};

use crate::alarms::write;
use crate::scene::{self, assert_all_equal, prove, status};

const PATIENCE: Duration = Duration::from_secs(100);

/// Points at which a program is held for as long as their gate is there.
struct Gates {
    folder: PathBuf,
    trace: PathBuf,
}

impl Gates {
    fn of(world: &World) -> Gates {
        let folder = world.folder().join("gates");
        fs::create_dir(&folder).expect("a folder");
        Gates { folder, trace: world.folder().join("trace") }
    }

    fn hold(&self, program: Program) -> Program {
        program.env("SYNCDATA_FAULT_GATES", &self.folder).trace(&self.trace)
    }

    fn close(&self, point: &str) {
        fs::write(self.folder.join(point), "").expect("a file");
    }

    fn open(&self, point: &str) {
        fs::remove_file(self.folder.join(point)).expect("it is closed");
    }

    fn held(&self, point: &str) -> usize {
        let trace = fs::read_to_string(&self.trace).unwrap_or_default();
        trace.lines().filter(|line| *line == format!("{point} held")).count()
    }

    /// Until somebody stands there, of whom it is not known that he did before.
    async fn met(&self, point: &str, before: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.held(point) == before {
            assert!(Instant::now() < deadline, "nobody comes to {point}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A poll that began before the proof had its snapshot ends after it; settings are read again in the middle of a search; and
/// another proof is asked for while that one reads.
#[tokio::test]
async fn neither_a_poll_under_way_nor_new_settings_take_a_proof_s_search_away() {
    let world = scene::world(WorldOptions::default()).await;
    let gates = Gates::of(&world);
    let mut daemon = gates.hold(world.archiver(["-v", "run"])).spawn();
    daemon.says("started").await;

    gates.close("proof.snapshot_taken");
    let proof = world.archiver(["proof"]).spawn();
    gates.met("proof.snapshot_taken", 0).await;
    gates.close("read.answer_complete");
    world.source.execute("UPDATE accounts SET balance = 8 WHERE id = 1").await;
    let poll = world.archiver(["run", "--once"]).spawn();
    gates.met("read.answer_complete", 0).await;
    gates.open("proof.snapshot_taken");
    // Its last question before it says what it looks for.
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'syncdata-archiver proof' \
        AND state = 'idle' AND query LIKE '%pg_current_wal_flush_lsn%'";
    let deadline = Instant::now() + PATIENCE;
    while world.source.value(asked).await == "0" {
        assert!(Instant::now() < deadline, "it asks nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gates.open("read.answer_complete");
    poll.ended().await.expect_code(0);
    proof.ended().await.expect_code(0);

    gates.close("proof.snapshot_taken");
    gates.close("proof.marked");
    let proof = world.archiver(["proof"]).spawn();
    gates.met("proof.snapshot_taken", 1).await;
    daemon.signal(Signal::HUP);
    daemon.says("settings reloaded").await;
    gates.open("proof.snapshot_taken");
    gates.met("proof.marked", 0).await;
    let refused = world.archiver(["proof"]).run().await.expect_code(1);
    assert!(refused.stderr.contains("another proof is being made"), "{refused}");
    gates.open("proof.marked");
    proof.ended().await.expect_code(0);
    daemon.stop().await.expect_code(0);
    world.archiver(["verify"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;
}

/// Ten polls in a second, and as many transactions as there may be.
#[tokio::test]
async fn proofs_of_a_daemon_that_follows_raise_no_false_alarm() {
    let options = WorldOptions::default().source(|source| source.setting("max_prepared_transactions", "20"));
    let mut world = scene::world(options).await;
    world.set_archiver("follow", true);
    world.set_archiver("follow_interval", "100ms");
    let mut daemon = world.archiver(["-v", "run"]).spawn();
    daemon.says("the slot is followed").await;
    let (stop, truncate) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..4).map(|number| write(&world, &stop, &truncate, number)).collect();
    let mut proved = 0;
    for round in 0..4 {
        // Longer than it waits for older transactions.
        let proof = world.archiver(["proof", "--json"]).patience(Duration::from_secs(900));
        let made = proof.run().await;
        if made.code() == Some(1) {
            assert!(made.stderr.contains("was a prefix of the stream"), "{made}");
            continue;
        }
        made.expect_code(0);
        world.applier(["sync"]).succeed().await;
        let (tables, _) = status(&world).await;
        for table in &tables {
            assert!(table["verdict"] == "equal" || table["verdict"] == "not_proved", "{round}: {table}");
            proved += u32::from(table["verdict"] == "equal");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("it writes to its end");
    }
    assert!(proved > 0, "nothing was proved");
    let ended = daemon.stop().await.expect_code(0);
    assert!(!ended.stderr.contains("not read past"), "{ended}");
}

/// `CREATE INDEX CONCURRENTLY` waits for every snapshot: for those of who reads, and for the one that they all share.
#[tokio::test]
async fn an_index_that_somebody_makes_here_does_not_wait_for_a_proof() {
    let world = scene::world(WorldOptions::default()).await;
    world.archiver(["proof"]).succeed().await;
    let gates = Gates::of(&world);
    gates.close("proof.digested");
    let sync = gates.hold(world.applier(["sync"])).spawn();
    gates.met("proof.digested", 0).await;
    let index = world.target.execute("CREATE INDEX CONCURRENTLY soon ON accounts (balance)");
    tokio::time::timeout(PATIENCE, index).await.expect("it does not wait for the proof");
    gates.open("proof.digested");
    sync.ended().await.expect_code(0);
    let (tables, _) = status(&world).await;
    for table in &tables {
        let detail = table["detail"].as_str().unwrap_or_default();
        let gave_way = table["verdict"] == "not_proved" && detail.contains("DDL waited");
        assert!(table["verdict"] == "equal" || gave_way, "{table}");
    }
    prove(&world).await;
    assert_all_equal(&world).await;
}
