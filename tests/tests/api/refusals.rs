//! Who is refused, and what holds up nobody.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{API, Served, TOKEN, free_address, get, post, send, served, tokens};

/// Without a token.
fn open(address: &str, path: &str) -> super::Answer {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

#[tokio::test]
async fn who_may_not_ask_is_told_why_and_nothing_is_done() {
    let mut served = served(&[]).await;
    let address = served.address.clone();
    for path in ["/status", "/health", "/metrics"] {
        open(&address, path).expect(200);
    }
    let run = format!("POST {API}/sync/run HTTP/1.1\r\nHost: localhost\r\n");
    let auth = format!("Authorization: Bearer {TOKEN}\r\n");
    let none = send(&address, &format!("{run}Content-Length: 0\r\n\r\n")).expect(401);
    assert_eq!(none.header("www-authenticate"), Some("bearer realm=\"syncdata\""));
    for (more, status) in [
        ("Authorization: Bearer wrong-wrong-wrong-wrong-wrong-wrong\r\n".to_owned(), 401),
        (format!("Authorization: Basic {TOKEN}\r\n"), 401),
        (format!("Authorization: Bearer {}\r\n", &TOKEN[..TOKEN.len() - 1]), 401),
        (format!("{auth}{auth}"), 400),
        (format!("{auth}Origin: http://evil.example\r\n"), 403),
        (format!("{auth}Origin: null\r\n"), 403),
        (format!("{auth}Sec-Fetch-Site: cross-site\r\n"), 403),
        (format!("{auth}Sec-Fetch-Site: same-site\r\n"), 403),
        (format!("{auth}Host: localhost\r\n"), 400),
        (format!("{auth}Idempotency-Key: {}\r\n", "k".repeat(256)), 400),
        (format!("{auth}Idempotency-Key: two words\r\n"), 400),
        (format!("{auth}Idempotency-Key: a\tb\r\n"), 400),
    ] {
        send(&address, &format!("{run}{more}Content-Length: 0\r\n\r\n")).expect(status);
    }
    // A browser that was led here under another name.
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "0.0.0.0"] {
        let request =
            format!("POST {API}/sync/run HTTP/1.1\r\nHost: {host}\r\n{auth}Content-Length: 0\r\n\r\n");
        send(&address, &request).expect(421);
        send(&address, &format!("GET http://{host}/status HTTP/1.1\r\nHost: localhost\r\n\r\n")).expect(421);
    }
    // Bodies.
    let with = |body: &str, kind: &str| {
        let head = format!("{run}{auth}{kind}Content-Length: {}\r\n\r\n{body}", body.len());
        send(&address, &head)
    };
    let json = "Content-Type: application/json\r\n";
    with("{}", "").expect(415);
    with("<a/>", "Content-Type: text/xml\r\n").expect(415);
    for body in ["{", "[]", "null", "7", "\"x\"", "{\"unknown\":1}", "{\"a\":1", "\u{1}", &"[".repeat(10_000)]
    {
        with(body, json).expect(422);
    }
    let huge = format!("{run}{auth}{json}Content-Length: 100000000\r\n\r\n{{");
    send(&address, &huge).expect(413);
    let chunked = format!(
        "{run}{auth}{json}Transfer-Encoding: chunked\r\n\r\n20000\r\n{}\r\n0\r\n\r\n",
        " ".repeat(0x20000)
    );
    assert!(
        [0, 413].contains(&send(&address, &chunked).status),
        "a body without a length has one all the same"
    );
    for smuggled in [
        format!("{run}{auth}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        format!("{run}{auth}Transfer-Encoding: x\r\nContent-Length: 2\r\n\r\nab"),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "\0\0\0\0".to_owned(),
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000)),
    ] {
        let answer = send(&address, &smuggled);
        assert!(answer.status == 0 || answer.status >= 400, "{smuggled:?}: {answer:?}");
    }
    // Names and shapes.
    for (path, status) in [
        ("/else", 404),
        ("/api/v1/data-sync/sync/executions/x", 404),
        ("/api/v1/data-sync/sync/executions/00000000-0000-0000-0000-000000000000", 404),
        ("/api/v1/data-sync/sync/executions?cursor=x", 422),
        ("/api/v1/data-sync/sync/executions?limit=0", 422),
        ("/api/v1/data-sync/sync/executions?limit=1&limit=2", 422),
        ("/api/v1/data-sync/sync/executions?page=2", 422),
        ("/api/v1/data-sync/sync/tables/%zz", 404),
        ("/api/v1/data-sync/sync/dead-letter-queue/%00", 400),
        ("/api/v1/data-sync/consistency/validate/users", 422),
        ("/api/v1/data-sync/consistency/validate/nobody?primary_key=1", 404),
        ("/api/v1/data-sync/consistency/validate/users?primary_key=1&primary_key=2", 422),
        ("/api/v1/data-sync/sync/run", 405),
    ] {
        get(&address, path).expect(status);
    }
    for (path, body, status) in [
        ("/sync/table/nobody/full", "", 404),
        ("/sync/table/a%22b/full", "", 422),
        ("/sync/table/users/full?batch_size=0", "", 422),
        ("/sync/table/users/incremental", "", 422),
        ("/sync/table/users/incremental", r#"{"since":"yesterday"}"#, 422),
        ("/sync/table/nobody/incremental", r#"{"since":"2026-01-01"}"#, 404),
        ("/consistency/check", r#"{"tables":["nobody"]}"#, 404),
        ("/consistency/check", r#"{"check_types":["all"]}"#, 422),
        ("/sync/status", "", 405),
    ] {
        post(&address, &format!("{API}{path}"), body, "").expect(status);
    }
    assert_eq!(served.copy.rows("SELECT count(*) FROM sync_executions WHERE trigger = 'api'").await, "0");

    // Tokens come and go with the file, and a file that everybody reads opens nothing.
    let (status, other) = (format!("{API}/sync/status"), "another-token-0123456789-0123456789");
    get(&address, &status).expect(200);
    let path = tokens(served.copy.folder(), &[other]);
    served.daemon.signal(Signal::HUP);
    served.daemon.says("settings reloaded").await;
    get(&address, &status).expect(401);
    let asks = format!("GET {status} HTTP/1.1\r\nHost: localhost\r\nAuthorization: bearer {other}\r\n\r\n");
    send(&address, &asks).expect(200);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("ours");
    served.daemon.signal(Signal::HUP);
    served.daemon.says("no token of the HTTP API is taken").await;
    send(&address, &asks).expect(401);
    let health = open(&address, "/health").expect(503);
    assert!(health.body.contains("everybody may read") && health.body.contains("chmod 0640"), "{health:?}");
    let log = served.daemon.stop().await.expect_code(0).stderr;
    assert!(!log.contains(TOKEN) && !log.contains(other), "{log}");
}

#[tokio::test]
async fn slow_clients_and_a_thousand_connections_hold_up_neither_health_nor_passes() {
    let mut served = served(&[]).await;
    let address = served.address.clone();
    let before = served.daemon.peak_kib().expect("it runs");
    // Half a request each.
    let mut slow = Vec::new();
    for _ in 0..1000 {
        let Ok(mut stream) = TcpStream::connect(&address) else { break };
        let _ = stream.write_all(b"POST /api/v1/data-sync/sync/run HTTP/1.1\r\nHost: loc");
        slow.push(stream);
    }
    assert_eq!(slow.len(), 1000);
    for _ in 0..20 {
        let asked = Instant::now();
        open(&address, "/health").expect(200);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    }
    served.copy.forge.segment(&[vec![super::rename(1, "Eve")]]);
    served.copy.applier(&["sync"]).succeed().await;
    assert_eq!(served.copy.rows("SELECT name FROM users WHERE id = 1").await, "Eve");
    let files = fs::read_dir(format!("/proc/{}/fd", served.daemon.id())).expect("it runs").count();
    assert!(files < 200, "{files} files are open");
    drop(slow);
    for _ in 0..50 {
        get(&address, &format!("{API}/sync/status")).expect(200);
        get(&address, &format!("{API}/sync/executions")).expect(200);
    }
    let after = served.daemon.peak_kib().expect("it runs");
    assert!(after * 10 <= before * 12, "{before} KiB before, {after} KiB after");
    served.daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn an_address_that_may_not_be_opened_is_a_problem_and_passes_go_on() {
    let everywhere = free_address().replace("127.0.0.1", "0.0.0.0");
    let mut served = served(&[("SYNCDATA_HTTP_LISTEN", &everywhere)]).await;
    let status = served.copy.applier(&["status", "--json"]).run().await.expect_code(1).json();
    let problem = status["problems"][0].as_str().expect("a problem");
    assert!(problem.contains("is no loopback address") && problem.contains("http_behind_proxy"), "{status}");
    assert!(TcpStream::connect(everywhere.replace("0.0.0.0", "127.0.0.1")).is_err(), "it is closed");
    served.copy.forge.segment(&[vec![super::rename(1, "Eve")]]);
    served.copy.applier(&["sync"]).succeed().await;
    served.daemon.stop().await.expect_code(0);

    // Somebody else has the port: it is taken as soon as they leave.
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("bound").to_string();
    served.copy.set("SYNCDATA_HTTP_LISTEN", &address);
    let mut daemon = served.copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    let status = served.copy.applier(&["status"]).run().await.expect_code(1).stdout;
    assert!(status.contains("cannot be opened"), "{status}");
    drop(other);
    daemon.says("INFO listening").await;
    get(&address, "/health").expect(200);
    served.copy.applier(&["status"]).succeed().await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn a_token_file_that_is_a_pipe_or_a_folder_holds_up_no_start() {
    let Served { mut copy, daemon, address } = served(&[]).await;
    daemon.stop().await.expect_code(0);
    let pipe = copy.folder().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    let folder = copy.folder().to_owned();
    for path in [&pipe, &folder] {
        copy.set("SYNCDATA_API_TOKEN_FILE", path.display().to_string());
        let mut daemon = copy.applier(&["start"]).spawn();
        daemon.says("pass done").await;
        let health = open(&address, "/health").expect(503);
        assert!(health.body.contains("is no plain file"), "{health:?}");
        get(&address, &format!("{API}/sync/status")).expect(401);
        daemon.signal(Signal::HUP);
        daemon.says("settings reloaded").await;
        open(&address, "/metrics").expect(200);
        daemon.stop().await.expect_code(0);
    }
}

#[tokio::test]
async fn a_table_that_waits_for_its_first_base_is_not_made_anew() {
    let Served { mut copy, daemon, address } = served(&[]).await;
    copy.server.execute("CREATE TABLE late (id int PRIMARY KEY)").await;
    copy.forge.relation("late", &["id integer not null"], &["id"]);
    let insert = |id: u32| vec![format!(r#"{{"table":"late","op":"INSERT","data":{{"id":{id}}}}}"#)];
    copy.forge.segment(&[insert(1)]);
    let kept = copy.forge.segment(&[insert(2)]);
    copy.applier(&["sync"]).succeed().await;
    copy.forge.prune_before(&kept);
    copy.applier(&["add-tables", "late"]).run().await;
    copy.applier(&["sync"]).run().await;
    let reason = "SELECT reason IS NOT NULL FROM data_sync_table_state WHERE table_name = 'late'";
    copy.wait_until(reason, |is_there| is_there == "t").await;
    // It would be a `running` that nobody knows the end of, and sixteen of them keep all others out.
    let refused = post(&address, &format!("{API}/sync/table/late/full"), "", "").expect(409);
    assert!(refused.body.contains("late waits for its first base"), "{refused:?}");
    assert_eq!(copy.rows("SELECT count(*) FROM sync_executions WHERE trigger = 'api'").await, "0");
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn a_table_that_was_started_over_is_made_anew_where_there_is_a_base() {
    let Served { mut copy, daemon, address } = served(&[]).await;
    copy.forge.snapshot(&[("users", &["1\tEve"]), ("orders", &[])]);
    // As `resync --all --adopt` leaves it, until a pass has looked.
    let started_over =
        "UPDATE data_sync_table_state SET state = 'pending', load = 'rebuild', position_lsn = NULL,
        reason = 'waits for its base: the copy was started over' WHERE table_name = 'users'";
    copy.server.execute(started_over).await;
    post(&address, &format!("{API}/sync/table/users/full"), "", "").expect(202);
    let done = "SELECT string_agg(state, ' ') FROM sync_executions WHERE trigger = 'api'";
    copy.wait_until(done, |state| state == "succeeded").await;
    assert_eq!(copy.rows("SELECT name FROM users").await, "Eve");
    daemon.stop().await.expect_code(0);
}
