//! docs/fidelity.md: how each type and each shape of a table arrives, found out anew on real servers.

mod shapes;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use syncdata_tests::differential::image::{Image, image};
use syncdata_tests::differential::kinds::{EXTENSIONS, Kind, Known, TYPES};
use syncdata_tests::differential::not_yet;
use syncdata_tests::{World, WorldOptions};

use self::shapes::{SHAPES, Shape};

const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";
const BEING_MENDED: &str = "known to go wrong, being mended";
/// Ways that the values of a type go.
const WAYS: [&str; 3] = ["v", "w", "k"];

async fn known(world: &World) -> Known {
    let mut extensions = Vec::new();
    for name in EXTENSIONS {
        let sql = format!("SELECT count(*) FROM pg_available_extensions WHERE name = '{name}'");
        if world.source.value(&sql).await == "1" {
            world.execute_on_both(&format!("CREATE EXTENSION IF NOT EXISTS {name} SCHEMA public")).await;
            extensions.push(*name);
        }
    }
    Known { major: world.source.installation().major(), extensions, computed_keys: true, keyless: true }
}

/// Every expression of a type. NaN has rows of its own: it depends on the plugin.
fn values(kind: &Kind) -> Vec<String> {
    kind.values.iter().map(|value| format!("({value})::{}", kind.sql)).collect()
}

fn nth(kind: &Kind, n: usize) -> String {
    let nth = kind.nth.expect("asked only of keys");
    format!("({})::{}", nth.replace("{n}", &n.to_string()), kind.sql)
}

async fn make_tables_of_types(world: &World, kinds: &[&Kind]) {
    let mut sql = String::new();
    let mut source = String::new();
    for kind in kinds {
        let Kind { name, sql: type_name, .. } = kind;
        writeln!(sql, "CREATE TABLE v_{name} (id int PRIMARY KEY, v {type_name});").expect("a String");
        writeln!(sql, "CREATE TABLE w_{name} (v {type_name}, n int);").expect("a String");
        writeln!(source, "ALTER TABLE w_{name} REPLICA IDENTITY FULL;").expect("a String");
        if kind.nth.is_some() {
            writeln!(sql, "CREATE TABLE k_{name} (v {type_name} PRIMARY KEY, n int);").expect("a String");
        }
    }
    world.execute_on_both(&sql).await;
    world.source.execute(&source).await;
}

/// First rows: every value, and NULL.
fn inserts(kinds: &[&Kind]) -> Vec<String> {
    let mut sql = Vec::new();
    for kind in kinds {
        let name = kind.name;
        for (id, value) in values(kind).iter().enumerate() {
            sql.push(format!("INSERT INTO v_{name} VALUES ({id}, {value})"));
            sql.push(format!("INSERT INTO w_{name} VALUES ({value}, 0), ({value}, 0)"));
        }
        sql.push(format!("INSERT INTO v_{name} VALUES (100, NULL)"));
        sql.push(format!("INSERT INTO w_{name} VALUES (NULL, 0), (NULL, 0)"));
        for n in if kind.nth.is_some() { 1..7 } else { 0..0 } {
            sql.push(format!("INSERT INTO k_{name} VALUES ({}, {n}) ON CONFLICT DO NOTHING", nth(kind, n)));
        }
    }
    sql
}

/// Every row of `w` is found by all that is in it, every row of `k` by its key.
fn changes(kinds: &[&Kind]) -> Vec<String> {
    let mut sql = Vec::new();
    for kind in kinds {
        let name = kind.name;
        sql.push(format!("UPDATE v_{name} SET id = id + 1000"));
        sql.push(format!(
            "UPDATE w_{name} SET n = 1 WHERE ctid IN (SELECT min(ctid) FROM w_{name} GROUP BY v::text)"
        ));
        sql.push(format!(
            "DELETE FROM w_{name} WHERE n = 0 AND (v IS NULL OR v::text > 'm' OR v::text = '')"
        ));
        if kind.nth.is_some() {
            sql.push(format!("UPDATE k_{name} SET n = n + 10 WHERE n IN (1, 2)"));
            sql.push(format!("UPDATE k_{name} SET v = {} WHERE n = 11", nth(kind, 40)));
            sql.push(format!("DELETE FROM k_{name} WHERE n = 12"));
        }
    }
    sql
}

