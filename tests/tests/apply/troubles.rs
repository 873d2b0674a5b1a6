//! What goes wrong: crashes, poison, schemas that differ, gaps, and archives that are not what they were.

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use syncdata_formats::signature::SigningKey;
use syncdata_tests::proxy::{Direction, Proxy};
use syncdata_tests::{LocalCopy, Prng};

const ACCOUNTS: &[&str] = &["id integer not null", "balance bigint"];
/// Where a pass can die.
const POINTS: [&str; 8] = [
    "apply.downloaded",
    "apply.verified",
    "apply.begun",
    "apply.half_batch",
    "apply.before_checkpoint",
    "apply.before_commit",
    "apply.after_commit",
    "apply.cache_cleaned",
];

/// Transfers between two tables: the sum never changes.
struct Bank {
    balances: [[i64; 10]; 2],
    random: Prng,
}

impl Bank {
    const TABLES: [&'static str; 2] = ["accounts", "savings"];

    async fn open() -> (Bank, LocalCopy) {
        let schema = Bank::TABLES.map(|t| format!("CREATE TABLE {t} (id int PRIMARY KEY, balance bigint);"));
        let mut copy = LocalCopy::start(&schema.concat()).await;
        let mut opening = Vec::new();
        for table in Bank::TABLES {
            copy.forge.relation(table, ACCOUNTS, &["id"]);
            opening.extend((0..10).map(|id| insert(table, id, "100")));
        }
        copy.forge.segment(&[opening]);
        (Bank { balances: [[100; 10]; 2], random: Prng::new(7) }, copy)
    }

    fn transfer(&mut self) -> Vec<String> {
        let (from, to) = (self.random.below(10) as usize, self.random.below(10) as usize);
        let amount = self.random.below(50) as i64;
        self.balances[0][from] -= amount;
        self.balances[1][to] += amount;
        let update = |table: usize, id: usize| {
            let (name, balance) = (Bank::TABLES[table], self.balances[table][id]);
            format!(
                r#"{{"table":"{name}","op":"UPDATE","data":{{"id":{id},"balance":{balance}}},"old_keys":{{"id":{id}}}}}"#
            )
        };
        vec![update(0, from), update(1, to)]
    }

    async fn total(copy: &LocalCopy) -> String {
        copy.rows("SELECT coalesce(sum(b), 0) FROM (SELECT balance b FROM accounts UNION ALL SELECT balance FROM savings) x").await
    }

    fn expected(&self, table: usize) -> String {
        let rows = self.balances[table].iter().enumerate();
        rows.map(|(id, balance)| format!("{id},{balance}")).collect::<Vec<_>>().join(" ")
    }
}

fn insert(table: &str, id: usize, value: &str) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"balance":{value}}}}}"#)
}

#[tokio::test]
async fn a_kill_anywhere_leaves_a_state_that_the_source_had_and_is_made_good() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "5");
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    for (round, point) in POINTS.iter().cycle().take(2 * POINTS.len()).enumerate() {
        for _ in 0..3 {
            let transfers: Vec<_> = (0..4).map(|_| bank.transfer()).collect();
            copy.forge.segment(&transfers);
        }
        let visit = 1 + round % 3;
        let run = copy.applier(&["sync"]).fault(&format!("{point}=kill@{visit}")).run().await;
        assert!(run.was_killed(), "{point}@{visit} was not reached: {run}");
        let total = Bank::total(&copy).await;
        let applied = copy.rows("SELECT seq FROM data_sync_checkpoint").await;
        assert_eq!(total, if applied == "0" { "0" } else { "2000" }, "{point}");
        if round % 2 == 1 {
            copy.sync(0).await;
        }
    }
    copy.sync(0).await;
    for (table, name) in Bank::TABLES.iter().enumerate() {
        assert_eq!(copy.rows(&format!("SELECT * FROM {name} ORDER BY id")).await, bank.expected(table));
    }
    let applied = "SELECT sum(rows_synced) FROM data_sync_logs WHERE table_name = 'accounts'";
    assert_eq!(copy.rows(applied).await, (10 + 16 * 12).to_string(), "every record is counted once");
    let counted = "SELECT DISTINCT sum(records_added + records_updated) FROM data_sync_metrics \
                   WHERE table_name = 'savings' GROUP BY period_type";
    assert_eq!(copy.rows(counted).await, (10 + 16 * 12).to_string());
}

