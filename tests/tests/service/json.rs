//! `--json`: whatever is asked and whatever goes wrong, stdout is one document.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use syncdata_tests::program::{Finished, Program};
use syncdata_tests::world::{World, WorldOptions};

const USERS: &str =
    "CREATE TABLE users (id int PRIMARY KEY, name text); CREATE TABLE log (id int PRIMARY KEY)";
const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// Words for shells and for man, which are no answers.
const NO_ANSWERS: [&str; 3] = ["help", "completions", "man"];

/// Each command at least once. Those that destroy something come last.
const OF_ARCHIVER: [&str; 22] = [
    "status",
    "check",
    "check --deep",
    "config",
    "verify",
    "verify --quick",
    "verify --from 2026-01-01 --to 2126-01-01",
    "verify no-such-file",
    "setup",
    "setup --create-slot --create-user",
    "run --once",
    "snapshot",
    "snapshot --tables no_such",
    "proof",
    "proof --tables no_such",
    "prune --dry-run",
    "prune",
    "declare-gap --upto 0/1 --reason why",
    "keygen {folder}/new.key",
    "keygen {folder}/new.key",
    "drop-slot --all",
    "drop-slot --force",
];

const OF_APPLIER: [&str; 45] = [
    "setup",
    "list-tables",
    "list-tables --complete captured",
    "add-tables users",
    "add-tables no_such",
    "add-tables log --wait=1",
    "list-tables",
    "sync",
    "status",
    "check",
    "config",
    "verify",
    "verify --quick",
    "executions",
    "executions --cursor 7",
    "executions {nobody}",
    "dead-letters list",
    "dead-letters show {nobody}",
    "dead-letters retry {nobody}",
    "dead-letters skip {nobody} --reason why",
    "consistency status",
    "consistency check",
    "consistency check --types row_count",
    "consistency check no_such",
    "consistency rows users",
    "consistency rows no_such",
    "consistency validate users 1",
    "consistency validate users 1 2",
    "consistency repair users --dry-run",
    "consistency repair users",
    "drill users",
    "drill no_such",
    "history users 1",
    "history no_such 1",
    "as-of 2126-01-01 --into past",
    "as-of 2026-01-01 --into past",
    "replay --from 2026-01-01 --to 2126-01-01 --dry-run",
    "replay --from 2026-01-01 --to 2126-01-01",
    "replay --from 2026-01-01 --to 2126-01-01 --yes",
    "retry users",
    "resync users",
    "resync --all",
    "remove-tables no_such",
    "remove-tables log",
    "stop",
];

const THAT_DESTROY: [&str; 4] = ["clear", "clear --yes", "uninstall", "uninstall --yes"];

fn words(line: &str, folder: &Path) -> Vec<String> {
    let folder = folder.to_str().expect("plain");
    let word = |word: &str| word.replace("{folder}", folder).replace("{nobody}", NOBODY);
    line.split(' ').map(word).chain(["--json".to_owned()]).collect()
}

/// Of all of stdout.
#[track_caller]
fn document(ran: &Finished) -> Value {
    assert!(ran.code().is_some_and(|code| (0..=2).contains(&code)), "{ran}");
    let document = ran.json();
    assert!(document.is_object() || document.is_array(), "{ran}");
    if document.is_object() && document.get("error").is_some_and(Value::is_string) {
        assert_ne!(ran.code(), Some(0), "{ran}");
    }
    document
}

async fn world() -> World {
    let world = WorldOptions::default().without_sftp().archiver_setting("keep_days", 7).start().await;
    world.execute_on_both(USERS).await;
    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    world
}

