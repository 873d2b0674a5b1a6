//! The main job, watched: rows travel from a throw-away production through a real sshd, or a real object storage, into a
//! throw-away copy, by the real programs. `scripts/demo` installs, builds and starts this.
#![expect(clippy::print_stdout, reason = "telling what happens is its job")]

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use syncdata_tests::workload::{self, Workload};
use syncdata_tests::{Finished, Place, PostgresServer, World, WorldOptions};

/// A step that did not work, in words; the steps after it make no sense.
type Step = Result<(), String>;

const TABLES: &str = "
    CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, email text);
    CREATE SCHEMA sales;
    CREATE TABLE sales.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id int NOT NULL,
        total numeric(10,2) NOT NULL, placed timestamptz NOT NULL DEFAULT now());";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut keep, mut way) = (false, Way::Sftp);
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match (word, if word == "--archive" { words.next() } else { None }) {
            ("--keep", _) => keep = true,
            ("--archive", Some("s3")) => way = Way::Storage,
            ("--archive", Some("sftp")) => way = Way::Sftp,
            _ => {
                println!("usage: scripts/demo [--keep] [--archive sftp|s3]");
                return ExitCode::from(2);
            }
        }
    }
    tokio::select! {
        code = demonstrate(keep, way) => code,
        // Leaving this function drops the world: servers stop, folders vanish.
        _ = tokio::signal::ctrl_c() => {
            println!("\nstopping the servers and removing their folders");
            ExitCode::from(130)
        }
    }
}

/// Where the archive is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Sftp,
    Storage,
}

async fn demonstrate(keep: bool, way: Way) -> ExitCode {
    let tables: Vec<&str> = ["users", "sales.orders"].into_iter().chain(workload::TABLES).collect();
    let options = WorldOptions::default().archiver_setting("tables", tables.clone());
    let options = match way {
        Way::Sftp => {
            title("Starting production, a backup host and a local server");
            options
        }
        Way::Storage => {
            title("Starting production, an object storage and a local server");
            options.on_storage(Place::new().address())
        }
    };
    let world = options.start().await;
    let demo = Demo { world, tables, keep };
    match demo.play().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("\nTHE DEMO FAILED: {reason}");
            ExitCode::FAILURE
        }
    }
}

struct Demo {
    world: World,
    tables: Vec<&'static str>,
    keep: bool,
}

impl Demo {
    async fn play(&self) -> Step {
        self.introduce().await;
        self.install().await?;
        self.insert().await?;
        self.change().await?;
        self.work_while_it_runs().await?;
        self.prove().await?;
        if self.keep {
            self.explain_how_to_look().await;
        } else {
            say("`scripts/demo --keep` leaves all this running and says how to look inside.");
        }
        Ok(())
    }

    async fn introduce(&self) {
        let World { source, target, backup, .. } = &self.world;
        let version = source.value("SHOW server_version").await;
        say(&format!("production:   PostgreSQL {version} at {}:{}", source.host(), source.port()));
        match &self.world.place {
            None => say(&format!(
                "backup host:  sshd at 127.0.0.1:{}, sftp only, none of our code",
                backup.port()
            )),
            Some(place) => {
                say(&format!("archive:      {} in SeaweedFS at {}", place.url(), place.endpoint()))
            }
        }
        say(&format!("local server: PostgreSQL {version} at {}:{}", target.host(), target.port()));
        say("The servers never talk to each other. The settings of the two programs:");
        show_file(self.world.archiver_config());
        show_file(self.world.applier_config());
    }

    async fn install(&self) -> Step {
        title("Tables on both sides, a replication slot in production, a whitelist in the copy");
        self.world.execute_on_both(TABLES).await;
        let workload = Workload::new(0);
        for server in [&self.world.source, &self.world.target] {
            workload.create_tables(server).await;
        }
        self.archiver(&["setup", "--create-slot"]).await?;
        self.applier(&[&["add-tables"], &self.tables[..]].concat()).await
    }

