//! Tables that become others at the source.

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_tests::Forge;

use super::file::File;
use super::forged::{insert, update};

fn column(number: u16, name: &str, type_name: &str) -> Column {
    Column { name: name.into(), type_name: type_name.into(), attnum: Some(number), ..Column::default() }
}

fn described(columns: &[Column], key: &[&str]) -> Relation {
    let key = key.iter().map(|&name| name.to_owned()).collect();
    Relation::described(columns.to_vec(), key, ReplicaIdentity::Default, Default::default())
}

fn types(file: &File) -> Vec<String> {
    file.lines(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE schema_name = 'main' AND table_name = 't' \
         ORDER BY column_index",
    )
}

#[test]
fn columns_that_come_go_and_change_are_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    let id = column(1, "id", "integer");
    let note = column(2, "note", "character varying(10)");
    let gone = column(3, "gone", "date");
    let price = column(4, "price", "numeric(6,2)");
    forge.describe("t", described(&[id.clone(), note.clone(), gone.clone(), price.clone()], &["id"]));
    let first =
        |id: u32| insert("t", &format!(r#""id":{id},"note":"n{id}","gone":"2026-01-0{id}","price":1.50"#));
    forge.segment(&[vec![first(1), first(2)]]);

    // A wider type, another name, a column that goes, one that comes with a value for older rows.
    let since = Column { missing: Some("2026-02-03".to_owned()), ..column(5, "since", "date") };
    let columns = [
        column(1, "id", "bigint"),
        column(2, "words", "character varying(20)"),
        column(4, "price", "numeric(8,2)"),
        since,
    ];
    forge.describe("t", described(&columns, &["id"]));
    forge.segment(&[
        // Described later than it was written: before the column went and the new one came.
        vec![insert("t", r#""id":3,"words":"n3","gone":"2026-01-03","price":3.00"#)],
        vec![
            insert("t", r#""id":9999999999,"words":"four","price":123456.78,"since":"2026-02-04""#),
            update("t", r#""id":1,"words":"uno","price":1.50,"since":null"#, r#""id":1"#),
        ],
    ]);
    // Labels of one and the other that nobody has changed: a type may have another name.
    let mut columns = columns.to_vec();
    columns[1] = column(2, "words", "text");
    columns.push(Column { missing: Some("\\x00ff".to_owned()), ..column(6, "gone", "bytea") });
    columns.push(column(7, "empty", "boolean"));
    forge.describe("t", described(&columns, &["id"]));
    forge.segment(&[vec![insert(
        "t",
        r#""id":5,"words":"five","price":5.00,"since":null,"gone":"\\x01","empty":"t""#,
    )]]);

    for batch in [1, 100] {
        let file = File::new();
        let said = file.life(folder.path(), &["t"]).batch(batch).run();
        assert_eq!(said, "t\tlive\t\n", "{batch}");
        let expected =
            ["id|BIGINT", "words|VARCHAR", "price|DECIMAL(8,2)", "since|DATE", "gone|BLOB", "empty|BOOLEAN"];
        assert_eq!(types(&file), expected, "{batch}");
        let rows = [
            "1|uno|1.50|NULL|\\x00ff|NULL",
            "2|n2|1.50|2026-02-03|\\x00ff|NULL",
            "3|n3|3.00|2026-02-03|\\x00ff|NULL",
            "5|five|5.00|NULL|\\x01|t",
            "9999999999|four|123456.78|2026-02-04|\\x00ff|NULL",
        ];
        assert_eq!(file.lines("SELECT * FROM t ORDER BY id"), rows, "{batch}");
    }
}

#[test]
fn a_process_that_dies_while_columns_change_changes_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.describe("t", described(&[column(1, "id", "integer"), column(2, "v", "integer")], &["id"]));
    forge.segment(&[vec![insert("t", r#""id":1,"v":1"#)]]);
    forge.describe("t", described(&[column(1, "id", "integer"), column(2, "w", "bigint")], &["id"]));
    forge.segment(&[vec![insert("t", r#""id":2,"w":9999999999"#)]]);
    for step in ["apply.begun", "apply.half_batch", "apply.before_commit"] {
        let file = File::new();
        let life = || file.life(folder.path(), &["t"]).batch(1).stopping();
        life().fault(format!("{step}=kill@2")).die();
        assert_eq!(types(&file), ["id|INTEGER", "v|INTEGER"], "{step}");
        assert_eq!(file.lines("SELECT * FROM t"), ["1|1"], "{step}");
        life().run();
        assert_eq!(types(&file), ["id|INTEGER", "w|BIGINT"], "{step}");
        assert_eq!(file.lines("SELECT * FROM t ORDER BY id"), ["1|1", "2|9999999999"], "{step}");
    }
}

#[test]
fn what_does_not_follow_quarantines_the_table_with_what_to_run() {
    for (now, words) in [
        (column(2, "v", "text"), r#"column "v" was real at the source and is text now"#),
        (
            Column { missing: Some("0044-03-15 BC".to_owned()), ..column(3, "day", "date") },
            r#"column "day" is new at the source and date there"#,
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut forge = Forge::new(folder.path());
        let (id, v) = (column(1, "id", "integer"), column(2, "v", "real"));
        forge.describe("t", described(&[id.clone(), v.clone()], &["id"]));
        forge.relation("other", &["id integer not null"], &["id"]);
        forge.segment(&[vec![insert("t", r#""id":1,"v":0.1"#)]]);
        let columns: Vec<Column> = match now.attnum {
            Some(2) => vec![id, now],
            _ => vec![id, v, now],
        };
        forge.describe("t", described(&columns, &["id"]));
        forge.segment(&[vec![insert("t", r#""id":2,"v":0.1"#), insert("other", r#""id":1"#)]]);
        let file = File::new();
        let said = file.life(folder.path(), &["t", "other"]).run();
        let (other, t) = said.split_once('\n').expect("two tables");
        assert_eq!(other, "other\tlive\t", "{said}");
        assert!(t.starts_with("t\tquarantined\t"), "{said}");
        assert!(t.contains(words), "{said}");
        assert!(t.contains("run: syncdata-applier resync t"), "{said}");
        assert!(!t.contains("ALTER") && !t.contains("BC"), "{said}");
        assert_eq!(types(&file), ["id|INTEGER", "v|FLOAT"]);
        assert_eq!(file.lines("SELECT id FROM t"), ["1"]);
    }
}

#[test]
fn a_row_with_a_column_that_nobody_knows_is_not_told_an_alter_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.describe("t", described(&[column(1, "id", "integer")], &["id"]));
    forge.segment(&[vec![insert("t", r#""id":1"#)]]);
    forge.segment(&[vec![insert("t", r#""id":2,"strange":1"#)]]);
    let file = File::new();
    let said = file.life(folder.path(), &["t"]).run();
    assert!(said.contains(r#"column "strange" of t does not exist locally"#), "{said}");
    assert!(said.contains("run: syncdata-applier resync t") && !said.contains("ALTER"), "{said}");
}

#[test]
fn a_column_of_somebody_else_stays_when_the_others_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.describe("t", described(&[column(1, "id", "integer")], &["id"]));
    forge.segment(&[vec![insert("t", r#""id":1"#)]]);
    let file = File::new();
    file.life(folder.path(), &["t"]).run();
    file.execute("ALTER TABLE t ADD COLUMN mine INTEGER DEFAULT 7");
    forge.describe("t", described(&[column(1, "id", "bigint"), column(2, "v", "text")], &["id"]));
    forge.segment(&[vec![insert("t", r#""id":2,"v":"x""#)]]);
    assert_eq!(file.life(folder.path(), &["t"]).run(), "t\tlive\t\n");
    assert_eq!(file.lines("SELECT id, v, mine FROM t ORDER BY id"), ["1|NULL|7", "2|x|NULL"]);
    // One that has the name of a new one is not taken for it.
    forge.describe(
        "t",
        described(
            &[column(1, "id", "bigint"), column(2, "v", "text"), column(3, "mine", "integer")],
            &["id"],
        ),
    );
    forge.segment(&[vec![insert("t", r#""id":3,"v":"x","mine":1"#)]]);
    let said = file.life(folder.path(), &["t"]).run();
    assert!(said.contains(r#"column "mine" is in the file already, and none of ours"#), "{said}");
}

#[test]
fn rows_without_a_key_are_told_apart_by_the_sign_of_zero() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation_with("t", &["f double precision", "v text"], &[], ReplicaIdentity::Full);
    let row = |f: &str, v: &str| format!(r#""f":{f},"v":{v}"#);
    forge.segment(&[vec![
        insert("t", &row("0", r#""same""#)),
        insert("t", &row("-0", r#""same""#)),
        insert("t", &row(r#""NaN""#, "null")),
    ]]);
    forge.segment(&[vec![
        update("t", &row("-0", r#""changed""#), &row("-0", r#""same""#)),
        update("t", &row(r#""NaN""#, r#""found""#), &row(r#""NaN""#, "null")),
    ]]);
    let file = File::new();
    file.life(folder.path(), &["t"]).batch(1).stopping().run();
    assert_eq!(file.lines("SELECT f, v FROM t ORDER BY v"), ["-0|changed", "NaN|found", "0|same"]);
    assert_eq!(file.lines("SELECT sum(rows_missing) FROM syncdata.data_sync_logs"), ["0"]);
}

#[test]
fn the_key_is_noted_with_the_rows_that_were_taken_by_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    let columns = [column(1, "a", "integer"), column(2, "b", "integer"), column(3, "day", "date")];
    forge.describe("t", described(&columns, &["a"]));
    // The table is made, and takes nothing: its first row is one that it cannot have.
    forge.segment(&[vec![insert("t", r#""a":1,"b":1,"day":"0044-03-15 BC""#)]]);
    let file = File::new();
    assert!(file.life(folder.path(), &["t"]).run().starts_with("t\tquarantined\t"));
    let known = "SELECT source_key FROM syncdata.data_sync_table_state";
    assert_eq!(file.lines(known), ["NULL"]);
}
