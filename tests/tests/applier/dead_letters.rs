//! Records that tables could not take: looked at, tried again, passed over.

use std::fs;
use std::path::Path;

use serde_json::Value;
use syncdata_tests::{LocalCopy, PostgresServer};

use super::{rename, two_tables};

fn insert(table: &str, id: u32, value: &str) -> String {
    let column = if table == "users" { "name" } else { "user_id" };
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"{column}":{value}}}}}"#)
}

/// Two tables that are live; `users` takes no Bad.
async fn strict() -> LocalCopy {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("ALTER TABLE users ADD CONSTRAINT good CHECK (name <> 'Bad')").await;
    copy
}

async fn list(copy: &LocalCopy, more: &[&str]) -> Vec<Value> {
    let arguments = ["dead-letters", "list", "--json"].iter().chain(more).copied().collect::<Vec<_>>();
    let listed = copy.applier(&arguments).succeed().await.json();
    listed["items"].as_array().expect("a list").clone()
}

/// The only one that is open.
async fn open(copy: &LocalCopy) -> (String, Value) {
    let letters = list(copy, &[]).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    (letters[0]["operation_id"].as_str().expect("an id").to_owned(), letters[0].clone())
}

async fn status(copy: &LocalCopy) -> Value {
    copy.applier(&["status", "--json"]).run().await.json()
}

fn table<'a>(status: &'a Value, name: &str) -> &'a Value {
    let tables = status["tables"].as_array().expect("tables");
    tables.iter().find(|table| table["table"] == name).expect("it is on the whitelist")
}

async fn skip(copy: &LocalCopy, id: &str) -> String {
    copy.applier(&["dead-letters", "skip", id, "--reason", "a test row, says Ann"]).succeed().await.stdout
}