    async fn insert(&self) -> Step {
        title("A row is inserted in production");
        self.produce(
            "BEGIN;
             INSERT INTO users VALUES (1, 'John', NULL), (2, 'Zoë', 'zoe@example.org');
             INSERT INTO sales.orders (user_id, total) VALUES (1, 19.90), (2, 1.10);
             COMMIT",
        )
        .await;
        let way = if self.world.place.is_some() { "into the bucket" } else { "through SFTP" };
        say(&format!("The archiver reads the slot, writes a change file and ships it {way}:"));
        self.archiver(&["run", "--once"]).await?;
        self.look_at_the_backup_host()?;
        say("The applier fetches it, checks it against its manifest, and applies it in one transaction:");
        self.applier(&["sync"]).await?;
        self.show_copy().await
    }

    async fn change(&self) -> Step {
        title("The row is updated, another one deleted");
        self.produce(
            "UPDATE users SET name = 'Jane' WHERE id = 1;
             DELETE FROM sales.orders WHERE user_id = 2",
        )
        .await;
        self.archiver(&["run", "--once"]).await?;
        self.look_at_the_backup_host()?;
        self.applier(&["sync"]).await?;
        self.show_copy().await
    }

    /// Production goes on in the background; every look at the copy shows whole transactions.
    async fn work_while_it_runs(&self) -> Step {
        title("Production works on while both programs run");
        let world = &self.world;
        let mut workload = Workload::new(1);
        workload.fill(&world.source).await;
        say("Overlapping transactions move money between tables; the sum over all of them never changes.");
        let total = Workload::total(&world.source).await;
        let working = Cell::new(true);
        let production = async {
            workload.run(&world.source, 1500).await;
            working.set(false);
        };
        let copying = async {
            while working.get() {
                self.quiet("syncdata-archiver", &["run", "--once"]).await?;
                self.quiet("syncdata-applier", &["sync"]).await?;
                let (rows, sum) = (rows(&world.target).await, Workload::total(&world.target).await);
                say(&format!("the copy has {rows} rows in the journal; the sum of all money in it is {sum}"));
                if sum != total {
                    return Err(format!("half a transaction is visible: {sum} is not {total}"));
                }
            }
            Ok(())
        };
        let ((), copied) = tokio::join!(production, copying);
        copied?;
        say("Production pauses; one last poll and one last pass:");
        self.archiver(&["run", "--once"]).await?;
        self.applier(&["sync"]).await
    }

    /// The programs' own proof: digests of both sides at one place of the stream.
    async fn prove(&self) -> Step {
        title("Is the copy what production is?");
        say(
            "Production's tables are digested at one place of the stream, and the digests go into the archive:",
        );
        self.archiver(&["proof"]).await?;
        say("The copy comes to that place, digests its own tables, and compares:");
        self.applier(&["sync"]).await?;
        self.applier(&["consistency", "status"]).await?;
        say("Every row is the same on both sides, column by column.");
        Ok(())
    }

    async fn archiver(&self, arguments: &[&str]) -> Step {
        self.run("syncdata-archiver", arguments).await
    }

    async fn applier(&self, arguments: &[&str]) -> Step {
        self.run("syncdata-applier", arguments).await
    }

    async fn run(&self, name: &str, arguments: &[&str]) -> Step {
        println!("\n  $ {name} {}", arguments.join(" "));
        let finished = self.quiet(name, arguments).await?;
        indent(&finished.stderr);
        indent(&finished.stdout);
        Ok(())
    }

    async fn quiet(&self, name: &str, arguments: &[&str]) -> Result<Finished, String> {
        let program = match name {
            "syncdata-archiver" => self.world.archiver(arguments),
            _ => self.world.applier(arguments),
        };
        let finished = program.run().await;
        if finished.code() == Some(0) { Ok(finished) } else { Err(finished.to_string()) }
    }

    async fn produce(&self, sql: &str) {
        println!();
        for line in sql.lines() {
            println!("  production=> {}", line.trim());
        }
        self.world.source.execute(sql).await;
    }

