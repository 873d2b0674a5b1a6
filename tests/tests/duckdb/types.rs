//! Values of a real PostgreSQL, through a real archiver, as it prints them itself; and values that DuckDB would take as others.

use std::fmt::Write as _;

use syncdata_tests::world::Plugin;
use syncdata_tests::{Forge, World, WorldOptions};
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::file::File;
use super::forged::{insert, update};

/// A type, DuckDB's for it, and texts of it.
struct Kind {
    name: &'static str,
    kept_as: &'static str,
    texts: &'static [&'static str],
}

const fn kind(name: &'static str, kept_as: &'static str, texts: &'static [&'static str]) -> Kind {
    Kind { name, kept_as, texts }
}

const KINDS: &[Kind] = &[
    kind("boolean", "BOOLEAN", &["t", "f"]),
    kind("smallint", "SMALLINT", &["-32768", "32767", "0"]),
    kind("integer", "INTEGER", &["-2147483648", "2147483647"]),
    kind("bigint", "BIGINT", &["-9223372036854775808", "9223372036854775807"]),
    kind("oid", "UINTEGER", &["4294967295", "0"]),
    kind(
        "real",
        "FLOAT",
        &[
            "0.1",
            "3.4028235e+38",
            "1e-45",
            "-0",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e+06",
            "123456.7",
            "16777216",
            "1915074.75",
            "2747983872",
            "50816768",
            "1.2345679e+16",
        ],
    ),
    kind(
        "double precision",
        "DOUBLE",
        &[
            "0.1",
            "1.7976931348623157e+308",
            "5e-324",
            "-0",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e+15",
            "123456789012345",
            "0.30000000000000004",
            "1e-05",
            "0.0001",
            "2.2250738585072014e-308",
            "9007199254740993",
            "12345678901234567",
            "1.8014398509481984e+16",
            "123456789012345678901234567890",
            "-1.5e-07",
        ],
    ),
    kind("numeric(10,2)", "DECIMAL(10,2)", &["0", "-0.01", "99999999.99", "-99999999.99", "1.5"]),
    kind("numeric(38,0)", "DECIMAL(38,0)", &["99999999999999999999999999999999999999", "-1"]),
    kind("numeric(5,5)", "DECIMAL(5,5)", &["0.00001", "-0.99999", "0"]),
    kind("numeric(39,1)", "VARCHAR", &["99999999999999999999999999999999999999.9", "NaN"]),
    kind(
        "numeric",
        "VARCHAR",
        &["1e400", "NaN", "Infinity", "1.50", "1.500", "-0.000000000000000000000000000000000000000001"],
    ),
    kind("numeric(4,-2)", "VARCHAR", &["123456"]),
    kind("text", "VARCHAR", &["", "NULL", "\\N", "it's \"so\"\t\n\r\\", "äöü 🦆", "null"]),
    kind("character varying(20)", "VARCHAR", &["  a  "]),
    kind("character(5)", "VARCHAR", &["ab", ""]),
    kind("date", "DATE", &["2024-02-29", "0001-01-01", "infinity", "-infinity", "9999-12-31", "12345-06-07"]),
    kind("time", "TIME", &["00:00:00", "23:59:59.999999", "24:00:00", "12:00:00.5"]),
    kind("time(0)", "TIME", &["12:34:56"]),
    kind("timetz", "VARCHAR", &["24:00:00+00", "12:00:00.5-08", "12:00:00+15:59:59"]),
    kind(
        "timestamp",
        "TIMESTAMP",
        &[
            "2024-02-29 12:34:56.789",
            "infinity",
            "-infinity",
            "0001-01-01 00:00:00",
            "12345-01-01 00:00:00.000001",
        ],
    ),
    kind(
        "timestamptz",
        "TIMESTAMP WITH TIME ZONE",
        &[
            "2024-02-29 12:34:56.789+02",
            "infinity",
            "-infinity",
            "2024-03-31 02:30:00+01",
            "12345-01-01 00:00:00+00",
        ],
    ),
    kind("timestamp(3)", "TIMESTAMP", &["2024-02-29 12:34:56.789"]),
    kind("interval", "VARCHAR", &["1 year 2 mons -3 days 04:05:06.7", "178000000 years", "-00:00:00.000001"]),
    kind("uuid", "UUID", &["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "00000000-0000-0000-0000-000000000000"]),
    kind("bytea", "BLOB", &["\\x", "\\x00ff5c78", "\\xdeadbeef"]),
    kind("json", "VARCHAR", &["{\"a\": 1.50,  \"a\": 2}", "null"]),
    kind("jsonb", "VARCHAR", &["{\"b\": 1e400, \"a\": [1, null]}"]),
    kind("integer[]", "VARCHAR", &["{}", "{1,NULL,3}", "[0:1]={1,2}"]),
    kind("text[]", "VARCHAR", &["{NULL,\"NULL\",\"a,b\",\"\\\"\"}"]),
    kind("int4range", "VARCHAR", &["empty", "[1,5)", "(,)"]),
    kind("inet", "VARCHAR", &["10.0.0.1/8", "::1"]),
    kind("money", "VARCHAR", &["-1234.56"]),
    kind("bit(3)", "VARCHAR", &["101"]),
    kind("bit varying", "VARCHAR", &["", "1"]),
    kind("point", "VARCHAR", &["(1.5,-0)"]),
    kind("xml", "VARCHAR", &["<a>1</a>"]),
    kind("tsvector", "VARCHAR", &["'a':1 'b':2"]),
    kind("\"char\"", "VARCHAR", &["a"]),
    kind("name", "VARCHAR", &["a name"]),
    kind("pg_lsn", "VARCHAR", &["16/B374D848"]),
    kind("mood", "VARCHAR", &["sad", "so so"]),
];

#[tokio::test]
async fn values_of_a_real_server_are_kept_as_it_prints_them() {
    // Debian's wal2json cannot say NaN and infinities.
    let world = WorldOptions::default().plugin(Plugin::Pgoutput).without_sftp().start().await;
    world.source.execute("CREATE TYPE mood AS ENUM ('sad', 'so so')").await;
    let declared: String = KINDS.iter().enumerate().fold(String::new(), |mut sql, (place, kind)| {
        write!(sql, ", c{place} {}", kind.name).expect("a String takes all");
        sql
    });
    for table in ["copied", "changed"] {
        world.source.execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY{declared})")).await;
    }
    world.make_slot().await;
    fill(&world, "copied").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    fill(&world, "changed").await;
    for table in ["copied", "changed"] {
        let every_third = format!("UPDATE {table} SET id = id + 1000 WHERE id % 3 = 0");
        world.source.execute(&every_third).await;
        world.source.execute(&format!("UPDATE {table} SET c0 = NOT c0 WHERE id % 3 = 1")).await;
        world.source.execute(&format!("DELETE FROM {table} WHERE id = 5")).await;
    }
    world.archiver(["run", "--once"]).succeed().await;

    let file = File::new();
    let said = file.life(world.archive_dir(), &["changed", "copied@base"]).stopping().run();
    assert_eq!(said, "changed\tlive\t\ncopied\tlive\t\n");
    for table in ["copied", "changed"] {
        assert_same(&world, &file, table).await;
        let kept = format!(
            "SELECT data_type FROM duckdb_columns() WHERE table_name = '{table}' AND column_name <> 'id' ORDER BY column_index"
        );
        let expected: Vec<&str> = KINDS.iter().map(|kind| kind.kept_as).collect();
        assert_eq!(file.lines(&kept), expected, "{table}");
    }
}

/// A row for each text, alone in its column.
async fn fill(world: &World, table: &str) {
    let texts =
        KINDS.iter().enumerate().flat_map(|(place, kind)| kind.texts.iter().map(move |text| (place, text)));
    let insert = |(id, (place, text)): (usize, (usize, &&str))| {
        format!("INSERT INTO {table} (id, c{place}) VALUES ({id}, '{}')", text.replace('\'', "''"))
    };
    let inserts: Vec<String> = texts.enumerate().map(insert).collect();
    world.source.execute(&inserts.join(";")).await;
    world.source.execute(&format!("INSERT INTO {table} (id) VALUES (999)")).await;
}

/// Text for text.
async fn assert_same(world: &World, file: &File, table: &str) {
    let client = world.source.connect().await;
    // As the archiver's sessions are.
    let pinned = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'";
    client.batch_execute(pinned).await.expect("pinned");
    let select = format!("SELECT * FROM {table} ORDER BY id");
    // Without casts: the output functions themselves.
    let rows = client.simple_query(&select).await.expect("read");
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    let rows: Vec<SimpleQueryRow> = rows.into_iter().filter_map(row).collect();
    let here = file.rows(&select);
    assert_eq!(rows.len(), here.len(), "{table}");
    for (row, here) in rows.iter().zip(&here) {
        assert_eq!(row.len(), here.len(), "{table}");
        for (place, found) in here.iter().enumerate() {
            let name = place.checked_sub(1).map_or("id", |place| KINDS[place].name);
            let id = row.get(0).expect("a key");
            assert_eq!(found.as_deref(), row.get(place), "{table}, {name}, row {id}");
        }
    }
}

/// A column's type and a text that DuckDB would take as another value, or not at all.
const ALTERED: &[(&str, &str)] = &[
    ("date", "0044-03-15 BC"),
    ("timestamp without time zone", "0044-03-15 00:00:00 BC"),
    ("timestamp without time zone", "294276-12-31 23:59:59.999999"),
    ("timestamp without time zone", "2024-01-02 24:00:00"),
    ("timestamp without time zone", "2024-01-02 00:00:00.1234567"),
    ("timestamp with time zone", "0044-03-15 00:00:00+00 BC"),
    ("timestamp with time zone", "2024-01-02 00:00:00+02"),
    ("timestamp with time zone", "2024-01-02 00:00:00"),
    ("time without time zone", "12:34:56.1234567"),
    ("time without time zone", "23:59:60"),
    ("numeric(5,2)", "123.456"),
    ("numeric(5,2)", "1000.00"),
    ("numeric(5,2)", "NaN"),
    ("numeric(5,2)", "1.5"),
    ("numeric(5,2)", "-0.00"),
    ("integer", "1.5"),
    ("integer", "2147483648"),
    ("bigint", "1e3"),
    ("bigint", " 1"),
    ("bigint", "0x10"),
    ("smallint", "32768"),
    ("double precision", "1e400"),
    ("double precision", "1e-400"),
    ("double precision", "0.1234567890123456789"),
    ("double precision", "nan"),
    ("double precision", ""),
    ("real", "1e39"),
    ("real", "16777217"),
    ("boolean", "yes"),
    ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"),
    ("bytea", "\\x0"),
    ("bytea", "\\xAB"),
    ("bytea", "abc"),
    ("bytea", ""),
];

#[test]
fn a_value_that_would_be_another_one_quarantines_its_table_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    let name = |place: usize| format!("t{place}");
    for (place, (type_name, _)) in ALTERED.iter().enumerate() {
        forge.relation(&name(place), &["id integer not null", &format!("v {type_name}")], &["id"]);
    }
    let empty = |place: usize| insert(&name(place), r#""id":1,"v":null"#);
    forge.segment(&[(0..ALTERED.len()).map(empty).collect()]);
    let bad = |(place, (_, text)): (usize, &(&str, &str))| {
        let text = serde_json::to_string(text).expect("a text");
        // Half of them come with an update.
        match place % 2 {
            0 => insert(&name(place), &format!(r#""id":2,"v":{text}"#)),
            _ => update(&name(place), &format!(r#""id":1,"v":{text}"#), r#""id":1"#),
        }
    };
    let transactions: Vec<Vec<String>> = ALTERED.iter().enumerate().map(|one| vec![bad(one)]).collect();
    forge.relation("good", &["id integer not null"], &["id"]);
    let good = vec![insert("good", r#""id":1"#)];
    forge.segment(&[transactions, vec![good]].concat());

    let names: Vec<String> = (0..ALTERED.len()).map(name).chain(["good".to_owned()]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let file = File::new();
    let said = file.life(folder.path(), &names).run();
    assert!(said.contains("good\tlive\t"), "{said}");
    assert_eq!(file.lines("SELECT * FROM good"), ["1"]);
    let rows: Vec<String> = (0..ALTERED.len())
        .map(|place| format!("SELECT {place} AS p, count(*) AS n, count(v) AS v FROM t{place}"))
        .collect();
    let rows = file.lines(&format!("{} ORDER BY p", rows.join(" UNION ALL ")));
    let reasons =
        "SELECT table_name, reason, record IS NOT NULL, line IS NOT NULL FROM syncdata.data_sync_quarantine";
    let reasons = file.rows(reasons);
    for (place, (type_name, text)) in ALTERED.iter().enumerate() {
        assert_eq!(rows[place], format!("{place}|1|0"), "{type_name} {text}");
        let kept = reasons.iter().find(|row| row[0].as_deref() == Some(&name(place)));
        let kept = kept.unwrap_or_else(|| panic!("{type_name} {text} was taken"));
        let reason = kept[1].as_deref().expect("a reason");
        assert!(reason.contains(&format!("column \"v\" is {type_name} at the source")), "{reason}");
        assert!(reason.contains("duckdb_text_columns"), "{reason}");
        assert_eq!((kept[2].as_deref(), kept[3].as_deref()), (Some("t"), Some("t")));
    }
    assert_eq!(reasons.len(), ALTERED.len());
}

#[test]
fn a_key_that_would_be_another_one_is_refused_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["day date not null", "v text"], &["day"]);
    forge.segment(&[vec![insert("t", r#""day":"2026-01-01","v":"one""#)]]);
    forge.segment(&[vec![update("t", r#""day":"0044-03-15 BC""#, r#""day":"2026-01-01""#)]]);
    let file = File::new();
    let said = file.life(folder.path(), &["t"]).run();
    assert!(said.starts_with("t\tquarantined\t"), "{said}");
    assert_eq!(file.lines("SELECT * FROM t"), ["2026-01-01|one"]);
}

#[test]
fn what_is_kept_as_text_takes_every_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["day date not null", "n integer"], &["day"]);
    forge.segment(&[vec![insert("t", r#""day":"0044-03-15 BC","n":1"#)]]);
    forge.segment(&[vec![update("t", r#""day":"0044-03-15 BC","n":2"#, r#""day":"0044-03-15 BC""#)]]);
    let file = File::new();
    file.life(folder.path(), &["t"]).text_columns("t.day").batch(1).stopping().run();
    assert_eq!(file.lines("SELECT * FROM t"), ["0044-03-15 BC|2"]);
}
