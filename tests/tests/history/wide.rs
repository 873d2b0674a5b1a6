//! Tables with as many columns as a server allows, of whose values the archive does not tell all each time.

use syncdata_tests::LocalCopy;

/// `id`, `big`, which is not always sent, and so many more.
async fn wide(columns: usize) -> LocalCopy {
    let names: Vec<String> = (0..columns).map(|n| format!("c{n} text")).collect();
    let mut copy = LocalCopy::start(&format!(
        "CREATE TABLE wide (id int PRIMARY KEY, big text, {}); CREATE TABLE narrow (id int PRIMARY KEY, v text)",
        names.join(", ")
    ))
    .await;
    let mut described = vec!["id integer not null", "big text"];
    described.extend(names.iter().map(String::as_str));
    copy.forge.relation("wide", &described, &["id"]);
    copy.forge.relation("narrow", &["id integer not null", "v text"], &["id"]);
    copy
}

fn row(columns: usize, id: u32, op: &str, value: &str, is_whole: bool) -> String {
    let mut fields = format!("\"id\":{id}");
    for n in 0..columns {
        fields += &format!(",\"c{n}\":\"{value}\"");
    }
    if is_whole {
        fields += &format!(",\"big\":\"big {id}\"");
    }
    let old = if op == "UPDATE" { format!(",\"old_keys\":{{\"id\":{id}}}") } else { String::new() };
    format!("{{\"table\":\"wide\",\"op\":\"{op}\",\"data\":{{{fields}}}{old}}}")
}

#[tokio::test]
async fn rows_of_a_wide_table_are_put_together_from_what_is_told() {
    const COLUMNS: usize = 1200;
    let mut copy = wide(COLUMNS).await;
    copy.forge.segment(&[vec![row(COLUMNS, 1, "INSERT", "a", true), row(COLUMNS, 2, "INSERT", "a", true)]]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[vec![
        row(COLUMNS, 1, "UPDATE", "b", false),
        // Nobody ever told its `big`.
        row(COLUMNS, 3, "UPDATE", "b", false),
        r#"{"table":"narrow","op":"INSERT","data":{"id":1,"v":"x"}}"#.to_owned(),
    ]]);
    copy.applier(&["add-tables", "wide", "narrow"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("INSERT INTO wide (id, big, c0) VALUES (3, 'loaded', 'b')").await;
    copy.server
        .execute(
            "UPDATE wide SET c1 = 'by hand', c0 = 'x'; DELETE FROM wide WHERE id = 1; DELETE FROM narrow",
        )
        .await;
    copy.applier(&["replay", "--yes", "--from", "2026-02-06", "--to", "2026-02-07"]).succeed().await;
    let rows = "SELECT id, big, c0, c1, c1199 FROM wide ORDER BY id";
    assert_eq!(copy.rows(rows).await, "1,big 1,b,b,b 2,big 2,x,by hand,a 3,loaded,b,b,b");
    assert_eq!(copy.rows("SELECT * FROM narrow").await, "1,x");
}

#[tokio::test]
async fn a_table_that_has_no_room_for_it_is_left_alone_and_the_others_are_repaired() {
    const COLUMNS: usize = 1598;
    let mut copy = wide(COLUMNS).await;
    copy.forge.segment(&[vec![
        row(COLUMNS, 1, "INSERT", "a", true),
        row(COLUMNS, 1, "UPDATE", "b", false),
        row(COLUMNS, 3, "UPDATE", "b", false),
        r#"{"table":"narrow","op":"INSERT","data":{"id":1,"v":"x"}}"#.to_owned(),
    ]]);
    copy.applier(&["add-tables", "wide", "narrow"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("DELETE FROM narrow").await;
    let done = copy
        .applier(&["replay", "--yes", "--from", "2026-02-05", "--to", "2026-02-06"])
        .run()
        .await
        .expect_code(1);
    assert!(done.stdout.contains("wide: left alone: it has 1600 columns"), "{done}");
    assert_eq!(copy.rows("SELECT * FROM narrow").await, "1,x");
}

/// The table got a column after the range; all that tells of the row is older.
#[tokio::test]
async fn a_column_that_is_younger_than_all_that_is_told_keeps_its_values() {
    let mut copy = LocalCopy::start("CREATE TABLE narrow (id int PRIMARY KEY, v text, big text)").await;
    copy.forge.relation("narrow", &["id integer not null", "v text", "big text"], &["id"]);
    copy.forge.segment(&[vec![r#"{"table":"narrow","op":"INSERT","data":{"id":1,"v":"a","big":"big"}}"#]]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge
        .segment(&[vec![r#"{"table":"narrow","op":"UPDATE","data":{"id":1,"v":"b"},"old_keys":{"id":1}}"#]]);
    copy.applier(&["add-tables", "narrow"]).succeed().await;
    copy.sync(0).await;
    copy.forge.relation("narrow", &["id integer not null", "v text", "big text", "n integer"], &["id"]);
    copy.server.execute("ALTER TABLE narrow ADD n int DEFAULT 5").await;
    copy.forge.set_clock("2026-02-08T10:00:00Z");
    copy.forge
        .segment(&[vec![r#"{"table":"narrow","op":"INSERT","data":{"id":2,"v":"a","big":"big","n":7}}"#]]);
    copy.sync(0).await;
    copy.server.execute("UPDATE narrow SET v = 'by hand' WHERE id = 1").await;
    copy.applier(&["replay", "--yes", "--from", "2026-02-06", "--to", "2026-02-07"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM narrow ORDER BY id").await, "1,b,big,5 2,a,big,7");
}
