//! Names that mean something else to DuckDB, and a file that is somebody else's.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use syncdata_tests::Forge;

use super::file::{File, python};
use super::forged::{Users, insert};

fn archive(tables: &[(&str, &[&str])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    for (table, columns) in tables {
        forge.relation(table, columns, &["id"]);
    }
    let row = |(table, _): &(&str, &[&str])| insert(&table.replace('"', "\\\""), r#""id":1"#);
    forge.segment(&[tables.iter().map(row).collect()]);
    folder
}

const PLAIN: &[&str] = &["id integer not null"];

#[test]
fn names_that_differ_by_their_case_are_refused_with_both() {
    let folder = archive(&[("\"Name\"", PLAIN), ("name", PLAIN), ("other", PLAIN)]);
    let file = File::new();
    let said = file.life(folder.path(), &["\"Name\"", "name", "other"]).run();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "\"Name\"\tlive\t");
    assert!(lines[1].starts_with("name\tquarantined\t"), "{said}");
    assert!(lines[1].contains(r#""public"."name" and "public"."Name" are one name to DuckDB"#), "{said}");
    assert_eq!(lines[2], "other\tlive\t");
    assert_eq!(file.lines(r#"SELECT * FROM "Name""#), ["1"]);
    let kept = "SELECT table_name, attempts FROM syncdata.data_sync_quarantine";
    assert_eq!(file.lines(kept), ["name|1"]);

    let stopped = File::new();
    let error = stopped.life(folder.path(), &["\"Name\"", "name"]).stopping().fail();
    assert!(error.contains("are one name to DuckDB"), "{error}");
}

#[test]
fn columns_that_differ_by_their_case_are_refused_with_both() {
    let folder = archive(&[("t", &["id integer not null", "Order text", "order text"])]);
    let said = File::new().life(folder.path(), &["t"]).run();
    assert!(
        said.contains(r#"t has the columns "Order" and "order", which are one name to DuckDB"#),
        "{said}"
    );
}

#[test]
fn schemas_keep_their_names_but_those_that_mean_something_else() {
    let folder = archive(&[
        ("t", PLAIN),
        ("main.t", PLAIN),
        ("sales.t", PLAIN),
        ("syncdata.t", PLAIN),
        ("copy.t", PLAIN),
    ]);
    let file = File::new();
    let said = file.life(folder.path(), &["t", "main.t", "sales.t", "syncdata.t", "copy.t"]).run();
    let state = |table: &str| {
        let line = said.lines().find(|line| line.starts_with(&format!("{table}\t")));
        line.unwrap_or_else(|| panic!("{table}: {said}")).split('\t').nth(1).expect("a state").to_owned()
    };
    for (table, expected) in [
        ("t", "live"),
        ("sales.t", "live"),
        ("main.t", "quarantined"),
        ("syncdata.t", "quarantined"),
        ("copy.t", "quarantined"),
    ] {
        assert_eq!(state(table), expected, "{table}: {said}");
    }
    assert_eq!(file.lines("SELECT * FROM main.t"), ["1"]);
    assert_eq!(file.lines("SELECT * FROM sales.t"), ["1"]);
    // Under another name of the file a reader knows what is meant.
    let other = File::named("other.duckdb");
    assert_eq!(other.life(folder.path(), &["copy.t"]).run(), "copy.t\tlive\t\n");
    assert_eq!(other.lines("SELECT * FROM copy.t"), ["1"]);
}

#[test]
fn names_stay_names() {
    let table = r#""a"".""b; DROP TABLE x""#;
    let folder = archive(&[(table, &["id integer not null", r#"it's "so" \ text"#])]);
    let file = File::named("it's a \"file\".duckdb");
    let said = file.life(folder.path(), &[table]).stopping().run();
    assert_eq!(said, format!("{table}\tlive\t\n"));
    let found = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main'";
    assert_eq!(file.lines(found), [r#"a"."b; DROP TABLE x"#]);
}

#[test]
fn a_table_of_somebody_else_is_left_alone() {
    let (archive, file) = (Users::new(), File::new());
    file.execute("CREATE TABLE \"USERS\" AS SELECT 42 AS id");
    let said = file.life(archive.archive(), &["users"]).run();
    assert!(said.starts_with("users\tquarantined\t"), "{said}");
    assert!(said.contains("is in the file already, and none of ours"), "{said}");
    assert_eq!(file.lines("SELECT * FROM users"), ["42"]);
}

#[test]
fn a_table_that_somebody_has_dropped_is_not_made_again_without_its_rows() {
    let (archive, file) = (Users::new(), File::new());
    let first = file.life(archive.archive(), &["users"]).batch(1).fault("apply.after_commit=kill@2".into());
    first.die();
    file.execute("DROP TABLE users");
    let said = file.life(archive.archive(), &["users"]).run();
    assert!(said.starts_with("users\tquarantined\tTable not found locally: users"), "{said}");
}

#[test]
fn a_file_that_somebody_has_open_is_waited_for() {
    let (archive, file) = (Users::new(), File::new());
    file.life(archive.archive(), &["users"]).run();
    let script =
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()";
    let mut holder = Command::new(python())
        .args(["-c", script])
        .arg(file.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut line).expect("it says so");
    assert_eq!(line, "open\n");
    let error = file.life(archive.archive(), &["users"]).fail();
    assert!(error.contains("Could not set lock on file"), "{error}");
    drop(holder.stdin.take());
    assert!(holder.wait().expect("ours").success());
    file.life(archive.archive(), &["users"]).run();
}
