//! Looking at a stretch of time in copies of the tables.

use syncdata_tests::LocalCopy;

const SCHEMA: &str = "CREATE SCHEMA sales; \
    CREATE TABLE users (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE, \
        twice int GENERATED ALWAYS AS (id * 2) STORED); \
    CREATE TABLE sales.keyless (a int)";

async fn copy() -> LocalCopy {
    let mut copy = LocalCopy::start(SCHEMA).await;
    copy.forge.relation(
        "users",
        &["id integer not null always", "name text", "twice integer generated"],
        &["id"],
    );
    copy.forge.relation("sales.keyless", &["a integer"], &[]);
    let user = |op: &str, id: u32, name: &str, old: &str| {
        let twice = id * 2;
        format!(
            r#"{{"table":"users","op":"{op}","data":{{"id":{id},"name":"{name}","twice":{twice}}}{old}}}"#
        )
    };
    copy.forge.segment(&[vec![user("INSERT", 1, "before", "")]]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[vec![
        user("INSERT", 2, "inside", ""),
        user("UPDATE", 1, "lost", r#","old_keys":{"id":1}"#),
        user("UPDATE", 3, "moved", r#","old_keys":{"id":2}"#),
        r#"{"table":"sales.keyless","op":"INSERT","data":{"a":7}}"#.to_owned(),
    ]]);
    copy.forge.set_clock("2026-02-07T10:00:00Z");
    copy.forge.segment(&[vec![user("UPDATE", 3, "after", r#","old_keys":{"id":3}"#)]]);
    copy.applier(&["add-tables", "users", "sales.keyless"]).succeed().await;
    copy.sync(0).await;
    copy
}

#[tokio::test]
async fn a_base_that_was_taken_by_a_clock_ahead_is_followed_by_all_that_came_after_it() {
    let mut copy = LocalCopy::start("CREATE TABLE users (id int PRIMARY KEY)").await;
    copy.forge.relation("users", &["id integer not null"], &["id"]);
    let user = |id: u32| format!(r#"{{"table":"users","op":"INSERT","data":{{"id":{id}}}}}"#);
    copy.forge.segment(&[vec![user(1)]]);
    copy.forge.set_clock("2026-03-10T10:00:00Z");
    copy.forge.snapshot(&[("users", &["1"])]);
    copy.forge.set_clock("2026-02-05T11:00:00Z");
    copy.forge.segment(&[vec![user(2)]]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.sync(0).await;
    copy.applier(&["as-of", "2026-03-11T00:00:00Z", "--into", "past"]).succeed().await;
    assert_eq!(copy.rows("SELECT id FROM past.users ORDER BY id").await, "1 2");
}

const RANGE: [&str; 6] = ["replay", "--from", "2026-02-06", "--to", "2026-02-07", "--into"];

#[tokio::test]
async fn the_range_alone_is_in_the_copies_and_the_live_tables_are_untouched() {
    let copy = copy().await;
    let live = "SELECT xmin, * FROM users ORDER BY id";
    let before = copy.rows(live).await;
    let done = copy.applier(&[&RANGE[..], &["past", "--yes", "--json"]].concat()).run().await;
    let report = done.expect_code(0).json();
    assert_eq!(copy.rows("SELECT * FROM past.users").await, "3,moved,6");
    assert_eq!(copy.rows("SELECT * FROM past.keyless").await, "7");
    assert_eq!(report["tables"]["users"]["missing"], 1, "{report}");
    assert_eq!((&report["segments"], &report["transactions"]), (&1.into(), &1.into()), "{report}");
    assert_eq!(copy.rows(live).await, before);
    let constraints = "SELECT count(*) FROM pg_index WHERE indisunique AND indrelid = 'past.users'::regclass";
    assert_eq!(copy.rows(constraints).await, "2");
    let logged = "SELECT table_name, rows_synced, rows_missing FROM data_sync_logs \
        WHERE archive_ref LIKE 'replay % into past' ORDER BY 1";
    assert_eq!(copy.rows(logged).await, "sales.keyless,1,0 users,3,1");
}

#[tokio::test]
async fn a_schema_that_has_such_tables_is_refused_and_nothing_is_made() {
    let copy = copy().await;
    copy.server.execute("CREATE SCHEMA past; CREATE VIEW past.users AS SELECT 1").await;
    let refused = copy.applier(&[&RANGE[..], &["past", "--yes"]].concat()).run().await.expect_code(2);
    assert!(refused.stderr.contains("past.users exists already"), "{refused}");
    let refused = copy.applier(&[&RANGE[..], &["public", "--yes"]].concat()).run().await.expect_code(2);
    assert!(refused.stderr.contains("exists already"), "{refused}");
    let refused = copy.applier(&[&RANGE[..], &["other"]].concat()).run().await.expect_code(2);
    assert!(refused.stderr.contains("say --yes"), "{refused}");
    let dry = copy.applier(&[&RANGE[..], &["other", "--dry-run"]].concat()).succeed().await;
    assert!(dry.stdout.contains("users: 1 inserts, 2 updates, 0 deletes of 3 keys"), "{dry}");
    let made = "SELECT count(*) FROM pg_tables WHERE schemaname IN ('past', 'other')";
    assert_eq!(copy.rows(made).await, "0");
}

/// What is lost cannot be shown; what is there can, and it is said that it is not all.
#[tokio::test]
async fn changes_that_are_lost_are_said() {
    let mut copy = copy().await;
    copy.forge.gap(&["users"]);
    copy.forge.segment(&[vec![r#"{"table":"sales.keyless","op":"INSERT","data":{"a":8}}"#]]);
    let range = ["replay", "--from", "2026-02-07", "--to", "2026-02-09", "--into", "past", "--yes"];
    let done = copy.applier(&range).run().await.expect_code(1);
    assert!(done.stdout.contains("users: ") && done.stdout.contains("are lost (segment 4"), "{done}");
    assert!(!done.stdout.contains("keyless: 0 inserts, 0 updates, 0 deletes; changes"), "{done}");
    // The range before it has everything.
    copy.applier(&[&RANGE[..], &["earlier", "--yes"]].concat()).run().await.expect_code(0);
}
