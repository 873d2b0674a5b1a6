//! What Prometheus and Grafana are given: metrics of both daemons, alerts, a dashboard, and the page that lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use syncdata_tests::world::{ARCHIVER_ROLE, World, WorldOptions};
use syncdata_tests::{Daemon, free_port};

fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(in_project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs it in monitoring/, with that on its input; what it says, if it is content.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut tool = Command::new("promtool")
        .args(arguments)
        .current_dir(in_project("monitoring"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed by scripts/install-deps");
    tool.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = tool.wait_with_output().expect("it ends");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

fn metrics(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the daemon listens");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// Every name that has a value, those of buckets and sums too.
fn sampled(metrics: &str) -> BTreeSet<String> {
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line[..line.find(['{', ' ']).expect("a value")].to_owned()).collect()
}

/// Names of ours in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    let ours = |word: &&str| word.starts_with("syncdata_archiver_") || word.starts_with("syncdata_applier_");
    words.filter(ours).map(str::to_owned).collect()
}

/// A family as the page lists it: kind, labels, meaning.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

fn families(metrics: &str, found: &mut BTreeMap<String, Family>) {
    let mut current = String::new();
    for line in metrics.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            current = name.to_owned();
            found.entry(current.clone()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        {
            found.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((_, rest)) = line.split_once('{') {
            let labels = rest.split("\",").filter_map(|label| label.split_once("=\"").map(|(key, _)| key));
            let family = found.get_mut(&current).expect("a sample follows its head");
            family.labels.extend(labels.filter(|key| *key != "le").map(str::to_owned));
        }
    }
}

fn table(families: &BTreeMap<String, Family>) -> String {
    let mut text = String::from("\n| name | kind | labels | meaning |\n|---|---|---|---|\n");
    for (name, Family { kind, help, labels }) in families {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        text.push_str(&format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", ")));
    }
    text
}

/// Two daemons that have gone through enough to know every number.
struct Watched {
    world: World,
    archiver: Daemon,
    applier: Daemon,
    ports: [u16; 2],
}

async fn watched() -> Watched {
    let ports = [free_port(), free_port()];
    let options = WorldOptions::default()
        .source(|source| source.setting("max_slot_wal_keep_size", "10GB"))
        .archiver_setting("http_listen", format!("127.0.0.1:{}", ports[0]))
        .applier_setting("http_listen", format!("127.0.0.1:{}", ports[1]));
    let world = options.start().await;
    world.source.execute(&format!("GRANT pg_read_all_stats TO {ARCHIVER_ROLE}")).await;
    world.execute_on_both("CREATE TABLE users (id int PRIMARY KEY, name text)").await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
    let mut archiver = world.archiver(["run"]).spawn();
    archiver.says("started").await;
    world.source.execute("INSERT INTO users VALUES (1, 'Ann'), (2, 'Bob')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["add-tables", "users"]).succeed().await;
    let mut applier = world.applier(["start"]).spawn();
    applier.says("pass done").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.archiver(["proof"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    // The digests end after the pass that began them.
    let proved = "SELECT count(*) FROM data_sync_freshness WHERE proved_at IS NOT NULL";
    while world.target.value(proved).await != "1" {
        world.applier(["sync"]).succeed().await;
    }
    world.archiver(["verify"]).succeed().await;
    world.applier(["verify"]).succeed().await;
    Watched { world, archiver, applier, ports }
}

impl Watched {
    fn metrics(&self) -> [String; 2] {
        self.ports.map(metrics)
    }

    async fn end(self) {
        self.archiver.stop().await;
        self.applier.stop().await;
    }
}

/// `SYNCDATA_WRITE_PAGES=1` writes the page's table anew.
#[tokio::test]
async fn metrics_alerts_dashboard_and_page_fit_together() {
    let mut watched = watched().await;
    let well = watched.metrics();
    for metrics in &well {
        promtool(&["check", "metrics"], metrics);
    }
    // Somebody holds a transaction open, and the backup host is away.
    let holder = watched.world.source.connect().await;
    holder.batch_execute("BEGIN; UPDATE users SET name = 'Eve' WHERE id = 1").await.expect("a transaction");
    watched.world.source.execute("INSERT INTO users VALUES (3, 'Cid')").await;
    watched.world.backup.stop();
    watched.world.archiver(["run", "--once"]).run().await.expect_code(1);
    let ill = watched.metrics();
    let value = |metrics: &str, name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("syncdata_archiver_{name} ")));
        line.unwrap_or_else(|| panic!("{name} is not in {metrics}")).to_owned()
    };
    for (name, before, now) in
        [("archive_reachable", "1", "0"), ("unshipped_segments", "0", "1"), ("healthy", "1", "0")]
    {
        assert_eq!((value(&well[0], name).as_str(), value(&ill[0], name).as_str()), (before, now), "{name}");
    }
    let rows = "syncdata_archiver_rows_total{table=\"users\",operation=\"insert\"} 3\n";
    assert!(ill[0].contains(rows), "{}", ill[0]);
    for metrics in &ill {
        promtool(&["check", "metrics"], metrics);
    }

    let all: String = well.into_iter().chain(ill).collect();
    let exported = sampled(&all);
    for file in ["monitoring/alerts.yml", "monitoring/dashboard.json"] {
        let missing: Vec<String> = named(&read(file)).difference(&exported).cloned().collect();
        assert!(missing.is_empty(), "{file} asks for what no daemon says: {missing:?}\n{all}");
    }
    let mut found = BTreeMap::new();
    families(&all, &mut found);
    let (path, begin, end) = ("docs/monitoring.md", "<!-- metrics -->", "<!-- end -->");
    let page = read(path);
    let from = page.find(begin).expect("the table begins") + begin.len();
    let to = page.find(end).expect("the table ends");
    if std::env::var_os("SYNCDATA_WRITE_PAGES").is_some() {
        let page = format!("{}{}{}", &page[..from], table(&found), &page[to..]);
        fs::write(in_project(path), page).expect("the page can be written");
    } else {
        let listed = &page[from..to];
        assert_eq!(
            listed,
            table(&found),
            "docs/monitoring.md is not true any more; SYNCDATA_WRITE_PAGES=1 writes it anew"
        );
    }
    holder.batch_execute("ROLLBACK").await.expect("ended");
    watched.end().await;
}

#[test]
fn every_alert_is_sound_and_tried() {
    promtool(&["check", "rules", "alerts.yml"], "");
    promtool(&["check", "config", "prometheus.yml"], "");
    promtool(&["test", "rules", "alerts_test.yml"], "");
    let names = |text: &str, key: &str| -> Vec<String> {
        let names = text.lines().filter_map(|line| line.trim().strip_prefix(key));
        names.map(str::to_owned).collect()
    };
    let (alerts, tests) = (read("monitoring/alerts.yml"), read("monitoring/alerts_test.yml"));
    let alerts = names(&alerts, "- alert: ");
    let tried = names(&tests, "- alertname: ");
    for alert in &alerts {
        // Once where it has to come, once where it must not.
        assert_eq!(tried.iter().filter(|name| *name == alert).count(), 2, "{alert}");
    }
    assert!(alerts.len() > 20, "{alerts:?}");
    let page = read("docs/monitoring.md");
    for alert in alerts {
        assert!(page.contains(&format!("`{alert}`")), "docs/monitoring.md does not name {alert}");
    }
}

#[test]
fn the_dashboard_is_json_whose_panels_do_not_overlap() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("monitoring/dashboard.json")).expect("JSON");
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let place = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(x < 24 && taken.insert((x, y)), "{} overlaps", panel["title"]);
            }
        }
    }
}

