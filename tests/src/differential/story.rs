//! A world in which a script is played.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::PathBuf;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::image::{self, Image, PINNED, difference};
use super::kinds::{EXTENSIONS, Known, TYPES};
use super::mishap::{Mishap, Ways};
use super::script::{Step, script};
use super::statements::{End, Statement, Transaction};
use super::tables::{self, Identity, Table};
use crate::program::{Daemon, Finished, Program};
use crate::workload::Prng;
use crate::world::{Plugin, World, WorldOptions};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub tables: usize,
    pub rounds: usize,
    /// Also full disks and wrong clocks: that takes root.
    pub is_hard: bool,
}

/// Why production and the copy are not as promised, with all that is needed to see it again.
#[derive(Clone, Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Story {
    seed: u64,
    world: World,
    tables: Vec<Table>,
    /// Fault points that were visited, by each command.
    points: BTreeMap<String, BTreeSet<String>>,
    moments: Vec<Moment>,
    held_up: Option<usize>,
    /// It is not on the whitelist.
    away: Option<usize>,
    open: Option<Client>,
    daemon: Option<Daemon>,
    follower: Option<Daemon>,
    ways: Ways,
    /// Everything that was done, as it was done.
    told: Vec<String>,
    done: u64,
    refused: u64,
    kills: u64,
}

#[derive(Debug)]
struct Moment {
    time: String,
    images: Vec<Image>,
}

const ARCHIVER: &str = "archiver";
const APPLIER: &str = "applier";

type Told = Result<(), String>;

impl Story {
    /// Everything that follows from this seed, from the beginning to the end.
    pub async fn play(seed: u64, limits: Limits) -> Result<Story, Failure> {
        let mut random = Prng::new(seed);
        let mut story = Story::begin(seed, &mut random, limits).await;
        let steps = script(&mut random, Prng::new(!seed), &story.tables, limits.rounds, limits.is_hard);
        let ended = story.run(&steps).await;
        let kept = story.keep();
        match ended {
            Ok(()) => Ok(story),
            Err(reason) => Err(story.failure(&reason, &kept)),
        }
    }

    /// How often one of the programs was killed.
    pub fn kills(&self) -> u64 {
        self.kills
    }

    /// Statements that production has carried out.
    pub fn statements(&self) -> u64 {
        self.done
    }

    async fn begin(seed: u64, random: &mut Prng, limits: Limits) -> Story {
        let mut options = WorldOptions::default()
            .source(|options| options.setting("autovacuum", "off"))
            .archiver_setting("segment_max_changes", *random.pick(&[1_i64, 3, 20, 250_000]))
            .applier_setting("apply_batch_changes", *random.pick(&[1_i64, 2, 7, 50, 100_000]));
        let over_sftp = random.chance(30);
        if !over_sftp {
            options = options.without_sftp();
        }
        let mut world = options.start().await;
        // Triggers have no stream.
        if world.plugin != Plugin::Triggers {
            world.set_archiver("follow", true);
            world.set_archiver("follow_interval", "100ms");
        }
        let ways = Ways::lay(&mut world, over_sftp, limits.is_hard);
        let extensions = extensions(&world).await;
        let major = world.source.installation().major();
        // Before 18 pgoutput tells no value of a computed column, so nothing of a table that is known by one.
        let computed_keys = major >= 18 || world.plugin != Plugin::Pgoutput;
        let keyless = world.plugin != Plugin::Triggers;
        let known = Known { major, extensions, computed_keys, keyless };
        let tables = tables::random(random, &known, limits.tables);
        let mut story = Story {
            seed,
            world,
            tables,
            points: BTreeMap::new(),
            moments: Vec::new(),
            held_up: None,
            away: None,
            open: None,
            daemon: None,
            follower: None,
            ways,
            told: Vec::new(),
            done: 0,
            refused: 0,
            kills: 0,
        };
        story.make_tables(&known).await;
        story
    }

    async fn make_tables(&mut self, known: &Known) {
        let mut both: Vec<String> =
            known.extensions.iter().map(|name| format!("CREATE EXTENSION {name} SCHEMA public")).collect();
        both.push(format!("{TYPES} CREATE SCHEMA sales; CREATE SCHEMA leaves;"));
        for sql in &both {
            self.world.execute_on_both(sql).await;
        }
        for table in &self.tables {
            for sql in table.source_ddl() {
                self.told.push(format!("{sql};"));
                self.world.source.execute(sql).await;
            }
            for sql in table.target_ddl() {
                self.told.push(format!("-- here: {}", sql.replace('\n', "\n-- ")));
                self.world.target.execute(sql).await;
            }
        }
        self.world.make_slot().await;
    }

