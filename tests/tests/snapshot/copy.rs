//! What a copy holds.

use syncdata_formats::manifest::Generated;
use syncdata_tests::WorldOptions;

use crate::scene::{self, lines, newest};

#[tokio::test]
async fn a_snapshot_holds_the_tables_and_says_so() {
    let world = scene::world_with(
        WorldOptions::default(),
        "CREATE TABLE users (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text);
         CREATE SCHEMA sales; CREATE TABLE sales.orders (id bigserial, note text);
         CREATE TABLE empty (id int PRIMARY KEY);
         INSERT INTO users (name) SELECT 'name ' || i FROM generate_series(1, 1000) i;
         INSERT INTO sales.orders (note) VALUES (NULL), ('b')",
    )
    .await;
    let taken = scene::take(&world).await;
    let manifest = newest(world.archive_dir());
    assert_eq!(taken["id"], manifest.id.to_string());
    assert_eq!((&taken["tables"], &taken["rows"]), (&3.into(), &1002.into()));
    let users = lines(world.archive_dir(), &manifest, "users");
    assert_eq!((users.len(), users[0].as_str(), users[999].as_str()), (1000, "1\tname 1", "1000\tname 1000"));
    assert_eq!(lines(world.archive_dir(), &manifest, "sales.orders"), ["1\t\\N", "2\tb"]);
    assert_eq!(lines(world.archive_dir(), &manifest, "empty"), Vec::<String>::new());
    let sequences = |table: &str| {
        let table = &manifest.tables[&table.parse().expect("a name")];
        table.sequences.clone().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(sequences("users"), [("users_id_seq".to_owned(), Some(1000))]);
    assert_eq!(sequences("sales.orders"), [("sales.orders_id_seq".to_owned(), Some(2))]);
    // The changes that belong to it are in the archive already.
    let head = std::fs::read_to_string(world.archive_dir().join("head.json")).expect("a head");
    let head: serde_json::Value = serde_json::from_str(&head).expect("JSON");
    let covered: syncdata_formats::lsn::Lsn =
        head["covered_lsn"].as_str().expect("text").parse().expect("an LSN");
    assert!(covered >= manifest.end_lsn, "{covered} {}", manifest.end_lsn);
    let digest = std::process::Command::new("sha256sum")
        .args(["--check", "--strict", "snapshot.manifest.json.sha256"])
        .current_dir(world.archive_dir().join("snapshots").join(manifest.id.as_str()))
        .output();
    assert!(digest.expect("sha256sum is there").status.success());
}

#[tokio::test]
async fn generated_columns_partitions_and_children_are_copied_as_they_travel() {
    let virtual_column = if syncdata_tests::Installation::chosen().major() >= 18 {
        ", twice int GENERATED ALWAYS AS (id * 2) VIRTUAL"
    } else {
        ""
    };
    let world = scene::world(&format!(
        "CREATE TABLE sums (id int PRIMARY KEY, total int GENERATED ALWAYS AS (id + 1) STORED{virtual_column});
         INSERT INTO sums VALUES (1), (2);
         CREATE TABLE logs (day date, id int, text text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
         CREATE TABLE logs_2 (text text, id int NOT NULL, day date NOT NULL);
         ALTER TABLE logs ATTACH PARTITION logs_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
         INSERT INTO logs VALUES ('2026-02-02', 1, 'b'), ('2026-01-01', 2, 'a'), ('2026-01-03', 1, 'c');
         CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (more text) INHERITS (parent);
         INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 'x')",
    ))
    .await;
    scene::take(&world).await;
    let manifest = newest(world.archive_dir());
    let tables: Vec<String> = manifest.tables.keys().map(ToString::to_string).collect();
    assert_eq!(tables, ["child", "logs", "parent", "sums"]);
    let rows = |table: &str| lines(world.archive_dir(), &manifest, table);
    assert_eq!(rows("sums"), ["1\t2", "2\t3"]);
    assert_eq!(rows("logs"), ["2026-01-03\t1\tc", "2026-02-02\t1\tb", "2026-01-01\t2\ta"]);
    assert_eq!((rows("parent"), rows("child")), (vec!["1".to_owned()], vec!["2\tx".to_owned()]));
    let sums = &manifest.tables[&"sums".parse().expect("a name")];
    assert_eq!(sums.columns, ["id", "total"]);
    let has_virtual = sums.relation.columns.iter().any(|c| c.generated == Some(Generated::Virtual));
    assert_eq!(has_virtual, !virtual_column.is_empty());
}

/// Names that want quotes, and a value of every kind that COPY has to escape.
#[tokio::test]
async fn hostile_names_and_values_are_byte_for_byte_what_copy_prints() {
    const TABLE: &str = r#"public."we ird,.*\""q""#;
    let world = scene::world(&format!(
        r#"CREATE TYPE mood AS ENUM ('a"b', E'tab\there');
           CREATE TABLE {TABLE} ("select" int, "a""b\c" text, "Ü x	y" bytea, n numeric, f float8, t text[], m mood,
             at timestamptz, i interval, j json, b "char", PRIMARY KEY ("a""b\c", "select"))"#
    ))
    .await;
    let client = world.source.connect().await;
    for (number, text) in [
        "",
        "\\N",
        "\\.",
        "tab\there",
        "line\nbreak\r\nand\rmore",
        "back\\slash\\",
        "\u{1}\u{7f}\u{2028}",
        "ünï",
    ]
    .into_iter()
    .enumerate()
    {
        let insert = format!(
            r#"INSERT INTO {TABLE} SELECT i, $1, decode('00ff0a095c', 'hex'), (CASE i WHEN 1 THEN 'NaN' ELSE '1.100' END)::numeric,
               (CASE i WHEN 1 THEN '-Infinity' ELSE '1e-310' END)::float8, ARRAY[$1, NULL, 'a,b"c'], E'tab\there',
               '0044-03-15 12:00:00+01 BC', '-1 mon 02:03:04.5', '{{"a" :  1, "a": 2}}', E'\\'
               FROM generate_series(1, 2) i"#
        );
        client
            .execute_typed(&insert, &[(&text, tokio_postgres::types::Type::TEXT)])
            .await
            .expect("it is a value");
        let nulls =
            format!(r#"INSERT INTO {TABLE} ("select", "a""b\c") VALUES ({number} + 10, 'null ' || $1)"#);
        client
            .execute_typed(&nulls, &[(&text, tokio_postgres::types::Type::TEXT)])
            .await
            .expect("it is a value");
    }
    scene::take(&world).await;
    let manifest = newest(world.archive_dir());
    let (name, table) = manifest.tables.first_key_value().expect("one table");
    assert_eq!(table.rows, 24);
    let columns: Vec<String> =
        table.columns.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    let query = format!("SELECT {} FROM {TABLE} ORDER BY \"a\"\"b\\c\", \"select\"", columns.join(", "));
    let expected = scene::copy_out(&client, &query).await;
    let found = scene::rows(world.archive_dir(), &manifest, &name.to_string());
    assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(&expected));
    assert_eq!(table.parts[0].first_key.as_deref(), Some("\t1"), "the empty text sorts first");
}

#[tokio::test]
async fn the_role_s_own_settings_change_no_byte() {
    let world = scene::world(
        "CREATE TABLE times (id int PRIMARY KEY, at timestamptz, raw bytea, f float8);
         INSERT INTO times VALUES (1, '2026-02-05 10:30:00.5+02', '\\x00ff', 0.1)",
    )
    .await;
    for setting in [
        "bytea_output = escape",
        "DateStyle = 'German'",
        "TimeZone = 'Asia/Tokyo'",
        "extra_float_digits = -5",
    ] {
        world.source.execute(&format!("ALTER ROLE syncdata_user SET {setting}")).await;
    }
    scene::take(&world).await;
    let rows = lines(world.archive_dir(), &newest(world.archive_dir()), "times");
    assert_eq!(rows, ["1\t2026-02-05 08:30:00.5+00\t\\\\x00ff\t0.1"]);
}
