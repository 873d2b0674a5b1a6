//! What goes wrong with tables: poison, schemas that differ, gaps, rows that are not as expected.

use syncdata_tests::LocalCopy;

use crate::bank::{Bank, insert};

#[tokio::test]
async fn a_poison_record_sets_its_table_aside_before_its_transaction_and_nothing_else() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "3");
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    let before = bank.expected(0);
    // Larger than a batch: rows of it were written before the bad one was met.
    let mut poisoned =
        vec![insert("accounts", 50, "1"), insert("accounts", 51, "1"), insert("accounts", 52, "1")];
    poisoned.push(insert("savings", 50, "7"));
    poisoned.push(insert("accounts", 53, r#""not a number""#));
    let forged = copy.forge.segment(&[vec![insert("savings", 60, "8")], poisoned, bank.transfer()]);
    let said = copy.sync(1).await;
    assert!(said.contains("accounts: quarantined"), "{said}");
    assert!(!said.contains("not a number") || said.contains("invalid input syntax"), "{said}");
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, before);
    assert_eq!(copy.rows("SELECT id FROM savings WHERE id > 9 ORDER BY id").await, "50 60");
    assert_eq!(
        copy.rows("SELECT table_name, state, position_lsn FROM data_sync_table_state ORDER BY 1").await,
        format!("accounts,quarantined,{} savings,live,{}", forged.commits[0], forged.commits[2])
    );
    let kept =
        "SELECT table_name, seq, line, sqlstate, record::json #>> '{data,balance}' FROM data_sync_quarantine";
    assert_eq!(copy.rows(kept).await, "accounts,2,7,22P02,not a number");
    assert_eq!(
        copy.rows(
            "SELECT table_name, status FROM data_sync_logs WHERE archive_ref LIKE '0000000002%' ORDER BY 1, 2"
        )
        .await,
        "accounts,FAILED savings,SUCCESS"
    );
    // Later segments go by without it; its changes are not lost.
    copy.forge.segment(&[bank.transfer()]);
    copy.sync(1).await;
    copy.server.execute("ALTER TABLE accounts ALTER balance TYPE text").await;
    let said = copy.applier(&["retry", "accounts"]).run().await.expect_code(0).stdout;
    assert!(said.contains("applied"), "{said}");
    let mut rows = bank.expected(0);
    rows.push_str(" 50,1 51,1 52,1 53,not a number");
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, rows);
    assert_eq!(copy.rows("SELECT DISTINCT state, position_lsn = (SELECT end_lsn FROM data_sync_checkpoint) FROM data_sync_table_state").await, "live,t");
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_quarantine WHERE resolved_at IS NULL").await, "0");
}

