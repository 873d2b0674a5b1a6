//! Random statements of production. Each says only what follows from the seed; which rows it meets follows from
//! what is there.

use super::tables::{Column, Table};
use crate::workload::Prng;

/// One transaction: statements that may fail alone, and how it ends.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    pub statements: Vec<Statement>,
    pub end: End,
}

#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub sql: String,
    /// Taken back at once, by its savepoint.
    pub is_undone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    Rollback,
    CommitPrepared,
    RollbackPrepared,
}

/// Numbers of keys: few enough to meet again.
const NUMBERS: u64 = 40;

pub(super) fn first_rows(random: &mut Prng, table: &Table) -> Transaction {
    let statements = (0..6).map(|_| done(insert(random, table))).collect();
    Transaction { statements, end: End::Commit }
}

pub(super) fn transaction(random: &mut Prng, tables: &[Table]) -> Transaction {
    let mut statements = Vec::new();
    for _ in 0..=random.below(5) {
        let table = random.pick(tables);
        let is_undone = random.chance(8);
        let sqls = statement(random, table, tables);
        statements.extend(sqls.into_iter().map(|sql| Statement { sql, is_undone }));
    }
    let end = match random.below(20) {
        0 | 1 => End::Rollback,
        2 => End::CommitPrepared,
        3 => End::RollbackPrepared,
        _ => End::Commit,
    };
    Transaction { statements, end }
}

fn done(sql: String) -> Statement {
    Statement { sql, is_undone: false }
}

fn statement(random: &mut Prng, table: &Table, tables: &[Table]) -> Vec<String> {
    match random.below(100) {
        0..=29 => vec![insert(random, table)],
        30..=54 => vec![update(random, table)],
        55..=64 => vec![update_key(random, table)],
        65..=70 => swap(random, table),
        71..=82 => vec![delete(random, table)],
        83..=91 => vec![delete_and_insert(random, table)],
        92..=93 => vec![truncate(random, table, tables)],
        94..=96 => vec![format!(
            "UPDATE {0} SET {1} = {1}{2}",
            table.name,
            any_column(table),
            some_rows(random, table, 3)
        )],
        _ => vec![delete(random, table), insert(random, table), insert(random, table)],
    }
}

fn any_column(table: &Table) -> &str {
    let place = table.free().first().copied();
    let place = place.or_else(|| table.key.first().copied()).unwrap_or(0);
    &table.columns[place].name
}

/// ` WHERE …` that meets up to `most` rows, chosen by their text.
fn some_rows(random: &mut Prng, table: &Table, most: u64) -> String {
    let (at, number) = (random.below(1000), 1 + random.below(most));
    format!(
        " WHERE (tableoid, ctid) IN (SELECT tableoid, ctid FROM {0} AS r ORDER BY (r.*)::text COLLATE \"C\", tableoid, ctid \
         OFFSET (SELECT count(*) FROM {0}) * {at} / 1000 LIMIT {number})",
        table.name
    )
}

fn insert(random: &mut Prng, table: &Table) -> String {
    let mut names = Vec::new();
    let mut values = Vec::new();
    for (place, column) in table.writable() {
        if !column.not_null && random.chance(5) {
            continue;
        }
        names.push(column.name.as_str());
        values.push(value(random, table, place));
    }
    let overriding = if table.columns.iter().any(|column| column.identity.is_some()) {
        " OVERRIDING SYSTEM VALUE"
    } else {
        ""
    };
    format!("INSERT INTO {} ({}){overriding} VALUES ({})", table.name, names.join(", "), values.join(", "))
}

/// An expression for that column.
fn value(random: &mut Prng, table: &Table, place: usize) -> String {
    let column = &table.columns[place];
    if let Some(keys) = &column.referred {
        return reference(random, column, keys);
    }
    let is_key = table.key.contains(&place);
    if !column.not_null && !is_key && random.chance(15) {
        return "NULL".to_owned();
    }
    let nth_is_better = if is_key { 85 } else { 40 };
    match column.kind.nth {
        Some(nth) if random.chance(nth_is_better) => {
            let number = random.below(NUMBERS).to_string();
            format!("({})::{}", nth.replace("{n}", &number), column.kind.sql)
        }
        _ => format!("({})::{}", random.pick(column.kind.values), column.kind.sql),
    }
}

