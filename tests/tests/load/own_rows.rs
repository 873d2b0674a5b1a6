//! Rows that a local table has before its first load: production never had them, or had them once.

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;

fn insert(table: &str, id: u32) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"name":"n{id}"}}}}"#)
}

async fn copy() -> LocalCopy {
    let schema = "CREATE TABLE keyed (id int PRIMARY KEY, name text); CREATE TABLE loose (id int, name text)";
    let mut copy = LocalCopy::start(schema).await;
    copy.forge.relation("keyed", &["id integer not null", "name text"], &["id"]);
    copy.forge.relation_with("loose", &["id integer", "name text"], &[], ReplicaIdentity::Full);
    for table in ["keyed", "loose"] {
        copy.forge.segment(&[vec![insert(table, 1), insert(table, 2)]]);
    }
    copy
}

async fn assert_exact(copy: &LocalCopy) {
    for table in ["keyed", "loose"] {
        assert_eq!(copy.rows(&format!("SELECT * FROM {table} ORDER BY id")).await, "1,n1 2,n2", "{table}");
    }
    assert_eq!(copy.rows("SELECT DISTINCT state FROM data_sync_table_state").await, "live");
}

#[tokio::test]
async fn a_table_that_leaves_the_whitelist_and_returns_has_each_row_once() {
    let mut copy = copy().await;
    copy.applier(&["add-tables", "keyed", "loose"]).succeed().await;
    copy.sync(0).await;
    copy.applier(&["remove-tables", "keyed", "loose"]).succeed().await;
    let gone =
        |table: &str| format!(r#"{{"table":"{table}","op":"DELETE","old_keys":{{"id":3,"name":"n3"}}}}"#);
    // Gone by the time that it returns.
    copy.server.execute("INSERT INTO keyed VALUES (3, 'n3'); INSERT INTO loose VALUES (3, 'n3')").await;
    copy.forge.segment(&[vec![insert("loose", 3)], vec![gone("loose")]]);
    copy.applier(&["add-tables", "keyed", "loose"]).succeed().await;
    copy.sync(0).await;
    copy.sync(0).await;
    assert_exact(&copy).await;
}

#[tokio::test]
async fn rows_that_were_here_before_the_first_pass_are_those_of_production_or_go() {
    let mut copy = copy().await;
    let schema = "INSERT INTO keyed VALUES (1, 'stale'), (99, 'ours'); INSERT INTO loose VALUES (1, 'n1'), (99, 'ours'); \
                  CREATE TABLE silent (id int PRIMARY KEY, name text); INSERT INTO silent VALUES (1, 'ours')";
    copy.server.execute(schema).await;
    copy.forge.relation("silent", &["id integer not null", "name text"], &["id"]);
    copy.forge.segment(&[vec![
        r#"{"table":"keyed","op":"UPDATE","data":{"id":2,"name":"n2"},"old_keys":{"id":2}}"#,
    ]]);
    copy.applier(&["add-tables", "keyed", "loose", "silent"]).succeed().await;
    copy.sync(0).await;
    copy.sync(0).await;
    assert_exact(&copy).await;
    // Production's is empty.
    assert_eq!(copy.rows("SELECT count(*) FROM silent").await, "0");
}
