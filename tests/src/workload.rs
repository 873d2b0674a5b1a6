//! Production at work: transactions that span tables, overlap in time and commit in another order than they
//! began. Money only moves, so the sum over all tables is the same at every commit: a copy in which it is not
//! shows half a transaction. The same seed gives the same statements.

use tokio_postgres::Client;

use crate::postgres::PostgresServer;

/// The tables of every workload; the last one takes inserts and deletes, the others the money.
pub const TABLES: [&str; 4] = ["accounts", "savings", "branch.tills", "journal"];
const MONEY: &[&str] = &["accounts", "savings", "branch.tills"];
const SCHEMA: &str = "
    CREATE SCHEMA branch;
    CREATE TABLE accounts (id int PRIMARY KEY, owner text NOT NULL, balance bigint NOT NULL);
    CREATE TABLE savings (id int PRIMARY KEY, balance bigint NOT NULL, note text);
    CREATE TABLE branch.tills (id int PRIMARY KEY, balance bigint NOT NULL, counted timestamptz);
    CREATE TABLE journal (id bigint PRIMARY KEY, entry jsonb NOT NULL, amount numeric(20,4), big text);";
/// Rows of each table that holds money.
const ROWS: u64 = 60;
/// Transactions open at once. Session `n` touches only the rows whose number leaves the rest `n`, so that none
/// ever waits for another.
const SESSIONS: u64 = 3;

/// splitmix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Prng(u64);

impl Prng {
    pub fn new(seed: u64) -> Prng {
        Prng(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0 ≤ result < `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.place(choices.len())]
    }

    /// 0 ≤ result < `bound`.
    pub fn place(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("below a usize")
    }
}

/// See the module.
#[derive(Debug)]
pub struct Workload {
    random: Prng,
    journal: u64,
}

impl Workload {
    pub fn new(seed: u64) -> Workload {
        Workload { random: Prng::new(seed), journal: 0 }
    }

    /// The tables, empty.
    pub async fn create_tables(&self, server: &PostgresServer) {
        server.execute(SCHEMA).await;
    }

    /// The first rows.
    pub async fn fill(&self, server: &PostgresServer) {
        server
            .execute(&format!(
                "BEGIN;
                 INSERT INTO accounts SELECT i, 'owner ' || i, 1000 FROM generate_series(0, {last}) i;
                 INSERT INTO savings SELECT i, 500, NULL FROM generate_series(0, {last}) i;
                 INSERT INTO branch.tills SELECT i, 0, NULL FROM generate_series(0, {last}) i;
                 COMMIT",
                last = ROWS - 1
            ))
            .await;
    }

    /// All the money there is, in one statement and so of one moment.
    pub async fn total(server: &PostgresServer) -> i128 {
        let sums = MONEY.iter().map(|table| format!("SELECT balance FROM {table}"));
        let sums = sums.collect::<Vec<_>>().join(" UNION ALL ");
        let total = server.value(&format!("SELECT coalesce(sum(balance), 0) FROM ({sums}) money")).await;
        total.parse().expect("a sum is a number")
    }

    /// Runs that many transactions; about one in ten is rolled back. None is open afterwards.
    pub async fn run(&mut self, server: &PostgresServer, transactions: usize) {
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            sessions.push(Session { client: server.connect().await, statements_left: None });
        }
        let mut begun = 0;
        while begun < transactions || sessions.iter().any(Session::is_open) {
            let number = self.random.below(SESSIONS);
            let session = &mut sessions[usize::try_from(number).expect("a few sessions")];
            match session.statements_left {
                None if begun < transactions => {
                    begun += 1;
                    let statements = 1 + self.random.below(6);
                    session.begin(statements).await;
                }
                None => {}
                Some(0) => session.end(self.random.below(10) > 0).await,
                Some(_) => {
                    let statement = self.statement(number);
                    session.step(&statement).await;
                }
            }
        }
    }

    fn statement(&mut self, session: u64) -> String {
        match self.random.below(10) {
            0..=4 => self.transfer(session),
            5..=7 => self.insert(session),
            8 => self.delete(session),
            _ => self.touch(session),
        }
    }

    fn transfer(&mut self, session: u64) -> String {
        let amount = 1 + self.random.below(50);
        let (from, to) = (self.money_row(session), self.money_row(session));
        format!(
            "UPDATE {} SET balance = balance - {amount} WHERE id = {};
             UPDATE {} SET balance = balance + {amount} WHERE id = {}",
            from.0, from.1, to.0, to.1
        )
    }

    fn insert(&mut self, session: u64) -> String {
        let id = self.journal * SESSIONS + session;
        self.journal += 1;
        let amount = self.random.number() % 1_000_000_000;
        // Now and then a value that is stored out of line.
        let length = if self.random.below(12) == 0 { 400 } else { 1 };
        format!(
            "INSERT INTO journal SELECT {id}, '{{\"n\": {id}.10, \"s\": \"ü\\n\"}}', {amount} / 10000.0,
             string_agg(md5({id}::text || i), '') FROM generate_series(1, {length}) i"
        )
    }

    fn delete(&mut self, session: u64) -> String {
        let before = self.random.below(self.journal + 1) * SESSIONS;
        format!(
            "DELETE FROM journal WHERE id % {SESSIONS} = {session} AND id BETWEEN {before} - 9 AND {before}"
        )
    }

    /// Changes that are no money: a note, a time, a row's key moved away and back.
    fn touch(&mut self, session: u64) -> String {
        let row = self.row(session);
        match self.random.below(3) {
            0 => format!("UPDATE savings SET note = 'seen ' || coalesce(note, '') WHERE id = {row}"),
            1 => format!("UPDATE branch.tills SET counted = clock_timestamp() WHERE id = {row}"),
            _ => format!(
                "UPDATE accounts SET id = id + 100000 WHERE id = {row};
                 UPDATE accounts SET owner = owner || '.' WHERE id = {row} + 100000;
                 UPDATE accounts SET id = id - 100000 WHERE id = {row} + 100000"
            ),
        }
    }

    fn money_row(&mut self, session: u64) -> (&'static str, u64) {
        let table = MONEY[usize::try_from(self.random.below(3)).expect("a small number")];
        (table, self.row(session))
    }

    fn row(&mut self, session: u64) -> u64 {
        self.random.below(ROWS / SESSIONS) * SESSIONS + session
    }
}

struct Session {
    client: Client,
    statements_left: Option<u64>,
}

impl Session {
    fn is_open(&self) -> bool {
        self.statements_left.is_some()
    }

    async fn begin(&mut self, statements: u64) {
        self.send("BEGIN").await;
        self.statements_left = Some(statements);
    }

    async fn step(&mut self, statement: &str) {
        self.send(statement).await;
        self.statements_left = self.statements_left.map(|left| left - 1);
    }

    async fn end(&mut self, commit: bool) {
        self.send(if commit { "COMMIT" } else { "ROLLBACK" }).await;
        self.statements_left = None;
    }

    async fn send(&self, sql: &str) {
        let done = self.client.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}