async fn run_all(world: &World, statements: &[String]) {
    let client = world.source.connect().await;
    for sql in statements {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// One poll and one pass. Some tables may say that they are not live; nothing stops the others.
async fn carry(world: &World) {
    for run in [world.archiver(["run", "--once"]), world.applier(["sync"])] {
        let done = run.run().await;
        assert!(matches!(done.code(), Some(0 | 1)), "{done}");
    }
}

async fn states(world: &World) -> BTreeMap<String, String> {
    let rows = world.target.query("SELECT table_name, state FROM data_sync_table_state").await;
    rows.into_iter()
        .map(|row| (row[0].clone().unwrap_or_default(), row[1].clone().unwrap_or_default()))
        .collect()
}

/// How a table arrived, in a word or with what became of which value.
async fn verdict(world: &World, state: Option<&String>, table: &str, names: &[&str]) -> String {
    match state.map(String::as_str) {
        Some("live") => {}
        Some(state) => return format!("**{state}**, and says why"),
        None => return "**unknown**".to_owned(),
    }
    let source = image(&world.source, table, names).await.unwrap_or_else(|error| panic!("{error}"));
    let here = image(&world.target, table, names).await.unwrap_or_else(|error| panic!("{error}"));
    if source == here { "exact".to_owned() } else { altered(&source, &here) }
}

/// Rows of the same first value, where they differ.
fn altered(source: &Image, here: &Image) -> String {
    let mut words: Vec<String> = Vec::new();
    for (theirs, ours) in source
        .iter()
        .filter(|row| !here.contains(row))
        .map(|row| (row, here.iter().find(|other| other.first() == row.first())))
    {
        let text = |value: Option<&Option<String>>| match value.cloned().flatten() {
            Some(text) => format!("`{}`", text.chars().take(20).collect::<String>()),
            None => "NULL".to_owned(),
        };
        let word = match ours {
            Some(ours) => format!("{} becomes {}", text(theirs.last()), text(ours.last())),
            None => "rows are missing".to_owned(),
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    if words.is_empty() { "rows are too many".to_owned() } else { words.join(", ") }
}

async fn types(world: &World) -> String {
    let known = known(world).await;
    world.execute_on_both(TYPES).await;
    // A NaN that the plugin cannot say is said here all the same, with what becomes of it.
    let kinds: Vec<&Kind> = Known { major: 18, ..known }.kinds();
    make_tables_of_types(world, &kinds).await;
    run_all(world, &inserts(&kinds)).await;
    let mut whitelist = vec!["add-tables".to_owned()];
    for kind in &kinds {
        whitelist.extend([format!("v_{}", kind.name), format!("w_{}", kind.name)]);
        whitelist.extend(kind.nth.map(|_| format!("k_{}", kind.name)));
    }
    world.archiver(["run", "--once"]).run().await;
    world.applier(&whitelist).succeed().await;
    carry(world).await;
    run_all(world, &changes(&kinds)).await;
    carry(world).await;
    let states_then = states(world).await;
    let mut cells: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for kind in &kinds {
        for way in WAYS.iter().filter(|way| **way != "k" || kind.nth.is_some()) {
            let table = format!("{way}_{}", kind.name);
            let names = if *way == "v" { ["id", "v"] } else { ["n", "v"] };
            let words = verdict(world, states_then.get(&table), &table, &names).await;
            cells.entry(kind.name.to_owned()).or_default().push(words);
        }
    }
    world.archiver(["snapshot"]).run().await.expect_code(0);
    carry(world).await;
    let loaded: Vec<String> = kinds.iter().map(|kind| format!("v_{}", kind.name)).collect();
    // Nothing is left of what the changes brought.
    let empty: String = loaded.iter().map(|table| format!("DELETE FROM {table};")).collect();
    world.target.execute(&empty).await;
    let resync = world.applier(["resync"].into_iter().chain(loaded.iter().map(String::as_str)));
    let done = resync.run().await;
    assert!(matches!(done.code(), Some(0 | 1)), "{done}");
    let states_then = states(world).await;
    let mut page = String::from(
        "| type | by changes | found by the whole row | as a key | from a base copy |\n|---|---|---|---|---|\n",
    );
    for kind in &kinds {
        let table = format!("v_{}", kind.name);
        let base = verdict(world, states_then.get(&table), &table, &["id", "v"]).await;
        let mut words = cells.remove(kind.name).expect("filled above");
        if kind.nth.is_none() {
            words.push("–".to_owned());
        }
        words.push(base);
        writeln!(page, "| {} | {} |", title(kind), words.join(" | ")).expect("a String");
    }
    page
}

fn title(kind: &Kind) -> String {
    match kind.name {
        "numeric_nan" | "float_nan" => format!("{}: NaN, ±Infinity", kind.sql),
        "bytea_long" | "text_long" => format!("{}, out of line", kind.sql),
        _ => kind.sql.to_owned(),
    }
}

async fn shapes(world: &World) -> String {
    let major = world.source.installation().major();
    let shapes: Vec<(usize, &Shape)> =
        SHAPES.iter().enumerate().filter(|(_, shape)| shape.from_major <= major).collect();
    let tried: Vec<(usize, &Shape)> =
        shapes.iter().copied().filter(|(_, shape)| shape.not_yet.is_none_or(not_yet::is_mended)).collect();
    let name = |place: usize| format!("s{place}");
    let mut whitelist = vec!["add-tables".to_owned()];
    for (place, shape) in &tried {
        let sql = |text: &str| text.replace("{t}", &name(*place));
        world.source.execute(&sql(shape.source)).await;
        world.target.execute(&sql(shape.here.unwrap_or(shape.source))).await;
        whitelist.extend(shape.tables.iter().map(|table| sql(table)));
    }
    world.source.execute(SLOT).await;
    world.archiver(["run", "--once"]).run().await.expect_code(0);
    world.applier(&whitelist).succeed().await;
    for step in 0..2 {
        for (place, shape) in &tried {
            let statements: Vec<String> = [shape.first, shape.then][step]
                .split(";;")
                .map(|sql| sql.replace("{t}", &name(*place)))
                .collect();
            run_all(world, &statements).await;
        }
        carry(world).await;
    }
    let states = states(world).await;
    let mut page = String::from("| table | arrives |\n|---|---|\n");
    for (place, shape) in shapes {
        let words = match shape.not_yet.filter(|known| !not_yet::is_mended(*known)) {
            Some(_) => BEING_MENDED.to_owned(),
            None => words_of_shape(world, &states, &name(place), shape).await,
        };
        writeln!(page, "| {} | {words} |", shape.name).expect("a String");
    }
    page
}

async fn words_of_shape(
    world: &World,
    states: &BTreeMap<String, String>,
    name: &str,
    shape: &Shape,
) -> String {
    let mut words: Vec<String> = Vec::new();
    for table in shape.tables {
        let table = table.replace("{t}", name);
        let columns = format!(
            "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped
             ORDER BY attnum"
        );
        let names: Vec<String> = world.source.query(&columns).await.into_iter().flatten().flatten().collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let state = states.get(&table);
        let names = if state.is_some_and(|state| state == "live") { names } else { Vec::new() };
        let word = verdict(world, state, &table, &names).await;
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join("; ")
}

/// Everything before 18 comes with a wal2json that cannot say NaN here.
fn section(page: &str, major: u32) -> (usize, usize) {
    let version = if major >= 18 { "18" } else { "15" };
    let begin = format!("<!-- found on {version} -->\n");
    let from = page.find(&begin).unwrap_or_else(|| panic!("docs/fidelity.md lacks {begin}")) + begin.len();
    let to = page[from..].find("<!-- end -->").expect("the section ends") + from;
    (from, to)
}

/// `SYNCDATA_WRITE_PAGES=1` writes the page instead.
#[tokio::test]
async fn the_page_of_fidelity_says_what_arrives() {
    let world = WorldOptions::default().without_sftp().start().await;
    let major = world.source.installation().major();
    let shapes = shapes(&world).await;
    let found = format!("{}\n{shapes}", types(&world).await);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fidelity.md");
    let page = fs::read_to_string(&path).expect("docs/fidelity.md is there");
    let (from, to) = section(&page, major);
    if std::env::var_os("SYNCDATA_WRITE_PAGES").is_some() {
        let page = format!("{}{found}{}", &page[..from], &page[to..]);
        fs::write(&path, page).expect("the page can be written");
        return;
    }
    for (line, wanted) in found.lines().zip(page[from..to].lines()) {
        assert_eq!(
            line, wanted,
            "docs/fidelity.md is not true any more; SYNCDATA_WRITE_PAGES=1 writes it anew"
        );
    }
    assert_eq!(found.lines().count(), page[from..to].lines().count(), "docs/fidelity.md lacks rows");
}
