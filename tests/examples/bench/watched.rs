//! Memory of a daemon that is watched in every way (API, page, metrics, alerts), against one with all of that off. Both
//! apply the same changes, and are asked by commands as often.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use syncdata_tests::LocalCopy;

use crate::measure::{high_water_mark, release};
use crate::{Arguments, say};

const TABLES: usize = 200;
/// Each with a change of every table.
const PASSES: usize = 20;
const TOKEN: &str = "a-token-of-the-benchmark-0123456789";
const ASKED: [&str; 6] = [
    "/",
    "/status",
    "/metrics",
    "/api/v1/data-sync/monitoring/dashboard",
    "/api/v1/data-sync/sync/executions",
    "/api/v1/data-sync/sync/tables",
];

pub(crate) async fn run(arguments: &Arguments) {
    let names: Vec<String> = (0..TABLES).map(|number| format!("t{number:03}")).collect();
    let schema: String =
        names.iter().map(|name| format!("CREATE TABLE {name} (id int PRIMARY KEY, note text);")).collect();
    let mut copy = LocalCopy::start(&schema).await;
    for name in &names {
        copy.forge.relation(name, &["id integer not null", "note text"], &["id"]);
    }
    let mut id = 0;
    let mut change = |copy: &mut LocalCopy| {
        id += 1;
        let row = |name: &String| {
            vec![format!(r#"{{"table":"{name}","op":"INSERT","data":{{"id":{id},"note":"note {id}"}}}}"#)]
        };
        copy.forge.segment(&names.iter().map(row).collect::<Vec<_>>());
    };
    change(&mut copy);
    copy.applier(&["add-tables", "*"]).succeed().await;
    copy.sync(0).await;
    let (mut watched, mut quiet) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        quiet.push(peak(&mut copy, None, &mut change).await);
        let address = syncdata_tests::free_address();
        watched.push(peak(&mut copy, Some(&address), &mut change).await);
    }
    watched.sort_by(f64::total_cmp);
    quiet.sort_by(f64::total_cmp);
    let (ours, before) = (watched[watched.len() / 2], quiet[quiet.len() / 2]);
    say(&format!("watched, {TABLES} tables, {PASSES} passes"));
    say(&format!("  API, page, metrics and alerts   {ours:6.1} MiB"));
    say(&format!("  all of it off                   {before:6.1} MiB"));
    say(&format!("  ratio (at most 1.2)             {:.2}", ours / before));
}

/// MiB that the daemon had at most.
async fn peak(copy: &mut LocalCopy, address: Option<&str>, change: &mut impl FnMut(&mut LocalCopy)) -> f64 {
    let daemon = start(copy, address);
    while copy.applier(&["status", "--json"]).run().await.stdout.contains("not-started") {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for _ in 0..PASSES {
        change(copy);
        copy.applier(&["sync"]).succeed().await;
        let Some(address) = address else { continue };
        for path in ASKED {
            assert!(ask(address, path).starts_with("HTTP/1.1 200 "), "{path}");
        }
    }
    let peak = high_water_mark(&daemon) as f64 / 1024.0;
    stop(daemon);
    peak
}

fn start(copy: &LocalCopy, address: Option<&str>) -> Child {
    let log = File::create(copy.folder().join("daemon.log")).expect("the folder is ours");
    let mut command = Command::new(release("syncdata-applier"));
    command.arg("start").stderr(log).envs(copy.applier(&["start"]).environment().iter().cloned());
    match address {
        Some(address) => {
            let tokens = copy.folder().join("tokens");
            fs::write(&tokens, TOKEN).expect("the folder is ours");
            fs::set_permissions(&tokens, Permissions::from_mode(0o600)).expect("ours");
            command.env("SYNCDATA_HTTP_LISTEN", address).env("SYNCDATA_API_TOKEN_FILE", tokens);
        }
        None => {
            command.env("ENABLE_SYNC_MONITORING", "false");
        }
    }
    command.spawn().expect("the program is there")
}

fn stop(mut daemon: Child) {
    let id = i32::try_from(daemon.id()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(id, Signal::TERM).expect("it is our child");
    assert!(daemon.wait().expect("it is our child").success());
}

fn ask(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the daemon listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    String::from_utf8_lossy(&answer).into_owned()
}