    async fn run(&mut self, steps: &[Step]) -> Told {
        self.clean(ARCHIVER, &["run", "--once"]).await?;
        let names: Vec<String> = self.tables.iter().map(|table| table.name.clone()).collect();
        let mut arguments = vec!["add-tables"];
        arguments.extend(names.iter().map(String::as_str));
        self.clean(APPLIER, &arguments).await?;
        for step in steps {
            self.step(step).await?;
        }
        self.look_back().await?;
        if self.refused > self.done {
            return Err(format!("{} statements were refused, {} done: poor work", self.refused, self.done));
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Told {
        match step {
            Step::Work(_) | Step::Open(_) => {}
            step => self.told.push(format!("-- {step:?}")),
        }
        match step {
            Step::Work(transactions) => {
                for transaction in transactions {
                    self.work(transaction).await?;
                }
                Ok(())
            }
            Step::Open(statements) => self.open(statements).await,
            Step::Close(is_kept) => self.close(*is_kept).await,
            Step::Poll(mishap) => self.once(ARCHIVER, &["run", "--once"], *mishap).await,
            Step::Sync(mishap) => self.once(APPLIER, &["sync"], *mishap).await,
            Step::Compare => self.compare().await,
            Step::Snapshot => self.clean(ARCHIVER, &["snapshot"]).await,
            Step::Resync(place) => {
                let name = self.tables[*place].name.clone();
                self.clean(APPLIER, &["resync", &name]).await
            }
            Step::Replay(places) => self.replay(places).await,
            Step::HoldUp(place) => {
                self.held_up = Some(*place);
                let name = &self.tables[*place].name;
                let sql = format!("ALTER TABLE {name} ADD CONSTRAINT held_up CHECK (false) NOT VALID");
                self.told.push(format!("-- here: {sql}"));
                self.world.target.execute(&sql).await;
                Ok(())
            }
            Step::Release => self.release().await,
            Step::Leave(place) => {
                self.away = Some(*place);
                let name = self.tables[*place].name.clone();
                self.clean(APPLIER, &["remove-tables", &name]).await
            }
            Step::Return => {
                let Some(place) = self.away.take() else { return Ok(()) };
                let name = self.tables[place].name.clone();
                self.clean(APPLIER, &["add-tables", &name]).await
            }
            Step::Remember => self.remember().await,
            Step::Start => {
                let mut daemon = self.program(APPLIER, &["start"]).spawn();
                daemon.says("pass done").await;
                self.daemon = Some(daemon);
                Ok(())
            }
            Step::Stop(is_killed) => {
                let daemon = self.daemon.take();
                self.end_daemon(daemon, &["start"], *is_killed).await
            }
            Step::Follow if self.world.plugin == Plugin::Triggers => Ok(()),
            Step::Follow => {
                let mut daemon = self.program(ARCHIVER, &["run"]).spawn();
                daemon.says("the slot is followed").await;
                self.follower = Some(daemon);
                Ok(())
            }
            Step::StopFollowing(is_killed) => {
                let daemon = self.follower.take();
                self.end_daemon(daemon, &["run"], *is_killed).await
            }
            Step::CrashSource => {
                self.open = None;
                self.world.source.crash();
                self.world.source.resume().await;
                Ok(())
            }
            Step::CrashTarget => {
                self.world.target.crash();
                self.world.target.resume().await;
                Ok(())
            }
        }
    }

    async fn end_daemon(&self, daemon: Option<Daemon>, arguments: &[&str], is_killed: bool) -> Told {
        let Some(daemon) = daemon else { return Ok(()) };
        if is_killed {
            daemon.kill().await;
            return Ok(());
        }
        self.judge(arguments, &daemon.stop().await)
    }

    /// A transaction of production. A statement that is refused is taken back by its savepoint.
    async fn work(&mut self, transaction: &Transaction) -> Told {
        let client = self.begun(&transaction.statements).await?;
        self.end(&client, transaction.end).await
    }

    async fn open(&mut self, statements: &[Statement]) -> Told {
        self.told.push("-- it stays open:".to_owned());
        // Without a slot a poll reads the tables themselves: of one that is locked it waits for the end.
        let may_lock = self.world.plugin != Plugin::Triggers;
        let may_stand = |statement: &&Statement| may_lock || !statement.sql.starts_with("TRUNCATE");
        let statements: Vec<Statement> = statements.iter().filter(may_stand).cloned().collect();
        self.open = Some(self.begun(&statements).await?);
        Ok(())
    }

    async fn close(&mut self, is_kept: bool) -> Told {
        // A crash of the source has ended it.
        let Some(client) = self.open.take() else { return Ok(()) };
        self.end(&client, if is_kept { End::Commit } else { End::Rollback }).await
    }

    async fn begun(&mut self, statements: &[Statement]) -> Result<Client, String> {
        let client = self.world.source.connect().await;
        let send =
            async |sql: &str| client.batch_execute(sql).await.map_err(|error| format!("{sql}: {error:?}"));
        send(PINNED).await?;
        // What an open transaction holds is refused.
        send("SET lock_timeout = '100ms'").await?;
        send("BEGIN").await?;
        self.told.push("BEGIN;".to_owned());
        for statement in statements {
            send("SAVEPOINT s").await?;
            let refused = client.batch_execute(&statement.sql).await.err();
            let is_undone = statement.is_undone || refused.is_some();
            send(if is_undone { "ROLLBACK TO s" } else { "RELEASE s" }).await?;
            match &refused {
                Some(error) => {
                    self.refused += 1;
                    let words = error.as_db_error().map_or("", |error| error.message());
                    self.told.push(format!("-- refused ({words}): {}", statement.sql));
                }
                None => {
                    self.done += 1;
                    let undone = if is_undone { "SAVEPOINT s; " } else { "" };
                    let back = if is_undone { " ROLLBACK TO s;" } else { "" };
                    self.told.push(format!("{undone}{};{back}", statement.sql));
                }
            }
        }
        Ok(client)
    }

    async fn end(&mut self, client: &Client, end: End) -> Told {
        let sqls: &[&str] = match end {
            End::Commit => &["COMMIT"],
            End::Rollback => &["ROLLBACK"],
            End::CommitPrepared => &["PREPARE TRANSACTION 'p'", "COMMIT PREPARED 'p'"],
            End::RollbackPrepared => &["PREPARE TRANSACTION 'p'", "ROLLBACK PREPARED 'p'"],
        };
        for sql in sqls {
            if let Err(error) = client.batch_execute(sql).await {
                // A deferred constraint: the transaction is gone, as at any production.
                self.told.push(format!("-- refused: {sql}: {error}"));
                break;
            }
            self.told.push(format!("{sql};"));
        }
        Ok(())
    }

    fn program(&self, which: &'static str, arguments: &[&str]) -> Program {
        let program = match which {
            ARCHIVER => self.world.archiver(arguments),
            _ => self.world.applier(arguments),
        };
        program.trace(&self.trace(which))
    }

    fn trace(&self, which: &str) -> PathBuf {
        self.world.folder().join(format!("{which}.trace"))
    }

    /// A run that may meet with a mishap first, and then one that must end well.
    async fn once(&mut self, which: &'static str, arguments: &[&str], mishap: Option<Mishap>) -> Told {
        if let Some(mishap) = mishap {
            let points: Vec<String> = self.points.get(arguments[0]).into_iter().flatten().cloned().collect();
            let program = self.program(which, arguments);
            let (words, program) = self.ways.begin(mishap, program, which == ARCHIVER, &points);
            let done = program.run().await;
            self.ways.end(mishap);
            self.kills += u64::from(done.was_killed());
            let code = done.code().map_or("killed".to_owned(), |code| format!("exit code {code}"));
            self.told.push(format!("-- {words}: {code}"));
            if done.stderr.contains("panicked") {
                return Err(format!("{done}"));
            }
        }
        self.clean(which, arguments).await
    }

    async fn clean(&mut self, which: &'static str, arguments: &[&str]) -> Told {
        let done = self.program(which, arguments).run().await;
        let trace = fs::read_to_string(self.trace(which)).unwrap_or_default();
        self.points.entry(arguments[0].to_owned()).or_default().extend(trace.lines().map(str::to_owned));
        // It would grow with every run.
        let _ = fs::remove_file(self.trace(which));
        self.judge(arguments, &done)
    }

    fn judge(&self, arguments: &[&str], done: &Finished) -> Told {
        let is_held_up = self.held_up.is_some() && arguments == ["sync"];
        match done.code() {
            Some(0) => Ok(()),
            Some(1) if is_held_up => Ok(()),
            _ => Err(format!("{done}")),
        }
    }

    /// Every table that calls itself live holds what production holds; every other one has a reason, and we
    /// gave it.
    async fn compare(&mut self) -> Told {
        for (place, table) in self.tables.iter().enumerate() {
            if self.away == Some(place) {
                continue;
            }
            let (state, reason) = self.state(table).await;
            if state != "live" {
                if reason.is_empty() {
                    return Err(format!("{} is {state} without a reason", table.name));
                }
                if self.held_up.is_none() {
                    return Err(format!("{} is {state}: {reason}", table.name));
                }
                continue;
            }
            if self.is_locked(table).await {
                continue;
            }
            let names = names(table);
            let source = image::image(&self.world.source, &table.name, &names).await?;
            let here = image::image(&self.world.target, &table.name, &names).await?;
            if let Some(words) = difference(&names, &source, &here) {
                return Err(format!("{} is live and differs: {words}", table.name));
            }
        }
        Ok(())
    }

    async fn state(&self, table: &Table) -> (String, String) {
        let name = postgres_protocol::escape::escape_literal(&table.name);
        let sql = format!("SELECT state, reason FROM data_sync_table_state WHERE table_name = {name}");
        let mut rows = self.world.target.query(&sql).await;
        let mut row = rows.pop().unwrap_or_default().into_iter();
        let state = row.next().flatten().unwrap_or_else(|| "unknown".to_owned());
        (state, row.next().flatten().unwrap_or_default())
    }

    /// The open transaction has truncated it: nobody can look at it before the end of that.
    async fn is_locked(&self, table: &Table) -> bool {
        if self.open.is_none() {
            return false;
        }
        let sql = format!("BEGIN; LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT; COMMIT", table.name);
        match self.world.source.connect().await.batch_execute(&sql).await {
            Ok(()) => false,
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => true,
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    async fn release(&mut self) -> Told {
        let Some(place) = self.held_up.take() else { return Ok(()) };
        let table = &self.tables[place];
        let sql = format!("ALTER TABLE {} DROP CONSTRAINT held_up", table.name);
        self.world.target.execute(&sql).await;
        let mut waiting = Vec::new();
        for (place, table) in self.tables.iter().enumerate() {
            if self.away != Some(place) && self.state(table).await.0 != "live" {
                waiting.push(table.name.clone());
            }
        }
        if !waiting.is_empty() {
            let arguments: Vec<&str> =
                ["retry"].into_iter().chain(waiting.iter().map(String::as_str)).collect();
            self.clean(APPLIER, &arguments).await?;
        }
        self.clean(APPLIER, &["sync"]).await
    }

    async fn replay(&mut self, places: &[usize]) -> Told {
        let mut names = Vec::new();
        for place in places {
            let table = &self.tables[*place];
            // Rows are told apart by all of their values, and not by the key: such a table is left alone.
            let by_loose_key = table.identity == Identity::FullBesidePrimary
                && table.key.iter().any(|&place| table.columns[place].kind.name == "ci_text");
            if table.identity == Identity::FullBesideDeferrable || by_loose_key {
                continue;
            }
            names.push(table.name.clone());
            // Nobody's foreign keys: only these rows are spoiled.
            let mut sql = format!(
                "SET session_replication_role = replica;
                 DELETE FROM {0} WHERE (tableoid, ctid) IN (SELECT tableoid, ctid FROM {0} LIMIT 2);",
                table.name
            );
            let nullable = |place: &&usize| !table.columns[**place].not_null;
            if let Some(place) = table.free().iter().find(nullable) {
                let column = &table.columns[*place].name;
                write!(
                    sql,
                    "DO $$ BEGIN
                     UPDATE {0} SET {column} = NULL WHERE (tableoid, ctid) IN (SELECT tableoid, ctid FROM {0} LIMIT 2);
                     EXCEPTION WHEN integrity_constraint_violation THEN NULL; END $$;",
                    table.name
                )
                .expect("a String takes all");
            }
            self.told.push(format!("-- here: {sql}"));
            self.world.target.execute(&sql).await;
        }
        if names.is_empty() {
            return Ok(());
        }
        let list = names.join(",");
        let arguments = ["replay", "--yes", "--from", "2000-01-01", "--to", "2100-01-01", "--tables", &list];
        let done = self.program(APPLIER, &arguments).run().await;
        let is_older = |name: &&String| {
            done.stdout.contains(&format!("{name}: left alone: its rows came with a base copy of "))
        };
        let older: Vec<&String> = names.iter().filter(is_older).collect();
        if older.is_empty() {
            return self.judge(&arguments, &done);
        }
        // What it says then.
        for name in older {
            self.clean(APPLIER, &["consistency", "repair", name]).await?;
        }
        Ok(())
    }

    async fn remember(&mut self) -> Told {
        let clock = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM pg_sleep(0.01)";
        let time = self.world.source.value(clock).await;
        self.world.source.query("SELECT pg_sleep(0.01)").await;
        let mut images = Vec::new();
        for table in &self.tables {
            images.push(image::image(&self.world.source, &table.name, &names(table)).await?);
        }
        self.moments.push(Moment { time, images });
        Ok(())
    }

    /// The tables as they were at every moment that was remembered.
    async fn look_back(&mut self) -> Told {
        for number in 0..self.moments.len() {
            let moment = &self.moments[number];
            let schema = format!("then_{number}");
            let arguments = ["as-of", &moment.time, "--into", &schema, "--json"];
            let done = self.program(APPLIER, &arguments).run().await;
            if !matches!(done.code(), Some(0 | 1)) {
                return Err(format!("{done}"));
            }
            let left_alone = &done.json()["left_alone"];
            for (table, source) in self.tables.iter().zip(&moment.images) {
                if left_alone.get(&table.name).is_some() {
                    // Of a table that had no change yet nobody knows that it was empty.
                    if source.is_empty() {
                        continue;
                    }
                    return Err(format!("{} was left alone as of {}:\n{done}", table.name, moment.time));
                }
                let name = table.name.rsplit_once("s.").map_or(table.name.as_str(), |(_, name)| name);
                let names = names(table);
                let then = image::image(&self.world.target, &format!("{schema}.{name}"), &names).await?;
                if let Some(words) = difference(&names, source, &then) {
                    return Err(format!("{name} as of {}: {words}\n{done}", moment.time));
                }
            }
        }
        Ok(())
    }

    /// Writes down everything that was done; where, in words.
    fn keep(&self) -> String {
        let major = self.world.source.installation().major();
        let folder = crate::scratch::profile().join("differential");
        let file = folder.join(format!("seed-{}-pg{major}.sql", self.seed));
        let kept = fs::create_dir_all(&folder).and_then(|()| fs::write(&file, self.told.join("\n")));
        match kept {
            Ok(()) => format!("all that was done: {}", file.display()),
            Err(error) => format!("what was done could not be kept: {}: {error}", file.display()),
        }
    }

    fn failure(&self, reason: &str, kept: &str) -> Failure {
        let major = self.world.source.installation().major();
        let seed = self.seed;
        let mut words = format!(
            "seed {seed} on PostgreSQL {major}: {reason}\n\nSYNCDATA_TEST_SEED={seed} plays it again; {kept}"
        );
        let guilty = self.tables.iter().find(|table| reason.contains(&table.name));
        for sql in guilty.into_iter().flat_map(|table| table.source_ddl().iter().chain(table.target_ddl())) {
            write!(words, "\n{sql};").expect("a String takes all");
        }
        words.push_str("\nthe last lines:\n");
        for line in &self.told[self.told.len().saturating_sub(25)..] {
            let line: String = line.chars().take(400).collect();
            words.push_str(&line);
            words.push('\n');
        }
        Failure(words)
    }
}

fn names(table: &Table) -> Vec<&str> {
    table.columns.iter().map(|column| column.name.as_str()).collect()
}

async fn extensions(world: &World) -> Vec<&'static str> {
    let mut known = Vec::new();
    for name in EXTENSIONS {
        let sql = format!("SELECT count(*) FROM pg_available_extensions WHERE name = '{name}'");
        if world.source.value(&sql).await == "1" {
            known.push(*name);
        }
    }
    known
}
