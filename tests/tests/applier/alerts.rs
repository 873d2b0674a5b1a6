//! Alerts: kept, then said, each event at least once under an id that stays; and who does not listen holds up nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use syncdata_service::hmac;
use syncdata_tests::LocalCopy;

use super::{rename, two_tables};
use crate::health::{status, status_that};

/// What was posted: the signature and the document.
type Post = (String, Value);

/// Answers every request so, on a free port.
fn listener(answer: &'static str) -> (String, Receiver<Post>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/hook/canary?x=1", listener.local_addr().expect("bound"));
    (url, serve(listener, answer))
}

fn serve(listener: TcpListener, answer: &'static str) -> Receiver<Post> {
    let (posts, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut text = String::new();
            let mut buffer = [0; 4096];
            let (head, body) = loop {
                let read = stream.read(&mut buffer).expect("a request");
                text.push_str(std::str::from_utf8(&buffer[..read]).expect("JSON"));
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head
                    .lines()
                    .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if length == Some(body.len()) || read == 0 {
                    break (head.to_owned(), body.to_owned());
                }
            };
            assert!(head.starts_with("POST /hook/canary?x=1 HTTP/1.1\r\n"), "{head}");
            let name = "x-syncdata-signature: ";
            let signature =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix(name).map(str::to_owned));
            let signature = signature.unwrap_or_default();
            if let Some(hash) = signature.strip_prefix("sha256=") {
                assert_eq!(hash, hmac::sha256_hex(b"a secret of ours", body.as_bytes()).expect("a hash"));
            }
            write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").expect("it reads");
            if posts.send((signature, serde_json::from_str(&body).expect("JSON"))).is_err() {
                return;
            }
        }
    });
    received
}

async fn next(posts: &Receiver<Post>) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match posts.try_recv() {
            Ok((_, document)) => return document,
            Err(_) => assert!(Instant::now() < deadline, "nothing was posted"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// While one pass after the other comes: each is a look, or several share one.
async fn next_with_passes(copy: &LocalCopy, posts: &Receiver<Post>) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        copy.applier(&["sync"]).succeed().await;
        match posts.try_recv() {
            Ok((_, document)) => return document,
            Err(_) => assert!(Instant::now() < deadline, "nothing was posted"),
        }
    }
}

/// A table that takes no Bad, and one record waiting is an alert.
async fn strict(url: &str) -> LocalCopy {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("ALTER TABLE users ADD CONSTRAINT good CHECK (name <> 'Bad')").await;
    copy.set("DEAD_LETTER_QUEUE_ALERT_THRESHOLD", "1");
    copy.set("SYNCDATA_STALE_AFTER", "3650d");
    // What was forged is old.
    copy.set("SYNC_LAG_ALERT_THRESHOLD_MINUTES", "50000000");
    copy.set("SYNCDATA_ALERT_WEBHOOK", url);
    let secret = copy.folder().join("secret");
    std::fs::write(&secret, "a secret of ours\n").expect("writable");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
    copy.set("SYNCDATA_ALERT_WEBHOOK_SECRET_FILE", secret.display().to_string());
    copy.forge.head();
    copy
}

#[tokio::test]
async fn an_alert_that_was_kept_and_not_said_is_said_after_a_kill_with_its_id_and_is_over_once() {
    let (url, posts) = listener("204 No Content");
    let mut copy = strict(&url).await;
    let said = copy.folder().join("said");
    copy.set("SYNCDATA_ALERT_COMMAND", format!("cat >> {}", said.display()));
    copy.forge.segment(&[vec![rename(1, "Bad")]]);
    copy.forge.head();
    let daemon = copy.applier(&["start"]).fault("alerts.kept=kill").spawn();
    assert!(daemon.ended().await.was_killed());
    let kept = "SELECT kind, subject, value, threshold, resolved_at IS NULL, delivered_at IS NULL FROM data_sync_alerts";
    assert_eq!(copy.rows(kept).await, "dead_letter_queue,*,1,1,t,t");
    let id = copy.rows("SELECT id FROM data_sync_alerts").await;
    assert!(posts.try_recv().is_err(), "nothing was said before it died");

    let daemon = copy.applier(&["start"]).spawn();
    let fired = next(&posts).await;
    assert_eq!((&fired["id"], &fired["event"]), (&id.as_str().into(), &"fired".into()));
    assert_eq!(
        (&fired["kind"], &fired["value"], &fired["resolved_at"]),
        (&"dead_letter_queue".into(), &"1".into(), &Value::Null)
    );
    copy.wait_until(kept, |rows| rows == "dead_letter_queue,*,1,1,t,f").await;
    let seen = status(&copy).await;
    assert_eq!(seen["alerts"][0]["id"], id.as_str(), "{seen}");
    let words = copy.applier(&["status"]).run().await.stdout;
    assert!(words.contains("\nalert: dead_letter_queue of *: 1 (threshold 1) since "), "{words}");

    // Over after two good looks, and no sooner.
    copy.server.execute("ALTER TABLE users DROP CONSTRAINT good").await;
    copy.applier(&["retry", "users"]).succeed().await;
    let resolved = next_with_passes(&copy, &posts).await;
    assert_eq!((&resolved["id"], &resolved["event"]), (&id.as_str().into(), &"resolved".into()));
    assert!(resolved["resolved_at"].is_string());
    copy.wait_until(kept, |rows| rows == "dead_letter_queue,*,1,1,f,f").await;
    let stopped = daemon.stop().await.expect_code(0);
    assert!(posts.try_recv().is_err(), "each event was said once");
    assert!(!stopped.stderr.contains("canary"), "{stopped}");
    let said = std::fs::read_to_string(said).expect("the command wrote");
    let events: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events, [fired, resolved]);
}

