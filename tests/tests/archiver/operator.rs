//! What somebody who runs the archiver does and looks at.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use syncdata_formats::lsn::Lsn;
use syncdata_service::control::{self, Method};
use syncdata_tests::World;

use crate::reader;

pub(crate) const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";

const PATIENCE: Duration = Duration::from_secs(60);

/// What the daemon answers to somebody who asks for something.
#[derive(Debug)]
pub(crate) struct Answer {
    pub exit_code: u64,
    pub message: String,
}

/// Has the running daemon poll now, and waits for the end of it.
pub(crate) async fn poll(world: &World) -> Answer {
    let answer = ask(world, Method::Post, "/poll").await;
    let exit_code = answer["exit_code"].as_u64().expect("an exit code");
    Answer { exit_code, message: answer["message"].as_str().expect("a message").to_owned() }
}

/// The running daemon's status.
pub(crate) async fn status(world: &World) -> Value {
    ask(world, Method::Get, "/status").await
}

async fn ask(world: &World, method: Method, path: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(socket) = socket(world)
            && let Ok(Some(response)) = control::call(&socket, method, path, None).await
        {
            return serde_json::from_slice(&response.body).expect("JSON");
        }
        assert!(Instant::now() < deadline, "no daemon answers");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn socket(world: &World) -> Option<PathBuf> {
    let entries = std::fs::read_dir(world.folder().join("archiver/run")).expect("the runtime folder");
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    paths.find(|path| path.extension().is_some_and(|extension| extension == "sock"))
}

/// Where the slot stands.
pub(crate) async fn confirmed(world: &World) -> Lsn {
    let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'syncdata_slot'";
    world.source.value(sql).await.parse().expect("an LSN")
}

/// All gaps that the archive declares, oldest first.
pub(crate) fn gaps(world: &World) -> Vec<Value> {
    let segments = reader::segments(world.archive_dir());
    let gaps = segments.iter().filter_map(|segment| segment.manifest["gaps"].as_array());
    gaps.flatten().cloned().collect()
}