#[tokio::test]
async fn on_error_stop_stops_everything() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.set("SYNCDATA_ON_ERROR", "stop");
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[bank.transfer(), vec![insert("accounts", 50, r#""x""#)]]);
    let said = copy.sync(2).await;
    assert!(said.contains("Failed to apply changes of accounts"), "{said}");
    let failed =
        "SELECT table_name FROM data_sync_logs WHERE status = 'FAILED' AND error_detail LIKE '%accounts%'";
    assert_eq!(copy.rows(failed).await, "*");
    assert_eq!(copy.rows("SELECT DISTINCT state FROM data_sync_table_state").await, "live");
    assert_eq!(copy.rows("SELECT seq FROM data_sync_checkpoint").await, "1");
    assert_eq!(Bank::total(&copy).await, "2000");
}

#[tokio::test]
async fn a_new_column_waits_for_the_local_table_and_nothing_is_lost() {
    let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    copy.forge.relation("t", &["id integer not null", "a text"], &["id"]);
    let row =
        |id: i32, more: &str| format!(r#"{{"table":"t","op":"INSERT","data":{{"id":{id},"a":"x"{more}}}}}"#);
    copy.forge.segment(&[vec![row(1, "")]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    // The column comes in the middle of a segment, which describes the table as it is at its end.
    copy.forge.relation("t", &["id integer not null", "a text", "b numeric(5,2)"], &["id"]);
    copy.forge.segment(&[vec![row(2, "")], vec![row(3, r#","b":1.50"#)], vec![row(4, r#","b":null"#)]]);
    let said = copy.sync(1).await;
    assert!(said.contains(r#"ALTER TABLE "public"."t" ADD COLUMN "b" numeric(5,2)"#), "{said}");
    assert_eq!(copy.rows("SELECT id FROM t ORDER BY id").await, "1 2");
    copy.server.execute(r#"ALTER TABLE "public"."t" ADD COLUMN "b" numeric(5,2)"#).await;
    // Without numbers nothing tells that it is no other column's new name.
    copy.applier(&["retry", "t"]).run().await.expect_code(1);
    copy.forge.snapshot(&[("t", &["1\tx\t\\N", "2\tx\t\\N", "3\tx\t1.50", "4\tx\t\\N"])]);
    copy.applier(&["resync", "t"]).succeed().await;
    assert_eq!(copy.rows("SELECT id, b FROM t ORDER BY id").await, "1,NULL 2,NULL 3,1.50 4,NULL");
}

#[tokio::test]
async fn a_failure_in_the_middle_of_catching_up_is_named_and_the_other_tables_go_on() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[vec![insert("accounts", 50, r#""x""#)]]);
    copy.sync(1).await;
    copy.server.execute("ALTER TABLE accounts ALTER COLUMN balance TYPE text").await;
    // What makes it live again fails behind its first statement.
    copy.server
        .execute(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'an auditor said no'; END $$; \
             CREATE TRIGGER no BEFORE UPDATE ON data_sync_quarantine FOR EACH ROW EXECUTE FUNCTION no()",
        )
        .await;
    copy.forge.segment(&[bank.transfer()]);
    let said = copy.applier(&["retry", "accounts"]).run().await.expect_code(2).stderr;
    assert!(said.contains("an auditor said no") && !said.contains("25P02"), "{said}");
    assert_eq!(copy.rows("SELECT seq FROM data_sync_checkpoint").await, "3", "savings went on");
    copy.server.execute("DROP TRIGGER no ON data_sync_quarantine").await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT DISTINCT state FROM data_sync_table_state").await, "live");
}

#[tokio::test]
async fn a_local_column_that_would_alter_values_keeps_them_out() {
    for (definition, source, ddl) in [
        ("v numeric(5,1)", "v numeric(5,2)", r#"ALTER COLUMN "v" TYPE numeric(5,2)"#),
        ("v varchar(3)", "v character varying(5)", r#"ALTER COLUMN "v" TYPE character varying(5)"#),
        ("v int, extra int NOT NULL", "v integer", r#"ALTER COLUMN "extra" DROP NOT NULL"#),
    ] {
        let mut copy = LocalCopy::start(&format!("CREATE TABLE t (id int PRIMARY KEY, {definition})")).await;
        copy.forge.relation("t", &["id integer not null", source], &["id"]);
        copy.forge.segment(&[vec![r#"{"table":"t","op":"INSERT","data":{"id":1,"v":"123"}}"#]]);
        copy.applier(&["add-tables", "t"]).succeed().await;
        let said = copy.sync(1).await;
        assert!(said.contains(ddl), "{said}");
        assert_eq!(copy.rows("SELECT * FROM t").await, "");
        copy.server.execute(&format!("ALTER TABLE t {ddl}")).await;
        copy.applier(&["retry", "t"]).succeed().await;
        assert_eq!(copy.rows("SELECT id FROM t").await, "1");
    }
}

#[tokio::test]
async fn a_table_that_vanished_is_named_and_the_others_go_on() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("DROP TABLE savings").await;
    copy.forge.segment(&[bank.transfer()]);
    let said = copy.sync(1).await;
    assert!(said.contains("Table not found locally: savings"), "{said}");
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
    let said = copy.applier(&["add-tables", "nothing"]).run().await.expect_code(2).stderr;
    assert!(said.contains("Table not found locally: nothing"), "{said}");
}

#[tokio::test]
async fn a_gap_makes_its_tables_stale_and_only_them() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    let before = bank.expected(0);
    copy.forge.gap(&["accounts"]);
    copy.forge.segment(&[bank.transfer()]);
    let said = copy.sync(1).await;
    assert!(said.contains("accounts: stale"), "{said}");
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, before);
    assert_eq!(copy.rows("SELECT * FROM savings ORDER BY id").await, bank.expected(1));
    assert_eq!(copy.rows("SELECT table_name FROM data_sync_freshness WHERE stale").await, "accounts");
    let refused = copy.applier(&["retry", "accounts"]).run().await.expect_code(2).stderr;
    assert!(refused.contains("--accept-gap"), "{refused}");
    copy.applier(&["retry", "accounts", "--accept-gap"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
    assert_eq!(
        copy.rows("SELECT cardinality(accepted_gaps) FROM data_sync_table_state ORDER BY 1").await,
        "0 1"
    );
    copy.forge.segment(&[bank.transfer()]);
    copy.sync(0).await;
}

#[tokio::test]
async fn a_table_added_later_starts_from_the_first_segment_or_from_now() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[bank.transfer(), bank.transfer()]);
    copy.sync(0).await;
    copy.applier(&["add-tables", "savings"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM savings ORDER BY id").await, bank.expected(1));
    assert_eq!(copy.rows("SELECT DISTINCT state FROM data_sync_table_state").await, "live");
    copy.applier(&["remove-tables", "savings"]).succeed().await;
    assert_eq!(copy.applier(&["list-tables"]).succeed().await.stdout, "accounts\n");
    copy.applier(&["add-tables", "savings", "--from", "now"]).succeed().await;
    copy.forge.segment(&[bank.transfer()]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM savings ORDER BY id").await, bank.expected(1));
}

#[tokio::test]
async fn rows_that_are_missing_or_there_already_are_counted_and_mended() {
    let (_, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.server.execute("INSERT INTO accounts VALUES (3, -1)").await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT balance FROM accounts WHERE id = 3").await, "100");
    copy.server.execute("DELETE FROM accounts WHERE id < 3").await;
    copy.forge.segment(&[vec![
        r#"{"table":"accounts","op":"UPDATE","data":{"id":1,"balance":1},"old_keys":{"id":1}}"#,
        r#"{"table":"accounts","op":"DELETE","old_keys":{"id":2}}"#,
        r#"{"table":"accounts","op":"UPDATE","data":{"id":40,"balance":1},"old_keys":{"id":0}}"#,
        r#"{"table":"accounts","op":"UPDATE","data":{"id":5,"balance":4},"old_keys":{"id":4}}"#,
    ]]);
    let said = copy.sync(0).await;
    assert!(said.contains("rows=3") && said.contains("were in the way of a new key"), "{said}");
    assert_eq!(
        copy.rows("SELECT rows_missing FROM data_sync_logs ORDER BY sync_time DESC LIMIT 1").await,
        "3"
    );
    assert_eq!(copy.rows("SELECT id, balance FROM accounts WHERE id < 6 ORDER BY id").await, "3,100 5,4");
}

#[tokio::test]
async fn a_role_without_the_replica_right_keeps_foreign_keys() {
    let schema = "CREATE ROLE reporter LOGIN; GRANT ALL ON DATABASE reporting TO reporter; GRANT ALL ON SCHEMA public TO reporter; \
        SET ROLE reporter; CREATE TABLE p (id int PRIMARY KEY); \
        CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE); \
        CREATE TABLE q (id int PRIMARY KEY, p int REFERENCES p DEFERRABLE)";
    let mut copy = LocalCopy::start(schema).await;
    copy.set("PG_USER_NAME", "reporter");
    copy.forge.relation("p", &["id integer not null"], &["id"]);
    for table in ["c", "q"] {
        copy.forge.relation(table, &["id integer not null", "p integer"], &["id"]);
    }
    let child = |table: &str, id: i32, p: i32| {
        format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"p":{p}}}}}"#)
    };
    copy.forge.segment(&[
        vec![r#"{"table":"p","op":"INSERT","data":{"id":1}}"#.to_owned(), child("c", 1, 1), child("q", 1, 1)],
        vec![
            r#"{"table":"p","op":"INSERT","data":{"id":2}}"#.to_owned(),
            child("c", 2, 2),
            // As the WAL has it: the parent first, then what the cascade removed.
            r#"{"table":"p","op":"DELETE","old_keys":{"id":2}}"#.to_owned(),
            r#"{"table":"c","op":"DELETE","old_keys":{"id":2}}"#.to_owned(),
        ],
    ]);
    copy.applier(&["add-tables", "c", "p", "q"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(
        copy.rows("SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c), (SELECT count(*) FROM q)")
            .await,
        "1,1,1"
    );
    copy.forge.segment(&[vec![child("q", 9, 77)], vec![child("c", 3, 1)]]);
    let said = copy.sync(1).await;
    assert!(said.contains("q: quarantined"), "{said}");
    assert_eq!(copy.rows("SELECT id FROM c ORDER BY id").await, "1 3");
}

#[tokio::test]
async fn reports_can_ask_how_fresh_the_data_is() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    let fresh = "SELECT table_name, state, stale, lsn = (SELECT covered_lsn FROM data_sync_checkpoint), age < '1 hour' \
                 FROM data_sync_freshness ORDER BY 1";
    assert_eq!(copy.rows(fresh).await, "accounts,live,f,t,t savings,live,f,t,t");
    copy.server
        .execute("SELECT data_sync_require_fresh('1 hour'), data_sync_require_fresh('1 hour', '{savings}')")
        .await;
    copy.forge.gap(&["accounts"]);
    copy.forge.segment(&[bank.transfer()]);
    copy.sync(1).await;
    let client = copy.server.connect().await;
    client.batch_execute("SELECT data_sync_require_fresh('1 hour', '{savings}')").await.expect("it is fresh");
    for question in ["'1 hour'", "'1 hour', '{accounts}'", "'1 hour', '{nothing}'", "'0', '{savings}'"] {
        let refused = client.batch_execute(&format!("SELECT data_sync_require_fresh({question})")).await;
        assert!(refused.is_err(), "{question} was answered");
    }
    copy.set("SYNCDATA_STALE_AFTER", "1s");
    copy.sync(1).await;
    // Nothing new comes: the view turns by itself.
    copy.wait_until("SELECT bool_and(stale) FROM data_sync_freshness", |stale| stale == "t").await;
}

#[tokio::test]
async fn rows_that_were_missing_in_segments_of_one_transaction_are_said_to_be_in_all_of_them() {
    let (_, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("ALTER TABLE accounts ADD CONSTRAINT low CHECK (balance < 500) NOT VALID").await;
    for id in 0..2 {
        let data = format!(r#""data":{{"balance":500}},"old_keys":{{"id":{id}}}"#);
        copy.forge.segment(&[vec![format!(r#"{{"table":"accounts","op":"UPDATE",{data}}}"#)]]);
    }
    copy.sync(1).await;
    // A table that catches up takes both at once.
    copy.server.execute("ALTER TABLE accounts DROP CONSTRAINT low; DELETE FROM accounts WHERE id < 2").await;
    let said = copy.applier(&["retry", "accounts"]).succeed().await.stderr;
    let warning = said.lines().find(|line| line.contains("rows to update or delete were not here"));
    let names = |seq: &str| warning.is_some_and(|warning| warning.contains(seq));
    assert!(names("0000000002") && names(" to 0000000003") && names("rows=2"), "{said}");
}

#[tokio::test]
async fn rows_changed_by_hand_are_counted_and_a_resync_brings_them_back() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    copy.server
        .execute(
            "DELETE FROM accounts WHERE id < 5; UPDATE accounts SET balance = -1 WHERE id >= 5; \
             INSERT INTO accounts VALUES (77, 0)",
        )
        .await;
    let touch = |id: u32| {
        format!(r#"{{"table":"accounts","op":"UPDATE","data":{{"balance":100}},"old_keys":{{"id":{id}}}}}"#)
    };
    copy.forge.segment(&[(0..10).map(touch).collect::<Vec<_>>()]);
    let said = copy.sync(0).await;
    assert!(said.contains("rows to update or delete were not here") && said.contains("rows=5"), "{said}");
    let missing = "SELECT rows_synced, rows_missing FROM data_sync_logs WHERE archive_ref LIKE '0000000002%'";
    assert_eq!(copy.rows(missing).await, "10,5");
    copy.forge.segment(&[bank.transfer()]);
    copy.applier(&["resync", "accounts"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
}