#[tokio::test]
async fn an_alert_that_was_said_and_not_noted_is_said_again_under_its_id() {
    let (url, posts) = listener("200 OK");
    let mut copy = strict(&url).await;
    copy.forge.segment(&[vec![rename(1, "Bad")]]);
    copy.forge.head();
    let daemon = copy.applier(&["start"]).fault("alerts.told=kill").spawn();
    assert!(daemon.ended().await.was_killed());
    let fired = next(&posts).await;
    let daemon = copy.applier(&["start"]).spawn();
    assert_eq!(next(&posts).await, fired, "at least once");
    let kept = "SELECT count(*) FROM data_sync_alerts WHERE delivered_at IS NOT NULL AND delivered = '{webhook fired}'";
    copy.wait_until(kept, |rows| rows == "1").await;
    daemon.stop().await.expect_code(0);
    // Nothing is said that was heard, whoever starts it again.
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    copy.applier(&["sync"]).run().await.expect_code(1);
    daemon.stop().await.expect_code(0);
    assert!(posts.try_recv().is_err());
}

/// Accepts, and never says a word.
fn hanging() -> (String, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/hook/canary?x=1", listener.local_addr().expect("bound"));
    let (came, calls) = channel();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            held.push(stream.expect("a connection"));
            if came.send(()).is_err() {
                return;
            }
        }
    });
    (url, calls)
}

