//! The log, the counts and the freshness that the local database keeps.

use std::time::{Duration, Instant};

use syncdata_tests::LocalCopy;

use super::{rename, two_tables};

const DELETE: &str = r#"{"table":"orders","op":"DELETE","old_keys":{"id":7}}"#;

#[tokio::test]
async fn counts_are_exact_although_passes_are_killed() {
    let mut copy = two_tables().await;
    copy.set("METRIC_FREQ", "6");
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    for point in ["apply.begun", "apply.before_commit", "apply.after_commit"] {
        copy.forge.segment(&[vec![rename(1, point), rename(2, point)], vec![rename(1, "x")]]);
        let killed = copy.applier(&["sync"]).fault(&format!("{point}=kill")).run().await;
        assert!(killed.was_killed(), "{killed}");
        copy.applier(&["sync"]).succeed().await;
    }
    copy.forge.segment(&[vec![DELETE]]);
    copy.applier(&["sync"]).succeed().await;
    let counts =
        "SELECT table_name, period_type, sum(records_added), sum(records_updated), sum(records_deleted)
        FROM data_sync_metrics GROUP BY 1, 2 ORDER BY 1, 2";
    let expected = "orders,FREQ,1,0,1 orders,MONTH,1,0,1 orders,WEEK,1,0,1 \
        users,FREQ,2,9,0 users,MONTH,2,9,0 users,WEEK,2,9,0";
    assert_eq!(copy.rows(counts).await, expected);
}

#[tokio::test]
async fn periods_begin_at_their_boundaries_in_utc() {
    let mut copy = two_tables().await;
    copy.set("METRIC_FREQ", "6");
    // What the role likes is not what periods go by.
    copy.server.execute("ALTER ROLE postgres SET TimeZone = 'Pacific/Auckland'").await;
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    let periods = "SET TimeZone = 'UTC'; SELECT period_type,
        period_start <= now() AND now() < period_end,
        CASE period_type
            WHEN 'FREQ' THEN extract(epoch FROM period_start)::bigint % 21600 = 0
                AND period_end - period_start = interval '6 hours'
            WHEN 'WEEK' THEN date_trunc('week', period_start) = period_start
                AND period_end - period_start = interval '7 days'
            ELSE date_trunc('month', period_start) = period_start
                AND period_start + interval '1 month' = period_end END
        FROM data_sync_metrics ORDER BY 1";
    assert_eq!(copy.rows(periods).await, "FREQ,t,t MONTH,t,t WEEK,t,t");
}

#[tokio::test]
async fn the_log_has_a_row_for_every_table_and_segment() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    copy.server.execute("ALTER TABLE users ADD CHECK (name <> 'Bad')").await;
    copy.forge.segment(&[vec![rename(2, "Bad")], vec![DELETE.to_owned()]]);
    copy.applier(&["sync"]).run().await.expect_code(1);
    let log = "SELECT table_name, status, rows_synced, left(archive_ref, 10), error_detail LIKE '%users_name_check%',
        apply_ms >= 0 AND transfer_ms >= 0 AND sync_time <= now() FROM data_sync_logs WHERE archive_ref <> 'add-tables'
        ORDER BY archive_ref, table_name";
    let expected = "orders,SUCCESS,1,0000000001,NULL,t users,SUCCESS,2,0000000001,NULL,t \
        orders,SUCCESS,1,0000000002,NULL,t users,FAILED,0,0000000002,t,t";
    assert_eq!(copy.rows(log).await, expected);
}

#[tokio::test]
async fn data_turns_stale_by_itself_when_the_archive_stands_still() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    // The earliest head that this test can outlive.
    copy.set("SYNCDATA_STALE_AFTER", "5");
    copy.forge.head();
    let head = copy.archive_dir().join("head.json");
    let old_head = std::fs::read(&head).expect("it is there");
    let sync = copy.applier(&["sync"]).succeed().await;
    let fresh = "SELECT table_name, state, stale, age < interval '1 minute', lsn IS NOT NULL
        FROM data_sync_freshness ORDER BY 1";
    assert_eq!(copy.rows(fresh).await, "orders,live,f,t,t users,live,f,t,t", "{sync}");
    copy.server.execute("SELECT data_sync_require_fresh('1 hour', '{users,orders}')").await;
    // Nothing runs from here on.
    let stale = "SELECT bool_and(stale) FROM data_sync_freshness";
    let deadline = Instant::now() + Duration::from_secs(60);
    while copy.rows(stale).await != "t" {
        assert!(Instant::now() < deadline, "it never turns red");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A pass that finds the same head does not make it younger.
    copy.applier(&["sync"]).succeed().await;
    assert_eq!(copy.rows(stale).await, "t");
    let status = copy.applier(&["status"]).run().await.expect_code(1);
    assert!(status.stdout.contains("2 tables: not fresh within stale_after (5 s), as of 20"), "{status}");
    // The next head is as good as new; one that is played again is as old as it says.
    copy.forge.head();
    copy.applier(&["sync"]).succeed().await;
    assert_eq!(copy.rows(stale).await, "f");
    std::fs::write(&head, old_head).expect("the archive is ours");
    copy.applier(&["sync"]).succeed().await;
    assert_eq!(copy.rows(stale).await, "t");
}