    async fn show_copy(&self) -> Step {
        for table in ["users", "sales.orders"] {
            println!("\n  copy=> TABLE {table}");
            let rows = self.world.target.query(&format!("SELECT t::text FROM {table} t ORDER BY id")).await;
            rows.into_iter().flatten().flatten().for_each(|row| println!("    {row}"));
        }
        Ok(())
    }

    /// The newest change file and its manifest, with the tools that every backup host has.
    fn look_at_the_backup_host(&self) -> Step {
        say("In the archive lies, for anybody with stock tools to look at:");
        let archive = match &self.world.place {
            None => self.world.archive_dir().to_owned(),
            Some(_) => self.world.downloaded(),
        };
        let change_file = newest(&archive, ".jsonl.zst")?;
        let manifest = newest(&archive, ".manifest.json")?;
        show(Command::new("zstdcat").arg(&change_file))?;
        let facts = "{seq, previous, file, bytes, sha256, records, transactions, tables, start_lsn, end_lsn}";
        show(Command::new("jq").args(["-c", facts]).arg(&manifest))?;
        let sum = show(Command::new("sha256sum").arg(&change_file))?;
        let sum = sum.split(' ').next().unwrap_or_default();
        let text = fs::read_to_string(&manifest).map_err(|error| error.to_string())?;
        if sum.len() != 64 || !text.contains(sum) {
            return Err(format!("the manifest does not name the SHA-256 {sum} of its change file"));
        }
        say("The manifest names that SHA-256.");
        Ok(())
    }

    async fn explain_how_to_look(&self) {
        title("Look further");
        let World { source, target, backup, .. } = &self.world;
        for (name, server) in [("production", source), ("local", target)] {
            let psql = server.installation().program("psql");
            let (host, port, user) = (server.host(), server.port(), server.user());
            say(&format!("{name}: {} -h {host} -p {port} -U {user} {}", psql.display(), server.database()));
        }
        if let Some(place) = &self.world.place {
            say(&format!(
                "archive: {} at {}, keys in {}/keys",
                place.url(),
                place.endpoint(),
                self.world.folder().display()
            ));
        } else {
            say(&format!("archive: {}", self.world.archive_dir().display()));
            say(&format!(
                "over SFTP: sftp -P {} -i {} -o UserKnownHostsFile={} {}@127.0.0.1:{}",
                backup.port(),
                backup.identity_file().display(),
                backup.known_hosts().display(),
                backup.user(),
                self.world.archive_dir().display()
            ));
        }
        say("the programs, as the demo runs them:");
        for program in [self.world.archiver(["status"]), self.world.applier(["list-tables"])] {
            println!("  {}", program.shell_line());
        }
        say("Ctrl-C stops everything and removes it.");
        std::future::pending::<()>().await;
    }
}

async fn rows(server: &PostgresServer) -> String {
    server.value("SELECT count(*) FROM journal").await
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn say(text: &str) {
    println!("{text}");
}

fn indent(text: &str) {
    text.lines().for_each(|line| println!("    {line}"));
}

fn show_file(path: &Path) {
    println!("\n  $ cat {}", path.display());
    indent(&fs::read_to_string(path).unwrap_or_default());
}

/// Runs a tool of the system, shows the call and its answer, and returns the answer.
fn show(command: &mut Command) -> Result<String, String> {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    println!("\n  $ {}", words.join(" "));
    let output = command.output().map_err(|error| format!("{}: {error}", words[0]))?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    indent(&answer);
    if output.status.success() {
        Ok(answer)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Names sort as numbers, so the newest file is the last one.
fn newest(archive: &Path, ending: &str) -> Result<PathBuf, String> {
    let mut last = None;
    for day in list(&archive.join("segments"))? {
        let found = list(&day)?.into_iter().rfind(|path| path.to_string_lossy().ends_with(ending));
        last = found.or(last);
    }
    last.ok_or_else(|| format!("there is no {ending} file in {}", archive.display()))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}
