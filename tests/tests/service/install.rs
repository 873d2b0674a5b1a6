//! docs/install.md, played: three hosts of their own, and every command of the page on the host that it is for.
//!
//! A host is this machine's files under a layer that vanishes, with a network, processes and users of its own; wires go from
//! production and from the local host to the backup host, and nowhere else. What the page says is run by a shell there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::packages::packed;

const PAGE: &str = include_str!("../../../docs/install.md");

/// Lines that cannot be run where there is neither systemd nor a way to the distribution's servers, and what is looked at
/// instead. (`systemctl` itself is stood in for: `install/systemctl` starts what a unit says, as it says it.)
const NOT_RUN: [(&str, &str); 1] = [("apt-get install -y ", "dpkg -s")];

/// A block of the page: the host, and what its shell is given.
fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match (inside, line.strip_prefix("```sh ")) {
            (false, Some(host)) => {
                blocks.push((host, String::new()));
                inside = true;
            }
            (true, _) if line == "```" => inside = false,
            (true, _) => {
                let (_, script) = blocks.last_mut().expect("a block has begun");
                script.push_str(&played(line));
                script.push('\n');
            }
            (false, None) => {}
        }
    }
    blocks
}

fn played(line: &str) -> String {
    for (begins, instead) in NOT_RUN {
        if let Some(packages) = line.strip_prefix(begins) {
            return format!("{instead} {packages} >/dev/null");
        }
    }
    line.to_owned()
}

/// See the module. Everything vanishes with it.
struct Hosts {
    world: Child,
    folder: tempfile::TempDir,
}

impl Hosts {
    fn start() -> Hosts {
        let folder = tempfile::tempdir().expect("a folder");
        let packages = folder.path().join("packages");
        fs::create_dir(&packages).expect("a folder");
        packed(&packages, "debs");
        let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/install/world");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(world).arg(folder.path()).stdout(Stdio::piped());
        let mut world = command.spawn().expect("setpriv is part of util-linux");
        let mut said = String::new();
        BufReader::new(world.stdout.take().expect("a pipe")).read_line(&mut said).expect("text");
        assert_eq!(said, "ready\n", "the hosts do not start; it takes root");
        Hosts { world, folder }
    }

    fn pid(&self, host: &str) -> String {
        let file: PathBuf = self.folder.path().join(format!("{host}.pid"));
        fs::read_to_string(file).expect("it was started").trim().to_owned()
    }

    /// What the script prints on that host; every line of it has to succeed, the right end of a pipe too.
    fn run(&self, host: &str, script: &str) -> String {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid(host), "--mount", "--net", "--pid", "--uts", "--ipc"]);
        command.args([
            "env",
            "-i",
            "HOME=/root",
            "USER=root",
            "LANG=C.UTF-8",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]);
        command.args(["bash", "-ec", &format!("cd /packages\n{script}")]).stdin(Stdio::null());
        let output = command.output().expect("nsenter is part of util-linux");
        let (said, words) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success(),
            "on {host}: {}\n{script}\n--- stdout\n{said}\n--- stderr\n{words}",
            output.status
        );
        said.into_owned()
    }

    fn sql(&self, host: &str, database: &str, sql: &str) -> String {
        let script =
            format!("runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 {database} <<'END'\n{sql}\nEND");
        self.run(host, &script)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.world.id().to_string()).status();
        let _ = self.world.wait();
    }
}

/// What such hosts have before anything of ours is there.
const SERVER: &str = "rm -rf /etc/postgresql/15/main /var/lib/postgresql/15/main
    pg_createcluster 15 main >/dev/null
    pg_ctlcluster 15 main start";
const SSHD: &str = "rm -f /etc/ssh/ssh_host_*; ssh-keygen -q -A; /usr/sbin/sshd";
const TABLES: &str = "CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL DEFAULT '?');
    CREATE SCHEMA sales;
    CREATE TYPE sales.mood AS ENUM ('sad', 'fine');
    CREATE TABLE sales.orders (id bigint PRIMARY KEY, user_id int REFERENCES users, mood sales.mood, price numeric(10,2));
    INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 500) n;
    INSERT INTO sales.orders SELECT n, n, 'fine', n / 4.0 FROM generate_series(1, 500) n;";

/// A machine that systemd started has this folder. (With it, other programs ask for more of systemd than there is here.)
const BOOTED: &str = "mkdir -p /run/systemd/system";
const NOT_BOOTED: &str = "rm -r /run/systemd";