#[tokio::test]
async fn an_injected_error_at_any_point_is_an_error_and_no_harm() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    for point in POINTS {
        copy.forge.segment(&[bank.transfer()]);
        let run = copy.applier(&["sync"]).fault(&format!("{point}=error@1")).run().await;
        assert_eq!(run.code(), Some(2), "{run}");
        assert_eq!(Bank::total(&copy).await, "2000");
    }
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
}

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
async fn a_commit_whose_answer_is_lost_is_applied_once() {
    let (mut bank, mut copy) = Bank::open().await;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], copy.server.port())));
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    copy.set("PG_PORT", proxy.port().to_string());
    let before = proxy.carried(Direction::Down);
    copy.forge.segment(&[bank.transfer()]);
    copy.sync(0).await;
    // A pass like the last one answers with as many bytes; the last of them are about the commit.
    let bytes = proxy.carried(Direction::Down) - before;
    let mut cuts = 0;
    // What came of the pass is noted after it.
    for back in (0..1000).step_by(50) {
        copy.forge.segment(&[bank.transfer()]);
        proxy.cut_after(Direction::Down, bytes.saturating_sub(back));
        copy.sync(0).await;
        cuts += u32::from(!proxy.cut_is_due());
        assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
    }
    assert!(cuts > 10, "the connection was cut {cuts} times only");
    let counted = "SELECT sum(rows_synced) FROM data_sync_logs WHERE table_name = 'savings'";
    assert_eq!(copy.rows(counted).await, "31");
}

#[tokio::test]
async fn a_deadlock_with_another_session_is_tried_again() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&(0..50).map(|_| bank.transfer()).collect::<Vec<_>>());
    let other = copy.server.connect().await;
    other.batch_execute("BEGIN; SELECT FROM savings FOR UPDATE").await.expect("locks");
    let crossing = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        copy.wait_until(waiting, |count| count != "0").await;
        // The pass holds rows of accounts and waits for savings: now each waits for the other.
        let _ = other.batch_execute("SELECT FROM accounts FOR UPDATE").await;
        other.batch_execute("ROLLBACK").await.expect("the other session lives");
    };
    tokio::join!(copy.sync(0), crossing);
    assert!(copy.server.log().contains("deadlock detected"));
    for (table, name) in Bank::TABLES.iter().enumerate() {
        assert_eq!(copy.rows(&format!("SELECT * FROM {name} ORDER BY id")).await, bank.expected(table));
    }
}

#[tokio::test]
async fn crashes_of_the_local_server_and_an_older_backup_are_made_good() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    // What the commit did not wait for may be gone after a crash: rows and checkpoint go together.
    for _ in 0..3 {
        for _ in 0..20 {
            copy.forge.segment(&[bank.transfer()]);
        }
        let pass = copy.applier(&["sync"]).spawn();
        copy.wait_until("SELECT seq % 20 FROM data_sync_checkpoint", |seq| seq != "1").await;
        copy.server.crash();
        drop(pass);
        copy.server.resume().await;
        let applied = copy.rows("SELECT seq FROM data_sync_checkpoint").await;
        assert_eq!(Bank::total(&copy).await, if applied == "0" { "0" } else { "2000" });
        copy.sync(0).await;
        assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
    }
    let backup = copy.server.connect_to("postgres").await;
    backup.batch_execute("CREATE DATABASE backup TEMPLATE reporting").await.expect("a backup");
    for _ in 0..3 {
        copy.forge.segment(&[bank.transfer()]);
    }
    copy.sync(0).await;
    backup.batch_execute("DROP DATABASE reporting WITH (FORCE)").await.expect("dropped");
    backup.batch_execute("ALTER DATABASE backup RENAME TO reporting").await.expect("restored");
    assert_ne!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
}