#[tokio::test]
async fn a_webhook_that_hangs_or_leads_elsewhere_holds_up_neither_passes_nor_the_command() {
    let (url, calls) = hanging();
    let mut copy = strict(&url).await;
    let said = copy.folder().join("said");
    copy.set("SYNCDATA_ALERT_COMMAND", format!("cat >> {}", said.display()));
    copy.forge.segment(&[vec![rename(1, "Bad")]]);
    copy.forge.head();
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    copy.wait_until("SELECT array_to_string(delivered, ' ') FROM data_sync_alerts", |heard| {
        heard == "command fired"
    })
    .await;
    calls.recv_timeout(Duration::from_secs(60)).expect("the webhook was asked");
    copy.forge.segment(&[vec![r#"{"table":"orders","op":"INSERT","data":{"id":9,"user_id":2}}"#.to_owned()]]);
    copy.applier(&["sync"]).run().await.expect_code(1);
    assert_eq!(copy.rows("SELECT count(*) FROM orders").await, "2");
    status_that(&copy, |said| said["circuits"]["webhook"]["failures"].as_u64() > Some(0)).await;
    let stopped = daemon.stop().await.expect_code(0);
    assert!(stopped.stderr.contains("did not answer within 10s"), "{stopped}");

    let (elsewhere, never) = listener("200 OK");
    let redirect: &'static str = format!("302 Found\r\nLocation: {elsewhere}").leak();
    let (url, posts) = listener(redirect);
    copy.set("SYNCDATA_ALERT_WEBHOOK", &url);
    let daemon = copy.applier(&["start"]).spawn();
    next(&posts).await;
    next(&posts).await;
    daemon.stop().await.expect_code(0);
    assert!(never.try_recv().is_err(), "no redirect is followed");
    let heard = std::fs::read_to_string(said).expect("the command wrote");
    assert_eq!(heard.lines().count(), 1, "{heard}");
}

#[tokio::test]
async fn a_webhook_that_refuses_or_fails_holds_up_nothing_and_hears_it_later() {
    let (url, failing) = listener("500 Internal Server Error");
    let mut copy = strict(&url).await;
    let address = syncdata_tests::free_address();
    copy.set("SYNCDATA_HTTP_LISTEN", &address);
    copy.forge.segment(&[vec![rename(1, "Bad")]]);
    let daemon = copy.applier(&["start"]).spawn();
    let id = next(&failing).await["id"].clone();
    assert_eq!(next(&failing).await["id"], id, "it is said again");
    let open = status_that(&copy, |said| said["circuits"]["webhook"]["state"] == "open").await;
    assert!(
        open["circuits"]["webhook"]["since"].is_string()
            && open["circuits"]["webhook"]["next_try"].is_string(),
        "{open}"
    );
    assert_eq!(open["circuits"]["archive"]["state"], "closed");
    let metrics = super::daemon::get(&address, "/metrics");
    for line in [
        "alerts{kind=\"dead_letter_queue\"} 1",
        "alerts{kind=\"sync_lag\"} 0",
        "circuit_state{peer=\"archive\",state=\"closed\"} 1",
    ] {
        assert!(metrics.contains(&format!("\nsyncdata_applier_{line}\n")), "{line} is not in {metrics}");
    }
    // Passes go on meanwhile.
    copy.forge.segment(&[vec![r#"{"table":"orders","op":"INSERT","data":{"id":9,"user_id":2}}"#.to_owned()]]);
    let started = Instant::now();
    copy.applier(&["sync"]).run().await.expect_code(1);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(copy.rows("SELECT count(*) FROM orders").await, "2");
    daemon.stop().await;

    // At another address, that answers: an id that is known.
    let (url, hearing) = listener("200 OK");
    copy.set("SYNCDATA_ALERT_WEBHOOK", &url);
    let daemon = copy.applier(&["start"]).spawn();
    let heard = next(&hearing).await;
    assert_eq!((&heard["id"], &heard["event"]), (&id, &"fired".into()));
    status_that(&copy, |said| said["circuits"]["webhook"]["state"] == "closed").await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn an_alert_is_kept_in_a_file_while_the_database_is_away_and_copied_later() {
    let (url, posts) = listener("200 OK");
    let mut copy = strict(&url).await;
    // As old as an alert in a few seconds.
    copy.set("DATA_SYNC_FREQ", "60");
    copy.set("SYNC_LAG_ALERT_THRESHOLD_MINUTES", "15");
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    let almost = syncdata_formats::time::Timestamp::now().as_micros() - (15 * 60 - 12) * 1_000_000;
    copy.forge.head_covering(syncdata_formats::time::Timestamp::from_micros(almost).expect("a time"));
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_alerts").await, "0");
    copy.server.stop(syncdata_tests::StopMode::Immediate);
    // Passes that fail are looks too.
    daemon.signal(rustix::process::Signal::HUP);
    let fired = next(&posts).await;
    assert_eq!(
        (&fired["kind"], &fired["subject"], &fired["threshold"]),
        (&"sync_lag".into(), &"*".into(), &"15".into())
    );
    let seen =
        status_that(&copy, |said| said["circuits"]["local_server"]["failures"].as_u64() > Some(0)).await;
    assert_eq!(seen["alerts"][0]["id"], fired["id"], "{seen}");
    copy.server.resume().await;
    let kept = "SELECT id FROM data_sync_alerts WHERE resolved_at IS NULL";
    let id = fired["id"].as_str().expect("an id").to_owned();
    copy.wait_until(kept, |found| found == id).await;
    copy.forge.head();
    let resolved = next_with_passes(&copy, &posts).await;
    assert_eq!((&resolved["id"], &resolved["event"]), (&fired["id"], &"resolved".into()));
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_that_failed_is_spoken_for_once_and_the_next_one_keeps_what_was_said() {
    let (url, posts) = listener("200 OK");
    let mut copy = strict(&url).await;
    let ended = async |copy: &LocalCopy, result: &str| {
        let done = copy.applier(&["daemon-ended"]).env("SERVICE_RESULT", result).run().await;
        done.expect_code(0)
    };
    ended(&copy, "success").await;
    copy.applier(&["daemon-ended"]).succeed().await;
    assert!(posts.try_recv().is_err(), "a daemon that was stopped has not failed");
    ended(&copy, "exit-code").await;
    let fired = next(&posts).await;
    assert_eq!(
        (&fired["kind"], &fired["subject"], &fired["event"]),
        (&"daemon_failed".into(), &"exit-code".into(), &"fired".into())
    );
    ended(&copy, "exit-code").await;
    assert!(posts.try_recv().is_err(), "a daemon that fails again and again says so once");

    // Nobody listens: it is kept, and the next daemon says it.
    let dead = syncdata_tests::free_address();
    copy.set("SYNCDATA_ALERT_WEBHOOK", format!("http://{dead}/hook"));
    let words = ended(&copy, "watchdog").await.stderr;
    assert!(words.contains("an alert was not taken"), "{words}");
    copy.set("SYNCDATA_ALERT_WEBHOOK", &url);
    let daemon = copy.applier(&["start"]).spawn();
    let late = next(&posts).await;
    assert_eq!((&late["kind"], &late["subject"]), (&"daemon_failed".into(), &"watchdog".into()));
    let kept = "SELECT count(*) FROM data_sync_alerts WHERE kind = 'daemon_failed' AND resolved_at IS NULL AND delivered_at IS NOT NULL";
    copy.wait_until(kept, |rows| rows == "2").await;
    // A daemon that has just begun has not lasted.
    for _ in 0..3 {
        copy.applier(&["sync"]).run().await;
    }
    assert_eq!(copy.rows(kept).await, "2");
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn nothing_is_watched_where_monitoring_is_off() {
    let (url, posts) = listener("200 OK");
    let mut copy = strict(&url).await;
    copy.set("ENABLE_SYNC_MONITORING", "false");
    copy.forge.segment(&[vec![rename(1, "Bad")]]);
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    assert_eq!(status(&copy).await["dead_letter_queue"], 1);
    copy.applier(&["sync"]).run().await.expect_code(1);
    daemon.stop().await;
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_alerts").await, "0");
    assert!(posts.try_recv().is_err());
}