/// The commands that `--help` lists, with those below them.
async fn listed(run: &dyn Fn(&[&str]) -> Program) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let mut asked: Vec<&str> = path.iter().map(String::as_str).collect();
        asked.push("--help");
        let help = run(&asked).succeed().await.stdout;
        let Some((_, list)) = help.split_once("\nCommands:\n") else {
            found.insert(path.join(" "));
            continue;
        };
        let lines = list.lines().take_while(|line| !line.trim().is_empty());
        let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        for name in names.filter_map(|line| line.split_whitespace().next()) {
            if !NO_ANSWERS.contains(&name) {
                open.push(path.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
    }
    found
}

#[tokio::test]
async fn no_command_is_left_out_of_the_list_of_those_that_print_one_document() {
    let world = world().await;
    let archiver = listed(&|words| world.archiver(words)).await;
    let applier = listed(&|words| world.applier(words)).await;
    let has = |lines: &[&str], command: &str| {
        lines.iter().any(|line| *line == command || line.starts_with(&format!("{command} ")))
    };
    let of_applier = [&OF_APPLIER[..], &THAT_DESTROY].concat();
    // A daemon prints nothing; why it does not start is told below.
    let daemons = ["start"];
    for command in &archiver {
        assert!(has(&OF_ARCHIVER, command), "{command}");
    }
    for command in applier.iter().filter(|command| !daemons.contains(&command.as_str())) {
        assert!(has(&of_applier, command), "{command}");
    }
    assert!(archiver.len() > 10 && applier.contains("consistency repair"), "{archiver:?} {applier:?}");
}

#[tokio::test]
async fn every_command_prints_one_document_whatever_comes_of_it() {
    let world = world().await;
    for line in &OF_ARCHIVER[..OF_ARCHIVER.len() - 2] {
        document(&world.archiver(words(line, world.folder())).run().await);
    }
    for line in OF_APPLIER {
        document(&world.applier(words(line, world.folder())).run().await);
    }
    // Beside daemons they are answered by these.
    let mut archiver = world.archiver(["run"]).spawn();
    archiver.says("started").await;
    let mut applier = world.applier(["start"]).spawn();
    applier.says("started").await;
    for line in ["status", "check", "run --once", "prune --dry-run", "proof", "drop-slot", "run"] {
        document(&world.archiver(words(line, world.folder())).run().await);
    }
    for line in [
        "status",
        "check",
        "sync",
        "resync users",
        "retry users",
        "consistency check --wait",
        "start",
        "stop",
    ] {
        document(&world.applier(words(line, world.folder())).run().await);
    }
    applier.ended().await.expect_code(0);
    archiver.stop().await.expect_code(0);

    for line in THAT_DESTROY {
        document(&world.applier(words(line, world.folder())).run().await);
    }
    for line in &OF_ARCHIVER[OF_ARCHIVER.len() - 2..] {
        document(&world.archiver(words(line, world.folder())).run().await);
    }
}

/// Nothing answers: neither server, nor the archive.
#[tokio::test]
async fn every_command_prints_one_document_where_nothing_answers() {
    let mut world = world().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "users"]).succeed().await;
    for (key, value) in [("pg_host", "127.0.0.1"), ("archive_dir", "/proc/nowhere")] {
        world.set_archiver(key, value);
        world.set_applier(key, value);
    }
    world.set_archiver("pg_port", 1);
    world.set_applier("pg_port", 1);
    // A daemon waits for them.
    all_fail_in_one_document(&world, &[]).await;
}

/// The settings file is damaged.
#[tokio::test]
async fn every_command_prints_one_document_where_the_settings_cannot_be_read() {
    let world = world().await;
    fs::write(world.archiver_config(), "no settings").expect("ours");
    fs::write(world.applier_config(), "no settings").expect("ours");
    all_fail_in_one_document(&world, &["start"]).await;
}

async fn all_fail_in_one_document(world: &World, daemons: &[&str]) {
    for line in OF_ARCHIVER {
        document(&world.archiver(words(line, world.folder())).run().await);
    }
    for line in OF_APPLIER.iter().chain(&THAT_DESTROY).chain(daemons) {
        document(&world.applier(words(line, world.folder())).run().await);
    }
}

#[tokio::test]
async fn a_command_line_that_is_not_understood_is_one_document_too() {
    let world = world().await;
    for line in ["no-such", "status --no-such", "declare-gap", "snapshot --rate x", ""] {
        let refused = world.archiver(words(line, world.folder())).run().await.expect_code(2);
        assert!(document(&refused)["error"].is_string(), "{refused}");
    }
    for line in ["no-such", "consistency", "consistency rows", "resync", "dead-letters show 7", "add-tables"]
    {
        let refused = world.applier(words(line, world.folder())).run().await.expect_code(2);
        assert!(document(&refused)["error"].is_string(), "{refused}");
    }
}