/// Root's own commands, beside the service and while it is stopped: nothing in its folder becomes root's, what stops them
/// stops the work, and no secret of root's shell is where anybody may read it.
const BY_HAND: &str = "PS4='$(date +%T) '; set -x
    syncdata-archiver setup --snapshot
    runuser -u postgres -- psql -qAtX app -c 'BEGIN; SELECT txid_current(); SELECT pg_sleep(300)' >/dev/null 2>&1 & holds=$!
    PG_PASSWORD=hidden syncdata-archiver snapshot >/tmp/said 2>&1 & snapshot=$!
    for _ in $(seq 300); do if pgrep -f '^/usr/bin/syncdata-archiver snapshot' >/dev/null; then break; fi; sleep 0.1; done
    for pid in $(pgrep -f '^/usr/bin/syncdata-archiver snapshot'); do
      if tr '\\0' '\\n' </proc/$pid/environ | grep '^PG_PASSWORD='; then exit 1; fi
    done
    kill -TERM $snapshot
    if wait $snapshot; then exit 1; fi
    if pgrep -f '^/usr/bin/syncdata-archiver snapshot' || ls /run/*by-hand*.pid 2>/dev/null; then exit 1; fi
    grep 'not handed on.*PG_PASSWORD' /tmp/said
    runuser -u postgres -- psql -qAtX app -c \"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(300)' AND pid <> pg_backend_pid()\"
    if wait $holds; then exit 1; fi
    systemctl stop syncdata-archiver
    syncdata-archiver run --once
    mv /var/lib/syncdata/changes /var/lib/syncdata/changes.old
    syncdata-archiver run --once
    test -z \"$(find /var/lib/syncdata/ -user root)\"
    rm -r /var/lib/syncdata/changes
    mv /var/lib/syncdata/changes.old /var/lib/syncdata/changes
    systemctl start syncdata-archiver
    syncdata-archiver check";

/// Everything in a database that is nobody's but a DBA's, and everything in the server beside it.
const CATALOG: &str = "SELECT 'role ' || rolname FROM pg_roles UNION ALL SELECT 'database ' || datname || coalesce(datacl, acldefault('d', datdba))::text FROM pg_database
    UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots
    UNION ALL SELECT 'schema ' || nspname || coalesce(nspacl, acldefault('n', nspowner))::text FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
    UNION ALL SELECT 'relation ' || oid::regclass || coalesce(relacl::text, '') FROM pg_class
      WHERE relnamespace <> 'pg_catalog'::regnamespace AND relnamespace <> 'pg_toast'::regnamespace
        AND relnamespace <> 'information_schema'::regnamespace
    UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE pronamespace <> 'pg_catalog'::regnamespace
      AND pronamespace <> 'information_schema'::regnamespace
    UNION ALL SELECT 'type ' || oid::regtype FROM pg_type WHERE typtype = 'e'
    UNION ALL SELECT 'parameter ' || to_jsonb(p)::text FROM pg_parameter_acl p ORDER BY 1;";

#[test]
fn three_hosts_are_set_up_as_the_page_says_and_nothing_is_left_of_it() {
    let hosts = Hosts::start();
    hosts.run("production", SERVER);
    hosts.run("local", SERVER);
    // sshd is asked to read its files again by its number.
    hosts.run("backup", SSHD);
    hosts.sql("production", "postgres", "CREATE DATABASE app;");
    hosts.sql("production", "app", TABLES);
    let before = hosts.sql("production", "app", CATALOG);
    let users_before =
        hosts.run("backup", "cat /etc/passwd /etc/group; ls /srv /etc/ssh /etc/ssh/sshd_config.d");

    let blocks = blocks(PAGE);
    assert!(blocks.len() > 12, "the page has {} blocks", blocks.len());
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    let mut is_proved = false;
    for (host, script) in &blocks {
        let mut script = script.clone();
        for (name, key) in &keys {
            let written =
                script.lines().find(|line| line.starts_with(&format!("{name}="))).map(str::to_owned);
            if let Some(line) = written {
                script = script.replace(&line, &format!("{name}='{}'", key.trim()));
            }
        }
        if script.contains("uninstall") {
            // Rows that came after the first load, and the copy is the same.
            assert!(is_proved, "the page proves that it works before it ends");
            let rows = "SELECT md5(string_agg(u::text || o::text, ',' ORDER BY u.id)) FROM users u JOIN sales.orders o ON o.id = u.id;";
            assert_eq!(hosts.sql("production", "app", rows), hosts.sql("local", "reporting", rows));
            let rows = "SELECT count(*) FROM users;";
            assert_eq!(hosts.sql("local", "reporting", rows).trim(), "499");
            hosts.run("local", "! getent hosts production.example.org");
        }
        // What works in the spool is run by systemd.
        if script.contains("syncdata-archiver proof") {
            script = format!("{BOOTED}\n{script}\n{NOT_BOOTED}");
        }
        let said = hosts.run(host, &script);
        for key in said.lines().filter(|line| line.starts_with("ssh-ed25519 ")) {
            let name = if *host == "production" { "WRITER" } else { "READER" };
            keys.insert(name.to_owned(), key.to_owned());
        }
        if script.contains("add-tables") {
            hosts.sql("production", "app", "UPDATE users SET name = 'other' WHERE id = 7; DELETE FROM sales.orders WHERE id = 9; DELETE FROM users WHERE id = 9;");
        }
        if script.contains("consistency check") {
            hosts.run("production", &format!("{BOOTED}\n{BY_HAND}\n{NOT_BOOTED}"));
            for table in ["users", "sales.orders"] {
                let proved = format!("{table} data_hash: equal, 100.00 %, 499 rows here");
                assert!(said.contains(&proved), "{proved}: {said}");
            }
            assert!(said.contains("healthy: yes") && !said.contains("\nfail  "), "{said}");
            is_proved = true;
        }
    }

    assert_eq!(hosts.sql("production", "app", CATALOG), before);
    let left = hosts.sql("local", "reporting", CATALOG);
    for ours in ["syncdata", "data_sync", "tables_to_sync", "session_replication_role"] {
        assert!(!left.contains(ours), "{ours} is left:\n{left}");
    }
    assert_eq!(hosts.sql("local", "reporting", "SELECT count(*) FROM users;").trim(), "499", "rows stay");
    let users_after =
        hosts.run("backup", "cat /etc/passwd /etc/group; ls /srv /etc/ssh /etc/ssh/sshd_config.d");
    assert_eq!(users_after, users_before);
    for host in ["production", "local"] {
        let left = hosts.run(host, "{ ls -d /etc/syncdata /var/lib/private/syncdata* /var/lib/syncdata* /usr/bin/syncdata* 2>/dev/null; getent group syncdata; getent passwd | grep syncdata; } || true");
        assert_eq!(left, "", "on {host}");
    }
}
