//! Base copies, with the changes that came after them.

use syncdata_tests::Forge;

use super::file::File;
use super::forged::{insert, update};

#[test]
fn a_base_copy_is_in_the_table_before_what_came_after_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    let columns = ["id bigint not null", "note text", "price numeric(6,2)", "is_on boolean", "raw bytea"];
    forge.relation("t", &columns, &["id"]);
    let row = |id: u32| format!(r#""id":{id},"note":"after","price":1.50,"is_on":true,"raw":"\\x00""#);
    forge.segment(&[vec![insert("t", &row(4))]]);
    let rows: &[&str] = &[
        "1\ta\\tb\\\\c\\nd\t-0.50\tt\t\\\\x00ff",
        "2\t\\N\t\\N\t\\N\t\\N",
        "3\t\t9999.99\tf\t\\\\x",
        "4\tafter\t1.50\tt\t\\\\x00",
    ];
    forge.snapshot(&[("t", rows)]);
    forge.segment(&[vec![update("t", r#""id":2,"note":"two""#, r#""id":2"#), insert("t", &row(5))]]);

    let file = File::new();
    assert_eq!(file.life(folder.path(), &["t@base"]).stopping().run(), "t\tlive\t\n");
    let found = file.lines("SELECT * FROM t ORDER BY id");
    let expected = [
        "1|a\tb\\c\nd|-0.50|t|\\x00ff",
        "2|two|NULL|NULL|NULL",
        "3||9999.99|f|\\x",
        "4|after|1.50|t|\\x00",
        "5|after|1.50|t|\\x00",
    ];
    assert_eq!(found, expected);
    assert_eq!(file.lines("SELECT base_lsn IS NOT NULL FROM syncdata.data_sync_table_state"), ["t"]);
}

#[test]
fn a_base_copy_with_a_value_that_would_be_another_one_is_refused_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null", "day date"], &["id"]);
    forge.segment(&[vec![insert("t", r#""id":1,"day":null"#)]]);
    forge.snapshot(&[("t", &["1\t\\N", "2\t2026-01-01", "3\t0044-03-15 BC"])]);
    let file = File::new();
    let error = file.life(folder.path(), &["t@base"]).stopping().fail();
    assert!(error.contains(r#"column "day" is date at the source and DATE here"#), "{error}");
    assert!(!error.contains("BC"), "{error}");
    assert_eq!(file.lines("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'main'"), ["0"]);

    // As text every value is kept.
    let text = File::new();
    text.life(folder.path(), &["t@base"]).text_columns("t.day").stopping().run();
    assert_eq!(text.lines("SELECT * FROM t ORDER BY id"), ["1|NULL", "2|2026-01-01", "3|0044-03-15 BC"]);
}

#[test]
fn a_base_copy_is_written_over_no_table_of_somebody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null"], &["id"]);
    forge.segment(&[vec![insert("t", r#""id":1"#)]]);
    forge.snapshot(&[("t", &["1"])]);
    let file = File::new();
    file.execute("CREATE VIEW t AS SELECT 42 AS id");
    let error = file.life(folder.path(), &["t@base"]).stopping().fail();
    assert!(error.contains("is in the file already, and none of ours"), "{error}");
    assert_eq!(file.lines("SELECT * FROM t"), ["42"]);
}
