//! DDL and DML at random, with polls in between, some of them killed, and the spool of a while ago brought back: in the
//! end every copied table equals production, or is not live.
//!
//! A session of its own writes, and stays open over polls: schemas are renamed beside it.
//!
//! A gap is told with the next thing that the source writes, and so every round ends with a row of a table of its own.
//!
//! `SYNCDATA_IDENTITY_ROUNDS=200` runs so many rounds of one seed, `SYNCDATA_IDENTITY_SEED=7` chooses it.

#![allow(clippy::print_stdout)] // What happened is shown when the test fails.

use std::collections::BTreeSet;

use syncdata_tests::cases;
use syncdata_tests::workload::Prng;
use tokio_postgres::Client;

use crate::faults;
use crate::story::Story;

/// All of them have the same columns, so that each may become a partition. `tN` holds days of one decade, mostly.
const NAMES: u64 = 8;
/// About half of what is made up names a table that is not there.
const ATTEMPTS_MAX: usize = 8;
const COPIED: [&str; 9] = ["orders", "t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"];

const SCHEMA: &str = "CREATE SCHEMA other; CREATE TABLE written (id bigserial PRIMARY KEY);
    CREATE TABLE orders (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    DO $$ BEGIN FOR n IN 0..7 LOOP
      EXECUTE format('CREATE TABLE t%s (LIKE orders INCLUDING ALL)', n);
      EXECUTE format('INSERT INTO t%s SELECT i, %s * 10 + i, ''first'' FROM generate_series(0, 3) i', n, n);
    END LOOP; END $$";

struct Chaos {
    story: Story,
    random: Prng,
    seed: u64,
    done: Vec<String>,
    succeeded: usize,
    refused: usize,
    /// Steps in which production took nothing.
    idle: usize,
    /// A transaction that has written and is open.
    open: Option<Client>,
}

impl Chaos {
    async fn start(seed: u64) -> Chaos {
        let mut random = Prng::new(seed);
        let mut story = Story::start(&["*"], SCHEMA, &COPIED).await;
        story.tolerant = true;
        if random.below(2) == 0 {
            story.world.set_archiver("poll_max_changes", 12);
            story.world.set_archiver("segment_max_changes", 5);
        }
        Chaos { story, random, seed, done: Vec::new(), succeeded: 0, refused: 0, idle: 0, open: None }
    }

    async fn round(&mut self) {
        self.done.clear();
        for _ in 0..12 + self.random.below(12) {
            match self.random.below(22) {
                0..=3 => self.poll().await,
                4 => self.change_settings(),
                20..=21 => self.open_or_commit().await,
                _ => self.transaction().await,
            }
        }
        self.end().await;
        if self.random.below(3) == 0 {
            self.note("-- mended");
            self.story.mend().await;
        }
    }

    fn note(&mut self, what: impl Into<String>) {
        self.done.push(what.into());
        // Shown when the test fails.
        println!("{}", self.done.last().expect("pushed"));
    }

    async fn poll(&mut self) {
        match self.random.below(11) {
            // Somebody brings back what the spool was a while ago, and takes a copy for the next time.
            10 => {
                let restored = self.restore_spool();
                self.note(if restored { "-- an older spool" } else { "-- a copy of the spool" });
            }
            8..=9 => {
                // Whatever it had done by then, the next one goes on from there.
                let step = faults::STEPS
                    [usize::try_from(self.random.below(faults::STEPS.len() as u64)).expect("small")];
                let fault = format!("{step}=kill@{}", 1 + self.random.below(2));
                self.story.world.source.execute("INSERT INTO written DEFAULT VALUES").await;
                let ran = self.story.world.archiver(["run", "--once"]).fault(&fault).run().await;
                self.note(format!(
                    "-- a poll with {fault}: {}",
                    if ran.was_killed() { "killed" } else { "not reached" }
                ));
            }
            0 => {
                self.note("-- a poll of orders alone");
                self.story.world.archiver(["run", "--once", "--tables", "orders"]).run().await;
            }
            1 => {
                self.note("-- a snapshot");
                self.story.world.archiver(["snapshot"]).run().await;
            }
            _ => {
                self.story.world.source.execute("INSERT INTO written DEFAULT VALUES").await;
                let gaps = self.story.carry().await;
                self.note(format!("-- a poll: {gaps:?}"));
            }
        }
    }

    fn restore_spool(&self) -> bool {
        let (spool, kept) = (self.story.world.spool_dir(), self.story.world.folder().join("older-spool"));
        let is_there = kept.exists() && self.done.len().is_multiple_of(2);
        let (from, to) = if is_there { (kept, spool) } else { (spool, kept) };
        if to.exists() {
            std::fs::remove_dir_all(&to).expect("our folder");
        }
        let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
        assert!(copied.success());
        is_there
    }

    fn change_settings(&mut self) {
        let lists: [&[&str]; 5] = [&["*"], &["public.*"], &["orders"], &["orders", "t1", "t2", "t3"], &["*"]];
        let tables = lists[usize::try_from(self.random.below(5)).expect("small")];
        self.note(format!("-- tables = {tables:?}"));
        self.story.set_tables(tables);
    }

    async fn open_or_commit(&mut self) {
        if self.commit().await {
            return;
        }
        let n = self.random.below(NAMES);
        let schema = ["", "", "other.", "another."][usize::try_from(self.random.below(4)).expect("small")];
        let table = if n == 0 { "orders".to_owned() } else { format!("{schema}t{n}") };
        let sql = format!("BEGIN; {}", self.write(&table, self_decade(n)));
        let client = self.story.world.source.connect().await;
        if client.batch_execute(&sql).await.is_ok() {
            self.note(format!("-- stays open: {sql}"));
            self.open = Some(client);
        }
    }

    async fn commit(&mut self) -> bool {
        let Some(open) = self.open.take() else { return false };
        open.batch_execute("COMMIT").await.expect("nothing in it failed");
        self.note("-- COMMIT of what was open");
        true
    }

    /// What production refuses has not happened: then something else is tried.
    async fn transaction(&mut self) {
        for _ in 0..ATTEMPTS_MAX {
            let sql = self.transaction_text();
            let client = self.story.world.source.connect().await;
            // The open one holds a lock for as long as it likes.
            client.batch_execute("SET lock_timeout = '100ms'").await.expect("a setting");
            let done = client.batch_execute(&sql).await;
            if done.is_ok() {
                self.succeeded += 1;
                return self.note(sql);
            }
            self.refused += 1;
        }
        self.idle += 1;
    }

    fn transaction_text(&mut self) -> String {
        let mut statements = Vec::new();
        for _ in 0..1 + self.random.below(4) / 2 + self.random.below(2) * self.random.below(3) {
            statements.push(self.statement());
        }
        match (self.random.below(6), statements.as_slice()) {
            (_, [only]) => only.clone(),
            // Each with a transaction number of its own.
            (0, several) => {
                let parts: Vec<String> =
                    several.iter().map(|s| format!("SAVEPOINT s; {s}; RELEASE s")).collect();
                format!("BEGIN; {}; COMMIT", parts.join("; "))
            }
            (_, several) => format!("BEGIN; {}; COMMIT", several.join("; ")),
        }
    }

    fn statement(&mut self) -> String {
        let (n, m) = (self.random.below(NAMES), self.random.below(NAMES));
        let schema = if self.random.below(8) == 0 { "other." } else { "" };
        let table = format!("{schema}t{n}");
        let decade = self.random.below(NAMES);
        let decade = if self.random.below(4) > 0 { n } else { decade };
        let range = format!("FOR VALUES FROM ({}) TO ({})", decade * 10, decade * 10 + 10);
        match self.random.below(66) {
            0..=2 => format!("ALTER TABLE orders ATTACH PARTITION {table} {range}"),
            3..=4 => format!("ALTER TABLE orders DETACH PARTITION {table}"),
            5..=6 => format!("CREATE TABLE {table} PARTITION OF orders {range}"),
            7..=9 => format!("CREATE TABLE {table} (LIKE orders INCLUDING ALL)"),
            10..=11 => format!("DROP TABLE {table}"),
            12..=13 => format!("ALTER TABLE {table} RENAME TO t{m}"),
            14 => format!(
                "ALTER TABLE {table} RENAME TO x; ALTER TABLE {schema}t{m} RENAME TO t{n}; ALTER TABLE {schema}x RENAME TO t{m}"
            ),
            15 => format!("ALTER TABLE {table} SET SCHEMA other"),
            16 => format!("ALTER TABLE other.t{n} SET SCHEMA public"),
            17..=18 => format!("TRUNCATE {table}"),
            19 => format!("ALTER TABLE {table} SET UNLOGGED"),
            20..=22 => format!("ALTER TABLE {table} SET LOGGED"),
            23 => format!("VACUUM FULL {table}"),
            24 => format!(
                "ALTER TABLE {table} RENAME id TO x; ALTER TABLE {table} RENAME day TO id; ALTER TABLE {table} RENAME x TO day"
            ),
            25 => format!("GRANT SELECT ON {table} TO PUBLIC"),
            26 => "TRUNCATE orders".to_owned(),
            27 => format!("DELETE FROM {table}"),
            // It gets its name in the transaction that makes and fills it.
            60 => format!(
                "CREATE TABLE x (LIKE orders INCLUDING ALL); {}; ALTER TABLE x RENAME TO t{n}",
                self.write("x", self_decade(decade))
            ),
            61 => format!(
                "CREATE TABLE x PARTITION OF orders {range}; {}; ALTER TABLE x RENAME TO t{n}",
                self.write("orders", self_decade(decade))
            ),
            // And a column the name that another one had in its rows.
            62 => format!(
                "CREATE TABLE {table} (LIKE orders INCLUDING ALL); {}; ALTER TABLE {table} RENAME note TO was;
                 ALTER TABLE {table} ADD note text; ALTER TABLE {table} DROP was",
                self.write(&table, self_decade(decade))
            ),
            63 => "ALTER SCHEMA other RENAME TO another".to_owned(),
            64..=65 => "ALTER SCHEMA another RENAME TO other".to_owned(),
            28..=31 => self.write("orders", self_decade(decade)),
            _ => self.write(&table, self_decade(decade)),
        }
    }

    fn write(&mut self, table: &str, (first, last): (u64, u64)) -> String {
        let (id, day) = (self.random.below(6), first + self.random.below(last - first));
        let note = self.random.below(1_000_000);
        match self.random.below(6) {
            0 => format!("DELETE FROM {table} WHERE id = {id}"),
            1 => format!("UPDATE {table} SET note = '{note}' WHERE id = {id}"),
            2 => format!("UPDATE {table} SET id = id + 10 WHERE id = {id}"),
            _ => format!(
                "INSERT INTO {table} VALUES ({id}, {day}, '{note}') ON CONFLICT (id, day) DO UPDATE SET note = excluded.note"
            ),
        }
    }

    /// All that waits is read, with all tables captured.
    async fn end(&mut self) {
        self.commit().await;
        self.story.set_tables(&["*"]);
        self.story.world.source.execute("INSERT INTO written DEFAULT VALUES").await;
        let gaps = self.story.carry().await;
        self.note(format!("-- the end of a round: {gaps:?}"));
    }
}

fn self_decade(decade: u64) -> (u64, u64) {
    (decade * 10, decade * 10 + 10)
}

/// The states that copies had at the ends of the rounds.
async fn run(seed: u64, rounds: usize) -> BTreeSet<String> {
    println!("-- seed {seed}");
    let mut chaos = Chaos::start(seed).await;
    let mut states = BTreeSet::new();
    for round in 0..rounds {
        println!("-- round {round} of seed {seed}");
        chaos.round().await;
        for table in COPIED {
            states.insert(chaos.story.state(table).await);
        }
    }
    println!(
        "-- seed {}: {} transactions, {} refused, {states:?}",
        chaos.seed, chaos.succeeded, chaos.refused
    );
    assert!(chaos.succeeded > chaos.idle, "a workload that production refuses proves nothing");
    states
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test]
async fn whatever_happens_to_tables_no_copy_is_unequal_and_live() {
    let rounds = variable("SYNCDATA_IDENTITY_ROUNDS");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let fresh = u64::from(now.expect("after 1970").subsec_nanos());
    let chosen = variable("SYNCDATA_IDENTITY_SEED");
    let states = match rounds {
        Some(rounds) => {
            run(chosen.unwrap_or(fresh), usize::try_from(rounds).expect("a number of rounds")).await
        }
        None => {
            let mut states = BTreeSet::new();
            for seed in cases([1, 2, 3, chosen.unwrap_or(fresh)]) {
                states.extend(run(seed, 3).await);
            }
            states
        }
    };
    // Of all rounds together: three rounds without a resync may well end with every table stale.
    assert!(states.contains("live"), "all stale is no proof: {states:?}");
}
