//! Rows that somebody takes away or writes anew while a pass cannot see it, or beside something harmless: the table is not
//! live afterwards, and what is harmless by itself goes on.

use syncdata_tests::LocalCopy;

fn insert(table: &str, id: u32) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"v":1.239}}}}"#)
}

fn delete(table: &str, id: u32) -> String {
    format!(r#"{{"table":"{table}","op":"DELETE","old_keys":{{"id":{id}}}}}"#)
}

/// Tables `(id, v)` with a row each, live; of one that is called `empty…` nothing is left.
async fn live(tables: &[&str]) -> LocalCopy {
    let made: Vec<String> =
        tables.iter().map(|table| format!("CREATE TABLE {table} (id int PRIMARY KEY, v numeric)")).collect();
    let mut copy = LocalCopy::start(&made.join("; ")).await;
    let mut lines = Vec::new();
    for table in tables {
        copy.forge.relation(table, &["id integer not null", "v numeric"], &["id"]);
        lines.push(insert(table, 1));
        if table.starts_with("empty") {
            lines.push(delete(table, 1));
        }
    }
    copy.forge.segment(&[lines]);
    copy.applier(&[&["add-tables"], tables].concat()).succeed().await;
    copy.sync(0).await;
    copy
}

async fn one_by_one(copy: &LocalCopy, statements: &[&str]) {
    for statement in statements.iter().flat_map(|statements| statements.split("; ")) {
        copy.server.execute(statement).await;
    }
}

async fn assert_states(copy: &LocalCopy, tables: &[&str], state: &str) {
    for table in tables {
        assert_eq!(copy.state(table).await, state, "{table}: {}", copy.reason(table).await);
    }
}

#[tokio::test]
async fn a_table_that_is_emptied_or_written_anew_while_passes_go_on_is_noticed() {
    let mut copy = live(&["t", "u", "w", "again", "rest", "empty_first"]).await;
    // Passes run while somebody is at it, and while somebody waits to begin.
    let holder = copy.server.connect().await;
    holder
        .batch_execute(
            "BEGIN; TRUNCATE t; INSERT INTO t VALUES (1, 7); ANALYZE t; ALTER TABLE u ALTER v TYPE numeric USING round(v)",
        )
        .await
        .expect("nobody has them");
    let reader = copy.server.connect().await;
    reader.batch_execute("BEGIN; SELECT FROM w").await.expect("nobody has it");
    let waiter = copy.server.connect().await;
    let waits = tokio::spawn(async move { waiter.batch_execute("TRUNCATE w").await });
    copy.wait_until(
        "SELECT count(*) FROM pg_locks WHERE relation = 'w'::regclass AND NOT granted",
        |waiting| waiting == "1",
    )
    .await;
    copy.sync(0).await;
    holder.batch_execute("COMMIT").await.expect("it is right");
    reader.batch_execute("COMMIT").await.expect("it is right");
    waits.await.expect("it ends").expect("it is right");
    copy.server.execute("VACUUM w").await;
    // A pass that is killed after its commit leaves what was noted with it.
    copy.forge.segment(&[vec![
        r#"{"table":"again","op":"TRUNCATE"}"#.to_owned(),
        insert("again", 2),
        insert("empty_first", 2),
    ]]);
    copy.applier(&["sync"]).fault("apply.after_commit=kill").run().await;
    for table in ["again", "empty_first"] {
        assert_eq!(copy.rows(&format!("SELECT id FROM {table}")).await, "2");
        one_by_one(&copy, &[&format!("TRUNCATE {table}; VACUUM {table}")]).await;
    }
    copy.sync(1).await;
    assert_states(&copy, &["t", "u", "w", "again", "empty_first"], "quarantined").await;
    assert_states(&copy, &["rest"], "live").await;
    copy.applier(&["resync", "t", "u", "w", "again", "empty_first"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(
        copy.rows("SELECT v FROM t UNION ALL SELECT v FROM u UNION ALL SELECT v FROM w").await,
        "1.239 1.239 1.239"
    );
}

#[tokio::test]
async fn a_move_to_another_tablespace_hides_nothing_and_is_none_itself() {
    let made = ["moved", "empty_moved", "emptied", "filled", "narrowed", "crashed", "late"];
    let mut copy = live(&made).await;
    copy.server
        .execute(
            "CREATE TABLE parts (id int PRIMARY KEY, v numeric) PARTITION BY RANGE (id);
             CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
             CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (20)",
        )
        .await;
    copy.forge.relation("parts", &["id integer not null", "v numeric"], &["id"]);
    copy.forge.segment(&[vec![insert("parts", 1), insert("parts", 11)]]);
    copy.applier(&["add-tables", "parts"]).succeed().await;
    copy.sync(0).await;
    let folder = copy.folder().join("elsewhere");
    std::fs::create_dir(&folder).expect("the folder is ours");
    copy.server.give(&folder);
    copy.server.execute(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", folder.display())).await;
    copy.server.execute("ALTER TABLE crashed SET UNLOGGED").await;
    copy.server.crash();
    copy.server.restart().await;
    one_by_one(
        &copy,
        &[
            "ALTER TABLE crashed SET LOGGED; ALTER TABLE crashed SET TABLESPACE elsewhere",
            "TRUNCATE emptied; ALTER TABLE emptied SET TABLESPACE elsewhere",
            "TRUNCATE filled; INSERT INTO filled VALUES (1, 7); ANALYZE filled; ALTER TABLE filled SET TABLESPACE elsewhere",
            "ALTER TABLE narrowed ALTER v TYPE numeric(10,0); ALTER TABLE narrowed ALTER v TYPE numeric; \
             ALTER TABLE narrowed SET TABLESPACE elsewhere",
        ],
    )
    .await;
    // There, back, and in other company; counted and not.
    for plain in [
        "ALTER TABLE moved SET TABLESPACE elsewhere; ALTER TABLE empty_moved SET TABLESPACE elsewhere; \
         ALTER TABLE low SET TABLESPACE elsewhere",
        "ALTER TABLE moved SET TABLESPACE pg_default; ALTER TABLE empty_moved SET TABLESPACE pg_default",
        "VACUUM moved; VACUUM FULL low; ALTER TABLE moved SET TABLESPACE elsewhere; ALTER TABLE low SET TABLESPACE pg_default",
    ] {
        one_by_one(&copy, &[plain]).await;
        copy.applier(&["sync"]).run().await;
        assert_states(&copy, &["moved", "empty_moved", "late", "parts"], "live").await;
    }
    assert_states(&copy, &["emptied", "filled", "narrowed", "crashed"], "quarantined").await;
    one_by_one(&copy, &["TRUNCATE low; ALTER TABLE low SET TABLESPACE elsewhere"]).await;
    copy.sync(1).await;
    assert_states(&copy, &["parts"], "quarantined").await;
}

/// A new type of a column takes the marks of those after it along: what was done to these before it only a proof sees.
#[tokio::test]
async fn what_writes_all_rows_anew_for_one_column_excuses_no_other() {
    let mut copy = live(&["typed", "came", "at_once", "narrowed_last", "wide", "new"]).await;
    let narrow = |table: &str| {
        format!("ALTER TABLE {table} ALTER v TYPE numeric(10,0); ALTER TABLE {table} ALTER v TYPE numeric")
    };
    let came =
        |table: &str| format!("ALTER TABLE {table} ADD COLUMN loaded timestamptz DEFAULT clock_timestamp()");
    let wide = |table: &str| format!("ALTER TABLE {table} ALTER id TYPE bigint");
    copy.server.execute("ALTER TABLE typed ADD COLUMN more int").await;
    copy.sync(0).await;
    one_by_one(&copy, &[&narrow("typed"), "ALTER TABLE typed ALTER more TYPE bigint"]).await;
    one_by_one(&copy, &[&narrow("came"), &came("came")]).await;
    copy.server.execute(&format!("{}; {}", narrow("at_once"), came("at_once"))).await;
    one_by_one(&copy, &[&wide("narrowed_last"), &narrow("narrowed_last")]).await;
    one_by_one(&copy, &[&wide("wide"), &came("new")]).await;
    copy.sync(1).await;
    let lost = ["typed", "came", "at_once", "narrowed_last"];
    assert_states(&copy, &lost, "quarantined").await;
    assert_states(&copy, &["wide", "new"], "live").await;
    copy.applier(&[&["resync"], &lost[..]].concat()).succeed().await;
    copy.forge.segment(&[vec![insert("wide", 2), insert("typed", 2)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT v FROM typed UNION ALL SELECT v FROM came").await, "1.239 1.239 1.239");
}
