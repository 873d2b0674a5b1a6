//! Repairs of tables whose keys only the server can compare.

use syncdata_tests::LocalCopy;
use syncdata_tests::record::{delete, insert, update};

const DAY: [&str; 4] = ["--from", "2026-02-06", "--to", "2026-02-07"];

/// A type, and two spellings each of two keys; the spellings of one are equal to the server.
const KEYS: [(&str, [&str; 2], [&str; 2]); 7] = [
    ("public.citext", [r#""Ann""#, r#""aNN""#], [r#""Bob""#, r#""BOB""#]),
    ("double precision", ["0", "-0"], ["1.5", "1.5"]),
    ("real", ["0", "-0"], ["0.1", "0.1"]),
    ("jsonb", [r#""{\"a\": 1}""#, r#""{\"a\": 1.0}""#], [r#""[2]""#, r#""[2.0]""#]),
    ("integer[]", [r#""{1,2}""#, r#""{1,2}""#], [r#""{3}""#, r#""{3}""#]),
    ("numeric", ["1.0", "1.00"], ["2", "2.0"]),
    ("interval", [r#""24:00:00""#, r#""1 day""#], [r#""48:00:00""#, r#""2 days""#]),
];

/// Each kind of key twice.
fn tables() -> impl Iterator<Item = (usize, &'static (&'static str, [&'static str; 2], [&'static str; 2]))> {
    KEYS.iter().chain(&KEYS).enumerate()
}

fn line(table: usize, op: &str, id: &str, v: &str) -> String {
    match op {
        "DELETE" => format!(r#"{{"table":"t{table}","op":"DELETE","old_keys":{{"id":{id}}}}}"#),
        op => format!(r#"{{"table":"t{table}","op":"{op}","data":{{"id":{id},"v":"{v}"}}}}"#),
    }
}

#[tokio::test]
async fn what_the_range_deletes_stays_deleted_whatever_its_key_is() {
    let mut schema = "CREATE EXTENSION citext;".to_owned();
    for (table, (key, ..)) in tables() {
        schema += &format!("CREATE TABLE t{table} (id {key} PRIMARY KEY, v text);");
    }
    let mut copy = LocalCopy::start(&schema).await;
    let (mut before, mut range) = (Vec::new(), Vec::new());
    for (table, (key, one, other)) in tables() {
        copy.forge.relation(&format!("t{table}"), &[&format!("id {key} not null"), "v text"], &["id"]);
        before.push(line(table, "INSERT", other[0], "old"));
        // What comes and goes within the range, after something else that goes.
        range.extend([
            line(table, "DELETE", other[0], ""),
            line(table, "INSERT", one[0], "brief"),
            line(table, "DELETE", one[0], ""),
        ]);
        // Under another spelling too: to the server it is the same row a second time.
        if table >= KEYS.len() {
            range.extend([line(table, "INSERT", one[1], "brief too"), line(table, "DELETE", one[1], "")]);
        }
        range.push(line(table, "INSERT", other[1], "again"));
    }
    copy.forge.segment(&[before]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[range]);
    copy.applier(&["add-tables", "public.*"]).succeed().await;
    copy.sync(0).await;

    let mut rows = String::new();
    for (table, (_, _, other)) in tables() {
        let union = if table > 0 { " UNION ALL " } else { "" };
        rows += &format!("{union}SELECT {table}, id::text, v FROM t{table}");
        assert_eq!(copy.rows(&format!("SELECT v FROM t{table}")).await, "again", "{}", other[1]);
    }
    let sound = copy.rows(&rows).await;
    for damage in ["SELECT 1", "UPDATE t{} SET v = 'x'", "DELETE FROM t{}"] {
        for (table, _) in tables() {
            copy.server.execute(&damage.replace("{}", &table.to_string())).await;
        }
        let replay = [&["replay", "--yes"], &DAY[..]].concat();
        copy.applier(&replay).succeed().await;
        assert_eq!(copy.rows(&rows).await, sound, "{damage}");
    }
}

/// An UPDATE that gives a key its other spelling, without the value that lies out of line: before the range, in it or after
/// it, and onto a key that had a row under another spelling before.
#[tokio::test]
async fn a_key_that_is_spelt_otherwise_beside_an_unsent_value_keeps_its_row() {
    let mut schema = "CREATE EXTENSION citext;".to_owned();
    let tables = || KEYS.iter().flat_map(|key| [(key, 0), (key, 1), (key, 2), (key, 3)]).enumerate();
    for (table, ((key, ..), _)) in tables() {
        schema += &format!("CREATE TABLE t{table} (id {key} PRIMARY KEY, n int, v text);");
    }
    let mut copy = LocalCopy::start(&schema).await;
    let (mut before, mut range, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for (table, ((key, one, other), case)) in tables() {
        let name = format!("t{table}");
        copy.forge.relation(&name, &[&format!("id {key} not null"), "n integer", "v text"], &["id"]);
        let new = |id: &str| insert(&name, &format!(r#""id":{id},"n":0,"v":"long""#));
        let part = |old: &str, id: &str, n: u32| {
            update(&name, &format!(r#""id":{old}"#), &format!(r#""id":{id},"n":{n}"#))
        };
        before.push(new(one[0]));
        match case {
            0 => {
                range.push(part(one[0], one[0], 1));
                after.push(part(one[0], one[1], 2));
            }
            1 => range.push(part(one[0], one[1], 1)),
            2 => {
                before.push(part(one[0], one[1], 1));
                range.push(part(one[1], one[1], 2));
            }
            _ => {
                before.push(new(other[0]));
                range.push(delete(&name, &format!(r#""id":{}"#, other[0])));
                range.push(part(one[0], other[1], 1));
                after.push(part(other[1], other[0], 2));
            }
        }
    }
    copy.forge.segment(&[before]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[range]);
    copy.forge.set_clock("2026-02-07T10:00:00Z");
    copy.forge.segment(&[after]);
    copy.applier(&["add-tables", "public.*"]).succeed().await;
    copy.sync(0).await;

    let all: Vec<String> =
        tables().map(|(table, _)| format!("SELECT {table}, id::text, n, v FROM t{table}")).collect();
    let all = all.join(" UNION ALL ") + " ORDER BY 1";
    let sound = copy.rows(&all).await;
    assert_eq!(sound.split(' ').filter(|row| row.ends_with(",long")).count(), tables().count(), "{sound}");
    for damage in ["SELECT 1", "UPDATE t{} SET n = 9", "DELETE FROM t{}"] {
        for (table, _) in tables() {
            copy.server.execute(&damage.replace("{}", &table.to_string())).await;
        }
        let replay = [&["replay", "--yes"], &DAY[..]].concat();
        copy.applier(&replay).succeed().await;
        assert_eq!(copy.rows(&all).await, sound, "{damage}");
    }
}