#[tokio::test]
async fn a_time_in_the_future_is_no_freshness() {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    copy.server.execute("UPDATE data_sync_checkpoint SET covered_at = now() + interval '1 day'").await;
    assert_eq!(copy.rows("SELECT bool_and(stale) FROM data_sync_freshness").await, "t");
    assert_ne!(refusal(&copy, "SELECT data_sync_require_fresh('1 hour')").await, "");
}

#[tokio::test]
async fn a_report_can_insist_on_fresh_tables() {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    let waiting = refusal(&copy, "SELECT data_sync_require_fresh('1 hour')").await;
    assert!(waiting.contains("users (pending, no data)"), "{waiting}");
    copy.applier(&["sync"]).succeed().await;
    assert_eq!(refusal(&copy, "SELECT data_sync_require_fresh('1 hour')").await, "");
    let old = refusal(&copy, "SELECT data_sync_require_fresh('0 seconds', '{users}')").await;
    assert!(old.contains("data is older than 00:00:00: users (live, as of "), "{old}");
    let unknown = refusal(&copy, "SELECT data_sync_require_fresh('1 hour', '{users,nobody}')").await;
    assert!(unknown.contains("not synchronized: nobody"), "{unknown}");
    // In a transaction the data gets older too.
    let session = copy.server.connect().await;
    session.batch_execute("BEGIN; SELECT 1").await.expect("a transaction");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let age = "SELECT min(age) >= statement_timestamp() - max(data_as_of) FROM data_sync_freshness";
    let row = session.query_one(age, &[]).await.expect("the view is there");
    assert!(row.get::<_, bool>(0), "the age is that of the transaction's beginning");
    copy.applier(&["remove-tables", "users", "orders"]).succeed().await;
    assert_eq!(refusal(&copy, "SELECT data_sync_require_fresh('1 hour')").await, "No tables in whitelist");
}

/// Reports that need what was just written at production; and a role that may read, and no more.
#[tokio::test]
async fn a_session_can_wait_for_what_production_has_committed() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.forge.head();
    copy.applier(&["sync"]).succeed().await;
    copy.server
        .execute(
            "CREATE ROLE reporting LOGIN; GRANT SELECT ON data_sync_freshness TO reporting; GRANT SELECT ON users TO reporting",
        )
        .await;
    let here = copy.rows("SELECT max(lsn) FROM data_sync_freshness").await;
    let reader = copy.server.connect().await;
    reader.batch_execute("SET ROLE reporting").await.expect("a role");
    let ask = async |lsn: &str, more: &str| {
        let row = reader.query_one(&format!("SELECT data_sync_wait_for('{lsn}', {more})"), &[]).await;
        row.expect("an answer").get::<_, bool>(0)
    };
    assert!(ask(&here, "'1 minute'").await);
    assert!(ask("0/1", "'0'").await);
    assert!(!ask("F/0", "'0'").await && !ask("F/0", "'20 milliseconds', '{users}'").await);
    // A pass that comes later is seen, by who has begun to wait before.
    copy.forge.segment(&[vec![rename(1, "later")]]);
    let tip = copy.forge.position();
    let waits = tokio::spawn(async move {
        let wait = format!("SELECT data_sync_wait_for('{tip}', '10 minutes', '{{users}}')");
        let row = reader.query_one(&wait, &[]).await.expect("an answer");
        let name = reader.query_one("SELECT name FROM users WHERE id = 1", &[]).await.expect("a row");
        (row.get::<_, bool>(0), name.get::<_, String>(0))
    });
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    copy.wait_until(sleeping, |count| count != "0").await;
    copy.applier(&["sync"]).succeed().await;
    assert_eq!(waits.await.expect("it ends"), (true, "later".to_owned()));

    // What is not live is not here.
    copy.server.execute("UPDATE data_sync_table_state SET state = 'stale' WHERE table_name = 'orders'").await;
    let of = async |question: &str| copy.rows(&format!("SELECT data_sync_wait_for({question})")).await;
    assert_eq!(of(&format!("'{here}', '0'")).await, "f");
    assert_eq!(of(&format!("'{here}', '0', '{{users}}'")).await, "t");
    // Nor is what left the capture, or lacks what somebody skipped.
    for lacks in ["captured_until = now()", "captured_until = NULL, incomplete_lsn = '0/1'"] {
        let lacks =
            format!("UPDATE data_sync_table_state SET state = 'live', {lacks} WHERE table_name = 'orders'");
        copy.server.execute(&lacks).await;
        assert_eq!(of(&format!("'{here}', '0'")).await, "f", "{lacks}");
        assert_eq!(
            copy.rows("SELECT lsn FROM data_sync_freshness WHERE table_name = 'orders'").await,
            "NULL"
        );
    }
    let unknown = refusal(&copy, "SELECT data_sync_wait_for('0/1', '0', '{users,nobody}')").await;
    assert!(unknown.contains("not synchronized: nobody"), "{unknown}");
    // In a transaction the data gets older too.
    let session = copy.server.connect().await;
    session.batch_execute("BEGIN; SELECT 1").await.expect("a transaction");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let age = "SELECT min(age) >= statement_timestamp() - max(data_as_of) FROM data_sync_freshness";
    let row = session.query_one(age, &[]).await.expect("the view is there");
    assert!(row.get::<_, bool>(0), "the age is that of the transaction's beginning");
    let null = refusal(&copy, "SELECT data_sync_wait_for(NULL, '0')").await;
    assert!(null.contains("which position"), "{null}");
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let begin = format!("BEGIN ISOLATION LEVEL {level}; SELECT data_sync_wait_for('0/1', '0'); COMMIT");
        let refused = refusal(&copy, &begin).await;
        assert!(refused.contains("READ COMMITTED"), "{level}: {refused}");
    }
    copy.applier(&["remove-tables", "users", "orders"]).succeed().await;
    assert_eq!(refusal(&copy, "SELECT data_sync_wait_for('0/1', '0')").await, "No tables in whitelist");
}