/// The same document for the command, the socket and HTTP, and the keys of an earlier tool in it.
#[tokio::test]
async fn the_archiver_tells_everybody_the_same() {
    let watched = watched().await;
    let said = watched.world.archiver(["status", "--json"]).succeed().await.json();
    for key in ["last_lsn", "last_sync_time"] {
        assert!(said[key].is_string(), "{key}: {said}");
    }
    assert_eq!(said["last_lsn"], said["spool"]["covered_lsn"]);
    assert_eq!((&said["records_replicated"], &said["error_count"]), (&said["records_archived"], &0.into()));
    assert_eq!((&said["is_running"], said["last_error"].is_null()), (&true.into(), true), "{said}");
    assert!(said["uptime_seconds"].is_u64() && said["archive"]["newest_proof_at"].is_string(), "{said}");
    let of_source = said["source"]["safe_wal_bytes"].as_u64();
    assert!(of_source > Some(0), "{said}");
    let Watched { world, archiver, applier, .. } = watched;
    archiver.stop().await.expect_code(0);
    let said = world.archiver(["status", "--json"]).run().await.json();
    assert_eq!(
        (&said["is_running"], &said["last_lsn"]),
        (&false.into(), &said["spool"]["covered_lsn"]),
        "{said}"
    );
    applier.stop().await;
}
