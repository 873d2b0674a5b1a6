//! Programs, servers and connections that end in the middle of a pass, and whoever else is in the tables meanwhile.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use syncdata_tests::proxy::{Direction, Proxy};

use crate::bank::Bank;

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
            tokio::time::sleep(Duration::from_millis(5)).await;
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