/// What the server says against it; empty when it agrees.
async fn refusal(copy: &LocalCopy, sql: &str) -> String {
    match copy.server.connect().await.simple_query(sql).await {
        Ok(_) => String::new(),
        Err(error) => error.as_db_error().expect("the server said it").message().to_owned(),
    }
}

#[tokio::test]
async fn every_failure_comes_with_a_command_in_the_log_and_in_status() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("ALTER TABLE users ADD CHECK (name <> 'Bad')").await;
    copy.forge.segment(&[vec![rename(2, "Bad")]]);
    copy.forge.gap(&["orders"]);
    copy.forge.segment(&[vec![r#"{"table":"orders","op":"INSERT","data":{"id":8,"user_id":1}}"#]]);
    copy.sync(1).await;
    let status = copy.applier(&["status"]).run().await.expect_code(1);
    let commands =
        ["run: syncdata-applier retry users", "run: syncdata-applier resync orders, or retry orders --"];
    for command in commands {
        assert!(status.stdout.contains(command), "{status}");
        let logged = format!("SELECT count(*) FROM data_sync_logs WHERE error_detail LIKE '%{command}%'");
        assert_eq!(copy.rows(&logged).await, "1", "{command}");
    }
    std::fs::remove_dir_all(copy.archive_dir()).expect("ours");
    copy.forge = syncdata_tests::forge::Forge::new(&copy.archive_dir());
    copy.sync(2).await;
    let logged =
        "SELECT count(*) FROM data_sync_logs WHERE error_detail LIKE '%(hint: %resync --all --adopt%'";
    assert_eq!(copy.rows(logged).await, "1");
}

#[tokio::test]
async fn a_table_that_stops_in_a_segment_has_one_row_for_it_with_what_it_took_and_why_no_more() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    copy.server.execute("ALTER TABLE users ADD CHECK (name <> 'Bad')").await;
    copy.forge.segment(&[vec![rename(1, "Eve")], vec![rename(2, "Bad")]]);
    copy.forge.gap(&["orders"]);
    copy.forge.segment(&[vec![DELETE.to_owned()]]);
    copy.applier(&["sync"]).run().await.expect_code(1);
    let log = "SELECT table_name, status, rows_synced, left(archive_ref, 10), left(error_detail, 23)
        FROM data_sync_logs WHERE archive_ref BETWEEN '0000000002' AND '1' ORDER BY archive_ref, table_name";
    let expected = "users,FAILED,1,0000000002,Failed to apply changes orders,FAILED,0,0000000003,changes from 0/16B4100 ";
    assert_eq!(copy.rows(log).await, expected);
    let counted = "SELECT DISTINCT sum(records_updated) FROM data_sync_metrics GROUP BY period_type";
    assert_eq!(copy.rows(counted).await, "1", "what was applied before the bad record is counted");
    copy.server.execute("ALTER TABLE users DROP CONSTRAINT users_name_check").await;
    copy.applier(&["retry", "users"]).run().await.expect_code(1);
    assert_eq!(copy.rows(counted).await, "2", "and the rest once");
}
