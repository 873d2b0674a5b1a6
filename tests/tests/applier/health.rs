//! What counts as an error, what makes a copy unhealthy, and that all who ask are told the same.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use syncdata_tests::LocalCopy;

use super::{rename, two_tables};

/// Two tables that are live, and an address that a daemon will listen on.
async fn watched() -> (LocalCopy, String) {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    let address = syncdata_tests::free_address();
    copy.set("SYNCDATA_HTTP_LISTEN", &address);
    copy.set("SYNCDATA_STALE_AFTER", "3650d");
    (copy, address)
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the daemon listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

pub(crate) async fn status(copy: &LocalCopy) -> Value {
    copy.applier(&["status", "--json"]).run().await.json()
}

/// The status as soon as it is like that: who asked for a load may know its end before the daemon has told itself.
pub(crate) async fn status_that(copy: &LocalCopy, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let said = status(copy).await;
        if is_wanted(&said) {
            return said;
        }
        assert!(Instant::now() < deadline, "{said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn metric(address: &str, name: &str) -> String {
    let metrics = get(address, "/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("syncdata_applier_{name} ")));
    line.unwrap_or_else(|| panic!("{name} is not in {metrics}")).to_owned()
}

#[tokio::test]
async fn each_attempt_that_fails_is_an_error_and_all_who_ask_are_told_the_same() {
    let (mut copy, address) = watched().await;
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    let sound = status(&copy).await;
    assert_eq!(
        (&sound["errors"], &sound["last_error"], &sound["healthy"]),
        (&0.into(), &Value::Null, &true.into())
    );
    let last = copy.forge.segment(&[vec![rename(1, "Eve")]]);
    let bytes = fs::read(&last.file).expect("forged");
    fs::write(&last.file, &bytes[..bytes.len() - 1]).expect("ours");
    for errors in 1..=3_u64 {
        copy.sync(2).await;
        let said = status(&copy).await;
        assert_eq!(
            (said["errors"].as_u64(), said["error_count"].as_u64()),
            (Some(errors), Some(errors)),
            "{said}"
        );
        assert_eq!(metric(&address, "errors_total"), errors.to_string());
        assert_eq!(metric(&address, "pass_failures_total"), errors.to_string());
        assert_eq!(metric(&address, "pass_duration_seconds_count"), (errors + 1).to_string());
        assert_eq!(metric(&address, "waiting_segments"), "1");
        let over_http = get(&address, "/status");
        let (_, body) = over_http.split_once("\r\n\r\n").expect("a body");
        let body: Value = serde_json::from_str(body).expect("JSON");
        for key in ["errors", "last_error", "problems", "healthy", "tables", "last_lsn", "is_running"] {
            assert_eq!(body[key], said[key], "{key}");
        }
        let problem = said["problems"][0].as_str().expect("a problem");
        assert_eq!(said["last_error"], problem);
        let health = get(&address, "/health");
        assert!(health.starts_with("HTTP/1.1 503 "), "{health}");
        assert!(health.contains(serde_json::json!(problem).to_string().trim_matches('"')), "{health}");
    }
    fs::write(&last.file, bytes).expect("ours");
    copy.sync(0).await;
    let mended = status(&copy).await;
    assert_eq!((&mended["errors"], &mended["healthy"]), (&3.into(), &true.into()), "{mended}");
    assert_eq!(
        (mended["records_replicated"].as_u64(), metric(&address, "waiting_segments").as_str()),
        (Some(4), "0")
    );
    assert_eq!(mended["last_lsn"], mended["copy"]["lsn"]);
    assert!(get(&address, "/health").starts_with("HTTP/1.1 200 "));
    let rows = get(&address, "/metrics");
    for line in [
        "rows_total{table=\"users\",operation=\"insert\"} 2",
        "rows_total{table=\"users\",operation=\"update\"} 1",
        "rows_total{table=\"orders\",operation=\"delete\"} 0",
        "missing_rows_total{table=\"users\"} 0",
    ] {
        assert!(rows.contains(&format!("\nsyncdata_applier_{line}\n")), "{line} is not in {rows}");
    }
    daemon.stop().await;
    let stopped = status(&copy).await;
    assert_eq!(
        (&stopped["is_running"], &stopped["last_lsn"]),
        (&false.into(), &mended["last_lsn"]),
        "{stopped}"
    );
    assert_eq!(stopped["uptime_seconds"], Value::Null);
}

#[tokio::test]
async fn a_table_that_could_not_be_loaded_is_unhealthy_until_it_is() {
    let (mut copy, address) = watched().await;
    copy.sync(0).await;
    copy.forge.snapshot(&[("users", &["1\tAnn", "2\tBad"])]);
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    copy.server.execute("ALTER TABLE users ADD CONSTRAINT good CHECK (name <> 'Bad')").await;
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    let refused = copy.applier(&["resync", "users"]).run().await;
    assert_ne!(refused.code(), Some(0), "{refused}");
    let failed = status_that(&copy, |said| said["healthy"] == false).await;
    let problem = failed["problems"][0].as_str().expect("a problem");
    assert!(problem.starts_with("users could not be loaded: ") && problem.contains("good"), "{failed}");
    assert_eq!((&failed["errors"], &failed["tables"][0]["state"]), (&1.into(), &"live".into()), "{failed}");
    assert_eq!(metric(&address, "load_failures_total"), "1");
    assert!(get(&address, "/health").starts_with("HTTP/1.1 503 "));
    copy.server.execute("ALTER TABLE users DROP CONSTRAINT good").await;
    copy.applier(&["resync", "users"]).succeed().await;
    let loaded = status_that(&copy, |said| said["healthy"] == true).await;
    assert_eq!((&loaded["healthy"], &loaded["errors"]), (&true.into(), &1.into()), "{loaded}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_new_table_without_a_base_is_healthy_and_no_error_and_an_emptied_one_is_not() {
    let (copy, address) = watched().await;
    copy.server.execute("CREATE TABLE later (id int PRIMARY KEY)").await;
    copy.applier(&["add-tables", "later"]).succeed().await;
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    copy.sync(0).await;
    let waits = status(&copy).await;
    assert_eq!((&waits["healthy"], &waits["errors"]), (&true.into(), &0.into()), "{waits}");
    let note = waits["notes"][0].as_str().expect("a note");
    assert!(note.starts_with("later: pending: "), "{note}");
    let text = copy.applier(&["status"]).succeed().await.stdout;
    assert!(text.contains("\nnote: later: pending: ") && text.contains("\ntable users: live"), "{text}");
    let states = get(&address, "/metrics");
    for (state, is) in [("pending", 1), ("loading", 0), ("live", 0), ("quarantined", 0), ("stale", 0)] {
        let line = format!("syncdata_applier_table_state{{table=\"later\",state=\"{state}\"}} {is}\n");
        assert!(states.contains(&line), "{line} is not in {states}");
    }
    daemon.stop().await;
    copy.applier(&["clear", "--yes"]).succeed().await;
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    let emptied = status(&copy).await;
    let problems = emptied["problems"].to_string();
    assert!(problems.contains("users is pending: emptied by clear"), "{emptied}");
    assert!(!problems.contains("later"), "{emptied}");
    assert!(get(&address, "/health").starts_with("HTTP/1.1 503 "));
    daemon.stop().await;
}