#[tokio::test]
async fn readers_never_see_half_a_transaction_and_win_over_a_truncate() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "3");
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    for _ in 0..20 {
        copy.forge.segment(&(0..5).map(|_| bank.transfer()).collect::<Vec<_>>());
    }
    let done = Cell::new(false);
    let reader = async {
        let mut looks = 0;
        while !done.get() {
            assert_eq!(Bank::total(&copy).await, "2000");
            looks += 1;
        }
        looks
    };
    let syncing = async {
        copy.sync(0).await;
        done.set(true);
    };
    let (looks, ()) = tokio::join!(reader, syncing);
    assert!(looks > 3, "{looks} looks");
    // Somebody reads while the source's TRUNCATE comes: the pass waits a little, gives way, and comes again.
    let reader = copy.server.connect().await;
    reader.batch_execute("BEGIN; SELECT FROM accounts").await.expect("a reader");
    copy.forge.segment(&[vec![r#"{"table":"accounts","op":"TRUNCATE"}"#]]);
    let waits = async {
        let gave_way = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%TRUNCATE%'";
        copy.wait_until(gave_way, |count| count != "0").await;
        copy.wait_until(gave_way, |count| count == "0").await;
        assert_eq!(copy.rows("SELECT count(*) FROM accounts").await, "10", "who comes later does not wait");
        reader.batch_execute("COMMIT").await.expect("the reader is done");
    };
    tokio::join!(copy.sync(0), waits);
    assert_eq!(copy.rows("SELECT count(*) FROM accounts").await, "0");
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
async fn a_damaged_checkpoint_stops_the_pass() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[bank.transfer()]);
    for damage in [
        "CREATE TABLE kept AS SELECT * FROM data_sync_checkpoint; DELETE FROM data_sync_checkpoint",
        "ALTER TABLE data_sync_checkpoint DROP CONSTRAINT data_sync_checkpoint_pkey; \
         INSERT INTO data_sync_checkpoint SELECT * FROM kept UNION ALL SELECT * FROM kept",
        "DELETE FROM data_sync_checkpoint; INSERT INTO data_sync_checkpoint DEFAULT VALUES",
    ] {
        copy.server.execute(damage).await;
        let said = copy.sync(2).await;
        assert!(said.contains("checkpoint") && said.contains("hint:"), "{said}");
        assert_eq!(copy.rows("SELECT sum(balance) FROM accounts").await, "1000");
    }
}

#[tokio::test]
async fn archives_that_are_not_what_they_were_are_refused_and_nothing_is_applied() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    let second = copy.forge.segment(&[bank.transfer()]);
    copy.sync(0).await;
    let applied = bank.expected(0);
    let third = copy.forge.segment(&[bank.transfer()]);
    let fourth = copy.forge.segment(&[bank.transfer()]);
    let manifest = fs::read(&third.manifest).expect("forged");
    let file = fs::read(&third.file).expect("forged");
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let glued = [file.as_slice(), file.as_slice()].concat();
    for (path, bytes, words) in [
        (&third.manifest, flipped(&manifest, manifest.len() / 2), "refused"),
        (&third.manifest, Vec::new(), "refused"),
        (&third.file, flipped(&file, file.len() / 2), "SHA-256"),
        (&third.file, file[..file.len() - 1].to_vec(), "bytes"),
        (&third.file, glued, "longer than its manifest"),
        (&third.file, vec![0; file.len()], "SHA-256"),
        (&third.manifest, fs::read(&fourth.manifest).expect("forged"), "refused"),
    ] {
        let good = fs::read(path).expect("forged");
        fs::write(path, bytes).expect("ours");
        let said = copy.sync(2).await;
        assert!(said.contains(words) && said.contains("0000000003"), "{said}");
        assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, applied);
        fs::write(path, good).expect("ours");
    }
    // Missing where we are, in the middle, at the end.
    for (gone, code, words) in [
        (&second, 2, "rolled back"),
        (&third, 2, "segment 0000000003 is missing"),
        (&fourth, 1, "0000000004"),
    ] {
        let good = fs::read(&gone.manifest).expect("forged");
        fs::remove_file(&gone.manifest).expect("ours");
        let said = copy.sync(code).await;
        assert!(said.contains(words), "{said}");
        fs::write(&gone.manifest, good).expect("ours");
    }
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
}

#[tokio::test]
async fn another_archive_and_a_rewritten_one_are_refused() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    let own = copy.forge.segment(&[bank.transfer()]);
    copy.sync(0).await;
    let manifest = fs::read_to_string(&own.manifest).expect("forged");
    fs::write(&own.manifest, manifest.replace(r#""archiver":"forged""#, r#""archiver":"other!""#))
        .expect("ours");
    assert!(copy.sync(2).await.contains("rewritten"));
    fs::write(&own.manifest, manifest).expect("ours");
    fs::rename(copy.archive_dir(), copy.folder().join("aside")).expect("ours");
    copy.forge = syncdata_tests::Forge::new(&copy.archive_dir());
    copy.forge.relation("accounts", ACCOUNTS, &["id"]);
    copy.forge.segment(&[vec![insert("accounts", 70, "1")]]);
    let said = copy.sync(2).await;
    assert!(said.contains("holds archive"), "{said}");
    assert_eq!(copy.rows("SELECT count(*) FROM accounts WHERE id = 70").await, "0");
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
async fn with_a_key_only_signed_manifests_are_applied() {
    let (mut bank, mut copy) = Bank::open().await;
    let (secret, public) = SigningKey::generate().expect("a key");
    let key = SigningKey::parse(&secret, None).expect("its own text");
    let public_file = copy.folder().join("key.pub");
    fs::write(&public_file, public).expect("ours");
    copy.set("SYNCDATA_VERIFY_KEY", public_file.to_str().expect("a plain name"));
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    let said = copy.sync(2).await;
    assert!(said.contains("minisig is missing"), "{said}");
    let first = copy.archive_dir().join("segments/2026-02-05");
    let manifests = fs::read_dir(first).expect("the day").map(|entry| entry.expect("a file").path());
    for manifest in manifests.filter(|path| path.to_string_lossy().ends_with(".manifest.json")) {
        sign(&key, &manifest);
    }
    copy.sync(0).await;
    let forged = copy.forge.segment(&[bank.transfer()]);
    let (other, _) = SigningKey::generate().expect("a key");
    sign(&SigningKey::parse(&other, None).expect("its own text"), &forged.manifest);
    assert!(copy.sync(2).await.contains("signature"));
    assert_eq!(copy.rows("SELECT sum(balance) FROM accounts").await, "1000");
    sign(&key, &forged.manifest);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
}

fn sign(key: &SigningKey, manifest: &Path) {
    let name = manifest.file_name().and_then(|name| name.to_str()).expect("our own names");
    let signature = key.sign(&fs::read(manifest).expect("forged"), name).expect("a signature");
    fs::write(manifest.with_file_name(format!("{name}.minisig")), signature).expect("ours");
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
