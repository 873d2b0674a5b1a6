//! Random histories, random stretches, random damage: what changed in the stretch is as at the source afterwards, and
//! nothing that was sound is worse.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_tests::{LocalCopy, Prng};

const KEYS: u64 = 12;
const SEEDS: u64 = 4;
const ROUNDS: usize = 4;

/// A row of the source. `born` tells rows apart that have had one key after the other.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    born: u64,
    name: u64,
    big: u64,
}

/// What one transaction did.
struct Transaction {
    second: u64,
    keys: BTreeSet<u64>,
    rows: BTreeSet<u64>,
    emptied: bool,
}

struct Production {
    random: Prng,
    rows: BTreeMap<u64, Row>,
    transactions: Vec<Transaction>,
    counter: u64,
}

impl Production {
    fn new(seed: u64) -> Production {
        Production { random: Prng::new(seed), rows: BTreeMap::new(), transactions: Vec::new(), counter: 0 }
    }

    fn value(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn transaction(&mut self, second: u64) -> Vec<String> {
        let mut done = Transaction { second, keys: BTreeSet::new(), rows: BTreeSet::new(), emptied: false };
        let mut lines = Vec::new();
        while lines.is_empty() {
            for _ in 0..=self.random.below(3) {
                lines.extend(self.statement(&mut done));
            }
        }
        self.transactions.push(done);
        lines
    }

    fn statement(&mut self, done: &mut Transaction) -> Option<String> {
        let (key, to) = (self.random.below(KEYS), self.random.below(KEYS));
        let what = self.random.below(40);
        let there = self.rows.get(&key).cloned();
        done.rows.extend(there.iter().map(|row| row.born));
        let line = match (what, there) {
            (0, _) => {
                done.emptied = true;
                done.rows.extend(self.rows.values().map(|row| row.born));
                done.keys.extend(self.rows.keys());
                self.rows.clear();
                return Some(r#"{"table":"t","op":"TRUNCATE"}"#.to_owned());
            }
            (_, None) => {
                let row = Row { born: self.value(), name: self.value(), big: self.value() };
                done.rows.insert(row.born);
                self.rows.insert(key, row.clone());
                format!(r#""INSERT","data":{}"#, image(key, &row, true))
            }
            (1..=10, Some(_)) => {
                self.rows.remove(&key);
                format!(r#""DELETE","old_keys":{{"id":{key}}}"#)
            }
            (11..=22, Some(row)) if !self.rows.contains_key(&to) => {
                let with_big = what.is_multiple_of(2);
                let row =
                    Row { name: self.value(), big: if with_big { self.value() } else { row.big }, ..row };
                self.rows.remove(&key);
                self.rows.insert(to, row.clone());
                done.keys.insert(to);
                format!(r#""UPDATE","data":{},"old_keys":{{"id":{key}}}"#, image(to, &row, with_big))
            }
            (_, Some(row)) => {
                let with_big = what.is_multiple_of(3);
                let row =
                    Row { name: self.value(), big: if with_big { self.value() } else { row.big }, ..row };
                self.rows.insert(key, row.clone());
                format!(r#""UPDATE","data":{},"old_keys":{{"id":{key}}}"#, image(key, &row, with_big))
            }
        };
        done.keys.insert(key);
        Some(format!(r#"{{"table":"t","op":{line}}}"#))
    }

    /// Keys that must be right after a replay of these seconds.
    fn asked(&self, from: u64, to: u64) -> BTreeSet<u64> {
        let inside = || self.transactions.iter().filter(|done| (from..to).contains(&done.second));
        let rows: BTreeSet<u64> = inside().flat_map(|done| &done.rows).copied().collect();
        let mut keys: BTreeSet<u64> = inside().flat_map(|done| &done.keys).copied().collect();
        keys.extend(self.rows.iter().filter(|(_, row)| rows.contains(&row.born)).map(|(key, _)| *key));
        if inside().any(|done| done.emptied) {
            keys.extend(0..2 * KEYS);
        }
        keys
    }
}

fn image(key: u64, row: &Row, with_big: bool) -> String {
    let big = if with_big { format!(r#","big":"{}""#, row.big) } else { String::new() };
    format!(r#"{{"id":{key},"born":{},"name":"{}"{big}}}"#, row.born, row.name)
}

/// Rows here by their keys.
async fn local(copy: &LocalCopy) -> BTreeMap<u64, String> {
    let rows = copy.server.query("SELECT id, concat_ws(',', born, name, big) FROM t").await;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    rows.iter().map(|row| (text(&row[0]).parse().expect("a number"), text(&row[1]))).collect()
}

async fn damage(copy: &LocalCopy, random: &mut Prng) {
    for _ in 0..=random.below(4) {
        let key = random.below(KEYS);
        let sql = match random.below(4) {
            0 => format!("DELETE FROM t WHERE id = {key}"),
            1 => format!("UPDATE t SET name = 'broken' WHERE id = {key}"),
            2 => format!("UPDATE t SET big = NULL WHERE id = {key}"),
            _ => format!("INSERT INTO t VALUES ({key}, 0, 'x', 'x') ON CONFLICT DO NOTHING"),
        };
        copy.server.execute(&sql).await;
    }
}

fn time(second: u64) -> String {
    format!("2026-02-05T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[tokio::test]
async fn what_changed_in_the_range_is_as_at_the_source_and_nothing_else_is_worse() {
    for seed in 0..SEEDS {
        // Text that the server alone can compare takes another way.
        let key = ["int", "numeric", "double precision"][usize::try_from(seed % 3).expect("small")];
        let mut copy = LocalCopy::start(&format!(
            "CREATE TABLE t (id {key} PRIMARY KEY, born int, name text, big text)"
        ))
        .await;
        let key = key.replace("int", "integer");
        let columns =
            [format!("id {key} not null"), "born integer".into(), "name text".into(), "big text".into()];
        copy.forge.relation("t", &columns.each_ref().map(String::as_str), &["id"]);
        let mut production = Production::new(seed);
        copy.applier(&["add-tables", "t"]).succeed().await;
        let mut second = 0;
        for _ in 0..12 {
            let mut transactions = Vec::new();
            for _ in 0..=production.random.below(4) {
                // Now and then the clock goes back.
                let back = if production.random.below(8) == 0 { 3 } else { 0 };
                transactions.push(production.transaction(36_000 + second - back.min(second)));
                second += 1;
            }
            let seconds: Vec<u64> = production
                .transactions
                .iter()
                .rev()
                .take(transactions.len())
                .map(|done| done.second)
                .rev()
                .collect();
            copy.forge.segment_at(&transactions, &seconds.iter().map(|at| time(*at)).collect::<Vec<_>>());
        }
        copy.sync(0).await;
        let sound = local(&copy).await;
        let expected: BTreeMap<u64, String> = production
            .rows
            .iter()
            .map(|(key, row)| (*key, format!("{},{},{}", row.born, row.name, row.big)))
            .collect();
        assert_eq!(sound, expected, "seed {seed}: sync itself");
        for round in 0..ROUNDS {
            let (one, other) = (production.random.below(second), production.random.below(second + 1));
            let (from, to) = (36_000 + one.min(other), 36_000 + one.max(other).max(one.min(other) + 1));
            damage(&copy, &mut production.random).await;
            let damaged = local(&copy).await;
            let arguments = ["replay", "--yes", "--from", &time(from), "--to", &time(to)];
            copy.applier(&arguments).succeed().await;
            let after = local(&copy).await;
            let asked = production.asked(from, to);
            let context =
                format!("seed {seed}, round {round}: {arguments:?}\n{damaged:?}\n{after:?}\n{sound:?}");
            for key in 0..2 * KEYS {
                let (before, now, right) = (damaged.get(&key), after.get(&key), sound.get(&key));
                let is_right = now == right;
                assert!(is_right || !asked.contains(&key), "key {key} was asked for; {context}");
                assert!(is_right || now == before, "key {key} is worse; {context}");
            }
            let again = copy.applier(&arguments).succeed().await;
            assert!(again.stdout.contains("nothing was changed"), "{again}\n{context}");
        }
    }
}