/// A key that is there, or none; now and then one that is not.
fn reference(random: &mut Prng, column: &Column, keys: &str) -> String {
    match random.below(10) {
        0..=1 => "NULL".to_owned(),
        2 => format!("({})::{}", random.below(NUMBERS), column.kind.sql),
        _ => format!("({keys} OFFSET {} LIMIT 1)", random.below(6)),
    }
}

fn update(random: &mut Prng, table: &Table) -> String {
    let mut free = table.free();
    if free.is_empty() {
        return update_key(random, table);
    }
    let mut sets = Vec::new();
    for _ in 0..=random.below(3) {
        if free.is_empty() {
            break;
        }
        let place = free.remove(random.place(free.len()));
        sets.push(format!("{} = {}", table.columns[place].name, value(random, table, place)));
    }
    format!("UPDATE {} SET {}{}", table.name, sets.join(", "), some_rows(random, table, 4))
}

fn update_key(random: &mut Prng, table: &Table) -> String {
    let settable = |place: &&usize| {
        table.columns[**place].identity != Some("ALWAYS") && table.columns[**place].generated.is_none()
    };
    let always = table.columns.iter().find(|column| column.identity == Some("ALWAYS"));
    let place = table.key.iter().find(settable);
    if let (Some(always), None) = (always, place)
        && random.chance(50)
    {
        return format!("UPDATE {} SET {} = DEFAULT{}", table.name, always.name, some_rows(random, table, 1));
    }
    let Some(&place) = place else { return delete_and_insert(random, table) };
    let value = value(random, table, place);
    format!(
        "UPDATE {} SET {} = {value}{}",
        table.name,
        table.columns[place].name,
        some_rows(random, table, 1)
    )
}

/// Two rows exchange a value that is unique, through a third one.
fn swap(random: &mut Prng, table: &Table) -> Vec<String> {
    let place = table.key.first().filter(|place| {
        table.columns[**place].identity != Some("ALWAYS") && table.columns[**place].generated.is_none()
    });
    let place = place.filter(|place| table.columns[**place].kind.nth.is_some());
    let Some(&place) = place else { return vec![update(random, table)] };
    let column = &table.columns[place];
    let nth = |n: u64| {
        let nth = column.kind.nth.expect("looked at above");
        format!("({})::{}", nth.replace("{n}", &n.to_string()), column.kind.sql)
    };
    let (one, other) = (random.below(NUMBERS), random.below(NUMBERS));
    let step = |from: u64, to: u64| {
        format!(
            "UPDATE {} SET {name} = {} WHERE {name}::text = {}::text",
            table.name,
            nth(to),
            nth(from),
            name = column.name
        )
    };
    vec![step(one, 1000), step(other, one), step(1000, other)]
}

fn delete(random: &mut Prng, table: &Table) -> String {
    format!("DELETE FROM {}{}", table.name, some_rows(random, table, 3))
}

/// The same row again in one statement, or with another value in it.
fn delete_and_insert(random: &mut Prng, table: &Table) -> String {
    let names: Vec<&str> = table.writable().map(|(_, column)| column.name.as_str()).collect();
    let free = table.free();
    let changed = (!free.is_empty() && random.chance(50)).then(|| *random.pick(&free));
    let mut values = Vec::new();
    for (place, column) in table.writable() {
        values.push(if changed == Some(place) { value(random, table, place) } else { column.name.clone() });
    }
    format!(
        "WITH gone AS (DELETE FROM {name}{rows} RETURNING *) INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE \
         SELECT {} FROM gone",
        names.join(", "),
        values.join(", "),
        name = table.name,
        rows = some_rows(random, table, 2),
    )
}

fn truncate(random: &mut Prng, table: &Table, tables: &[Table]) -> String {
    let other = random.pick(tables);
    let is_alone = random.chance(50) || other.name == table.name;
    match is_alone {
        true if table.is_parent => delete(random, table),
        true => format!("TRUNCATE {}", table.name),
        // Of a parent it is refused, unless it names all that refer to it.
        false => format!("TRUNCATE {}, {}", table.name, other.name),
    }
}
