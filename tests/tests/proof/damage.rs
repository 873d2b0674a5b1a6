//! Random damage to a copy: each single row that is changed, missing or too many is found, named and mended, in tables
//! with and without a key, in columns of all types.

use std::collections::BTreeMap;

use serde_json::Value;
use syncdata_formats::proof::prints_alike;
use syncdata_tests::differential::image;
use syncdata_tests::differential::kinds::{EXTENSIONS, Kind, Known, TYPES};
use syncdata_tests::world::{World, WorldOptions};
use syncdata_tests::{PostgresServer, Prng};

use crate::scene::{prove, status};

/// Rows of these numbers are spoilt; production changes later ones.
const SPOILT: u64 = 30;

/// Each is spoilt once and all are proved twice; `scripts/soak-proofs` goes on for longer.
fn rounds() -> u64 {
    let proofs = std::env::var("SYNCDATA_PROOFS").ok().and_then(|text| text.parse::<u64>().ok());
    proofs.map_or(2, |proofs| proofs.div_ceil(2))
}

fn seed() -> u64 {
    std::env::var("SYNCDATA_PROOF_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

struct Spoilable {
    name: &'static str,
    has_key: bool,
    kinds: Vec<&'static Kind>,
    /// All of its columns are compared: it can be called equal.
    is_alike: bool,
}

/// What was done to one row of a table.
#[derive(Debug)]
struct Damage {
    kind: &'static str,
    id: String,
    column: Option<&'static Kind>,
    sql: String,
}

#[tokio::test]
async fn random_damage_of_single_rows_is_found_named_and_mended() {
    let mut random = Prng::new(seed());
    let (world, tables, alike) = world(&mut random).await;
    for round in 0..rounds() {
        for table in &tables {
            let sql = production_writes(&mut random, table, round);
            world.source.execute(&sql).await;
        }
        world.carry().await;
        let mut damages = Vec::new();
        for table in &tables {
            damages.push(spoil(&mut random, &world.target, table, round).await);
        }
        world.archiver(["proof"]).succeed().await;
        world.applier(["sync"]).run().await.expect_code(0);
        for (table, damage) in tables.iter().zip(&damages) {
            let words = format!("seed {}, round {round}: {}", seed(), damage.sql);
            let is_seen = damage.column.is_none_or(|kind| alike.contains(&kind.name));
            assert_found(&said(&world, table.name).await, is_seen, &words);
            let rows = ["consistency", "rows", table.name, "--json"];
            let rows = world.applier(rows).run().await.expect_code(1).json();
            assert_named(&rows, table, damage, &words);
            let repair = ["consistency", "repair", table.name, "--json"];
            let mended = world.applier(repair).run().await.expect_code(0).json();
            assert_eq!(mended["repaired"], rows["differing"], "{words}: {mended}");
        }
        prove(&world).await;
        for table in &tables {
            let words = format!("seed {}, round {round}, {}", seed(), table.name);
            let found = said(&world, table.name).await;
            let verdict = if table.is_alike { "equal" } else { "not_proved" };
            assert_eq!(
                (&found["verdict"], &found["differs"]),
                (&verdict.into(), &false.into()),
                "{words}: {found}"
            );
            let names = table.columns();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let there = image::image(&world.source, table.name, &names).await.expect("rows");
            let here = image::image(&world.target, table.name, &names).await.expect("rows");
            assert_eq!(image::difference(&names, &there, &here), None, "{words}");
        }
    }
}

async fn said(world: &World, table: &str) -> Value {
    let (tables, _) = status(world).await;
    tables.into_iter().find(|found| found["table"] == table).expect("it is on the whitelist")
}

fn assert_found(found: &Value, is_seen: bool, words: &str) {
    match is_seen {
        true => assert_eq!(found["verdict"], "differs", "{words}: {found}"),
        // The column is not compared: that is said, and nothing is called equal.
        false => assert_eq!(found["verdict"], "not_proved", "{words}: {found}"),
    }
    assert_ne!(found["score"], "100.00", "{words}: {found}");
}

fn assert_named(rows: &Value, table: &Spoilable, damage: &Damage, words: &str) {
    assert_eq!(rows["blame"], "local", "{words}: {rows}");
    let first = &rows["rows"][0];
    if !table.has_key {
        // A row that was changed is one that is missing and another one that is too many.
        let expected = if damage.kind == "changed" { 2 } else { 1 };
        assert_eq!(rows["differing"], expected, "{words}: {rows}");
        assert!(damage.kind == "changed" || first["kind"] == damage.kind, "{words}: {rows}");
        return;
    }
    assert_eq!((&rows["differing"], &first["kind"]), (&1.into(), &damage.kind.into()), "{words}: {rows}");
    assert_eq!(first["key"]["id"], damage.id.as_str(), "{words}: {rows}");
    if let Some(kind) = damage.column {
        assert_eq!(first["columns"][0]["column"], column(kind), "{words}: {rows}");
        assert_eq!(first["columns"].as_array().map(Vec::len), Some(1), "{words}: {rows}");
    }
}

fn column(kind: &Kind) -> String {
    format!("c_{}", kind.name)
}

impl Spoilable {
    fn columns(&self) -> Vec<String> {
        ["id".to_owned()].into_iter().chain(self.kinds.iter().map(|kind| column(kind))).collect()
    }

    fn ddl(&self, is_source: bool) -> String {
        let columns: String =
            self.kinds.iter().map(|kind| format!(", {} {}", column(kind), kind.sql)).collect();
        let key = if self.has_key { " PRIMARY KEY" } else { "" };
        let parted = if self.name == "parted" { " PARTITION BY HASH (id)" } else { "" };
        let mut sql = format!("CREATE TABLE {} (id int{key}{columns}){parted};", self.name);
        if self.name == "parted" {
            for leaf in 0..2 {
                sql.push_str(&format!(
                    "CREATE TABLE leaf_{leaf} PARTITION OF parted FOR VALUES WITH (modulus 2, remainder {leaf});"
                ));
            }
        }
        if is_source && !self.has_key {
            sql.push_str(&format!("ALTER TABLE {} REPLICA IDENTITY FULL;", self.name));
        }
        sql
    }

    fn insert(&self, random: &mut Prng, id: u64) -> String {
        let values: String = self.kinds.iter().map(|kind| format!(", {}", value(random, kind))).collect();
        format!("INSERT INTO {} VALUES ({id}{values});", self.name)
    }

    /// The row at that place, among those that may be spoilt.
    fn place(&self, place: u64) -> String {
        format!(
            "SELECT tableoid, ctid FROM {} AS r WHERE id <= {SPOILT} ORDER BY id, r::text COLLATE \"C\" OFFSET {place} LIMIT 1",
            self.name
        )
    }
}

fn value(random: &mut Prng, kind: &Kind) -> String {
    let value = match kind.nth {
        _ if random.chance(15) => "NULL".to_owned(),
        Some(nth) if random.chance(40) => nth.replace("{n}", &random.below(40).to_string()),
        _ => (*random.pick(kind.values)).to_owned(),
    };
    format!("({value})::{}", type_of(kind))
}

fn type_of(kind: &Kind) -> &'static str {
    kind.sql.split_once(" COLLATE ").map_or(kind.sql, |(name, _)| name)
}

/// Tables of all types, with rows from before the slot, from the base copy and from changes; and the names of the kinds
/// that print alike everywhere.
async fn world(random: &mut Prng) -> (World, Vec<Spoilable>, Vec<&'static str>) {
    let world = WorldOptions::default().without_sftp().start().await;
    let mut extensions = Vec::new();
    for name in EXTENSIONS {
        let sql = format!("SELECT count(*) FROM pg_available_extensions WHERE name = '{name}'");
        if world.source.value(&sql).await == "1" {
            world.execute_on_both(&format!("CREATE EXTENSION {name}")).await;
            extensions.push(*name);
        }
    }
    world.execute_on_both(TYPES).await;
    let known =
        Known { major: world.source.installation().major(), extensions, computed_keys: true, keyless: true };
    let kinds = known.kinds();
    let alike = alike(&world.source, &kinds).await;
    let only_alike: Vec<_> = kinds.iter().copied().filter(|kind| alike.contains(&kind.name)).collect();
    assert!(only_alike.len() > 40 && only_alike.len() < kinds.len(), "{alike:?}");
    let table = |name, has_key, kinds: &[&'static Kind], is_alike| Spoilable {
        name,
        has_key,
        kinds: kinds.to_vec(),
        is_alike,
    };
    let tables = vec![
        table("all_keyed", true, &kinds, false),
        table("all_bare", false, &kinds, false),
        table("alike_keyed", true, &only_alike, true),
        table("alike_bare", false, &only_alike, true),
        table("parted", true, &only_alike, true),
    ];
    for table in &tables {
        world.source.execute(&table.ddl(true)).await;
        world.target.execute(&table.ddl(false)).await;
    }
    let fill = async |random: &mut Prng, ids: std::ops::RangeInclusive<u64>| {
        for table in &tables {
            let rows: String = ids.clone().map(|id| table.insert(random, id)).collect();
            world.source.execute(&rows).await;
        }
    };
    fill(random, 1..=SPOILT / 2).await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    let names = tables.iter().map(|table| table.name);
    world.applier(["add-tables"].into_iter().chain(names)).succeed().await;
    fill(random, SPOILT / 2 + 1..=SPOILT).await;
    world.carry().await;
    (world, tables, alike)
}

async fn alike(server: &PostgresServer, kinds: &[&'static Kind]) -> Vec<&'static str> {
    let labels = vec!["sad".to_owned()];
    let enums = BTreeMap::from([("mood".to_owned(), labels.clone()), ("public.mood".to_owned(), labels)]);
    let mut alike = Vec::new();
    for kind in kinds {
        let name = type_of(kind);
        let sql = format!("SELECT format_type(pg_typeof(NULL::{name}), NULL)");
        if prints_alike(&server.value(&sql).await, &enums) {
            alike.push(kind.name);
        }
    }
    alike
}

/// Rows that nobody spoils come, change and go.
fn production_writes(random: &mut Prng, table: &Spoilable, round: u64) -> String {
    let mut sql = String::new();
    for n in 0..2 {
        sql.push_str(&table.insert(random, 1000 + round * 2 + n));
    }
    let kind = *random.pick(&table.kinds);
    let (column, value) = (column(kind), value(random, kind));
    sql.push_str(&format!("UPDATE {} SET {column} = {value} WHERE id >= 1000 AND id % 3 = 1;", table.name));
    sql.push_str(&format!("DELETE FROM {} WHERE id >= 1000 AND id % 7 = 2;", table.name));
    sql
}

async fn spoil(random: &mut Prng, target: &PostgresServer, table: &Spoilable, round: u64) -> Damage {
    let names = table.columns();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let before = image::image(target, table.name, &names).await.expect("rows");
    loop {
        let place = table.place(random.below(SPOILT));
        let id = format!("SELECT id FROM {} WHERE (tableoid, ctid) = ({place})", table.name);
        let id = target.value(&id).await;
        let name = table.name;
        let (kind, column, sql) = match random.below(4) {
            0 => ("missing", None, format!("DELETE FROM {name} WHERE (tableoid, ctid) = ({place})")),
            1 if table.has_key => ("surplus", None, table.insert(random, 500 + round)),
            1 => (
                "surplus",
                None,
                format!("INSERT INTO {name} SELECT * FROM {name} WHERE (tableoid, ctid) = ({place})"),
            ),
            _ => {
                let kind = *random.pick(&table.kinds);
                let (column, value) = (column(kind), value(random, kind));
                let sql = format!("UPDATE {name} SET {column} = {value} WHERE (tableoid, ctid) = ({place})");
                ("changed", Some(kind), sql)
            }
        };
        target.execute(&sql).await;
        let id = if kind == "surplus" && table.has_key { (500 + round).to_string() } else { id };
        // Whoever writes the value that is there spoils nothing.
        if image::image(target, table.name, &names).await.expect("rows") != before {
            return Damage { kind, id, column, sql };
        }
    }
}
