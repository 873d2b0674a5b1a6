//! Values: what stands in the archive is what the source's own output functions print.

use std::collections::BTreeMap;

use postgres_protocol::escape::escape_literal;
use syncdata_tests::world::World;
use tokio_postgres::SimpleQueryMessage;

use crate::reader::{self, Segment};
use crate::scene::{self, Line, poll};

/// As the format page says them.
const PINNED: &str = "SET DateStyle = 'ISO, MDY'; SET IntervalStyle = postgres; SET TimeZone = 'UTC';
    SET extra_float_digits = 3; SET bytea_output = hex; SET client_encoding = 'UTF8'; SET search_path = pg_catalog";

/// A type of public's tables, and expressions of it.
const VALUES: &[(&str, &[&str])] = &[
    ("int2", &["-32768", "32767"]),
    ("int4", &["-2147483648", "2147483647"]),
    ("int8", &["-9223372036854775808", "9223372036854775807", "0"]),
    ("oid", &["4294967295"]),
    ("numeric", &["1.1000000000", "0.0", "-0.00001", "1e400", "1e-400", "18446744073709551616"]),
    ("numeric", &["(repeat('9', 131072))::numeric", "('0.' || repeat('7', 16383))::numeric"]),
    ("numeric(10,4)", &["12.5", "-0.5"]),
    ("float8", &["'-0'", "1e-310", "5e-324", "1.7976931348623157e308", "0.1", "1e20", "123456789012345680"]),
    ("float4", &["'-0'", "1e-45", "3.4028235e38", "0.1", "16777216"]),
    ("bool", &["true", "false"]),
    ("bytea", &["''", "'\\x00ff5c41'", "decode(repeat('00', 300000), 'hex')"]),
    (
        "text",
        &["''", "E'\\x01\\x02\\t\\n\\r\\x7f'", "U&'\\2028\\2029\\FEFF'", "'Ünïcödé 🐘'", "E'a\"b\\\\c/d'"],
    ),
    ("text", &["(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 50000) n)", "'NaN'", "'null'"]),
    ("varchar(10)", &["'abc '"]),
    ("char(5)", &["'ab'"]),
    ("\"char\"", &["'x'", "'\"'", "'\\'"]),
    ("name", &["'a name'"]),
    ("bit(5)", &["B'10101'"]),
    ("varbit", &["B''", "B'1'"]),
    ("date", &["'0044-03-15 BC'", "'infinity'", "'-infinity'", "'5874897-12-31'"]),
    ("time", &["'24:00:00'", "'00:00:00.000001'"]),
    ("timetz", &["'12:00:00.5+05:30'"]),
    ("timestamp", &["'infinity'", "'4713-01-01 00:00:00 BC'", "'294276-12-31 23:59:59.999999'"]),
    ("timestamptz", &["'-infinity'", "'2026-02-03 04:05:06.789+05:30'", "'0044-03-15 12:00 BC'"]),
    ("interval", &["'-1 days +02:00:00'", "'1 year 2 mons -3 days 04:05:06.789'", "'0'"]),
    ("money", &["-1234.56", "92233720368547758.07::numeric::money"]),
    ("uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    ("json", &["'{\"b\": 1, \"a\":1.10, \"a\":  2}'", "'1e400'", "'\"\\u0000\"'"]),
    ("jsonb", &["'{\"b\": 1, \"a\": 1.10, \"a\": 2}'", "'1e100'"]),
    ("xml", &["'<a b=\"c\">&amp;</a>'"]),
    ("inet", &["'::1/64'", "'10.0.0.1'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("tsvector", &["to_tsvector('simple', 'it''s \"a\" test')"]),
    ("tsquery", &["'a & !b'"]),
    ("point", &["'(1.5,-0)'"]),
    ("box", &["'(1,2),(3,4)'"]),
    ("pg_lsn", &["'16/B374D848'"]),
    ("xid8", &["'18446744073709551615'"]),
    ("regclass", &["'public.moods'", "'pg_class'"]),
    ("regtype", &["'public.mood'"]),
    ("int4range", &["'[1,5)'", "'empty'", "'(,)'"]),
    ("tstzrange", &["'[2026-01-01,infinity)'"]),
    ("nummultirange", &["'{[1.10,2.20),[3,)}'"]),
    ("int4[]", &["'{1,NULL,3}'", "'[2:3]={7,8}'", "'{}'"]),
    ("text[]", &["ARRAY['a,b', '\"', '\\', NULL, 'NULL']", "'{{a,b},{c,d}}'"]),
    ("numeric[]", &["'{1.10,NaN,Infinity}'"]),
    ("bytea[]", &["ARRAY['\\x00'::bytea, '\\xff'::bytea]"]),
    ("bool[]", &["'{t,f,NULL}'"]),
    ("public.mood", &["'fine'", "'it''s \"odd\"'"]),
    ("public.pair", &["ROW(1, E'a,\"b\\\\')", "ROW(NULL, '')"]),
    ("public.d_bytea", &["'\\x00ff'"]),
    ("public.d_bool", &["true", "false"]),
    ("public.d_int", &["7"]),
    ("public.d_float", &["'NaN'", "1e-310"]),
    ("public.d_numeric", &["'NaN'", "1.10"]),
    ("public.\"Bad Ty\"\"pe\"", &["'a'"]),
];

const TYPES: &str =
    "CREATE TYPE mood AS ENUM ('fine', 'it''s \"odd\"'); CREATE TABLE moods (id int PRIMARY KEY, m mood);
    CREATE TYPE pair AS (n int, t text); CREATE DOMAIN d_bytea AS bytea; CREATE DOMAIN d_bool AS bool;
    CREATE DOMAIN d_int AS int; CREATE DOMAIN d_float AS float8; CREATE DOMAIN d_numeric AS numeric;
    CREATE TYPE \"Bad Ty\"\"pe\" AS ENUM ('a');";

/// From contrib, which a production server may have and a test machine may lack.
const EXTENSIONS: &[(&str, &str, &str)] = &[
    ("hstore", "public.hstore", "'a=>1, b=>NULL, \"c,\"=>\"d\\\"\"'"),
    ("citext", "public.citext", "'MiXed'"),
    ("ltree", "public.ltree", "'Top.Science.x'"),
    ("cube", "public.cube", "'(1,2),(3,4)'"),
];

const NUMBERS: &[&str] = &["int2", "int4", "int8", "oid", "numeric", "numeric(10,4)", "float4", "float8"];

/// (type, what the archive says, what the source says) of every value.
async fn both_sides(
    world: &World,
    values: &[(String, Vec<String>)],
) -> Vec<(String, String, Option<String>)> {
    for (n, (type_name, expressions)) in values.iter().enumerate() {
        world.source.execute(&format!("CREATE TABLE v{n} (id int PRIMARY KEY, v {type_name})")).await;
        for (id, expression) in expressions.iter().enumerate() {
            world.source.execute(&format!("INSERT INTO v{n} VALUES ({id}, {expression})")).await;
        }
    }
    let segments = poll(world).await;
    let archived = archived(&segments);
    let client = world.source.connect().await;
    client.batch_execute(PINNED).await.expect("settings of every server");
    let mut sides = Vec::new();
    for (n, (type_name, expressions)) in values.iter().enumerate() {
        for id in 0..expressions.len() {
            let sql = format!("SELECT v FROM public.v{n} WHERE id = {id}");
            let rows = client.simple_query(&sql).await.expect("the table is there");
            let value = rows.iter().find_map(|row| match row {
                SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
                _ => None,
            });
            let key = (format!("v{n}"), id.to_string());
            let archived = archived.get(&key).unwrap_or_else(|| panic!("{key:?} of {type_name} is missing"));
            sides.push((type_name.clone(), archived.clone(), value.expect("the row is there")));
        }
    }
    sides
}

/// (table, id) → the JSON text of `v`.
fn archived(segments: &[Segment]) -> BTreeMap<(String, String), String> {
    let lines = segments.iter().flat_map(|segment| &segment.lines).map(|line| Line::parse(line));
    let rows = lines.filter(|line| line.word("op") == "INSERT").map(|line| {
        let data = line.data();
        ((line.table(), data["id"].get().to_owned()), data["v"].get().to_owned())
    });
    rows.collect()
}

/// What a reader of the archive hands to the column's input function.
fn as_text(json: &str) -> Option<String> {
    match json {
        "null" => None,
        "true" => Some("t".to_owned()),
        "false" => Some("f".to_owned()),
        string if string.starts_with('"') => Some(serde_json::from_str(string).expect("a JSON string")),
        number => Some(number.to_owned()),
    }
}

fn owned(values: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let owned = |expressions: &[&str]| expressions.iter().map(|&e| e.to_owned()).collect();
    values.iter().map(|(type_name, expressions)| ((*type_name).to_owned(), owned(expressions))).collect()
}

#[tokio::test]
async fn every_value_is_the_text_that_the_source_prints() {
    let world = scene::world(TYPES).await;
    let mut values = owned(VALUES);
    for (extension, type_name, expression) in EXTENSIONS {
        let name = escape_literal(extension);
        let known = format!("SELECT count(*) FROM pg_available_extensions WHERE name = {name}");
        if world.source.value(&known).await == "1" {
            world.source.execute(&format!("CREATE EXTENSION {extension} SCHEMA public")).await;
            values.push(((*type_name).to_owned(), vec![(*expression).to_owned()]));
        }
    }
    for (_, expressions) in &mut values {
        expressions.push("NULL".to_owned());
    }
    for (type_name, archive, source) in both_sides(&world, &values).await {
        let start = |text: &str| text.chars().take(100).collect::<String>();
        assert!(as_text(&archive) == source, "{type_name}: {} is not {source:?}", start(&archive));
        if archive != "null" {
            let is_bare = !archive.starts_with('"');
            assert_eq!(
                is_bare,
                NUMBERS.contains(&&*type_name) || type_name == "bool",
                "{type_name} {}",
                start(&archive)
            );
        }
    }
}

#[tokio::test]
async fn nan_and_infinities_are_said_or_their_loss_is() {
    let world = scene::world("").await;
    let odd = ["'NaN'", "'Infinity'", "'-Infinity'"];
    let sides = both_sides(&world, &owned(&[("numeric", &odd), ("float4", &odd), ("float8", &odd)])).await;
    let manifest = &reader::segments(world.archive_dir())[0].manifest;
    let degraded = manifest["source"]["degraded"].as_array().expect("a list").clone();
    let says_all = world.source.installation().major() >= 18;
    assert_eq!(degraded, if says_all { vec![] } else { vec![serde_json::Value::from("numeric-nan")] });
    for (type_name, archive, source) in sides {
        let expected = source.filter(|_| says_all).map(|text| format!("\"{text}\""));
        assert_eq!(archive, expected.unwrap_or_else(|| "null".to_owned()), "{type_name}");
    }
    let quiet = world.archiver(["run", "--once"]).succeed().await;
    let told = quiet.stderr.lines().filter(|line| line.contains("degraded")).count();
    assert_eq!(told, usize::from(!says_all), "one line a start: {quiet}");
}

#[tokio::test]
async fn a_database_in_another_encoding_arrives_as_utf_8() {
    let world = World::start().await;
    world.source.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0").await;
    let latin = world.source.connect_to("latin").await;
    let schema = "CREATE TABLE \"Größe\" (id int PRIMARY KEY, \"Stück\" text);
        SELECT pg_create_logical_replication_slot('latin_slot', 'wal2json');
        INSERT INTO \"Größe\" VALUES (1, 'naïve ©')";
    for statement in schema.split(";\n") {
        latin.batch_execute(statement).await.expect("runs");
    }
    let config =
        scene::settings(&world, "latin.toml", &[("pg_database", "latin"), ("slot_name", "latin_slot")]);
    world.archiver(["run", "--once", "--config", config.to_str().expect("a plain path")]).succeed().await;
    let shapes = scene::shapes(&reader::segments(world.archive_dir()));
    assert_eq!(shapes, [r#""Größe" INSERT {"id":1,"Stück":"naïve ©"}"#, "COMMIT 1"]);
}

#[tokio::test]
async fn a_database_without_an_encoding_is_refused() {
    let world = World::start().await;
    world.source.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0").await;
    let config = scene::settings(&world, "ascii.toml", &[("pg_database", "ascii")]);
    let config = config.to_str().expect("a plain path");
    let refused = world.archiver(["run", "--once", "--config", config]).run().await.expect_code(2);
    assert!(refused.stderr.contains("SQL_ASCII"), "{refused}");
    let checked = world.archiver(["check", "--config", config]).run().await.expect_code(1);
    assert!(checked.stdout.contains("SQL_ASCII"), "{checked}");
    world.archiver(["setup", "--config", config]).run().await.expect_code(1);
}