#[tokio::test]
async fn a_skip_passes_over_the_whole_transaction_of_its_table_and_a_resync_makes_it_good() {
    let mut copy = strict().await;
    let forged = copy.forge.segment(&[
        vec![rename(1, "Eve")],
        vec![
            insert("users", 3, r#""Good""#),
            insert("orders", 8, "1"),
            insert("users", 4, r#""Bad""#),
            insert("users", 5, r#""Late""#),
        ],
        vec![rename(2, "Bo")],
    ]);
    copy.sync(1).await;
    copy.forge.segment(&[vec![rename(2, "Bob"), rename(1, "Eva")], vec![insert("orders", 9, "2")]]);
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT id FROM orders ORDER BY id").await, "7 8 9", "the others went on");
    assert_eq!(copy.rows("SELECT id, name FROM users ORDER BY id").await, "1,Eve 2,Bob");

    let (id, letter) = open(&copy).await;
    assert_eq!((&letter["table"], &letter["seq"], &letter["line"]), (&"users".into(), &2.into(), &5.into()));
    assert_eq!((&letter["sqlstate"], &letter["attempts"]), (&"23514".into(), &1.into()));
    // Three of its transaction, one after it, two of the next segment.
    let said = status(&copy).await;
    assert_eq!((&said["quarantine_records"], &said["dead_letter_queue"]), (&1.into(), &6.into()), "{said}");
    assert_eq!(table(&said, "users")["waiting_records"], 6);
    let shown = copy.applier(&["dead-letters", "show", &id, "--json"]).succeed().await.json();
    assert_eq!(shown["record"]["data"]["name"], "Bad", "{shown}");

    let said = skip(&copy, &id).await;
    let end = forged.commits[1];
    assert!(
        said.starts_with(&format!("passed over 3 records of users in the transaction that ends at {end}")),
        "{said}"
    );
    assert_eq!(
        copy.rows("SELECT id, name FROM users ORDER BY id").await,
        "1,Eva 2,Bob",
        "what came after it is here"
    );
    let said = status(&copy).await;
    assert_eq!(table(&said, "users")["state"], "live");
    assert_eq!(table(&said, "users")["incomplete_lsn"], end.to_string());
    assert!(
        said["problems"].as_array().is_some_and(|all| all.iter().all(|p| !p.to_string().contains("users"))),
        "{said}"
    );
    assert_eq!((&said["quarantine_records"], &said["dead_letter_queue"]), (&0.into(), &0.into()));
    let words = copy.applier(&["status"]).run().await.stdout;
    assert!(
        words.contains("table users: live, incomplete") && words.contains("\nwarning: users: incomplete: "),
        "{words}"
    );
    let check = copy.applier(&["check"]).run().await.stdout;
    assert!(check.contains("users: incomplete"), "{check}");

    // For ever, whatever becomes of the log.
    copy.server.execute("UPDATE data_sync_logs SET sync_time = now() - interval '10 years'").await;
    copy.sync(0).await;
    let a_day = "UPDATE data_sync_checkpoint SET keep_announced_at = keep_announced_at - interval '1 day'";
    copy.server.execute(a_day).await;
    copy.sync(0).await;
    let kept = "SELECT table_name, error_detail LIKE '%a test row, says Ann' FROM data_sync_logs";
    assert_eq!(copy.rows(kept).await, "users,t");
    let settled = list(&copy, &["users", "--all"]).await;
    assert_eq!(settled[0]["resolution"], "skipped: a test row, says Ann");
    assert!(!settled[0]["resolved_at"].is_null());
    let again = copy.applier(&["dead-letters", "retry", &id]).run().await.expect_code(2);
    assert!(again.stderr.contains("is settled: skipped"), "{again}");

    // A base has the rows; the record that was passed over is before it.
    copy.server.execute("ALTER TABLE users DROP CONSTRAINT good").await;
    copy.forge.snapshot(&[("users", &["1\tEva", "2\tBob", "3\tGood", "4\tBad", "5\tLate"])]);
    copy.forge.segment(&[vec![insert("orders", 10, "2")]]);
    copy.applier(&["resync", "users"]).succeed().await;
    assert!(table(&status(&copy).await, "users")["incomplete_lsn"].is_null());
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "5");
}

#[tokio::test]
async fn a_retry_counts_attempts_of_the_same_record_and_what_it_takes_is_settled() {
    let mut copy = strict().await;
    copy.forge.segment(&[vec![insert("users", 3, r#""Bad""#)], vec![insert("users", 4, r#""Bad""#)]]);
    copy.sync(1).await;
    let (id, first) = open(&copy).await;
    copy.applier(&["dead-letters", "retry", &id]).run().await.expect_code(1);
    copy.applier(&["retry", "users"]).run().await.expect_code(1);
    let (same, letter) = open(&copy).await;
    assert_eq!((same, &letter["attempts"], &letter["at"]), (id.clone(), &3.into(), &first["at"]));
    assert_eq!(status(&copy).await["dead_letter_queue"], 2);

    // It gets one record further.
    copy.server.execute("ALTER TABLE users DROP CONSTRAINT good").await;
    copy.server.execute("ALTER TABLE users ADD CONSTRAINT good CHECK (id <> 4)").await;
    copy.applier(&["dead-letters", "retry", &id]).run().await.expect_code(1);
    let (second, letter) = open(&copy).await;
    assert_ne!(second, id);
    assert_eq!(letter["attempts"], 1);
    assert_eq!(list(&copy, &["--all"]).await[0]["resolution"], "applied");
    copy.server.execute("ALTER TABLE users DROP CONSTRAINT good").await;
    copy.applier(&["dead-letters", "retry", &second]).succeed().await;
    assert_eq!(list(&copy, &["users"]).await, Vec::<Value>::new());
    assert_eq!(copy.rows("SELECT DISTINCT resolution FROM data_sync_quarantine").await, "applied");
    let (strange, nobody) = ("00000000-0000-0000-0000-000000000000", "there is no dead letter");
    for command in [&["show", strange][..], &["retry", strange], &["skip", strange, "--reason", "x"]] {
        let arguments: Vec<&str> = ["dead-letters"].iter().chain(command).copied().collect();
        let refused = copy.applier(&arguments).run().await.expect_code(2);
        assert!(refused.stderr.contains(nobody), "{refused}");
    }
}

#[tokio::test]
async fn a_skip_that_is_killed_is_whole_or_not_there() {
    let mut copy = strict().await;
    copy.forge.segment(&[vec![insert("users", 3, r#""Bad""#)], vec![rename(1, "Eve")]]);
    copy.sync(1).await;
    let (id, _) = open(&copy).await;
    let arguments = ["dead-letters", "skip", &id, "--reason", "a test row"];
    let killed = copy.applier(&arguments).fault("dead_letters.before_commit=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    copy.sync(1).await;
    assert_eq!(open(&copy).await.0, id);
    let logged = "SELECT count(*) FROM data_sync_logs WHERE archive_ref = 'dead-letters skip'";
    assert_eq!(copy.rows(logged).await, "0");
    assert!(table(&status(&copy).await, "users")["incomplete_lsn"].is_null());

    let killed = copy.applier(&arguments).fault("dead_letters.after_commit=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    assert_eq!(copy.rows("SELECT name FROM users ORDER BY id").await, "Ann Bob", "no pass has come yet");
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT name FROM users ORDER BY id").await, "Eve Bob");
    assert_eq!(copy.rows(logged).await, "1");
    assert_eq!(list(&copy, &[]).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_truncate_of_several_tables_goes_on_when_what_holds_it_up_is_passed_over() {
    let mut copy = strict().await;
    let truncate = |table: &str| format!(r#"{{"table":"{table}","op":"TRUNCATE"}}"#);
    // Each in a transaction of its own here: a row that is gone at its end is never written.
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    copy.forge.segment(&[vec![insert("users", 3, r#""Bad""#)]]);
    copy.forge.segment(&[
        vec![truncate("users"), truncate("orders")],
        vec![insert("users", 5, r#""New""#), insert("orders", 5, "5")],
    ]);
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT count(*) FROM users, orders").await, "2", "neither is truncated");
    let letters = list(&copy, &[]).await;
    assert_eq!(letters.len(), 2, "{letters:?}");
    let users = list(&copy, &["users"]).await.remove(0);
    // users: the insert, its TRUNCATE, one row; orders: its TRUNCATE, one row.
    assert_eq!(status(&copy).await["dead_letter_queue"], 5);
    skip(&copy, users["operation_id"].as_str().expect("an id")).await;
    assert_eq!(copy.rows("SELECT u.id, u.name, o.id FROM users u, orders o").await, "5,New,5");
    let settled = "SELECT table_name, resolution FROM data_sync_quarantine ORDER BY table_name";
    assert_eq!(copy.rows(settled).await, "orders,applied users,skipped: a test row, says Ann");
    let said = status(&copy).await;
    assert!(
        table(&said, "orders")["incomplete_lsn"].is_null()
            && !table(&said, "users")["incomplete_lsn"].is_null()
    );
}

#[tokio::test]
async fn what_no_record_is_to_blame_for_cannot_be_passed_over() {
    let mut copy = strict().await;
    copy.server.execute("DROP TABLE orders").await;
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    copy.sync(1).await;
    let (id, letter) = open(&copy).await;
    assert!(letter["line"].is_null(), "{letter}");
    let refused = copy.applier(&["dead-letters", "skip", &id, "--reason", "x"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("no record of orders in particular is to blame"), "{refused}");
    assert!(refused.stderr.contains("syncdata-applier retry orders"), "{refused}");
    let refused = copy.applier(&["dead-letters", "skip", &id, "--reason", " "]).run().await.expect_code(2);
    assert!(refused.stderr.contains("for a reason"), "{refused}");
    assert_eq!(open(&copy).await.0, id);
}

#[tokio::test]
async fn values_are_kept_as_hashes_and_are_seen_nowhere() {
    let mut copy = strict().await;
    copy.set("SYNCDATA_QUARANTINE_VALUES", "hash");
    // The server quotes the value in what it says of the row.
    let canary = "canary-4711";
    copy.server.execute("ALTER TABLE users DROP CONSTRAINT good").await;
    copy.server
        .execute(&format!("ALTER TABLE users ADD CONSTRAINT good CHECK (name NOT LIKE '{}%')", &canary[..6]))
        .await;
    copy.forge.segment(&[vec![rename(1, canary)], vec![rename(2, canary)]]);
    let address = syncdata_tests::free_address();
    copy.set("SYNCDATA_HTTP_LISTEN", &address);
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    let (id, letter) = open(&copy).await;
    let shown = copy.applier(&["dead-letters", "show", &id, "--json"]).succeed().await;
    let document = shown.json();
    let hash = document["record"]["data"]["name"].as_str().expect("a hash");
    assert!(hash.starts_with("hmac-sha256:"), "{shown}");
    assert_eq!(
        document["record"]["data"]["id"], document["record"]["old_keys"]["id"],
        "equal values are equal still"
    );
    copy.applier(&["dead-letters", "retry", &id]).run().await.expect_code(1);
    assert_eq!(open(&copy).await.1["attempts"], 2);
    let everything = "SELECT string_agg(t::text, ' ') FROM (SELECT q::text FROM data_sync_quarantine q \
        UNION ALL SELECT l::text FROM data_sync_logs l UNION ALL SELECT s::text FROM data_sync_table_state s) t";
    let said = [
        copy.rows(everything).await,
        status(&copy).await.to_string(),
        super::daemon::get(&address, "/status"),
        super::daemon::get(&address, "/health"),
        letter.to_string(),
        shown.stdout.clone(),
        daemon.stop().await.stderr,
    ];
    for said in said {
        assert!(!said.contains(canary), "{said}");
    }
    // The key is ours alone.
    let key = copy.folder().join("state/quarantine.key");
    assert_eq!(fs::metadata(&key).expect("it is there").len(), 32);
}

#[tokio::test]
async fn a_running_daemon_lists_shows_and_passes_over() {
    let mut copy = strict().await;
    copy.forge.segment(&[vec![insert("users", 3, r#""Bad""#)], vec![rename(1, "Eve")]]);
    let address = syncdata_tests::free_address();
    copy.set("SYNCDATA_HTTP_LISTEN", &address);
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    let (id, _) = open(&copy).await;
    let metrics = super::daemon::get(&address, "/metrics");
    for line in [
        "dead_letter_queue_records 2",
        "quarantine_records 1",
        "table_waiting_records{table=\"users\"} 2",
        "table_incomplete{table=\"users\"} 0",
    ] {
        assert!(metrics.contains(&format!("\nsyncdata_applier_{line}\n")), "{line} is not in {metrics}");
    }
    // Who may speak with the daemon needs no way to the database.
    let nowhere = |arguments: &[&str]| copy.applier(arguments).env("PG_USER_NAME", "nobody_here");
    let listed = nowhere(&["dead-letters", "list", "orders,public.*"]).succeed().await.stdout;
    assert!(
        listed.starts_with(&format!("{id} users: segment 2 line 1: open, 1 attempts since ")),
        "{listed}"
    );
    let shown = nowhere(&["dead-letters", "show", &id]).succeed().await.stdout;
    assert!(shown.contains("\nattempts      1\n") && shown.contains("\"name\":\"Bad\""), "{shown}");
    let said = nowhere(&["dead-letters", "skip", &id, "--reason", "a test row"]).succeed().await.stdout;
    assert!(said.starts_with("passed over 1 records of users"), "{said}");
    assert_eq!(copy.rows("SELECT name FROM users ORDER BY id").await, "Eve Bob");
    let metrics = super::daemon::get(&address, "/metrics");
    assert!(metrics.contains("\nsyncdata_applier_table_incomplete{table=\"users\"} 1\n"), "{metrics}");
    daemon.stop().await.expect_code(0);
}

/// Our tables as an earlier version left them.
pub(super) async fn earlier(server: &PostgresServer, version: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../applier/src/target/postgres");
    server.execute("CREATE TABLE data_sync_version (version INT NOT NULL)").await;
    for number in 1..=version {
        let name = if number == 1 { "meta.sql".to_owned() } else { format!("meta_{number}.sql") };
        let migration = fs::read_to_string(folder.join(name)).expect("it is there");
        server.execute(&migration.replace("{s}", "public")).await;
        server.execute(&format!("INSERT INTO data_sync_version VALUES ({number})")).await;
    }
}

#[tokio::test]
async fn tables_of_an_earlier_version_are_brought_on_once_although_that_is_killed() {
    let mut copy = two_tables().await;
    earlier(&copy.server, 11).await;
    copy.server
        .execute(
            "INSERT INTO data_sync_quarantine (table_name, seq, line, sqlstate, reason, record, at) VALUES
                 ('users', 1, 2, '23514', 'first', '{\"a\": 1}', '2026-01-01 00:00:00+00'),
                 ('users', 1, 2, '23514', 'second', '{\"a\": 2}', '2026-01-02 00:00:00+00'),
                 ('users', 1, NULL, NULL, 'shape', NULL, '2026-01-03 00:00:00+00'),
                 ('orders', 1, 2, '23514', 'other', NULL, '2026-01-04 00:00:00+00')",
        )
        .await;
    // A status changes nothing, and says what will.
    let said = status(&copy).await["problems"].to_string();
    assert!(said.contains("are of version 11") && said.contains("syncdata-applier start, or sync"), "{said}");
    let killed = copy.applier(&["dead-letters", "list"]).fault("meta.migrated=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    assert_eq!(copy.rows("SELECT max(version) FROM data_sync_version").await, "11");
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_quarantine").await, "4");
    let (one, other) = (copy.applier(&["dead-letters", "list"]), copy.applier(&["dead-letters", "list"]));
    tokio::join!(one.succeed(), other.succeed());
    let versions =
        "SELECT count(*) = max(version), count(DISTINCT version) = max(version) FROM data_sync_version";
    assert_eq!(copy.rows(versions).await, "t,t", "each once");
    let kept = "SET TimeZone = 'UTC'; SELECT table_name, line, reason, attempts, at::date, resolved_at \
        FROM data_sync_quarantine ORDER BY table_name, line";
    let expected = "orders,2,other,1,2026-01-04,NULL users,2,second,2,2026-01-01,NULL users,NULL,shape,1,2026-01-03,NULL";
    assert_eq!(copy.rows(kept).await, expected);
    // They are loaded as ever.
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT name FROM users ORDER BY id").await, "Eve Bob");
}
