//! Repairs of tables whose keys only the server can compare.

use syncdata_tests::LocalCopy;

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
